"""Small media files in the exact layout of each data set, made on the spot."""

import gzip
import io

import numpy as np
import soundfile
from PIL import Image

RATE = 8000


def wav_bytes(wave, rate=RATE, subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def image_bytes(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind, **options)
    return file.getvalue()


def tone(frequency, seconds=0.5, rate=RATE, amplitude=0.3):
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def make_av_mnist(folder, speakers=("ann", "bob", "yweweler"), recordings=5, images=20):
    """`recordings` of each digit and speaker, and `images` of each digit, whose grey values tell which they are."""
    rng = np.random.default_rng(0)
    (folder / "fsdd").mkdir(parents=True)
    for digit in range(10):
        for number, speaker in enumerate(speakers):
            for index in range(recordings):
                wave = tone(200 + 100 * digit + 10 * number, seconds=0.1 + 0.01 * index)
                (folder / "fsdd" / f"{digit}_{speaker}_{index}.wav").write_bytes(wav_bytes(wave))
    labels = rng.permutation(np.repeat(np.arange(10), images))
    pixels = rng.integers(0, 256, (len(labels), 28, 28))
    pixels[:, 0, 0], pixels[:, 0, 1] = labels, np.arange(len(labels)) % 256
    write_idx(folder / "mnist" / "images-idx3-ubyte.gz", pixels)
    write_idx(folder / "mnist" / "labels-idx1-ubyte.gz", labels)
    return folder


def make_mvsa(folder, counts=(10, 20, 40)):
    """So many tweets of each class; the text and the grey value of the picture tell which."""
    (folder / "data").mkdir(parents=True)
    names = ["negative", "neutral", "positive"]
    rows = [(names[label], label) for label, count in enumerate(counts) for _ in range(count)]
    for number, (name, label) in enumerate(rows, 1):
        (folder / "data" / f"{number}.txt").write_text(f"tweet {number} is {name} \u2764\n", encoding="utf-8")
        pixels = np.full((24, 32, 3), 40 * label, np.uint8)
        (folder / "data" / f"{number}.jpg").write_bytes(image_bytes(pixels, "JPEG"))
    lines = ["id,label", *(f"{number},{name}" for number, (name, _) in enumerate(rows, 1))]
    (folder / "train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
