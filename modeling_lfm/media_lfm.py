"""Reading media: what people have (paths, bytes, arrays, tensors, PIL images, containers of PyAV) to pixels."""

import base64
import errno
import io
import os
import warnings
from collections import Counter

import numpy as np
import torch

try:
    import av
except ImportError:  # only video, and audio that libsndfile does not read, need it
    av = None
try:
    from PIL import Image, ImageOps
except ImportError:  # only images and video need it
    Image = ImageOps = None

# What a file may hold at most: beyond, it is taken for a decompression bomb.
MAX_PIXELS = 50_000_000  # of a frame; 8K has 33 million
MAX_SECONDS = 7200  # of a clip, or of the part of an audio file that is read
MISSING = (0.3, 0.03)  # what a whole file may lack of the length that it claims: seconds, and the share of it

# FFmpeg goes by the content of a file, not its name. Without these lists a playlist that is called clip.mp4 could make
# it read other files, or call a server.
VIDEO_FORMATS = "avi,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpegts,mpeg,mpegvideo,m4v,asf,ogg"
AUDIO_FORMATS = "wav,w64,aiff,caf,mp3,aac,flac,au,amr"
OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": f"{VIDEO_FORMATS},{AUDIO_FORMATS}",
    "max_pixels": str(MAX_PIXELS),
}
WHITE = (255, 255, 255)


# -- any media -----------------------------------------------------------------------------------------------------


def describe(value):
    """A name of a raw input for messages: its path where it has one."""
    if isinstance(value, dict) and value.get("path"):
        return str(value["path"])
    if isinstance(value, str) and value.startswith("data:"):
        return f"a data URI ({value[5:40].partition(',')[0]})"
    if isinstance(value, (str, os.PathLike)):
        return str(value)
    return str(getattr(value, "name", "") or f"an input of type {type(value).__name__}")


def open_media(value):
    """A path, or a file object, from a path, bytes, a file object, a data URI, or a `{"bytes", "path"}` mapping.

    Raises:
        FileNotFoundError: the path does not exist. ValueError: none of these was given.
    """
    if isinstance(value, dict) and not {"bytes", "path"} & set(value):
        raise ValueError(f"a mapping with 'bytes' or 'path' is expected, got one with {str(list(value))[:80]}.")
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, (bytes, bytearray)):
        return io.BytesIO(value)
    if hasattr(value, "read") and hasattr(value, "seek"):
        value.seek(0)
        return io.BytesIO(value.read())
    if isinstance(value, str) and value.startswith("data:"):
        return io.BytesIO(_read_data_uri(value))
    if isinstance(value, (str, os.PathLike)):
        if not os.path.isfile(value):
            raise FileNotFoundError(f"no file at {value}.")
        return value
    raise ValueError(
        f"a path, bytes, a file object, a data URI or a mapping with 'bytes' or 'path' is expected, got "
        f"{type(value).__name__}."
    )


def _read_data_uri(value):
    head, comma, content = value.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError(f"{describe(value)} is not in base64: data:image/png;base64,...")
    try:
        return base64.b64decode(content, validate=True)
    except ValueError as error:
        raise ValueError(f"{describe(value)} is not in base64 ({error}).") from error


def is_array(value):
    """`bool`: whether `value` is an array, a tensor, or nested lists of numbers."""
    if hasattr(value, "__array__"):
        return True
    nested = isinstance(value, (list, tuple))
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return nested and isinstance(value, (int, float)) and not isinstance(value, bool)


def to_array(value):
    """A numpy array from an array, a tensor of any type on any device, or nested lists (`np.ndarray`).

    Lists of whole numbers from 0 to 255 become uint8: that is what they were before they became a column of lists.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:  # nested lists of unequal length
        raise ValueError(f"{describe(value)} is no array: {error}") from error
    if isinstance(value, (list, tuple)) and array.dtype.kind in "iu" and array.size:
        return array.astype(np.uint8) if array.min() >= 0 and array.max() <= 255 else array
    return array


# -- containers ----------------------------------------------------------------------------------------------------


class UnknownFormatError(ValueError):
    """What was given is not a media file that is read here."""


def open_container(source, name):
    """Open a video or audio file (avi, mp4, flv, webm, mkv and others).

    Args:
        source: a path, or a binary file object. name (`str`): of it, for messages.

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
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return "it claims a size that no memory holds"
    return getattr(error, "strerror", None) or str(error)


class Extent:
    """How far the packets of a file reach, against what its head claims: a broken download ends before."""

    def __init__(self, container, name):
        self.container, self.name = container, name
        self.end, self.counts = 0.0, Counter()

    def packets(self):
        """The packets of all streams, each counted on its way."""
        for packet in self.container.demux():
            self.counts[packet.stream.index] += 1
            start = packet.pts if packet.pts is not None else packet.dts
            if start is not None:
                self.end = max(self.end, float((start + (packet.duration or 0)) * packet.time_base))
            yield packet

    def check(self):
        """Raise a `ValueError` where the packets, all of which were read, end before the claimed length."""
        claims = []  # what is there, what is claimed, what it may lack at least, its unit
        for stream in self.container.streams.video:  # avi files count their frames; of sound the unit varies
            claims.append((self.counts[stream.index], stream.frames, 2, "frames"))
        if self.container.duration is not None:
            end = self.end - (self.container.start_time or 0) / av.time_base
            claims.append((end, self.container.duration / av.time_base, MISSING[0], "s"))
        for number, claimed, least, unit in claims:
            if claimed - number > max(least, MISSING[1] * claimed):
                raise ValueError(
                    f"{self.name} is cut short: {max(number, 0):.4g} of {claimed:.4g} {unit} are there, as after a "
                    "broken download; replace the file."
                )


# -- images --------------------------------------------------------------------------------------------------------


def read_image(value, background=WHITE, value_range=None):
    """A PIL image of 8 bits a channel, without transparency, turned as its EXIF data tell.

    Args:
        value: a PIL image, a path, bytes, a file object, a data URI, `{"bytes", "path"}`, or an array, tensor or nested
            list `(H, W)`, `(H, W, C)` or `(C, H, W)` with 1 to 4 channels (2 and 4: the last is alpha), of uint8, bool,
            or floats in [0, 1].
        background (`tuple[int, int, int]`, *optional*): the colour that shows through a transparent picture; None
            leaves alpha out, and hidden colours appear.
        value_range (`tuple[float, float]`, *optional*): what becomes black and white in a picture of more than 8 bits,
            such as (0, 4000) for depth in millimetres; what lies beyond is cut. It goes for floats and lists, too.

    Raises:
        ValueError: damaged, more than 8 bits without `value_range`, or so large that it may be a decompression bomb;
        the message names the file. FileNotFoundError: no such file. ImportError: Pillow is missing.
    """
    if Image is None:
        raise ImportError("images need Pillow: pip install pillow")
    name = describe(value)
    if isinstance(value, Image.Image):
        image = ImageOps.exif_transpose(value)
    elif is_array(value):
        array = to_array(value)
        if value_range is not None and isinstance(value, (list, tuple)):
            array = array.astype(np.float64)  # no type tells that its numbers are small
        image = _from_array(array, name, value_range)
    else:
        image = _open_image(open_media(value), name)
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(to_8_bits(np.asarray(image), name, value_range))
    if image.mode == "LAB":  # Pillow has no way from it
        raise ValueError(f"{name} has colours of the mode LAB, which cannot be converted: save it as RGB.")
    if background is None or not image.has_transparency_data:
        return image
    image = image.convert("LA") if image.mode == "La" else image  # which has no way to RGBA of its own
    ground = Image.new("RGBA", image.size, (*background, 255))
    ground.alpha_composite(image.convert("RGBA"))
    return ground.convert("RGB")


def to_8_bits(array, name, value_range):
    """Values from `value_range[0]` to `value_range[1]` as uint8 0 to 255, those beyond cut; they must be finite."""
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite; replace them.")
    if value_range is None:
        raise ValueError(
            f"{name} has more than 8 bits a channel, or floats beyond [0, 1] ({array.dtype}, {array.min()} to "
            f"{array.max()}): tell what is black and what is white by 'range' in the processor's settings, such as "
            "[0, 4000] for millimetres."
        )
    low, high = value_range
    return np.rint((array.astype(np.float64) - low).clip(0, high - low) * (255 / (high - low))).astype(np.uint8)


def _from_array(array, name, value_range):
    shape = array.shape
    if array.ndim == 3 and shape[2] not in (1, 2, 3, 4) and shape[0] in (1, 2, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (2,), (3,), (4,)) or not array.size:
        raise ValueError(f"{name}: an image array is (H, W), (H, W, C) or (C, H, W) with 1 to 4 channels, got {shape}.")
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind not in "iuf":
        raise ValueError(f"{name}: an image array holds numbers, got {array.dtype}.")
    elif array.dtype.kind == "f" and value_range is None and array.min() >= 0 and array.max() <= 1:
        array = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        array = to_8_bits(array, name, value_range)
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2:] == (1,) else array))


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
    """Pixels of a PIL image, resized (bicubic): `np.ndarray` `(num_channels, height, width)`, uint8.

    Args:
        image (`PIL.Image.Image`), size (`tuple[int, int]`): height and width.
        num_channels (`int`): 1 (grey) or 3 (RGB).
        crop (`bool`): keep the proportions, cover `size` and cut at the centre; otherwise stretch.
    """
    image = image.convert("L" if num_channels == 1 else "RGB")
    width_height = (size[1], size[0])
    if crop:
        image = ImageOps.fit(image, width_height, method=Image.Resampling.BICUBIC)
    else:
        image = image.resize(width_height, Image.Resampling.BICUBIC)
    pixels = np.array(image)
    return pixels[None] if num_channels == 1 else pixels.transpose(2, 0, 1)
