"""Small media files in the exact layout of each data set, made on the spot."""

import gzip
import io
from fractions import Fraction

import av
import numpy as np
import soundfile
from PIL import Image

RATE = 8000
# Per kind of file: codecs of picture and sound, and the sampling rate that the latter takes.
CODECS = {
    "avi": ("mpeg4", "pcm_s16le", 16000),
    "flv": ("flv", "libmp3lame", 44100),
    "mp4": ("libx264", "aac", 44100),
    "mkv": ("libx264", "flac", 16000),
    "webm": ("libvpx-vp9", "libopus", 48000),
}


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


def numbered_frame(number, size=(48, 64)):
    """A picture (H, W, 3) uint8 that tells a number below 4096: three rows of four cells, white for a set bit."""
    cells = np.array([number >> bit & 1 for bit in range(12)]).reshape(3, 4)
    rows, columns = (np.arange(side) * parts // side for side, parts in zip(size, (3, 4), strict=True))
    grey = 40 + 170 * cells[rows][:, columns]
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)


def read_number(frame):
    """The number that a picture (H, W, 3) of [`numbered_frame`] tells, at any size."""
    height, width = frame.shape[:2]
    rows, columns = (2 * np.arange(3) + 1) * height // 6, (2 * np.arange(4) + 1) * width // 8
    return int(((frame[rows][:, columns].mean(axis=2) > 125).ravel() << np.arange(12)).sum())


def write_video(
    path,
    frames=30,
    fps=10,
    size=(48, 64),
    codec=None,
    options=None,
    gop=12,
    b_frames=0,
    sound=440,
    seconds=None,
    times=None,
    picture=numbered_frame,
    metadata=None,
):
    """Write a clip with an audio track; the ending of `path` (avi, flv, mp4, mkv or webm) says how.

    Args:
        frames (`int`): `picture(number, size)` gives each, (H, W, 3) uint8.
        fps (`int`)
        size (`tuple[int, int]`): height and width.
        codec (`str`, *optional*), options (`dict`, *optional*): of the video; that of [`CODECS`] if not given.
        gop (`int`), b_frames (`int`): frames between keyframes, and frames in a row that refer to later ones.
        sound (`float`, *optional*): Hz of a tone; without audio track if None.
        seconds (`float`, *optional*): of the sound; as long as the video if not given.
        times (`list[float]`, *optional*): seconds at which the frames are shown, where they do not follow `fps`.

    Returns:
        `path`
    """
    kind = path.suffix[1:]
    default, audio_codec, rate = CODECS[kind]
    codec = codec or default
    options = {**({"sc_threshold": "0"} if codec == "libx264" else {}), **(options or {})}
    if codec.startswith("libvpx"):
        options = {"deadline": "realtime", "cpu-used": "8", **options}
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=metadata or {}) as container:
        video = container.add_stream(codec, rate=fps, options=options)
        video.height, video.width = size
        video.pix_fmt = {"mjpeg": "yuvj420p", "rawvideo": "bgr24"}.get(codec, "yuv420p")
        video.codec_context.gop_size = gop
        video.codec_context.max_b_frames = b_frames
        if times is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream(audio_codec, rate=rate, layout="mono") if sound is not None else None
        packets = []
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[number]), Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode()
        if audio is not None:
            length = frames / fps if seconds is None else seconds
            frame_size = 1152 if audio_codec == "libmp3lame" else 960
            wave = np.round(32767 * tone(sound, length, rate)).astype(np.int16)
            resampler = av.AudioResampler(format=audio.codec_context.format, layout="mono", rate=rate)
            for start in range(0, len(wave), frame_size):
                frame = av.AudioFrame.from_ndarray(wave[None, start : start + frame_size], format="s16", layout="mono")
                frame.sample_rate, frame.pts = rate, start
                for part in resampler.resample(frame):
                    packets += audio.encode(part)
            packets += audio.encode()
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            container.mux(packet)
    return path


def decode_all(path):
    """Every frame of a clip, (H, W, 3) uint8, decoded from the first to the last."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
