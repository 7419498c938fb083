"""The types of input of [`LfmProcessor`]: audio as spectrograms, images, text. Video has a file of its own."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from transformers.data.data_collator import pad_without_fast_tokenizer_warning

from .audio_lfm import fit_length, log_spectrogram, read_waveform
from .media_lfm import WHITE, describe, image_pixels, read_image
from .registry_lfm import Registry

KINDS = Registry("type of input")
# What settings may ask for at most: beyond, they are taken for damaged.
MAX_SIDE, MAX_SAMPLES = 8192, 200_000_000
AUGMENT = {"scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3], "flip": 0.5}


class InputKind:
    """One type of input: a dataclass whose fields are its settings in [`LfmProcessor`].

    Attributes:
        parts (`tuple[str]`): its tensors are called `{modality}_{part}`.
        dtype, shape: of the array that `encode` gives (-1 where a length varies).
        read_only (`tuple[str]`): settings on which that does not depend.
        varies (`bool`): whether training changes it at random; then `vary(row, ...)` does so.
        centres (`list[int]`): where of what is stored evaluation reads only some, which; `encode` takes them.
        is_fitted (`bool`): False while statistics of the training data are missing, which `fit(samples)` finds.
        tower_keys (`dict`): what the entry of its tower has to say.
        half (`str`, *optional*): which encoder of a model that has several, such as CLIP, reads it.
        frontend (`dict`, *optional*): settings of a [`LogSpectrogram`] that its tower has to make of what it reads.

    Example: see "A type of input" in CONTRIBUTING.md.
    """

    parts: ClassVar = ("values",)
    dtype: ClassVar = np.float32
    shape: ClassVar = None
    read_only: ClassVar = ()
    varies: ClassVar = False
    centres: ClassVar = None
    is_fitted: ClassVar = True
    tower_keys: ClassVar = {}
    frontend: ClassVar = None
    half: ClassVar = None

    @classmethod
    def is_absent(cls, sample):
        """Whether a raw input stands for nothing (`bool`): None, NaN, pandas' NA, a file without name and content."""
        if isinstance(sample, dict) and "path" in sample and "array" not in sample:
            sample = sample["path"] if sample.get("bytes") is None else b""
        return is_nothing(sample) or (isinstance(sample, str) and not sample.strip())

    def encode(self, sample, sampling_rate=None):
        """A raw input, as people have it, as an array to be stored (`np.ndarray`).

        Raises:
            ValueError, FileNotFoundError: it cannot be read; the message names it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define encode")

    def stack(self, rows):
        """Samples (`list[torch.Tensor]`) to a batch, as the model reads it; a `dict` where there are several parts."""
        return stack_rows(rows)

    def blank(self):
        """The smallest sample, as `encode` gives it: zeros, or an empty text."""
        return np.zeros([max(side, 1) for side in self.shape], self.dtype)


@KINDS.register("spectrogram")
@dataclass
class Spectrogram(InputKind):
    """Audio to log-spectrograms; `encode` gives (1, bins, frames) float32.

    `preset: paper` (the defaults) or `preset: released` sets what is not given. The paper's shapes are 257 x 299 (3 s,
    CREMA-D) and 257 x 1004 (10 s). The released code of its authors repeats recordings of CREMA-D to 20 s at 22,050 Hz,
    257 x 1250 (`dataset/CREMA.py` in github.com/njustkmg/NeurIPS24-LFM).

    Args:
        sampling_rate (`int`): Hz; other audio is resampled to it.
        n_fft, hop_length (`int`): window and step, in samples.
        duration (`float`, *optional*): seconds; shorter audio is repeated, longer cut. None keeps its length (but one
            window at least), and a batch is padded with silence.
        floor (`float`): added to the magnitude before the logarithm.
        normalize (`bool`): zero mean and unit variance of each spectrogram.
        mean, std (`float`): otherwise subtracted and divided by.
        center (`bool`): centre windows on their samples, see [`log_spectrogram`].
        clip (`bool`): limit the waveform to [-1, 1], which resampling may leave.
        in_model (`bool`): `encode` gives the waveform (samples,), and the model computes spectrograms, in batches on
            its device: its tower needs [`frontend`][modeling_lfm.inputs_lfm.Spectrogram.frontend]. Needs a duration.
    """

    sampling_rate: int = 16000
    n_fft: int = 512
    hop_length: int = 159
    duration: float | None = 3.0
    floor: float = 1e-7
    normalize: bool = False
    mean: float = 0.0
    std: float = 1.0
    center: bool = False
    clip: bool = False
    in_model: bool = False
    presets: ClassVar = {
        "paper": {},
        "released": {"sampling_rate": 22050, "hop_length": 353, "duration": 20.0, "center": True, "clip": True},
    }

    def __post_init__(self):
        check_positive(self, "sampling_rate", "n_fft", "hop_length", whole=True)
        check_positive(self, "floor", "std")
        if isinstance(self.mean, bool) or not isinstance(self.mean, (int, float)) or not math.isfinite(self.mean):
            raise ValueError(f"mean={self.mean!r} must be a number")
        if self.duration is None:
            if self.in_model:
                raise ValueError("in_model needs a duration, so that the waveforms of a batch have one length")
            return
        check_positive(self, "duration")
        if not self.n_fft <= self.duration * self.sampling_rate <= MAX_SAMPLES:
            raise ValueError(
                f"duration={self.duration} s must be from one window of n_fft={self.n_fft} samples to {MAX_SAMPLES:,}"
            )

    @property
    def frontend(self):
        if not self.in_model:
            return None
        keys = ("n_fft", "hop_length", "floor", "normalize", "mean", "std", "center", "clip")
        return {key: getattr(self, key) for key in keys}

    @property
    def shape(self):
        if self.in_model:
            return (round(self.duration * self.sampling_rate),)
        if self.duration is None:
            return (1, self.n_fft // 2 + 1, -1)
        samples = round(self.duration * self.sampling_rate) - (0 if self.center else self.n_fft)
        return (1, self.n_fft // 2 + 1, 1 + samples // self.hop_length)

    def encode(self, sample, sampling_rate=None):
        wave = read_waveform(sample, self.sampling_rate, sampling_rate, self.duration)
        length = max(len(wave), self.n_fft) if self.duration is None else round(self.duration * self.sampling_rate)
        wave = fit_length(wave, length)
        if self.in_model:
            return wave.astype(np.float32)
        if self.clip:
            wave = wave.clip(-1, 1)
        spectrogram = log_spectrogram(wave, self.n_fft, self.hop_length, self.floor, self.center)
        if self.normalize:
            spectrogram = (spectrogram - spectrogram.mean()) / max(float(spectrogram.std()), 1e-6)
        else:
            spectrogram = (spectrogram - self.mean) / self.std
        return spectrogram[None].astype(np.float32)

    def stack(self, rows):
        lengths = [row.shape[-1] for row in rows]
        if min(lengths) < max(lengths):
            silence = 0.0 if self.normalize else (math.log(self.floor) - self.mean) / self.std
            pad = torch.nn.functional.pad
            rows = [pad(row, (0, max(lengths) - row.shape[-1]), value=silence) for row in rows]
        return stack_rows(rows)


@KINDS.register("image")
@dataclass
class Picture(InputKind):
    """Images to pixels; `encode` gives (num_channels, height, width) uint8, and `stack` scales it.

    Args:
        size (`list[int]`): height and width.
        num_channels (`int`): 1 (grey) or 3 (RGB).
        crop (`bool`): keep the proportions, cover `size` and cut at the centre; otherwise stretch.
        background (`list[int]`, *optional*): red, green and blue, 0 to 255, of what shows through a transparent
            picture: white. None leaves alpha out, and colours that were hidden appear.
        range (`list[float]`, *optional*): what becomes black and white in a picture of more than 8 bits, such as
            [0, 4000] for depth in millimetres, in 256 steps. Without it such pictures are refused.
        mean, std (`float` or a `list` with one a channel): subtracted from values in [0, 1], and divided by; those of
            ImageNet by default, 0.5 and 0.5 for grey images.
        augment (`bool` or `dict`): in training, cut a random part and resize it to `size`, and turn left and right
            around. `scale`: share of the area, `ratio`: of width to height, each from and to; `flip`: the probability.
            True: those of ImageNet, [0.08, 1], [3/4, 4/3] and 0.5.
    """

    size: list = field(default_factory=lambda: [224, 224])
    num_channels: int = 3
    crop: bool = True
    background: list | None = field(default_factory=lambda: list(WHITE))
    range: list | None = None
    mean: list | None = None
    std: list | None = None
    augment: dict | bool = False
    dtype: ClassVar = np.uint8
    read_only: ClassVar = ("mean", "std", "augment")
    half: ClassVar = "vision"

    def __post_init__(self):
        self.size = check_size(self.size)
        self.augment = check_augment(self.augment)
        if self.num_channels not in (1, 3):
            raise ValueError(f"num_channels={self.num_channels!r} must be 1 or 3")
        if self.background is not None and not are_numbers(self.background, 3, 0, 255, int):
            raise ValueError(f"background={self.background!r} must be [red, green, blue], 0 to 255 each, or nothing")
        ascending = self.range is None or (
            are_numbers(self.range, 2, -math.inf, math.inf) and self.range[0] < self.range[1]
        )
        if not ascending:
            raise ValueError(f"range={self.range!r} must be two ascending numbers, such as [0, 4000]")
        defaults = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
        for key, default in defaults.items():
            value = getattr(self, key)
            if value is None:
                value = default if self.num_channels == 3 else [0.5]
            value = [float(part) for part in (value if isinstance(value, (list, tuple)) else [value])]
            value = value * self.num_channels if len(value) == 1 else value
            wrong = not all(map(math.isfinite, value)) or (key == "std" and min(value) <= 0)
            if len(value) != self.num_channels or wrong:
                raise ValueError(f"{key}={value} must be {self.num_channels} numbers (std above 0)")
            setattr(self, key, value)

    @property
    def shape(self):
        return (self.num_channels, *self.size)

    @property
    def varies(self):
        return bool(self.augment)

    def vary(self, row, place=None, crop=None, flip=False):
        return crop_and_flip(row, crop, flip)

    def encode(self, sample, sampling_rate=None):
        return image_pixels(read_image(sample, self.background, self.range), self.size, self.num_channels, self.crop)

    def stack(self, rows):
        if rows[0].dtype != torch.uint8:  # they were scaled before
            return stack_rows(rows)
        mean, std = (torch.tensor(part).reshape(-1, 1, 1) for part in (self.mean, self.std))
        return stack_rows(rows, lambda values: values.div_(255).sub_(mean).div_(std))


@KINDS.register("text")
@dataclass
class Text(InputKind):
    """Text to token numbers.

    Args:
        max_length (`int`): tokens; more are cut off.
        padding (`str`): a batch is padded to its `longest` text, or always to `max_length`.
    """

    max_length: int = 128
    padding: str = "longest"
    parts: ClassVar = ("input_ids", "attention_mask")
    read_only: ClassVar = ("padding",)
    half: ClassVar = "text"
    tokenizer: ClassVar = None  # that of the processor, which sets it

    @classmethod
    def is_absent(cls, sample):
        """Whether a raw input stands for no text at all (`bool`); an empty text is a text."""
        return is_nothing(sample)

    def __post_init__(self):
        check_positive(self, "max_length", whole=True)
        if self.padding not in ("longest", "max_length"):
            raise ValueError(f"padding={self.padding!r} must be 'longest' or 'max_length'")

    def encode(self, sample, sampling_rate=None):
        """The token numbers (`list[int]`) of a text."""
        if not isinstance(sample, str):
            raise ValueError(f"a text is expected, got {describe(sample)}.")
        return self.tokenizer(sample, truncation=True, max_length=self.max_length)["input_ids"]

    def stack(self, rows):
        settings = {"padding": self.padding, "max_length": self.max_length, "return_attention_mask": True}
        rows = {"input_ids": [row.tolist() for row in rows]}
        return dict(pad_without_fast_tokenizer_warning(self.tokenizer, rows, return_tensors="pt", **settings))

    def blank(self):
        return self.tokenizer("")["input_ids"] or [self.tokenizer.pad_token_id]


def is_nothing(value):
    """Whether it is None, NaN or NaT, or pandas' NA (`bool`)."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and bool(np.isnan(value))


def stack_rows(rows, change=None):
    """A batch of samples of one shape (`list[torch.Tensor]`) as float32; `change` works on each in place.

    Memory is what costs here. In a worker of a `DataLoader` the batch is made in memory that other processes see, which
    saves a copy, as `torch.utils.data.default_collate` does.
    """
    shape = (len(rows), *rows[0].shape)
    if torch.utils.data.get_worker_info() is None:
        batch = torch.empty(shape)
    else:
        batch = torch.empty(0).set_(torch.UntypedStorage._new_shared(4 * math.prod(shape)), 0, shape)
    for place, row in zip(batch, rows, strict=True):
        place.copy_(row)
        if change is not None:
            change(place)
    return batch


def check_positive(kind, *keys, whole=False):
    for key in keys:
        value = getattr(kind, key)
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise ValueError(f"{key}={value!r} must be a {'whole ' if whole else ''}number above 0")


def are_numbers(values, count, low, high, kind=(int, float)):
    """Whether it is a list of so many numbers from `low` to `high`, all finite."""
    return (
        isinstance(values, (list, tuple))
        and len(values) == count
        and all(isinstance(value, kind) and math.isfinite(value) and low <= value <= high for value in values)
    )


def check_size(size):
    """Height and width (`list[int]`) from `size`, or from one number for both."""
    sides = [size, size] if isinstance(size, int) else list(size) if isinstance(size, (list, tuple)) else []
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
        raise ValueError(f"size={size!r} must be [height, width] in pixels, {MAX_SIDE} at most")
    return sides


def check_augment(augment):
    """Complete settings of an augmentation (`dict`, see [`Picture`]), or False for none."""
    if augment is None or isinstance(augment, bool):
        return dict(AUGMENT) if augment else False
    if not isinstance(augment, dict) or not set(augment) <= set(AUGMENT):
        raise ValueError(f"augment={augment!r} must be true, false, or a mapping with {', '.join(AUGMENT)}")
    augment = {**AUGMENT, **augment}
    for key, limit in (("scale", 1), ("ratio", math.inf)):
        pair = augment[key]
        if not are_numbers(pair, 2, 0, limit) or not 0 < pair[0] <= pair[1]:
            raise ValueError(f"augment: {key}={pair!r} must be two ascending numbers above 0 and up to {limit}")
        augment[key] = [float(part) for part in pair]
    if isinstance(augment["flip"], bool) or not 0 <= augment["flip"] <= 1:
        raise ValueError(f"augment: flip={augment['flip']!r} must be a probability")
    return augment


def crop_and_flip(values, crop, flip):
    """A part of an image or of all frames of a clip, resized to the whole (bilinear).

    Args:
        values (`torch.Tensor` `(..., channels, H, W)`): uint8 or float32, as the result.
        crop (`tuple[int, int, int, int]`, *optional*): top, left, height and width of the part.
        flip (`bool`): turn left and right around.
    """
    if crop is not None:
        top, left, height, width = crop
        frames = values.reshape(-1, *values.shape[-3:])[..., top : top + height, left : left + width]
        size = values.shape[-2:]
        frames = torch.nn.functional.interpolate(frames, size=size, mode="bilinear", antialias=True)
        values = frames.reshape(values.shape)
    return values.flip(-1) if flip else values
