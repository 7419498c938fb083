"""`LfmProcessor`: raw inputs of each modality to the tensors that the model reads."""

import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import ClassVar

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.data.data_collator import pad_without_fast_tokenizer_warning

from .media_lfm import describe, fit_length, image_pixels, log_spectrogram, read_image, read_waveform

RESERVED = ("sampling_rate", "return_tensors", "labels")


@dataclass
class Spectrogram:
    """Audio to log-spectrograms; `encode` gives (1, bins, frames) float32.

    Args:
        sampling_rate (`int`): Hz; other audio is resampled to it.
        n_fft, hop_length (`int`): window and step, in samples.
        duration (`float`, *optional*): seconds; shorter audio is repeated, longer cut. None keeps its length (but one
            window at least), and a batch is padded with silence.
        floor (`float`): added to the magnitude before the logarithm.
        normalize (`bool`): zero mean and unit variance of each spectrogram.
        mean, std (`float`): otherwise subtracted and divided by.
    """

    sampling_rate: int = 16000
    n_fft: int = 512
    hop_length: int = 159
    duration: float | None = 3.0
    floor: float = 1e-7
    normalize: bool = False
    mean: float = 0.0
    std: float = 1.0
    parts: ClassVar = ("values",)
    dtype: ClassVar = np.float32

    def __post_init__(self):
        _check_positive(self, "sampling_rate", "n_fft", "hop_length", "floor", "std")
        for key in ("sampling_rate", "n_fft", "hop_length"):
            _check_whole(self, key)
        if self.duration is not None:
            _check_positive(self, "duration")
            if self.duration * self.sampling_rate < self.n_fft:
                raise ValueError(f"duration={self.duration} s is shorter than one window of n_fft={self.n_fft} samples")

    @property
    def shape(self):
        if self.duration is None:
            return (1, self.n_fft // 2 + 1, -1)
        samples = round(self.duration * self.sampling_rate)
        return (1, self.n_fft // 2 + 1, 1 + (samples - self.n_fft) // self.hop_length)

    def encode(self, sample, sampling_rate=None):
        wave = read_waveform(sample, self.sampling_rate, sampling_rate)
        length = max(len(wave), self.n_fft) if self.duration is None else round(self.duration * self.sampling_rate)
        spectrogram = log_spectrogram(fit_length(wave, length), self.n_fft, self.hop_length, self.floor)
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
        return torch.stack(rows)


@dataclass
class Picture:
    """Images to pixels; `encode` gives (num_channels, height, width) uint8, and `stack` scales it.

    Args:
        size (`list[int]`): height and width.
        num_channels (`int`): 1 (grey) or 3 (RGB).
        crop (`bool`): keep the proportions, cover `size` and cut at the centre; otherwise stretch.
        mean, std (`float` or a `list` with one a channel): subtracted from values in [0, 1], and divided by; those of
            ImageNet by default, 0.5 and 0.5 for grey images.
    """

    size: list = field(default_factory=lambda: [224, 224])
    num_channels: int = 3
    crop: bool = True
    mean: list | None = None
    std: list | None = None
    parts: ClassVar = ("values",)
    dtype: ClassVar = np.uint8

    def __post_init__(self):
        self.size = [self.size, self.size] if isinstance(self.size, int) else list(self.size)
        if len(self.size) != 2 or not all(isinstance(side, int) and side > 0 for side in self.size):
            raise ValueError(f"size={self.size!r} must be [height, width] in pixels")
        if self.num_channels not in (1, 3):
            raise ValueError(f"num_channels={self.num_channels!r} must be 1 or 3")
        defaults = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
        for key, default in defaults.items():
            value = getattr(self, key)
            if value is None:
                value = default if self.num_channels == 3 else [0.5]
            value = [float(part) for part in (value if isinstance(value, (list, tuple)) else [value])]
            value = value * self.num_channels if len(value) == 1 else value
            if len(value) != self.num_channels or (key == "std" and min(value) <= 0):
                raise ValueError(f"{key}={value} must be {self.num_channels} numbers (std above 0)")
            setattr(self, key, value)

    @property
    def shape(self):
        return (self.num_channels, *self.size)

    def encode(self, sample, sampling_rate=None):
        return image_pixels(read_image(sample), self.size, self.num_channels, self.crop)

    def stack(self, rows):
        values = torch.stack(rows)
        if values.dtype != torch.uint8:  # they were scaled before
            return values
        mean, std = (torch.tensor(part).reshape(-1, 1, 1) for part in (self.mean, self.std))
        # after stacking and in place, because memory is what costs here
        return values.float().div_(255).sub_(mean).div_(std)


@dataclass
class Text:
    """Text to token numbers.

    Args:
        max_length (`int`): tokens; more are cut off.
        padding (`str`): a batch is padded to its `longest` text, or always to `max_length`.
    """

    max_length: int = 128
    padding: str = "longest"
    parts: ClassVar = ("input_ids", "attention_mask")
    shape: ClassVar = None

    def __post_init__(self):
        _check_positive(self, "max_length")
        _check_whole(self, "max_length")
        if self.padding not in ("longest", "max_length"):
            raise ValueError(f"padding={self.padding!r} must be 'longest' or 'max_length'")


# A new type of input is one class with `parts`, `dtype`, `shape`, `encode` and `stack`, and one line here.
TYPES = {"spectrogram": Spectrogram, "image": Picture, "text": Text}


class LfmProcessor(ProcessorMixin):
    """Turns raw inputs into the model's tensors; saved and loaded with the model.

    Args:
        modalities (`dict[str, dict]`): per modality its `type` (`"spectrogram"`, `"image"` or `"text"`) and the
            settings of [`Spectrogram`], [`Picture`] or [`Text`]. The defaults of a spectrogram give 257 x 299; a
            `duration` of 10 gives 257 x 1004.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): for the text modalities; needed if there are any.

    Raises:
        ValueError: an unknown type or setting, or one out of range; the message names it.
    """

    def __init__(self, modalities, tokenizer=None):
        if not isinstance(modalities, dict) or not modalities:
            raise ValueError(
                f"modalities must map names to settings, such as image: {{type: image}}; got {modalities}."
            )
        self.kinds = {name: _build(name, settings) for name, settings in modalities.items()}
        self.modalities = {name: {"type": modalities[name]["type"], **asdict(k)} for name, k in self.kinds.items()}
        texts = [name for name, kind in self.kinds.items() if isinstance(kind, Text)]
        if texts and tokenizer is None:
            raise ValueError(
                f"the text modality {texts[0]!r} needs a tokenizer: LfmProcessor(modalities, tokenizer=...)."
            )
        if tokenizer is not None and not texts:
            raise ValueError("a tokenizer was given, but no modality has the type 'text'; leave it out.")
        self.tokenizer = None
        if tokenizer is None:
            # transformers reads the parts of a processor from the signature above and refuses None for one; a
            # processor without text has none.
            self.get_attributes = list
            super().__init__()
        else:
            super().__init__(tokenizer=tokenizer)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        modalities = (processor_dict or {}).get("modalities")
        if modalities is None:
            raise OSError(f"{pretrained_model_name_or_path} holds no LfmProcessor (no modalities in its settings).")
        kwargs = {key: value for key, value in kwargs.items() if key not in ("modalities", "tokenizer")}
        if all(settings["type"] != "text" for settings in modalities.values()):
            return [modalities, None]
        return [modalities, *super()._get_arguments_from_pretrained(pretrained_model_name_or_path, {}, **kwargs)]

    def __call__(self, *, sampling_rate=None, return_tensors="pt", **inputs):
        """Process a batch, or one sample, of some or all modalities.

        Args:
            sampling_rate (`int`, *optional*): Hz, of audio given as plain arrays.
            return_tensors (`str`): `"pt"` or `"np"`.
            inputs: by modality, a list of raw inputs (paths, bytes, `{"bytes", "path"}`, arrays, PIL images, or
                texts), or a single one.

        Returns:
            `BatchFeature` with `{modality}_values` float32 ((B, 1, bins, frames) or (B, C, H, W)), or
            `{modality}_input_ids` and `{modality}_attention_mask` int64 (B, L).

        Raises:
            ValueError: an unknown modality, none at all, batches of different sizes, or an input that cannot be
            read (the message names it). FileNotFoundError: a path that does not exist.
        """
        unknown = sorted(set(inputs) - set(self.modalities))
        if unknown or not inputs:
            found = f"unknown modalities {unknown}" if unknown else "no input"
            raise ValueError(f"{found}; this processor reads {', '.join(self.modalities)}.")
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"return_tensors={return_tensors!r} must be 'pt' or 'np'.")
        batches = {name: values if isinstance(values, (list, tuple)) else [values] for name, values in inputs.items()}
        sizes = {name: len(values) for name, values in batches.items()}
        if len(set(sizes.values())) > 1 or 0 in sizes.values():
            raise ValueError(f"every modality needs the same number of samples, one at least; got {sizes}.")
        output = {}
        for name, values in batches.items():
            output |= self.stack(name, [self.encode(name, value, sampling_rate) for value in values])
        return BatchFeature(output if return_tensors == "pt" else {key: value.numpy() for key, value in output.items()})

    def encode(self, modality, sample, sampling_rate=None):
        """One raw input in a compact form, to be stored: an array of `shape`, or token numbers (`list[int]`)."""
        kind = self.kinds[modality]
        if not isinstance(kind, Text):
            return kind.encode(sample, sampling_rate)
        if not isinstance(sample, str):
            raise ValueError(f"{modality} expects text, got {describe(sample)}.")
        return self.tokenizer(sample, truncation=True, max_length=kind.max_length)["input_ids"]

    def stack(self, modality, rows):
        """Samples, as `encode` gives them (or as tensors), to a batch: `dict` of tensors, padded where they differ."""
        kind = self.kinds[modality]
        if not isinstance(kind, Text):
            return {f"{modality}_values": kind.stack([torch.as_tensor(row) for row in rows])}
        padded = pad_without_fast_tokenizer_warning(
            self.tokenizer,
            {"input_ids": [np.asarray(row).tolist() for row in rows]},
            padding=kind.padding,
            max_length=kind.max_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {f"{modality}_{part}": padded[part] for part in kind.parts}

    def shape(self, modality):
        """Shape of one sample of `modality` (`tuple[int, ...]`; -1 where it varies), or None for text."""
        return self.kinds[modality].shape

    @property
    def model_input_names(self):
        """`list[str]`: the names of the tensors that come out."""
        return [f"{name}_{part}" for name, kind in self.kinds.items() for part in kind.parts]


def _build(name, settings):
    """The type's object with `settings`, checked."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", str(name)) or name in RESERVED:
        raise ValueError(f"modality name {name!r} must be letters, digits and underscores, and none of {RESERVED}.")
    if not isinstance(settings, dict) or settings.get("type") not in TYPES:
        raise ValueError(f"modality {name!r} needs a 'type', one of {', '.join(TYPES)}; got {settings!r}.")
    own = {key: value for key, value in settings.items() if key != "type"}
    cls = TYPES[settings["type"]]
    known = [f.name for f in fields(cls)]
    unknown = sorted(set(own) - set(known))
    if unknown:
        raise ValueError(f"modality {name!r} ({settings['type']}) has unknown settings {unknown}; known are {known}.")
    try:
        return cls(**own)
    except (ValueError, TypeError) as error:
        raise ValueError(f"modality {name!r} ({settings['type']}): {error}.") from error


def _check_positive(kind, *keys):
    for key in keys:
        value = getattr(kind, key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ValueError(f"{key}={value!r} must be a number above 0")


def _check_whole(kind, key):
    if not isinstance(getattr(kind, key), int):
        raise ValueError(f"{key}={getattr(kind, key)!r} must be a whole number")
