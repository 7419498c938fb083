"""The types of input of [`LfmProcessor`] that read video: frames, and optical flow between them."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch

from .inputs_lfm import (
    KINDS,
    InputKind,
    Picture,
    check_augment,
    check_positive,
    check_size,
    crop_and_flip,
    stack_rows,
)
from .media_lfm import WHITE, image_pixels
from .video_lfm import evenly_spaced, optical_flow, read_frames


class _Sampled(InputKind):
    """What videos and flow share: of what is stored of a clip, the model reads a few, drawn anew in each epoch.

    The `stored` are split into `num_frames` parts as equal as can be. Training draws one of each part, evaluation takes
    the centres.
    """

    @property
    def segments(self):
        """First and last plus one (`list[tuple[int, int]]`) of each part."""
        edges = [round(number * self.stored / self.num_frames) for number in range(self.num_frames + 1)]
        return list(pairwise(edges))

    @property
    def centres(self):
        """What evaluation reads of what is stored (`list[int]`)."""
        return evenly_spaced(self.stored, self.num_frames)

    @property
    def varies(self):
        return bool(self.augment) or self.num_frames < self.stored

    def choose(self, row, places=None):
        """Those of `places` (`list[int]`; the centres if not given) of a stored sample, or all of one with no more."""
        return row if len(row) == self.num_frames else row[self.centres if places is None else places]

    def _check_counts(self):
        check_positive(self, "stored_frames", "num_frames", whole=True)
        if not self.num_frames <= self.stored:
            raise ValueError(f"num_frames={self.num_frames} must not be above {self.stored}, what is stored of a clip")


@KINDS.register("video")
@dataclass
class Video(_Sampled, Picture):
    """Video to frames; `encode` gives (stored_frames, num_channels, height, width) uint8, and `stack` scales them.

    Args:
        stored_frames (`int`): frames that are stored of a clip, the centres of equal segments of it.
        num_frames (`int`): frames of those that the model reads: random ones in training, see `segments`, and the
            centres of segments in evaluation.
        size, num_channels, crop, background, range, mean, std, augment: as in [`Picture`]; `num_channels` 1 for
            depth. The same part of all frames is cut.
    """

    stored_frames: int = 10
    num_frames: int = 3
    read_only: ClassVar = ("mean", "std", "augment", "num_frames")

    def __post_init__(self):
        super().__post_init__()
        self._check_counts()

    @property
    def stored(self):
        return self.stored_frames

    @property
    def shape(self):
        return (self.stored_frames, self.num_channels, *self.size)

    def vary(self, row, place=None, crop=None, flip=False):
        return crop_and_flip(self.choose(row, place), crop, flip)

    def encode(self, sample, sampling_rate=None, places=None):
        images = _sample(sample, self.stored_frames, places, self.background, self.range)
        return np.stack([image_pixels(image, self.size, self.num_channels, self.crop) for image in images])

    def stack(self, rows):
        return super().stack([self.choose(row) for row in rows])


@KINDS.register("flow")
@dataclass
class Flow(_Sampled):
    """Video to optical flow (DIS); `encode` gives (stored_frames - 1, 2, height, width) int8, and `stack` scales it.

    Frames are taken as [`Video`] takes them, made grey and resized, and the flow from each to the next is computed:
    displacements to the right and down in pixels. They are stored in 127 steps up to `bound` either way, so those
    within it are off by at most bound / 254 (0.22 pixels by default), and larger ones are cut to it. Values that the
    model reads are displacement / bound / std.

    Args:
        size (`list[int]`): height and width, 16 at least.
        crop (`bool`): as in [`Picture`].
        stored_frames (`int`): frames that are taken of a clip; one less fields of flow are stored.
        num_frames (`int`): of the fields that the model reads, chosen as the frames of a [`Video`].
        bound (`float`, *optional*): pixels; a quarter of the longer side if not given, which on NVGesture cuts one
            displacement in a thousand.
        std (`float`): see above.
        augment (`bool` or `dict`): as in [`Picture`]; displacements grow with the cut part, and a flip negates those to
            the right.
    """

    size: list = field(default_factory=lambda: [224, 224])
    crop: bool = True
    stored_frames: int = 10
    num_frames: int = 3
    bound: float | None = None
    std: float = 0.125
    augment: dict | bool = False
    parts: ClassVar = ("values",)
    dtype: ClassVar = np.int8
    read_only: ClassVar = ("std", "augment", "num_frames")
    num_channels: ClassVar = 2

    def __post_init__(self):
        self.size = check_size(self.size)
        if min(self.size) < 16:
            raise ValueError(f"size={self.size} must be 16 pixels at least")
        self.bound = max(self.size) / 4 if self.bound is None else self.bound
        check_positive(self, "bound", "std")
        self.augment = check_augment(self.augment)
        self._check_counts()

    @property
    def stored(self):
        return self.stored_frames - 1

    @property
    def shape(self):
        return (self.stored, 2, *self.size)

    def vary(self, row, place=None, crop=None, flip=False):
        values = self.choose(row, place).float().div_(127 * self.std)
        if crop is not None:
            values[:, 0] *= self.size[1] / crop[3]
            values[:, 1] *= self.size[0] / crop[2]
        values = crop_and_flip(values, crop, flip)
        if flip:
            values[:, 0].neg_()
        return values

    def encode(self, sample, sampling_rate=None, places=None):
        places = range(self.stored) if places is None else places
        needed = sorted({number for place in places for number in (place, place + 1)})
        images = _sample(sample, self.stored_frames, needed)
        grey = {
            number: image_pixels(image, self.size, 1, self.crop)[0]
            for number, image in zip(needed, images, strict=True)
        }
        flow = np.stack([optical_flow(grey[place], grey[place + 1]) for place in places])
        return np.rint(flow.clip(-self.bound, self.bound) * (127 / self.bound)).astype(np.int8)

    def stack(self, rows):
        rows = [self.choose(row) for row in rows]
        return stack_rows(rows, lambda values: values.div_(127 * self.std) if rows[0].dtype == torch.int8 else values)


def _sample(sample, stored_frames, places, background=WHITE, value_range=None):
    """Of `stored_frames` frames evenly over a clip those at `places` (all if None), as images."""

    def choose(count):
        numbers = evenly_spaced(count, stored_frames)
        return numbers if places is None else [numbers[place] for place in places]

    return read_frames(sample, choose, background, value_range)
