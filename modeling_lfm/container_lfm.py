"""Opening video and audio files with PyAV (avi, mp4, flv, webm, mkv and others), and reading their audio track."""

import numpy as np

try:
    import av
except ImportError:  # only video, and audio that libsndfile does not read, need it
    av = None

# What a file may hold at most: beyond, it is taken for a decompression bomb.
MAX_PIXELS = 50_000_000  # of a frame; 8K has 33 million
MAX_FRAMES = 250_000  # of a clip; more than two hours at 30 a second
MAX_SECONDS = 7200  # of a clip, or of the part of an audio file that is read
MAX_CHANNELS = 64  # of an audio track

# FFmpeg goes by the content of a file, not its name. Without these lists a playlist that is called clip.mp4 could make
# it read other files, or call a server.
VIDEO_FORMATS = "avi,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpegts,mpeg,mpegvideo,m4v,asf,ogg"
AUDIO_FORMATS = "wav,w64,aiff,caf,mp3,aac,flac,au,amr"
OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": f"{VIDEO_FORMATS},{AUDIO_FORMATS}",
    "max_pixels": str(MAX_PIXELS),
}


class UnknownFormatError(ValueError):
    """What was given is not a media file that is read here."""


def open_container(source, name):
    """Open a media file.

    Args:
        source: a path, or a binary file object.
        name (`str`): of it, for messages.

    Returns:
        `av.container.InputContainer`, to be closed.

    Raises:
        UnknownFormatError: damaged, or of an unknown format. ValueError: so long that it may be a decompression bomb.
        ImportError: PyAV is missing.
    """
    if av is None:
        raise ImportError("video, and audio in a video file, need PyAV: pip install av")
    if not hasattr(source, "read"):
        source = f"file:{source}"  # no other protocol, whatever the name looks like
    try:
        container = av.open(source, options=dict(OPTIONS), metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise UnknownFormatError(f"{name} cannot be opened ({reason(error)}); replace the file.") from error
    if container.duration is not None and container.duration > MAX_SECONDS * av.time_base:
        seconds = container.duration // av.time_base
        container.close()
        raise ValueError(f"{name} is refused: it claims to last {seconds} s, the limit is {MAX_SECONDS} s; cut it.")
    return container


def prepare_codec(stream, name):
    """The decoder of a stream (`av.CodecContext`), with one thread: samples run in parallel instead."""
    if stream.codec_context is None:
        raise ValueError(f"{name} holds {stream.type} of a kind that PyAV cannot decode; convert or replace the file.")
    stream.codec_context.thread_count = 1
    return stream.codec_context


def reason(error):
    """What FFmpeg says of an error, without the file's name."""
    return getattr(error, "strerror", None) or str(error)


def audio_track(source, name, seconds=None):
    """The samples of a file's first audio track, without resampling.

    Args:
        source: a path, or a binary file object.
        name (`str`): of it, for messages.
        seconds (`float`, *optional*): read so much from the start at most.

    Returns:
        `np.ndarray` `(channels, samples)`, float32, PCM in [-1, 1]; and its sampling rate in Hz.

    Raises:
        ValueError: no audio track, damaged, or too long. ImportError: PyAV is missing.
    """
    with open_container(source, name) as container:
        if not container.streams.audio:
            raise ValueError(f"{name} holds no audio track; leave the sample out, or give a file with sound.")
        stream = container.streams.audio[0]
        codec = prepare_codec(stream, name)
        rate, channels = codec.sample_rate, codec.layout.nb_channels
        if not rate or not 0 < channels <= MAX_CHANNELS:
            raise ValueError(f"{name} has {channels} audio channels at {rate} Hz, which cannot be read; convert it.")
        limit = round(rate * (MAX_SECONDS if seconds is None else seconds))
        try:
            wave = _decode_audio(container, stream, limit)
        except (av.FFmpegError, ValueError) as error:  # the latter of a track whose format changes on the way
            raise ValueError(f"the audio of {name} cannot be decoded ({reason(error)}); replace the file.") from error
    if seconds is None and wave.shape[1] > limit:
        raise ValueError(f"{name} is refused: its audio is longer than {MAX_SECONDS} s; cut it.")
    return wave[:, :limit], rate


def _decode_audio(container, stream, limit):
    """The whole track, or a little more than `limit` samples, as float32 `(channels, samples)`.

    Packets that cannot be decoded are passed over, unless they are one in ten.
    """
    codec = stream.codec_context
    channels = codec.layout.nb_channels
    # Changes the type alone. Not to fltp: PyAV crashes on planes of 8 channels or more, which a damaged file may claim.
    resampler = av.AudioResampler(format="flt", layout=codec.layout, rate=codec.sample_rate)
    parts, length = [np.zeros((0, channels), np.float32)], 0
    packets, failed, problem = 0, 0, None
    for packet in container.demux(stream):
        packets += 1
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
    if failed > max(1, packets / 10):
        raise problem
    return np.concatenate(parts).T
