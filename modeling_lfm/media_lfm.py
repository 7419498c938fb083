"""Reading media: what people have (paths, bytes, arrays, PIL images, text) to arrays of fixed shape."""

import io
import os
import warnings

import numpy as np

try:
    import librosa
    import soundfile
except ImportError:  # only audio needs them
    librosa = soundfile = None
try:
    from PIL import Image, ImageOps
except ImportError:  # only images need it
    Image = ImageOps = None


def describe(value):
    """A name of a raw input for messages: its path where it has one."""
    if isinstance(value, dict) and value.get("path"):
        return str(value["path"])
    if isinstance(value, (str, os.PathLike)):
        return str(value)
    return f"an input of type {type(value).__name__}"


def open_media(value):
    """A path or file object of a path, bytes, or a `{"bytes", "path"}` mapping.

    Raises:
        FileNotFoundError: the path does not exist.
    """
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, (bytes, bytearray)):
        return io.BytesIO(value)
    if isinstance(value, (str, os.PathLike)):
        if not os.path.isfile(value):
            raise FileNotFoundError(f"no file at {value}.")
        return value
    raise TypeError(f"a path, bytes or a mapping with 'bytes' or 'path' is expected, got {type(value).__name__}.")


def read_waveform(value, sampling_rate, given_rate=None):
    """A mono waveform.

    Args:
        value: an array `(samples,)` or `(channels, samples)`, `{"array", "sampling_rate"}`, a path, bytes, or
            `{"bytes", "path"}` of a file that libsndfile reads (wav, flac, ogg, mp3).
        sampling_rate (`int`): Hz, wanted.
        given_rate (`int`, *optional*): Hz, of a plain array; taken to be as wanted if not given.

    Returns:
        `np.ndarray` `(samples,)`, float32, resampled where the rates differ.

    Raises:
        ValueError: empty, damaged or not finite; the message names the file. ImportError: librosa is missing.
    """
    if librosa is None:
        raise ImportError("audio needs librosa and soundfile: pip install librosa soundfile")
    name = describe(value)
    if isinstance(value, dict) and value.get("array") is not None:
        value, given_rate = value["array"], value.get("sampling_rate", given_rate)
    if hasattr(value, "__array__") or isinstance(value, (list, tuple)):
        wave = np.asarray(value, dtype=np.float32)
        rate = sampling_rate if given_rate is None else given_rate
    else:
        source = open_media(value)
        try:
            wave, rate = soundfile.read(source, dtype="float32")
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{name} cannot be read as audio ({error}); replace the file.") from error
        wave = wave.T
    if wave.ndim > 1:
        wave = wave.mean(axis=0)
    if wave.size == 0:
        raise ValueError(f"{name} holds no audio samples; replace the file.")
    if not np.isfinite(wave).all():
        raise ValueError(f"{name} holds samples that are not finite; replace the file.")
    if rate != sampling_rate:
        wave = librosa.resample(wave, orig_sr=rate, target_sr=sampling_rate)
    return wave


def fit_length(wave, length):
    """`wave` `(samples,)` cut, or repeated from its start, to `length` samples."""
    return np.tile(wave, -(-length // len(wave)))[:length]


def log_spectrogram(wave, n_fft, hop_length, floor=1e-7):
    """log(|STFT| + floor), Hann window, no centring.

    Args:
        wave (`np.ndarray` `(samples,)`)
        n_fft, hop_length (`int`): samples.

    Returns:
        `np.ndarray` `(n_fft // 2 + 1, 1 + (samples - n_fft) // hop_length)`, float32.
    """
    magnitude = np.abs(librosa.stft(wave, n_fft=n_fft, hop_length=hop_length, center=False))
    return np.log(magnitude + floor).astype(np.float32)


def read_image(value, size, num_channels):
    """An image scaled to cover `size` and cut at its centre.

    Args:
        value: a PIL image, an array `(H, W)` or `(H, W, 3)` of uint8, a path, bytes, or `{"bytes", "path"}`.
        size (`tuple[int, int]`): height and width.
        num_channels (`int`): 1 (grey) or 3 (RGB).

    Returns:
        `np.ndarray` `(num_channels, height, width)`, float32 in [0, 1].

    Raises:
        ValueError: damaged, or so large that it may be a decompression bomb; the message names the file.
    """
    if Image is None:
        raise ImportError("images need Pillow: pip install pillow")
    name = describe(value)
    if isinstance(value, Image.Image):
        image = value
    elif isinstance(value, np.ndarray):
        image = Image.fromarray(value)
    else:
        source = open_media(value)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                image = Image.open(source)
                image.load()
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(f"{name} is refused: {error}") from error
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{name} cannot be read as an image ({error}); replace the file.") from error
    image = image.convert("L" if num_channels == 1 else "RGB")
    image = ImageOps.fit(image, (size[1], size[0]), method=Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.float32) / 255
    return pixels[None] if num_channels == 1 else pixels.transpose(2, 0, 1)
