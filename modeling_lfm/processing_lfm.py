"""`LfmProcessor`: raw inputs of each modality to the tensors that the model reads."""

from copy import deepcopy

import numpy as np
from transformers import AutoTokenizer, BatchFeature, ProcessorMixin

from .media_lfm import describe, fit_length, log_spectrogram, read_image, read_waveform

DEFAULTS = {
    "spectrogram": {
        "sampling_rate": 16000,
        "n_fft": 512,
        "hop_length": 159,
        "duration": 3.0,
        "floor": 1e-7,
        "normalize": False,
        "mean": 0.0,
        "std": 1.0,
    },
    "image": {
        "size": [224, 224],
        "num_channels": 3,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
    "text": {"max_length": 128},
}


class LfmProcessor(ProcessorMixin):
    """Turns raw inputs into the model's tensors; saved and loaded with the model.

    Args:
        modalities (`dict[str, dict]`): per modality its `type` and settings:

            - `spectrogram`: `sampling_rate` (Hz), `n_fft` and `hop_length` (samples), `duration` (seconds; shorter
              audio is repeated, longer cut), `floor` (added before the logarithm), `normalize` (`bool`: zero mean
              and unit variance of each spectrogram), `mean` and `std` (otherwise subtracted and divided by). The
              defaults give 257 x 299; a duration of 10 gives 257 x 1004.
            - `image`: `size` [height, width], `num_channels` (1 or 3), `mean` and `std` a channel.
            - `text`: `max_length` in tokens.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): for the text modalities.

    Raises:
        ValueError: an unknown type or setting, or one out of range; the message names it.
    """

    def __init__(self, modalities, tokenizer=None):
        super().__init__()
        self.modalities = {name: _complete(name, settings) for name, settings in modalities.items()}
        self.tokenizer = tokenizer

    @classmethod
    def get_attributes(cls):
        """None: the tokenizer may be absent, which transformers' own bookkeeping refuses, so it is kept here."""
        return []

    def __call__(self, sampling_rate=None, padding=True, return_tensors=None, **inputs):
        """Process a batch, or one sample of each modality.

        Args:
            sampling_rate (`int`, *optional*): Hz, of audio given as plain arrays.
            padding: of text, as tokenizers take it.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.
            inputs: by modality, a list of raw inputs (paths, bytes, `{"bytes", "path"}`, arrays, PIL images, or
                texts), or a single one.

        Returns:
            `BatchFeature` with `{modality}_values` float32 ((B, 1, bins, frames) or (B, C, H, W)), or
            `{modality}_input_ids` and `{modality}_attention_mask` (B, L).

        Raises:
            ValueError: an unknown modality, none at all, or an input that cannot be read (the message names it).
        """
        unknown = sorted(set(inputs) - set(self.modalities))
        if unknown or not inputs:
            found = f"unknown modalities {unknown}" if unknown else "no input"
            raise ValueError(f"{found}; this processor reads {', '.join(self.modalities)}.")
        output = {}
        for name, values in inputs.items():
            settings = self.modalities[name]
            samples = values if isinstance(values, list) else [values]
            if settings["type"] == "text":
                encoded = self._tokenize(name, samples, settings, padding)
                output |= {f"{name}_{key}": encoded[key] for key in ("input_ids", "attention_mask")}
            else:
                read = _read_spectrogram if settings["type"] == "spectrogram" else _read_image
                arrays = [read(sample, settings, sampling_rate) for sample in samples]
                output[f"{name}_values"] = np.stack(arrays)
        return BatchFeature(output, tensor_type=return_tensors)

    def _tokenize(self, name, samples, settings, padding):
        if self.tokenizer is None:
            raise ValueError(f"the text modality {name!r} needs a tokenizer: LfmProcessor(modalities, tokenizer=...).")
        for sample in samples:
            if not isinstance(sample, str):
                raise ValueError(f"{name} expects text, got {describe(sample)}.")
        return self.tokenizer(samples, truncation=True, max_length=settings["max_length"], padding=padding)

    def shape(self, modality):
        """Shape of one sample of `modality` (`tuple[int, ...]`), or None for text."""
        settings = self.modalities[modality]
        if settings["type"] == "spectrogram":
            samples = round(settings["duration"] * settings["sampling_rate"])
            frames = 1 + (samples - settings["n_fft"]) // settings["hop_length"]
            return (1, settings["n_fft"] // 2 + 1, frames)
        return (settings["num_channels"], *settings["size"]) if settings["type"] == "image" else None

    @property
    def model_input_names(self):
        """`list[str]`: the names of the tensors that come out."""
        names = []
        for name, settings in self.modalities.items():
            parts = ("input_ids", "attention_mask") if settings["type"] == "text" else ("values",)
            names += [f"{name}_{part}" for part in parts]
        return names

    def to_dict(self):
        """Settings as JSON-able values; the tokenizer is saved in its own files."""
        output = {"processor_class": type(self).__name__, "modalities": deepcopy(self.modalities)}
        if getattr(self, "auto_map", None):
            output["auto_map"] = self.auto_map
        return output

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        """As in transformers; writes the tokenizer too."""
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As in transformers; reads the tokenizer where a modality is text."""
        tokenizer = kwargs.pop("tokenizer", None)
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if tokenizer is None and any(s["type"] == "text" for s in processor.modalities.values()):
            tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        processor.tokenizer = tokenizer
        return processor


def _complete(name, settings):
    """`settings` with the defaults of its type, checked."""
    kind = settings.get("type")
    if kind not in DEFAULTS:
        raise ValueError(f"modality {name!r} has the unknown type {kind!r}; choose one of {', '.join(DEFAULTS)}.")
    unknown = sorted(set(settings) - set(DEFAULTS[kind]) - {"type"})
    if unknown:
        raise ValueError(
            f"modality {name!r} ({kind}) has unknown settings {unknown}; known are {list(DEFAULTS[kind])}."
        )
    full = {"type": kind, **deepcopy(DEFAULTS[kind]), **settings}
    for key in ("sampling_rate", "n_fft", "hop_length", "duration", "max_length"):
        if key in full and not full[key] > 0:
            raise ValueError(f"modality {name!r}: {key}={full[key]!r} must be positive.")
    if kind == "spectrogram" and full["duration"] * full["sampling_rate"] < full["n_fft"]:
        raise ValueError(f"modality {name!r}: duration={full['duration']} s is shorter than one window of n_fft.")
    if kind == "image":
        if full["num_channels"] not in (1, 3):
            raise ValueError(f"modality {name!r}: num_channels={full['num_channels']} must be 1 or 3.")
        if "num_channels" in settings and "mean" not in settings and full["num_channels"] == 1:
            full["mean"], full["std"] = [0.5], [0.5]
        if not len(full["mean"]) == len(full["std"]) == full["num_channels"]:
            raise ValueError(f"modality {name!r}: mean and std need {full['num_channels']} values each.")
        if len(full["size"]) != 2 or min(full["size"]) < 1:
            raise ValueError(f"modality {name!r}: size={full['size']!r} must be [height, width].")
        full["size"] = [int(side) for side in full["size"]]
    return full


def _read_spectrogram(sample, settings, given_rate):
    """(1, bins, frames), float32."""
    wave = read_waveform(sample, settings["sampling_rate"], given_rate)
    wave = fit_length(wave, round(settings["duration"] * settings["sampling_rate"]))
    spectrogram = log_spectrogram(wave, settings["n_fft"], settings["hop_length"], settings["floor"])
    if settings["normalize"]:
        spectrogram = (spectrogram - spectrogram.mean()) / max(float(spectrogram.std()), 1e-6)
    else:
        spectrogram = (spectrogram - settings["mean"]) / settings["std"]
    return spectrogram[None].astype(np.float32)


def _read_image(sample, settings, given_rate):
    """(C, H, W), float32."""
    pixels = read_image(sample, settings["size"], settings["num_channels"])
    mean, std = (np.asarray(settings[key], dtype=np.float32)[:, None, None] for key in ("mean", "std"))
    return (pixels - mean) / std
