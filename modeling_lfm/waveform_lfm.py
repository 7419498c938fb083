"""Audio as waveforms, for towers of transformers: what they read of it, their own feature extractor makes."""

import inspect
import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import transformers

from .audio_lfm import fit_length, read_waveform
from .inputs_lfm import KINDS, MAX_SAMPLES, InputKind, check_positive

DEFAULT = "Wav2Vec2FeatureExtractor"


@KINDS.register("waveform")
@dataclass
class Waveform(InputKind):
    """Audio to a waveform; `encode` gives (samples,) float32, and `stack` what a feature extractor of transformers
    makes of a batch: normalised waveforms, or a mel spectrogram, padded, with a mask where it makes one.

    Args:
        extractor (`dict`, *optional*): settings of the feature extractor, with its class, `feature_extractor_type`;
            [`LfmProcessor.from_towers`] takes the tower's own. `Wav2Vec2FeatureExtractor` (16 kHz) if not given.
        duration (`float`, *optional*): seconds; shorter audio is repeated, longer cut. None keeps its length, up to
            what the extractor reads at most.
    """

    extractor: dict | None = None
    duration: float | None = None
    read_only: ClassVar = ()
    half: ClassVar = "audio"

    def __post_init__(self):
        self.reader = make_extractor(self.extractor or {})
        self.extractor = json.loads(self.reader.to_json_string())
        arguments = inspect.signature(self.reader.__call__).parameters
        self.settings = {"padding": True} if "padding" in arguments and arguments["padding"].default is False else {}
        self.masks = "return_attention_mask" in arguments
        rate = self.reader.sampling_rate
        if self.duration is not None:
            check_positive(self, "duration")
            if not rate / 10 <= self.duration * rate <= MAX_SAMPLES:
                raise ValueError(f"duration={self.duration} s must be from 0.1 s to {MAX_SAMPLES:,} samples")
        longest = getattr(self.reader, "chunk_length", None) or getattr(self.reader, "max_length_s", None)
        self.seconds = longest if self.duration is None else min(self.duration, longest or self.duration)

    @property
    def parts(self):
        return ("values", "attention_mask") if self.masks else ("values",)

    @property
    def shape(self):
        return (-1,) if self.duration is None else (round(self.seconds * self.reader.sampling_rate),)

    def blank(self):
        return np.zeros(max(self.shape[0], self.reader.sampling_rate // 10), np.float32)

    def encode(self, sample, sampling_rate=None):
        rate = self.reader.sampling_rate
        wave = read_waveform(sample, rate, sampling_rate, self.seconds)
        if self.duration is not None:
            return fit_length(wave, self.shape[0]).astype(np.float32)
        if self.seconds is not None:
            wave = wave[: round(self.seconds * rate)]
        return fit_length(wave, max(len(wave), rate // 10)).astype(np.float32)  # less is no frame of any encoder

    def stack(self, rows):
        """`values` float32 (B, ...), and where the extractor makes one `attention_mask` int64 (B, steps)."""
        settings = {**self.settings, **({"return_attention_mask": True} if self.masks else {})}
        rate = self.reader.sampling_rate
        made = self.reader([row.numpy() for row in rows], sampling_rate=rate, return_tensors="pt", **settings)
        values = made[self.reader.model_input_names[0]].float()
        return {"values": values, "attention_mask": made["attention_mask"].long()} if self.masks else values


def make_extractor(settings):
    """The feature extractor of transformers with these `settings` (`dict`).

    Raises:
        ValueError: `feature_extractor_type` is no class of transformers that reads audio; wrong settings.
    """
    name = settings.get("feature_extractor_type", DEFAULT)
    cls = getattr(transformers, str(name), None)
    if not (inspect.isclass(cls) and issubclass(cls, transformers.SequenceFeatureExtractor)):
        raise ValueError(f"feature_extractor_type={name!r} is no feature extractor of transformers that reads audio")
    try:
        return cls.from_dict({key: value for key, value in settings.items() if key != "processor_class"})
    except (TypeError, ImportError) as error:
        raise ValueError(f"{name} cannot be made of these settings ({error})") from error
