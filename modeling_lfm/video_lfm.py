"""Reading video: chosen frames of whatever a clip is stored as, and the optical flow between two of them."""

import os
import re
from bisect import bisect_right
from itertools import pairwise

import numpy as np

from .media_lfm import (
    MAX_PIXELS,
    WHITE,
    Extent,
    Image,
    av,
    describe,
    is_array,
    open_container,
    open_media,
    prepare_codec,
    read_image,
    reason,
    to_8_bits,
    to_array,
)

try:
    import cv2
except ImportError:  # only optical flow needs it
    cv2 = None

MAX_FRAMES = 250_000  # of a clip; more than two hours at 30 a second
MAX_DECODED = 20_000_000_000  # pixels; 9,600 frames of Full HD
REORDERING = ("h264", "hevc")  # whose frames avi files store without telling when they are shown
PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def evenly_spaced(count, wanted):
    """The centres of `wanted` equal segments of `count` frames (`list[int]`, from 0, ascending)."""
    return [(2 * number + 1) * count // (2 * wanted) for number in range(wanted)]


def read_frames(value, choose, background=WHITE, value_range=None):
    """Chosen frames of a clip, or of a cut of it.

    Args:
        value: a path, bytes, file object, data URI or `{"bytes", "path"}` of a video file; a folder of pictures, in the
            order of their names and the numbers in them; a list of frames, each as [`read_image`] takes it; an array or
            tensor `(frames, H, W)`, `(frames, H, W, C)` or `(frames, C, H, W)`; a `VideoDecoder` of torchcodec (what
            `datasets` hands out). A cut is a mapping that also holds `first_frame` and `last_frame`, from 0, both
            inclusive. A cut that reaches behind the end of the clip ends with its last frame; one that starts there is
            an error.
        choose: a function from the number of frames to a list of those that are wanted, from 0, in any order.
        background, value_range: as in [`read_image`]; the latter for grey video of more than 8 bits, such as depth.

    Returns:
        `list[PIL.Image.Image]`, one for each that was chosen, 8 bits a channel, without transparency.

    Raises:
        ValueError: damaged, cut short, without video, a cut outside of it, or so large that it may be a decompression
        bomb; the message names the file. FileNotFoundError: no such file. ImportError: PyAV or Pillow is missing.
    """
    if Image is None:
        raise ImportError("video needs Pillow: pip install pillow")
    name = describe(value)
    first, last = (value.get(key) if isinstance(value, dict) else None for key in ("first_frame", "last_frame"))
    if not all(frame is None or isinstance(frame, (int, np.integer)) for frame in (first, last)):
        raise ValueError(f"{name}: first_frame={first!r} and last_frame={last!r} should be whole numbers.")

    def choose_in_cut(count):
        start, stop = (0 if first is None else first), (count if last is None else min(last + 1, count))
        if not 0 <= start < stop:
            raise ValueError(f"{name} has {count} frames, so the cut from {start} to {last} is outside of it.")
        return [start + number for number in choose(stop - start)]

    frames = _list_frames(value, name, value_range)
    if frames is not None:
        return [read_image(frames[n], background, value_range) for n in choose_in_cut(len(frames))]
    if hasattr(value, "get_frames_at"):
        numbers = choose_in_cut(len(value))
        return [read_image(frame, background, value_range) for frame in value.get_frames_at(numbers).data]
    with Clip(value, value_range) as clip:
        try:
            return clip.read(choose_in_cut(clip.count))
        except _Unexpected:
            clip.count_by_decoding()
            return clip.read(choose_in_cut(clip.count))  # counted from the start, nothing is unexpected


def _list_frames(value, name, value_range):
    """The frames of a clip that is an array, a list or a folder of pictures; None of any other."""
    path = value.get("path") if isinstance(value, dict) and value.get("bytes") is None else value
    if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
        files = [entry.path for entry in os.scandir(path) if entry.name.lower().endswith(PICTURES)]
        if not files:
            raise ValueError(f"the folder {path} holds no pictures ({', '.join(PICTURES)}).")
        return sorted(files, key=_natural_order)
    if is_array(value):
        wide = value_range is not None and isinstance(value, (list, tuple))  # no type tells that numbers are small
        value = to_array(value).astype(np.float64) if wide else to_array(value)
        if value.ndim not in (3, 4) or not value.size:
            raise ValueError(
                f"{name}: a clip is (frames, H, W), (frames, H, W, C) or (frames, C, H, W), got {value.shape}."
            )
    elif not isinstance(value, (list, tuple)):
        return None
    elif not value:
        raise ValueError(f"{name}: a clip without frames.")
    return value


def _natural_order(file):
    """`frame2.png` comes before `frame10.png`."""
    return [(len(part), part) if part.isdigit() else (0, part) for part in re.split(r"(\d+)", file)]


class _Unexpected(Exception):
    """The decoder's frames are not those that the packets promised."""


class Clip:
    """A video file, open for reading.

    All packets are read once, without decoding: file headers are not to be trusted. Frames then come from decoding
    straight through; where the file tells their times, what lies before a keyframe is passed over. Of a clip of 10 s
    with a keyframe every 2 s that takes 0.6 of the time for 3 frames; for 10 frames it makes no difference.

    Args:
        value: a path, bytes, a file object, a data URI, or `{"bytes", "path"}`.
        value_range (`tuple[float, float]`, *optional*): see [`read_frames`].

    Attributes:
        count (`int`): frames.
    """

    def __init__(self, value, value_range=None):
        self.value, self.name, self.value_range = value, describe(value), value_range
        self._open()
        try:
            self._scan()
        except BaseException:
            self.container.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.container.close()

    def _open(self):
        self.container = open_container(open_media(self.value), self.name)
        try:
            cover = av.stream.Disposition.attached_pic  # the picture that goes with a recording, as in mp3 files
            streams = [stream for stream in self.container.streams.video if not stream.disposition & cover]
            if not streams:
                raise ValueError(f"{self.name} holds no video; replace the file.")
            self.stream = streams[0]
            self.codec = prepare_codec(self.stream, self.name)
            self._check_size(self.codec)
        except ValueError:
            self.container.close()
            raise

    def _check_size(self, picture):
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(
                f"{self.name} is refused: frames of {picture.width} x {picture.height} pixels, the limit is "
                f"{MAX_PIXELS:,} pixels; make it smaller."
            )

    def _scan(self):
        """The number of frames that are shown and, where the file can be believed, when; keyframes; where it ends."""
        times, keys, extent = [], [], Extent(self.container, self.name)
        try:
            for packet in extent.packets():
                if packet.stream is not self.stream or not packet.size or packet.is_discard or self._is_hidden(packet):
                    continue
                times.append(packet.pts)
                keys += [packet.pts] if packet.is_keyframe else []
                if len(times) > MAX_FRAMES:
                    raise ValueError(f"{self.name} is refused: more than {MAX_FRAMES:,} frames; cut it.")
        except av.FFmpegError as error:
            raise ValueError(f"{self.name} cannot be read ({reason(error)}); replace the file.") from error
        self.count = len(times)
        if not self.count:
            raise ValueError(f"{self.name} holds no frames; replace the file.")
        extent.check()
        self.times = sorted(times) if self._are_times_right(times) else None
        self.keys = sorted(keys) if self.times else []

    def _is_hidden(self, packet):
        """Whether it holds a VP8 frame that others refer to but that is never shown."""
        return self.codec.name == "vp8" and not bytes(packet)[0] & 0x10

    def _are_times_right(self, times):
        if None in times or len(set(times)) < len(times):
            return False
        if self.container.format.name == "avi" and self.codec.name in REORDERING:
            return False
        return not self.codec.has_b_frames or any(a > b for a, b in pairwise(times))

    def count_by_decoding(self):
        """Decode the whole video for the number of its frames, and count them from the start from then on."""
        self.times, self.keys = None, []
        self.count = sum(1 for _ in self._frames())
        if not self.count:
            raise ValueError(f"{self.name} holds no frames that can be decoded; replace the file.")

    def read(self, numbers):
        """The frames `numbers` (`list[int]`, in any order), as `list[PIL.Image.Image]`.

        Raises:
            _Unexpected: the decoder gives other frames than the packets promise.
        """
        found, frames, reached = {}, None, -1
        for number in sorted(set(numbers)):
            place = bisect_right(self.keys, self.times[number]) - 1 if self.keys else 0
            key = self.keys[place] if place > 0 else None  # the last keyframe up to it, if that is not the first one
            if frames is None or (key is not None and key > self.times[reached]):
                frames = self._frames(key)
            for reached, frame in frames:  # noqa: B007
                if reached >= number:
                    break
            if reached != number:
                raise _Unexpected
            found[number] = self._to_image(frame)
        return [found[number] for number in numbers]

    def _frames(self, start=None):
        """Frames with their numbers, from the beginning, or from the keyframe at the time `start` on or before it."""
        self.container.close()
        self._open()
        place = None if self.times is None else {time: number for number, time in enumerate(self.times)}
        pixels = 0
        try:
            if start is not None:
                try:
                    self.container.seek(start, stream=self.stream)
                except av.FFmpegError:  # a file without index: from the beginning
                    self.container.close()
                    self._open()
                    start = None
            for number, frame in enumerate(self.container.decode(self.stream)):
                self._check_size(frame)
                pixels += frame.width * frame.height
                if pixels > MAX_DECODED:
                    raise ValueError(f"{self.name} is refused: too much to decode; cut it.")
                if place is not None and frame.pts not in place:
                    if start is not None and (frame.pts is None or frame.pts < start):
                        continue  # a leading frame, whose references were passed over
                    raise _Unexpected
                yield number if place is None else place[frame.pts], frame
        except av.FFmpegError as error:
            raise ValueError(f"{self.name} cannot be decoded ({reason(error)}); replace the file.") from error

    def _to_image(self, frame):
        """A decoded frame as an image, turned as its file tells; grey of more than 8 bits by `value_range`."""
        bits = max(component.bits for component in frame.format.components)
        if bits >= 16 or (bits > 8 and len(frame.format.components) == 1):
            image = Image.fromarray(to_8_bits(frame.to_ndarray(format="gray16le"), self.name, self.value_range))
        else:
            image = frame.to_image()
        return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def optical_flow(first, second):
    """Dense optical flow by DIS (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016).

    Args:
        first, second (`np.ndarray` `(H, W)` uint8): grey images, 16 pixels wide and high at least.

    Returns:
        `np.ndarray` `(2, H, W)`, float32: how many pixels each pixel of `first` moves to the right and down.

    Raises:
        ImportError: OpenCV is missing.
    """
    if cv2 is None:
        raise ImportError("optical flow needs OpenCV: pip install opencv-python-headless")
    first, second = np.ascontiguousarray(first), np.ascontiguousarray(second)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the result would depend on how many there are
    try:
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(first, second, None)
    finally:
        cv2.setNumThreads(threads)
    return flow.transpose(2, 0, 1)
