"""Reading audio: files, audio tracks of videos, arrays and decoders to waveforms and log-spectrograms."""

import os
import re

import numpy as np

from .media_lfm import (
    MAX_SECONDS,
    MISSING,
    Extent,
    UnknownFormatError,
    av,
    describe,
    is_array,
    open_container,
    open_media,
    prepare_codec,
    reason,
    to_array,
)

try:
    import librosa
    import soundfile
except ImportError:  # only audio needs them
    librosa = soundfile = None

MAX_CHANNELS = 64  # of an audio track
MAX_RATE = 10_000_000  # Hz
MAX_ARRAY_CHANNELS = 16  # the longer axis of an array holds the samples, if it is longer than this
HEADLESS = "{} cannot be read as audio: its beginning is missing; replace the file."
BEGINNINGS = {"mp3": rb"\0*(ID3|\xff[\xe0-\xff])", "aac": rb"ID3|\xff[\xf0-\xff]", "flac": rb"ID3|fLaC"}
MAX_AMPLITUDE = 1e6  # full scale is 1; PCM that was not scaled has 32,768


def load_audio(value, given_rate=None, seconds=None):
    """A mono waveform as it is in the file.

    Args:
        value: an array, tensor or list `(samples,)`, `(channels, samples)` or `(samples, channels)`, floating in
            [-1, 1] or of signed integers (PCM), `{"array", "sampling_rate"}`, an `AudioDecoder` of torchcodec (what
            `datasets` hands out), or a path, bytes, file object, data URI or `{"bytes", "path"}` of a file that
            libsndfile reads (wav, flac, ogg, mp3), or of any other with an audio track that PyAV reads (mp4, avi, flv,
            mkv, webm).
        given_rate (`int`, *optional*): Hz, of a plain array.
        seconds (`float`, *optional*): read so much from the start at most, where the sampling rate is known.

    Returns:
        `np.ndarray` `(samples,)`, float32, the mean of the channels; and its sampling rate in Hz (None if not known).

    Raises:
        ValueError: empty, damaged, cut short, not finite or out of scale, without audio track, or too long; the message
        names the file. FileNotFoundError: no such file. ImportError: librosa or soundfile is missing.
    """
    if librosa is None:
        raise ImportError("audio needs librosa and soundfile: pip install librosa soundfile")
    name = describe(value)
    if isinstance(value, dict) and value.get("array") is not None:
        value, given_rate = value["array"], value.get("sampling_rate", given_rate)
    if hasattr(value, "get_all_samples"):
        samples = value.get_all_samples()
        value, given_rate = samples.data, samples.sample_rate
    if is_array(value):
        wave, rate = _channels(to_array(value), name), given_rate
    else:
        try:
            wave, rate = _read_sound(open_media(value), name, seconds)
        except soundfile.LibsndfileError as error:
            wave, rate = _read_track(value, name, seconds, error)
    if rate is not None and not (isinstance(rate, (int, float, np.number)) and 1 <= rate <= MAX_RATE):
        raise ValueError(f"{name}: sampling_rate={rate!r} should be a number of Hz, from 1 to {MAX_RATE:,}.")
    if seconds is not None and rate is not None:
        wave = wave[:, : round(seconds * rate)]
    if wave.size == 0:
        raise ValueError(f"{name} holds no audio samples; replace or remove it.")
    if not np.isfinite(wave).all():
        raise ValueError(f"{name} holds audio samples that are not finite; replace or remove it.")
    if np.abs(wave).max() > MAX_AMPLITUDE:
        raise ValueError(f"{name} holds audio samples up to {np.abs(wave).max():.3g}; full scale is 1: rescale it.")
    return wave.mean(axis=0, dtype=np.float32), rate


def _read_sound(source, name, seconds):
    """`(channels, samples)` float32 and sampling rate of a file, by libsndfile."""
    with soundfile.SoundFile(source) as file:
        if not _has_beginning(source, file.format.lower()):  # libsndfile takes the middle of other files for mp3
            raise ValueError(HEADLESS.format(name))
        limit = round(file.samplerate * (MAX_SECONDS if seconds is None else seconds))
        if seconds is None and file.frames > limit:
            raise ValueError(f"{name} is refused: its audio is longer than {MAX_SECONDS} s; cut it.")
        wave, wanted = file.read(limit, dtype="float32", always_2d=True).T, min(limit, file.frames)
    # The length of an mp3 may be a guess.
    slack = max(MISSING[0] * file.samplerate, MISSING[1] * wanted) if file.format == "MP3" else 0
    if wanted - wave.shape[1] > slack:
        raise ValueError(f"{name} is cut short: {wave.shape[1]} of {wanted} samples can be read; replace the file.")
    if file.frames <= limit and file.format in ("WAV", "WAVEX"):  # of which libsndfile reads what is there
        head, size = _read_head(source)
        claimed = int.from_bytes(head[4:8], "little") + 8  # of a stream, from 2^31 on, it is not known
        if head[:4] == b"RIFF" and size + 1 < claimed < 0x7FFF0000:
            raise ValueError(f"{name} is cut short: {size} of {claimed} bytes are there; replace the file.")
    return wave, file.samplerate


def _read_head(source):
    """The first bytes of a file (`bytes`), and its size."""
    if hasattr(source, "getvalue"):
        return source.getvalue()[:4096], len(source.getvalue())
    with open(source, "rb") as file:
        return file.read(4096), os.fstat(file.fileno()).st_size


def _has_beginning(source, kind):
    """Whether a file starts as its `kind` (`str`) does, of those that decoders also read from the middle on."""
    return kind not in BEGINNINGS or re.match(BEGINNINGS[kind], _read_head(source)[0]) is not None


def _read_track(value, name, seconds, error):
    """The same from the audio track of a video file; `error` tells why it is no audio file."""
    hint = "" if av is not None else ", or if it is a video: pip install av"
    try:
        if av is not None:
            return audio_track(open_media(value), name, seconds)
    except UnknownFormatError:
        pass
    raise ValueError(f"{name} cannot be read as audio ({error}); replace the file{hint}.") from error


def _channels(array, name):
    """An array of audio as float32 `(channels, samples)`."""
    if array.ndim == 2 and array.shape[0] > MAX_ARRAY_CHANNELS >= array.shape[1]:
        array = array.T
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[0] > MAX_ARRAY_CHANNELS):
        raise ValueError(f"{name}: audio is (samples,), (channels, samples) or (samples, channels), got {array.shape}.")
    if array.dtype.kind == "i" and array.dtype.itemsize <= 4:
        return np.atleast_2d(array.astype(np.float32) / (np.iinfo(array.dtype).max + 1.0))
    if array.dtype.kind != "f":
        raise ValueError(f"{name}: audio is floating, or signed integers of up to 32 bits; got {array.dtype}.")
    with np.errstate(over="ignore"):  # what is beyond float32 is not finite, and told so
        return np.atleast_2d(array.astype(np.float32))


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


def audio_track(source, name, seconds=None):
    """The samples of a file's first audio track, without resampling; arguments as of [`open_container`].

    Returns:
        `np.ndarray` `(channels, samples)`, float32, PCM in [-1, 1], of the first `seconds` (`float`), if given; and its
        sampling rate in Hz.

    Raises:
        ValueError: no audio track, damaged, cut short, or too long. ImportError: PyAV is missing.
    """
    with open_container(source, name) as container:
        if not _has_beginning(source, container.format.name):
            raise ValueError(HEADLESS.format(name))
        if not container.streams.audio:
            raise ValueError(f"{name} holds no audio track; leave the sample out, or give a file with sound.")
        stream = container.streams.audio[0]
        codec = prepare_codec(stream, name)
        rate, channels = codec.sample_rate, codec.layout.nb_channels
        if not rate or not 0 < channels <= MAX_CHANNELS:
            raise ValueError(f"{name} has {channels} audio channels at {rate} Hz, which cannot be read; convert it.")
        limit = round(rate * (MAX_SECONDS if seconds is None else seconds))
        extent = Extent(container, name)
        try:
            wave = _decode_audio(extent.packets(), stream, limit)
        except (av.FFmpegError, ValueError) as error:  # the latter of a track whose format changes on the way
            raise ValueError(f"the audio of {name} cannot be decoded ({reason(error)}); replace the file.") from error
        if wave.shape[1] <= limit:  # read to its end
            extent.check()
    if seconds is None and wave.shape[1] > limit:
        raise ValueError(f"{name} is refused: its audio is longer than {MAX_SECONDS} s; cut it.")
    return wave[:, :limit], rate


def _decode_audio(packets, stream, limit):
    """The whole track, or a little more than `limit` samples, as float32 `(channels, samples)`.

    Packets that cannot be decoded are passed over, unless they are one in ten.
    """
    codec = stream.codec_context
    channels = codec.layout.nb_channels
    # Changes the type alone. Not to fltp: PyAV crashes on planes of 8 channels or more, which a damaged file may claim.
    resampler = av.AudioResampler(format="flt", layout=codec.layout, rate=codec.sample_rate)
    parts, length = [np.zeros((0, channels), np.float32)], 0
    read, failed, problem = 0, 0, None
    for packet in packets:
        if packet.stream is not stream:
            continue
        read += 1
        try:
            frames = packet.decode()
        except av.FFmpegError as error:  # such as the first one of mp3 sound that was cut without decoding
            failed, problem = failed + 1, error
            continue
        for part in (part for frame in frames for part in resampler.resample(frame)):
            parts.append(part.to_ndarray().reshape(-1, channels))
            length += len(parts[-1])
        if length > limit:
            break
    if failed > max(1, read / 10):
        raise problem
    return np.concatenate(parts).T


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
