"""Media that are damaged, cut, mislabelled, empty or huge, and arrays of wrong shapes, types and values."""

import io
import struct
import zlib
from functools import lru_cache

import av
import numpy as np
import soundfile
from PIL import Image, ImageOps

from modeling_lfm import LfmProcessor

from ..data.media import tone, write_video
from .odd import ODD, make_odd
from .outcomes import Case

SIZE, FRAMES = [24, 24], 30
PROCESSOR = LfmProcessor(
    modalities={
        "image": {"type": "image", "size": SIZE},
        "audio": {"type": "spectrogram", "sampling_rate": 8000, "n_fft": 128, "hop_length": 125, "duration": 1.0},
        "video": {"type": "video", "size": SIZE, "num_frames": 3, "stored_frames": 3},
    }
)
KINDS = {"image": ("png", "jpg", "gif", "bmp", "tiff", "webp"), "audio": ("wav", "flac", "mp3", "ogg")}
KINDS["video"] = ("avi", "mp4", "mkv", "webm", "flv")
ENDINGS = {ending: name for name, endings in KINDS.items() for ending in endings}


def make_originals(folder):
    """One whole file of each kind (`dict[str, bytes]` by ending)."""
    rng, made = np.random.default_rng(0), {}
    folder.mkdir(parents=True)
    pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
    for kind in KINDS["image"]:
        image = Image.fromarray(pixels)
        exif = image.getexif()
        exif[0x0112] = 6
        more = {"exif": exif} if kind in ("jpg", "webp") else {}
        image.save(folder / f"a.{kind}", **more)
    for kind in KINDS["audio"]:
        soundfile.write(folder / f"a.{kind}", tone(300, 2.0) + 0.01 * rng.normal(size=16000), 8000)
    for kind in KINDS["video"]:
        write_video(folder / f"a.{kind}", frames=FRAMES)
    for ending in ENDINGS:
        made[ending] = (folder / f"a.{ending}").read_bytes()
    return made


# -- damage --------------------------------------------------------------------------------------------------------


def cut(rng, content, kind):
    return content[: int(len(content) * rng.uniform(0.02, 0.9))]


def cut_start(rng, content, kind):
    return content[int(len(content) * rng.uniform(0.01, 0.5)) :]


def flip(rng, content, kind):
    changed = bytearray(content)
    for place in rng.integers(0, len(content), int(rng.choice([1, 5, 50]))):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def flip_head(rng, content, kind):
    return flip(rng, content[:64], kind) + content[64:]


def blank(rng, content, kind):
    start = int(rng.integers(len(content)))
    return content[:start] + bytes(min(2000, len(content) - start)) + content[start + 2000 :]


def empty(rng, content, kind):
    return b""


def noise(rng, content, kind):
    return rng.bytes(int(rng.integers(1, 3000)))


def page(rng, content, kind):
    return b"<!DOCTYPE html><html><body>404: not found</body></html>"


def pointer(rng, content, kind):
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def huge(rng, content, kind):
    """A head that promises more than any machine has."""
    if kind == "png":
        head = b"IHDR" + struct.pack(">II", 100_000, 100_000) + content[24:29]
        return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]
    if kind == "bmp":
        return content[:18] + struct.pack("<ii", 200_000, 200_000) + content[26:]
    if kind == "gif":
        return content[:6] + struct.pack("<HH", 65535, 65535) + content[10:]
    if kind == "wav":
        channels, rate = [(65535, 8000), (1, 0), (0, 8000), (1, 2**32 - 1)][int(rng.integers(4))]
        return content[:22] + struct.pack("<HI", channels, rate) + content[28:]
    if kind == "avi":  # frames and sizes of the main header
        return (
            content[:48]
            + struct.pack("<I", 2**32 - 1)
            + content[52:64]
            + struct.pack("<II", 2**30, 2**30)
            + content[72:]
        )
    return content[:8] + b"\xff" * 12 + content[20:]


DAMAGE = (cut, flip, flip_head, cut_start, blank, huge, empty, noise, page, pointer)


# -- independent decoders ------------------------------------------------------------------------------------------


def decode_image(content, file):
    with Image.open(io.BytesIO(content)) as image:
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return [np.asarray(image.convert("RGB"))]


def decode_audio(content, file):
    try:
        wave, rate = soundfile.read(file, dtype="float32", always_2d=True)
        return [{"array": wave.T, "sampling_rate": rate}]
    except soundfile.LibsndfileError:
        with av.open(io.BytesIO(content), metadata_errors="replace") as container:
            stream, parts = container.streams.audio[0], []
            rate = stream.codec_context.sample_rate
            resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
            for packet in container.demux(stream):
                try:
                    for frame in packet.decode():
                        parts += [part.to_ndarray() for part in resampler.resample(frame)]
                except av.FFmpegError:
                    continue
        return [{"array": np.concatenate(parts, 1), "sampling_rate": rate}]


def decode_video(content, file):
    frames = []
    with av.open(io.BytesIO(content), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # what stands for damaged parts of a picture depends on it
        for packet in container.demux(stream):
            try:
                frames += [frame.to_image() for frame in packet.decode()]
            except av.FFmpegError:
                continue
    return frames


DECODERS = {"image": decode_image, "audio": decode_audio, "video": decode_video}


def process(modality, value):
    return PROCESSOR(**{modality: [value]})[f"{modality}_values"].numpy()[0]


@lru_cache(maxsize=32)
def whole(modality, content):
    return process(modality, content)


def judge_media(modality, content, file, original, damage):
    """A function that compares an answer with that of a plain decoder and, of a cut file, with that of the whole."""

    def judge(answer):
        if not np.isfinite(answer).all():
            return "not finite"
        try:
            decoded = DECODERS[modality](content, file)
        except Exception as error:
            return f"no decoder reads it ({type(error).__name__}: {error})"
        if modality == "video":
            frames = np.stack([process("video", [frame])[0] for frame in decoded])
            near = [np.abs(frames - wanted).max(axis=(1, 2, 3)).min() for wanted in answer]
            if max(near) > 0.1:
                return f"frames that are not in the clip (by {max(near):.3g})"
            return "a part for the whole" if damage is cut and len(frames) < 0.9 * FRAMES else None
        wanted = process(modality, decoded[0])
        if wanted.shape != answer.shape or np.abs(wanted - answer).max() > 0.05:
            return f"another value than a plain decoder's (by {np.abs(wanted - answer).max():.3g})"
        if damage is cut and np.abs(whole(modality, original) - answer).max() > 0.05:
            return "a part for the whole"
        return None

    return judge


def media_cases(rng, folder):
    """Endless cases of damaged files, each given as a path, bytes, a mapping or a file object."""
    originals = make_originals(folder / "whole")
    number = 0
    while True:
        for damage in DAMAGE:
            for modality, endings in KINDS.items():
                ending = endings[int(rng.integers(len(endings)))]
                kind = str(rng.choice(list(ENDINGS))) if rng.random() < 0.15 else ending  # what is in it
                content = damage(rng, originals[kind], kind)
                file, number = folder / f"damaged{number}.{ending}", number + 1
                if rng.random() < 0.05:
                    make_odd(file, what := str(rng.choice(ODD)))
                    yield Case(f"{modality}, {what}", lambda m=modality, f=file: process(m, f), (file.name,))
                    continue
                file.write_bytes(content)
                mappings = {"bytes": content, "path": file.name}, {"bytes": None, "path": str(file)}
                forms = (file, str(file), *mappings, content)
                form = forms[int(rng.integers(len(forms)))]
                named = (file.name,) if form is not content else ("of type bytes",)
                judge = judge_media(modality, content, file, originals[kind], damage if kind == ending else None)
                name = f"{modality} from {kind} as {ending}, {damage.__name__}"
                yield Case(name, lambda m=modality, f=form: process(m, f), named, judge)


# -- other values --------------------------------------------------------------------------------------------------

NAN = np.float32("nan")
WRONG = {
    "image": (
        np.zeros((2, 2, 2, 2)), np.zeros((0, 5)), np.zeros(3), np.zeros((5, 5), complex), np.full((5, 5), NAN),
        np.full((5, 5, 3), np.inf), np.full((5, 5, 3), 7.5), np.full((5, 5), -1), np.zeros((5, 5), "uint16"),
        np.array([["a"]]), np.array([[None]]), np.zeros((5, 5), "datetime64[s]"), [[1, 2], [3]], [[None]], "", "\0",
        "a" * 5000, 5, 2.5, True, {}, {"bytes": None, "path": None}, {"bytes": "text"}, {"path": 3}, set(), object(),
        b"", "http://127.0.0.1:1/a.png", "data:image/png;base64,AAAA", "data:,", "file:///etc/hosts", "/", ".",
    ),
    "audio": (
        np.zeros(0), np.zeros((2, 3, 4)), np.zeros(9, complex), np.zeros(9, "uint8"), np.zeros(9, bool),
        np.full(9000, NAN), np.full(9000, np.inf), np.full(9000, 3e38, "float32"), np.full(9000, 1e300),
        np.array(["a"]), np.array([None]), [0.1, None], ["a"], [[0.1], [0.1, 0.2]], np.zeros((20, 20)), "", "\0", 7,
        {"array": np.zeros(0), "sampling_rate": 8000}, {"array": np.zeros(9000), "sampling_rate": 0},
        {"array": np.zeros(9000), "sampling_rate": -8000}, {"array": np.zeros(9000), "sampling_rate": "x"},
        {"array": np.zeros(9000), "sampling_rate": NAN}, {"array": "x"}, {}, set(), "http://127.0.0.1:1/a.wav",
        {"array": np.zeros(9000), "sampling_rate": 1e-9}, {"array": np.zeros(9000), "sampling_rate": 10**12},
    ),
    "video": (
        np.zeros((2, 2, 2, 2, 2)), np.zeros((0, 5, 5)), np.zeros((5, 5)), np.full((3, 5, 5), NAN), [], [[]], [None],
        [np.zeros((5, 5)), None], ["missing.png"], [np.zeros((5, 5)), "missing.png"], "", "/nowhere", "\0", 3, {},
        {"bytes": None, "path": "missing.mp4", "first_frame": 0, "last_frame": 1}, set(), np.zeros((3, 5, 5), complex),
        np.zeros((3, 5, 5), "uint16"), [[[1, 2], [3]]], ["a", 5], np.full((3, 5, 5, 3), 7.5),
    ),
}  # fmt: skip


def array_cases(rng, folder):
    """Endless cases of values that are none of what a modality reads."""
    clip = folder / "whole" / "a.avi"
    parts = [(-1, 2), (5, 2), (FRAMES, None), ("a", 2), (1.5, 2), (None, "x"), (10**12, None), (float("nan"), 3)]
    cuts = [{"bytes": None, "path": str(clip), "first_frame": a, "last_frame": b} for a, b in parts]
    while True:
        values = [(m, v) for m, wrong in WRONG.items() for v in wrong] + [("video", cut) for cut in cuts]
        for place in rng.permutation(len(values)):
            modality, value = values[place]
            words = ["of type", modality, "path", "bytes", "sampling_rate", "data uri"]
            if isinstance(value, str):
                words.append(value)
            elif isinstance(value, dict):
                words += [str(part) for part in value.values() if isinstance(part, (str, int))]
            elif isinstance(value, list):
                words += ["missing.png", *(f"no file at {part}" for part in value if isinstance(part, str))]
            shown = f"{type(value).__name__} {getattr(value, 'shape', '')} {value!r:.60}".replace("\n", " ")
            yield Case(f"{modality} {shown}", lambda m=modality, v=value: process(m, v), tuple(words))
