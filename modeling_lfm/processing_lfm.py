"""`LfmProcessor`: raw inputs of each modality to the tensors that the model reads."""

import os
import re
from dataclasses import asdict, fields

import torch
from transformers import AutoTokenizer, BatchFeature, ProcessorMixin

# Older releases of transformers fetch what this file imports, but not what those files import: hence the unused ones.
from .audio_lfm import read_waveform  # noqa: F401
from .inputs_lfm import KINDS, Text
from .media_lfm import describe  # noqa: F401
from .numbers_lfm import read_numbers  # noqa: F401
from .plugins_lfm import PLUGINS  # noqa: F401
from .preprocessing_lfm import complete_inputs
from .registry_lfm import about, save_plugins, suggest
from .series_lfm import Sequence  # noqa: F401  (these register themselves)
from .tables_lfm import is_alone
from .video_inputs_lfm import Video  # noqa: F401
from .video_lfm import read_frames  # noqa: F401
from .waveform_lfm import Waveform  # noqa: F401

RESERVED = ("sampling_rate", "return_tensors", "labels")


class LfmProcessor(ProcessorMixin):
    """Turns raw inputs into the model's tensors; saved and loaded with the model.

    Args:
        modalities (`dict[str, dict]`): per modality its `type` (`"spectrogram"`, `"waveform"`, `"image"`, `"text"`,
            `"video"`, `"flow"` and others of `KINDS`) and the settings of [`Spectrogram`], [`Waveform`], [`Picture`],
            [`Text`], [`Video`] or [`Flow`]. The defaults of
            a spectrogram give 257 x 299; a `duration` of 10 gives 257 x 1004. Depth is a video with `num_channels` 1.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): for the text modalities; needed if there are any.

    Raises:
        ValueError: an unknown type or setting, or one out of range; the message names it.

    Example:

        ```python
        >>> import numpy as np
        >>> from modeling_lfm import LfmProcessor
        >>> processor = LfmProcessor({"sight": {"type": "image", "size": [8, 8]}})
        >>> processor(sight=[np.zeros((20, 30, 3), np.uint8)])["sight_values"].shape
        torch.Size([1, 3, 8, 8])

        ```
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
        if texts and getattr(tokenizer, "pad_token", "") is None:
            raise ValueError(f"the tokenizer of {texts[0]!r} has no padding token: set tokenizer.pad_token.")
        for name in texts:
            self.kinds[name].tokenizer = tokenizer
        self.tokenizer = None
        if tokenizer is None:
            # transformers reads the parts of a processor from the signature above and refuses None for one; a
            # processor without text has none.
            self.get_attributes = list
            super().__init__()
        else:
            super().__init__(tokenizer=tokenizer)

    @classmethod
    def from_towers(cls, modalities, towers, tokenizer=None):
        """A processor that gives pretrained towers what they were trained on.

        What `modalities` does not say is taken from the tower's own processor, in its folder or repository, or from the
        data of timm: size, mean, standard deviation and crop of pictures, frames of a clip, the feature extractor of a
        waveform, the tokenizer; and the length of texts, where the tower has fewer positions.

        Args:
            modalities (`dict[str, dict]`): as above. towers (`dict[str, dict]`): `modalities` of `LfmConfig`.
            tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*): that of the first text tower if not given; one
                without a padding token pads with its last one, which the mask hides.

        Raises:
            ValueError: as above, or a text tower without name. FileNotFoundError: there is no tokenizer there.
        """
        modalities = complete_inputs(modalities, towers)
        texts = [name for name, settings in modalities.items() if settings.get("type") == "text"]
        if texts and (tokenizer is None or isinstance(tokenizer, (str, os.PathLike))):
            tokenizer = _read_tokenizer(tokenizer or towers[texts[0]].get("name"), texts[0])
        return cls(modalities, tokenizer if texts else None)

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

        Any of them may be absent: not given, or nothing for some samples or for all, see [`is_absent`].

        Args:
            sampling_rate (`int`, *optional*): Hz, of audio given as plain arrays.
            return_tensors (`str`): `"pt"` or `"np"`.
            inputs: by modality, a list of raw inputs (paths, bytes, `{"bytes", "path"}`, arrays, PIL images, texts, or
                None), or a single one. Audio may be the file of a video with sound. A cut of a video is
                `{"bytes", "path", "first_frame", "last_frame"}`, from 0, both inclusive.

        Returns:
            `BatchFeature` with `{modality}_values` float32 (audio (B, 1, bins, frames), images (B, C, H, W), video
            (B, num_frames, C, H, W), flow (B, num_frames, 2, H, W)), or `{modality}_input_ids` and
            `{modality}_attention_mask` int64 (B, L), for the modalities that are there; where one is absent for a part
            of the samples also `{modality}_present`, bool (B,).

        Raises:
            ValueError: an unknown modality, none at all or none for a sample, batches of different sizes, or an input
            that cannot be read (the message names it). FileNotFoundError: a path that does not exist.
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
        for number, sample in enumerate(zip(*batches.values(), strict=True)):
            if all(self.is_absent(name, value) for name, value in zip(batches, sample, strict=True)):
                raise ValueError(f"sample {number} has no modality; give one at least of {', '.join(self.modalities)}.")
        output = {}
        for name, values in batches.items():
            output |= self.stack(name, [self.encode(name, value, sampling_rate, stored=False) for value in values])
        return BatchFeature(output if return_tensors == "pt" else {key: value.numpy() for key, value in output.items()})

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in transformers; the code of the processor is saved too, and not where the tokenizer was once loaded."""
        if self.tokenizer is not None:
            for key in ("is_local", "local_files_only"):
                self.tokenizer.init_kwargs.pop(key, None)
        files = super().save_pretrained(save_directory, *args, **kwargs)
        save_plugins(save_directory, map(type, self.kinds.values()))
        return files

    def is_absent(self, modality, sample):
        """Whether a raw input stands for nothing (`bool`): None, NaN, no name of a file, a row of empty cells.

        Where a row of a table is the only modality, its empty cells are read as such.
        """
        kind = self.kinds[modality]
        return sample is None or (not is_alone(kind, self.kinds) and kind.is_absent(sample))

    def encode(self, modality, sample, sampling_rate=None, stored=True):
        """One raw input in a compact form, to be stored: an array of `shape`, or token numbers (`list[int]`).

        Of a video, without `stored`, only the frames that evaluation reads. None of an absent one.
        """
        if self.is_absent(modality, sample):
            return None
        kind = self.kinds[modality]
        if kind.centres is not None and not stored:
            return kind.encode(sample, sampling_rate, kind.centres)
        return kind.encode(sample, sampling_rate)

    def stack(self, modality, rows, fill=False):
        """Samples, as `encode` gives them (or as tensors), to a batch: `dict` of tensors, padded where they differ.

        Where some are None, `{modality}_present` tells so, and something else stands in their place; of nothing but
        None comes an empty `dict`, or with `fill` zeros.
        """
        kind, present = self.kinds[modality], [row is not None for row in rows]
        if not any(present) and not fill:
            return {}
        if not all(present):
            filler = rows[present.index(True)] if any(present) else kind.blank()
            rows = [filler if row is None else row for row in rows]
            return {**self.stack(modality, rows), f"{modality}_present": torch.tensor(present)}
        tensors = kind.stack([torch.as_tensor(row) for row in rows])
        tensors = tensors if isinstance(tensors, dict) else {"values": tensors}
        return {f"{modality}_{part}": tensor for part, tensor in tensors.items()}

    def shape(self, modality):
        """Shape of what `encode` gives of `modality` (`tuple[int, ...]`; -1 where it varies), or None for text."""
        return self.kinds[modality].shape

    def fit(self, samples):
        """Find what some types of input have to know of the training data: lengths, statistics, categories.

        Args:
            samples (`dict[str, Iterable]`): from a modality to its raw inputs; absent ones are passed over.

        Returns:
            [`LfmProcessor`]: this one, changed in place. A `ValueError` names a modality that cannot be read.
        """
        for name in self.unfitted():
            kind = self.kinds[name]
            with about(f"modality {name!r}"):
                kind.fit(sample for sample in samples.get(name, ()) if not self.is_absent(name, sample))
            if not kind.is_fitted:
                raise ValueError(f"modality {name!r} has no training samples from which to find its statistics.")
            self.modalities[name] |= asdict(kind)
        return self

    def unfitted(self):
        """Names of the modalities (`list[str]`) whose statistics [`fit`][LfmProcessor.fit] has to find."""
        return [name for name, kind in self.kinds.items() if not kind.is_fitted]

    def complete_towers(self, modalities):
        """Tell towers what the inputs decide: how many numbers they read, which half of a model such as CLIP they are,
        and spectrograms that are left to them.

        Args:
            modalities (`dict[str, dict]`): of `LfmConfig`, changed in place; what is there already stays.

        Raises:
            ValueError: a processor that was not fitted; a tower that makes no spectrograms.
        """
        for name in self.unfitted():
            raise ValueError(f"modality {name!r} has no statistics yet: call processor.fit with training samples.")
        tell_halves(modalities, self.modalities)
        for name, kind in self.kinds.items():
            spec = modalities.get(name, {})
            for key, value in kind.tower_keys.items():
                spec.setdefault(key, value)
            if spec and kind.frontend is not None:
                if spec["tower"] != "timm":
                    raise ValueError(
                        f"processor.{name}: in_model needs a timm tower, and {name} has {spec['tower']!r}."
                    )
                spec["frontend"] = kind.frontend

    @property
    def varies(self):
        """`bool`: whether training draws frames or augments; see [`AugmentedDataset`]."""
        return any(kind.varies for kind in self.kinds.values())

    @property
    def model_input_names(self):
        """`list[str]`: the names of the tensors that come out."""
        return [f"{name}_{part}" for name, kind in self.kinds.items() for part in kind.parts]


LfmProcessor.register_for_auto_class()  # saved with its code, as the models are


def tell_halves(towers, inputs):
    """Say in the entries of towers of transformers (`dict`, changed in place) which half of a model such as CLIP they
    are, by the types of `inputs` (`dict`)."""
    for name, spec in towers.items():
        half = getattr(KINDS.get(inputs.get(name, {}).get("type")), "half", None)
        if spec.get("tower") == "transformers" and half is not None:
            spec.setdefault("half", half)


def _read_tokenizer(source, name):
    if source is None:
        raise ValueError(f"the text modality {name!r} needs a tokenizer: set 'tokenizer'.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except OSError as error:
        raise FileNotFoundError(
            f"no tokenizer at {source}: it is neither a folder nor a model that can be fetched from the Hub; set "
            f"'tokenizer', or 'name' of the tower of {name!r}."
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _build(name, settings):
    """The type's object with `settings`, checked."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", str(name)) or name in RESERVED:
        raise ValueError(f"modality name {name!r} must be letters, digits and underscores, and none of {RESERVED}.")
    if not isinstance(settings, dict) or "type" not in settings:
        raise ValueError(f"modality {name!r} needs a 'type', one of {', '.join(KINDS)}; got {settings!r}.")
    own = {key: value for key, value in settings.items() if key != "type"}
    with about(f"modality {name!r} ({settings['type']})"):
        kind = KINDS.find(settings["type"])
        presets = getattr(kind, "presets", {})
        known = [field.name for field in fields(kind)] + ["preset"] * bool(presets)
        for key in set(own) - set(known):
            raise ValueError(f"unknown setting {key!r}; {suggest(key, known)}")
        preset = own.pop("preset", None)
        if preset is not None and preset not in presets:
            raise ValueError(f"preset {preset!r} is unknown; {suggest(preset, presets)}")
        own = {**presets.get(preset, {}), **own}
        for key in (field.name for field in fields(kind) if field.type is bool):
            if key in own and type(own[key]) is not bool:
                raise ValueError(f"{key}={own[key]!r} must be true or false")
        return kind(**own)
