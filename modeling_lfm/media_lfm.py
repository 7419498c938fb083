"""Reading media: what people have (paths, bytes, arrays, PIL images) to waveforms, log-spectrograms and pixels."""

import io
import os
import warnings

import numpy as np

from .container_lfm import MAX_SECONDS, UnknownFormatError, audio_track, av

try:
    import librosa
    import soundfile
except ImportError:  # only audio needs them
    librosa = soundfile = None
try:
    from PIL import Image, ImageOps
except ImportError:  # only images need it
    Image = ImageOps = None

MAX_CHANNELS = 16  # an array with more of them has its axes the other way round


def describe(value):
    """A name of a raw input for messages: its path where it has one."""
    if isinstance(value, dict) and value.get("path"):
        return str(value["path"])
    if isinstance(value, (str, os.PathLike)):
        return str(value)
    return f"an input of type {type(value).__name__}"


def open_media(value):
    """A path, or a file object, from a path, bytes, or a `{"bytes", "path"}` mapping.

    Raises:
        FileNotFoundError: the path does not exist. ValueError: none of these was given.
    """
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, (bytes, bytearray)):
        return io.BytesIO(value)
    if isinstance(value, (str, os.PathLike)):
        if not os.path.isfile(value):
            raise FileNotFoundError(f"no file at {value}.")
        return value
    raise ValueError(f"a path, bytes or a mapping with 'bytes' or 'path' is expected, got {type(value).__name__}.")


def load_audio(value, given_rate=None, seconds=None):
    """A mono waveform as it is in the file.

    Args:
        value: an array or tensor `(samples,)` or `(channels, samples)`, floating in [-1, 1] or of signed integers
            (PCM), `{"array", "sampling_rate"}`, a path, bytes, or `{"bytes", "path"}` of a file that libsndfile
            reads (wav, flac, ogg, mp3), or of any other with an audio track that PyAV reads (mp4, avi, flv, mkv, webm).
        given_rate (`int`, *optional*): Hz, of a plain array.
        seconds (`float`, *optional*): read so much from the start at most, where the sampling rate is known.

    Returns:
        `np.ndarray` `(samples,)`, float32, the mean of the channels; and its sampling rate in Hz (None if not known).

    Raises:
        ValueError: empty, damaged, not finite, without audio track, or too long; the message names the file.
        FileNotFoundError: no such file. ImportError: librosa or soundfile is missing.
    """
    if librosa is None:
        raise ImportError("audio needs librosa and soundfile: pip install librosa soundfile")
    name = describe(value)
    if isinstance(value, dict) and value.get("array") is not None:
        value, given_rate = value["array"], value.get("sampling_rate", given_rate)
    if hasattr(value, "__array__") or isinstance(value, (list, tuple)):
        wave, rate = _channels(np.asarray(value), name), given_rate
    else:
        try:
            wave, rate = _read_sound(open_media(value), name, seconds)
        except soundfile.LibsndfileError as error:
            wave, rate = _read_track(value, name, seconds, error)
    if seconds is not None and rate is not None:
        wave = wave[:, : round(seconds * rate)]
    wave = wave.mean(axis=0, dtype=np.float32)
    if wave.size == 0:
        raise ValueError(f"{name} holds no audio samples; replace or remove it.")
    if not np.isfinite(wave).all():
        raise ValueError(f"{name} holds audio samples that are not finite; replace or remove it.")
    return wave, rate


def _read_sound(source, name, seconds):
    """`(channels, samples)` float32 and sampling rate of a file, by libsndfile."""
    with soundfile.SoundFile(source) as file:
        limit = round(file.samplerate * (MAX_SECONDS if seconds is None else seconds))
        if seconds is None and file.frames > limit:
            raise ValueError(f"{name} is refused: its audio is longer than {MAX_SECONDS} s; cut it.")
        return file.read(limit, dtype="float32", always_2d=True).T, file.samplerate


def _read_track(value, name, seconds, error):
    """The same from the audio track of a video file; `error` tells why it is no audio file."""
    if av is None:
        raise ValueError(
            f"{name} cannot be read as audio ({error}); replace the file, or if it is a video: pip install av."
        ) from error
    try:
        return audio_track(open_media(value), name, seconds)
    except UnknownFormatError:
        raise ValueError(f"{name} cannot be read as audio ({error}); replace the file.") from error


def read_waveform(value, sampling_rate, given_rate=None, seconds=None):
    """A mono waveform with the wanted `sampling_rate` (`int`, Hz), resampled if need be.

    `value` and errors are those of [`load_audio`]; a plain array without `given_rate` is taken to be as wanted. Of more
    than `seconds` (`float`, *optional*) the first are returned, or some more.

    Returns:
        `np.ndarray` `(samples,)`, float32.
    """
    # A second more, so that the end of what is wanted is not resampled as the end of the sound.
    wave, rate = load_audio(value, given_rate, None if seconds is None else seconds + 1)
    if rate is None or rate == sampling_rate:
        return wave
    return librosa.resample(wave, orig_sr=rate, target_sr=sampling_rate)


def _channels(array, name):
    """An array of audio as float32 `(channels, samples)`."""
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[0] > MAX_CHANNELS):
        raise ValueError(f"{name}: audio is (samples,) or (channels, samples), got the shape {array.shape}.")
    if array.dtype.kind == "i":
        return np.atleast_2d(array.astype(np.float32) / (np.iinfo(array.dtype).max + 1.0))
    if array.dtype.kind != "f":
        raise ValueError(f"{name}: audio is floating or signed integers, got {array.dtype}.")
    return np.atleast_2d(array.astype(np.float32))


def fit_length(wave, length):
    """`wave` `(samples,)` cut, or repeated from its start, to `length` samples."""
    return np.tile(wave, -(-length // len(wave)))[:length]


def log_spectrogram(wave, n_fft, hop_length, floor=1e-7, center=False):
    """log(|STFT| + floor), Hann window.

    Args:
        wave (`np.ndarray` `(samples,)`): at least `n_fft` samples.
        n_fft, hop_length (`int`): samples.
        center (`bool`): centre the first window on the first sample, and so on, with silence before and after.

    Returns:
        `np.ndarray` `(n_fft // 2 + 1, 1 + (samples - n_fft) // hop_length)`, float32; with `center`,
        `1 + samples // hop_length` frames.
    """
    magnitude = np.abs(librosa.stft(wave, n_fft=n_fft, hop_length=hop_length, center=center, pad_mode="constant"))
    return np.log(magnitude + floor).astype(np.float32)


def read_image(value):
    """A PIL image, loaded and turned as its EXIF data tell.

    Args:
        value: a PIL image, an array `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)` of uint8, a path, bytes, or
            `{"bytes", "path"}`.

    Raises:
        ValueError: damaged, of more than 8 bits, or so large that it may be a decompression bomb; the message
            names the file. FileNotFoundError: no such file. ImportError: Pillow is missing.
    """
    if Image is None:
        raise ImportError("images need Pillow: pip install pillow")
    name = describe(value)
    if isinstance(value, Image.Image):
        image = value
    elif hasattr(value, "__array__"):
        image = _from_array(np.asarray(value), name)
    else:
        image = _open_image(open_media(value), name)
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{name} has the mode {image.mode} (more than 8 bits a channel); convert it to 8 bits.")
    return image


def _from_array(array, name):
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(
            f"{name}: an image array is uint8 of shape (H, W) or (H, W, channels), got {array.dtype} {array.shape}."
        )
    return Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)


def _open_image(source, name):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                if image.format == "EPS":  # a program, which Pillow lets Ghostscript run
                    raise ValueError("PostScript is not run")
                image.load()
                return ImageOps.exif_transpose(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name} is refused: {error} Make it smaller.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as an image ({error}); replace the file.") from error


def image_pixels(image, size, num_channels, crop=True):
    """Pixels of a PIL image, resized (bicubic).

    Args:
        image (`PIL.Image.Image`)
        size (`tuple[int, int]`): height and width.
        num_channels (`int`): 1 (grey) or 3 (RGB).
        crop (`bool`): keep the proportions, cover `size` and cut at the centre; otherwise stretch.

    Returns:
        `np.ndarray` `(num_channels, height, width)`, uint8.
    """
    image = image.convert("L" if num_channels == 1 else "RGB")
    width_height = (size[1], size[0])
    if crop:
        image = ImageOps.fit(image, width_height, method=Image.Resampling.BICUBIC)
    else:
        image = image.resize(width_height, Image.Resampling.BICUBIC)
    pixels = np.array(image)
    return pixels[None] if num_channels == 1 else pixels.transpose(2, 0, 1)
