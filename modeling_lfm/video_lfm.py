"""Reading chosen frames of a video: exactly those that decoding it from the start would give, decoding few others."""

from itertools import chain, pairwise

import numpy as np

from .container_lfm import MAX_FRAMES, MAX_PIXELS, open_container, prepare_codec, reason
from .media_lfm import describe, open_media

try:
    import av
except ImportError:  # only video needs it
    av = None
try:
    import cv2
except ImportError:  # only optical flow needs it
    cv2 = None
try:
    from PIL import Image
except ImportError:  # only images and video need it
    Image = None

MAX_DECODED = 20_000_000_000  # pixels, on the way from a keyframe to a frame; 9,600 frames of Full HD
REORDERING = ("h264", "hevc")  # whose frames avi files store without telling when they are shown


def evenly_spaced(count, wanted):
    """The centres of `wanted` equal segments of `count` frames (`list[int]`, from 0, ascending)."""
    return [(2 * number + 1) * count // (2 * wanted) for number in range(wanted)]


def read_frames(value, choose):
    """Chosen frames of a video, or of a cut of it.

    Args:
        value: an array `(frames, H, W)` or `(frames, H, W, 3)` of uint8, a path, bytes, or `{"bytes", "path"}`; a cut
            is a mapping that also holds `first_frame` and `last_frame`, from 0, both inclusive. A cut that reaches
            behind the end of the video ends with its last frame; one that starts there is an error.
        choose: a function from the number of frames to a list of those that are wanted, from 0, in any order.

    Returns:
        `list[PIL.Image.Image]`, one for each that was chosen, RGB (grey arrays: L).

    Raises:
        ValueError: damaged, without video, a cut outside of it, or so large that it may be a decompression bomb; the
        message names the file. FileNotFoundError: no such file. ImportError: PyAV or Pillow is missing.
    """
    if Image is None:
        raise ImportError("video needs Pillow: pip install pillow")
    name = describe(value)
    first, last = (value.get(key) if isinstance(value, dict) else None for key in ("first_frame", "last_frame"))

    def choose_in_cut(count):
        start, stop = (0 if first is None else first), (count if last is None else min(last + 1, count))
        if not 0 <= start < stop:
            raise ValueError(f"{name} has {count} frames, so the cut from {start} to {last} is outside of it.")
        return [start + number for number in choose(stop - start)]

    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[3:] not in ((), (3,)) or not array.size:
            raise ValueError(
                f"{name}: a video array is uint8 of shape (frames, H, W) or (frames, H, W, 3), got {array.dtype} "
                f"{array.shape}."
            )
        return [Image.fromarray(array[number]) for number in choose_in_cut(len(array))]
    with Clip(value) as clip:
        try:
            return clip.read(choose_in_cut(clip.count))
        except _Unexpected:
            clip.count_by_decoding()
            return clip.read(choose_in_cut(clip.count))  # counted from the start, nothing is unexpected


class _Unexpected(Exception):
    """The decoder's frames are not those that the packets promised."""


class Clip:
    """A video file, open for reading.

    All packets of the file are read once, without decoding, for where the frames are: file headers are not to be
    trusted. A frame is then found by its time, decoding from the keyframe before it. Where the file does not tell the
    times of frames (H.264 in avi), they are counted as they come out of the decoder, from the start or from a keyframe
    that cuts all references between earlier and later ones.

    Args:
        value: a path, bytes, or `{"bytes", "path"}`.

    Attributes:
        count (`int`): frames.
        decoded (`int`): packets that were decoded so far, about as many as frames.
    """

    def __init__(self, value):
        self.value, self.name = value, describe(value)
        self.decoded = 0
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
        if not self.container.streams.video:
            self.container.close()
            raise ValueError(f"{self.name} holds no video; replace the file.")
        self.stream = self.container.streams.video[0]
        try:
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

    # -- where the frames are ----------------------------------------------------------------------------------

    def _packets(self):
        """Packets from where the file is read on, without the empty one at the end."""
        try:
            for packet in self.container.demux(self.stream):
                if packet.size:
                    yield packet
        except av.FFmpegError as error:
            raise ValueError(f"{self.name} cannot be read ({reason(error)}); replace the file.") from error

    def _scan(self):
        """Time, position and kind of each packet, in the order of the file, and from them the order of the frames."""
        times, starts, places, keys, closed, shown = [], [], [], [], [], []
        for number, packet in enumerate(self._packets()):
            if number >= MAX_FRAMES:
                raise ValueError(f"{self.name} is refused: more than {MAX_FRAMES:,} frames; cut it.")
            times.append(packet.pts)
            starts.append(packet.pts if packet.dts is None else packet.dts)
            places.append(packet.pos)
            keys.append(packet.is_keyframe)
            closed.append(packet.is_keyframe and self.codec.name == "h264" and _is_idr(packet))
            shown.append(not packet.is_discard and not (self.codec.name == "vp8" and _is_hidden(packet)))
        self.starts, self.total = starts, len(times)
        self.number_at = {place: number for number, place in enumerate(places)}
        if len(self.number_at) < self.total or (places and min(places) < 0):
            self.number_at = {}  # positions do not tell packets apart
        visible = [number for number in range(self.total) if shown[number]]
        self.count = len(visible)
        if not self.count:
            raise ValueError(f"{self.name} holds no frames; replace the file.")
        self.timed = self._are_times_right([times[number] for number in visible])
        if self.timed:
            visible.sort(key=times.__getitem__)
            self.times = [times[number] for number in visible]
            self.entries = [(times[number], number) for number in range(self.total) if keys[number]]
        else:
            before = np.cumsum([0, *shown])
            self.entries = [(int(before[number]), number) for number in range(self.total) if closed[number]]

    def _are_times_right(self, times):
        if None in times or len(set(times)) < len(times):
            return False
        if self.container.format.name == "avi" and self.codec.name in REORDERING:
            return False
        return not self.codec.has_b_frames or any(a > b for a, b in pairwise(times))

    def count_by_decoding(self):
        """Decode the whole video for the number of its frames, and count them from the start from then on."""
        self.timed, self.entries = False, []
        self.count = sum(1 for _ in self._frames(0))
        if not self.count:
            raise ValueError(f"{self.name} holds no frames that can be decoded; replace the file.")

    # -- reading them ------------------------------------------------------------------------------------------

    def read(self, numbers):
        """The frames `numbers` (`list[int]`, in any order), as `list[PIL.Image.Image]`.

        Raises:
            _Unexpected: the decoder gives other frames than the packets promise.
        """
        found, frames, fed = {}, None, 0
        for number in sorted(set(numbers)):
            wanted = self.times[number] if self.timed else number
            place, entry = max((pair for pair in self.entries if pair[0] <= wanted), default=(0, 0))
            if frames is None or entry > fed:  # else decode on from where we are
                frames, reached = self._placed_frames(entry, place), None
            for fed, reached, frame in frames:  # noqa: B007
                if reached >= wanted:
                    break
            if reached != wanted:
                raise _Unexpected
            found[number] = _to_image(frame)
        return [found[number] for number in numbers]

    def _placed_frames(self, entry, place):
        """Frames from packet `entry` on; each with the packet that was decoded last, and its time, or its number.

        `place` is the time or number of the first frame that is wanted; earlier ones may come out before it.
        """
        last = None
        for number, (fed, frame) in enumerate(self._frames(entry), place):
            if not self.timed and entry and number == place and not frame.key_frame:
                raise _Unexpected
            reached = frame.pts if self.timed else number
            if reached is None or (last is not None and reached <= last):
                raise _Unexpected
            yield fed, reached, frame
            last = reached

    def _frames(self, entry):
        """Frames that come out of the decoder from packet `entry` on, each with the packet that was decoded last."""
        pixels = 0
        for number, packet in self._packets_from(entry):
            self.decoded += packet is not None
            try:
                frames = self.codec.decode(packet)
            except av.FFmpegError as error:
                raise ValueError(f"{self.name} cannot be decoded ({reason(error)}); replace the file.") from error
            for frame in frames:
                self._check_size(frame)
                pixels += frame.width * frame.height
                if pixels > MAX_DECODED:
                    raise ValueError(f"{self.name} is refused: too much to decode for a few frames; cut it.")
                yield number, frame

    def _packets_from(self, entry):
        """Packets with their numbers from `entry` on, and None at the end, which empties the decoder."""
        number, packets = self._seek(entry)
        if number is None:
            self.container.close()
            self._open()
            number, packets = 0, self._packets()
        for packet in packets:
            if number >= entry:
                yield number, packet
            number += 1
        yield number, None

    def _seek(self, entry):
        """Number of a packet at `entry` or before it, and the packets from there on; (None, None) without success."""
        if entry and self.number_at and self.starts[entry] is not None:
            try:
                self.container.seek(self.starts[entry], stream=self.stream)
            except av.FFmpegError:
                return None, None
            packets = self._packets()
            first = next(packets, None)
            number = None if first is None else self.number_at.get(first.pos)
            if number is not None and number <= entry:
                return number, chain([first], packets)
        return None, None


def _is_idr(packet):
    """Whether an H.264 packet holds a picture that cuts all references between the frames before and after it."""
    content = bytes(packet)
    if not content.startswith((b"\0\0\1", b"\0\0\0\1")):
        return False
    start = content.find(b"\0\0\1")
    while 0 <= start < len(content) - 3:
        kind = content[start + 3] & 31
        if 1 <= kind <= 5:  # the first part of a picture
            return kind == 5
        start = content.find(b"\0\0\1", start + 3)
    return False


def _is_hidden(packet):
    """Whether a VP8 packet holds a frame that others refer to but that is never shown."""
    return not bytes(packet)[0] & 0x10


def _to_image(frame):
    """A decoded frame as RGB image, turned as its file tells."""
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
