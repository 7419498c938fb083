"""Files for the measurements: clips in CREMA-D's layout, sounds and photographs."""

import itertools
import shutil

import av
import numpy as np
import soundfile
from PIL import Image

DISTINCT = 12  # different clips; the others are copies
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
FPS, SECONDS, RATE = 30, 3, 16000


def make_clips(folder, count, size):
    """So many clips in CREMA-D's layout (train and test nine to one), of height and width `size`."""
    people = itertools.product(SENTENCES, range(1001, 1092), EMOTIONS)
    names = [f"{actor}_{sentence}_{emotion}_XX" for sentence, actor, emotion in itertools.islice(people, count)]
    for part in ("AudioWAV", "VideoFlash"):
        (folder / part).mkdir(parents=True)
    lines = {"train": [], "test": []}
    for number, name in enumerate(names):
        wav, flv = folder / "AudioWAV" / f"{name}.wav", folder / "VideoFlash" / f"{name}.flv"
        if number < DISTINCT:
            write_clip(wav, flv, number, size)
        else:
            shutil.copyfile(wav.with_stem(names[number % DISTINCT]), wav)
            shutil.copyfile(flv.with_stem(names[number % DISTINCT]), flv)
        lines["test" if number % 10 == 9 else "train"].append(f"{name},{name.split('_')[2]}\n")
    for split, part in lines.items():
        (folder / f"{split}.csv").write_text("".join(part))


def write_clip(wav, flv, seed, size=None):
    """A tone in noise and, where `flv` is given, frames of a smooth pattern that moves."""
    rng = np.random.default_rng(seed)
    wave = 0.3 * np.sin(2 * np.pi * (200 + 40 * seed) * np.arange(SECONDS * RATE) / RATE)
    soundfile.write(wav, wave + 0.02 * rng.normal(size=len(wave)), RATE, subtype="PCM_16")
    if flv is None:
        return
    with av.open(str(flv), "w") as container:
        stream = container.add_stream("flv", rate=FPS)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for number in range(FPS * SECONDS):
            frame = av.VideoFrame.from_ndarray(pattern(seed, size, number, rng), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_picture(jpg, seed, size):
    """A photograph: the first frame of a clip."""
    Image.fromarray(pattern(seed, size, 0, np.random.default_rng(seed))).save(jpg, quality=90)


def pattern(seed, size, number, rng):
    """Smooth coloured waves with some noise, the frame `number` of a clip: `np.ndarray` (height, width, 3)."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    phase = (columns + (seed + 1) * rows + 3 * number) / 25
    picture = 128 + 80 * np.stack([np.sin(phase + shift) for shift in range(3)], -1)
    return (picture + rng.normal(0, 8, picture.shape)).clip(0, 255).astype(np.uint8)
