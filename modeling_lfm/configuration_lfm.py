"""Configuration of LFM models: which modalities there are, which tower reads each, and how they are fused."""

import inspect
import math
import os
import re
from copy import deepcopy

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.utils import logging

# Older releases of transformers fetch what this file imports, but not what those files import: hence the unused ones.
from .encoders_lfm import TransformersTower  # noqa: F401  (these register themselves)
from .frontend_lfm import LogSpectrogram  # noqa: F401
from .fusion_base_lfm import FUSIONS
from .fusions_lfm import SumFusion  # noqa: F401
from .mmtm_lfm import MmtmFusion  # noqa: F401
from .registry_lfm import about, suggest
from .small_towers_lfm import MlpTower  # noqa: F401
from .temporal_lfm import TimeEncoder  # noqa: F401
from .towers_lfm import TOWERS
from .weights_lfm import check_count, check_implementation, check_nested

logger = logging.get_logger(__name__)
PIPELINES = {  # where `transformers.pipeline` finds the code of a task, and the class by which it loads the model
    "multimodal-classification": {
        "impl": "pipeline_lfm.MultimodalClassificationPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}
# What transformers reads or adds besides, in this and in older releases.
_OTHERS = """num_labels attn_implementation _attn_implementation experts_implementation auto_map torch_dtype
    name_or_path use_cache _commit_hash transformers_weights tie_word_embeddings use_return_dict torchscript
    pruned_heads prefix task_specific_params tokenizer_class finetuning_task bos_token_id eos_token_id pad_token_id
    sep_token_id decoder_start_token_id is_decoder add_cross_attention cross_attention_hidden_size"""
TRAINING_KEYS = ("frozen", "learning_rate", "layer_decay", "lora")  # of the entry of any tower
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification")


class LfmConfig(PreTrainedConfig):
    """Configuration of [`LfmForMultimodalClassification`].

    Args:
        modalities (`dict[str, dict]`): an ordered mapping from the name of a modality (free, a Python identifier)
            to its tower. Every tower has the keys `tower` (one of `timm`, `transformers`, `clip_vision`,
            `clip_text`), `name` (timm architecture, or repository / folder of a pretrained model), `pretrained`
            (`bool`, fetch weights in `from_towers`; True where a repository or folder is named), `frozen` (True: never
            trained; `int` N: its stem and first N layers are not), `learning_rate` (`float`, in place of the
            trainer's), `layer_decay` (`float`, factor of the learning rate from each layer to the one before, 1 for
            the last) and `lora` (`dict` of settings of `peft.LoraConfig`: adapters are trained, and merged when the
            model is saved). Further keys:

            - of pictures and clips (`timm`, `transformers`, `clip_vision`): `temporal`, what becomes of the vectors of
              a clip's frames: `"mean"`, or, so that their order counts, `"gru"` or `"attention"`, a [`TimeEncoder`].
            - `timm`: `in_chans` (`int`, default 3), `num_frames` (`int`, frames of a clip), `model_args` (`dict`,
              passed to `timm.create_model`), `checkpoint` (`str`, a local .safetensors file that `from_towers` loads),
              `frontend` (`dict`, the tower reads waveforms `(B, samples)` and makes spectrograms of them by these
              settings, see [`LogSpectrogram`][modeling_lfm.frontend_lfm.LogSpectrogram]).
            - `transformers`: `config` (`dict`, the nested configuration with its `model_type`, or with `name`
              given, changes to that of the pretrained model), `half` (`"text"`, `"vision"` or `"audio"`, of a model of
              several encoders such as CLIP, SigLIP and CLAP; a processor tells it, see `complete_towers`), `pooling`
              (`"cls"`, `"mean"`, `"last"` or `"pooler"`; by the architecture if not given, see
              [`TransformersTower`][modeling_lfm.encoders_lfm.TransformersTower]).
            - `clip_vision`, `clip_text`: `config` (`dict`, a CLIP vision or text configuration).
        modality_order (`list[str]`, *optional*): written on saving, because JSON files of configurations are sorted by
            key; given by hand it reorders `modalities`.
        fusion (`str`, defaults to `"concat"`): how the modalities are combined, one of `FUSIONS`; the classes in
            `fusions_lfm.py` and `mmtm_lfm.py` tell their formulas.
        fusion_args (`dict`, *optional*): settings of the fusion; its `defaults` where not given.
        unimodal_heads (`bool`, defaults to False): give each modality a linear classifier of its own, apart from the
            fusion, from which its `modality_logits` come.
        hidden_size (`int`, defaults to 512): the common width d to which each tower's output is projected.
        modality_dropout (`float`, defaults to 0): probability, in training, that a modality of a sample is hidden from
            the fused prediction; one of them is always kept. Above 0, fusions that read all features at once learn
            what they read in place of an absent one; at 0 they read zeros.
        calibration (`dict`, *optional*): what the end of training found on validation data: `temperatures`, by
            prediction (`fused` and the modalities) the number by which its logits are divided for probabilities, and of
            multi-label problems `thresholds`, by prediction a probability for each label, from which on it counts.
        kwargs: those of `PreTrainedConfig`, among them `num_labels`, `id2label` and `problem_type`
            (`"single_label_classification"`, the default here, or `"multi_label_classification"`).

    Raises:
        ValueError: an unknown tower, key, fusion or problem type, a name that cannot be one, a size out of range.

    Example:

        ```python
        >>> from modeling_lfm import LfmConfig
        >>> sound = {"tower": "timm", "name": "resnet18", "in_chans": 1}
        >>> towers = {"sound": sound, "numbers": {"tower": "mlp", "in_features": 5}}
        >>> config = LfmConfig(towers, fusion="sum", hidden_size=64, id2label={0: "cat", 1: "dog"})
        >>> config.modality_names, config.num_labels
        (('sound', 'numbers'), 2)

        ```
    """

    model_type = "lfm_multimodal"
    keys_to_ignore_at_inference = ["features", "present"]  # noqa: RUF012  (the name and type that transformers reads)

    def __init__(
        self,
        modalities=None,
        modality_order=None,
        fusion="concat",
        fusion_args=None,
        unimodal_heads=False,
        hidden_size=512,
        modality_dropout=0.0,
        problem_type="single_label_classification",
        calibration=None,
        **kwargs,
    ):
        kwargs.pop("custom_pipelines", None)  # the class knows its own
        self.modalities = {} if modalities is None else deepcopy(dict(modalities))
        if modality_order is not None:
            if sorted(modality_order) != sorted(self.modalities):
                raise ValueError(f"modality_order={modality_order} must name each of {list(self.modalities)} once.")
            self.modalities = {name: self.modalities[name] for name in modality_order}
        self.fusion = fusion
        self.fusion_args = {} if fusion_args is None else dict(fusion_args)
        self.unimodal_heads = unimodal_heads
        self.hidden_size = hidden_size
        self.modality_dropout = modality_dropout
        for name, spec in self.modalities.items():
            _check_modality(name, spec)
        defaults = FUSIONS.find(fusion).defaults
        for key in set(self.fusion_args) - set(defaults):
            raise ValueError(f"fusion_args: {fusion!r} has no setting {key!r}; {suggest(key, defaults)}")
        check_count("hidden_size", hidden_size)
        if isinstance(modality_dropout, bool) or not (
            isinstance(modality_dropout, (int, float)) and 0 <= modality_dropout < 1
        ):
            raise ValueError(f"modality_dropout={modality_dropout!r} must be a probability below 1.")
        if problem_type not in PROBLEM_TYPES:
            raise ValueError(f"problem_type={problem_type!r} is not supported; {suggest(problem_type, PROBLEM_TYPES)}")
        self._tower_configs = {
            name: build_tower_config(spec)
            for name, spec in self.modalities.items()
            if "config" in spec and TOWERS[spec["tower"]].nested
        }
        weights = kwargs.get("transformers_weights")  # a file that transformers would read in place of the usual one
        if weights is not None and ".safetensors" not in weights:
            raise ValueError(f"transformers_weights={weights!r} must name a file in safetensors.")
        for key in set(kwargs) - _KNOWN:
            if "transformers_version" not in kwargs:  # written by hand
                raise ValueError(f"LfmConfig has no setting {key!r}; {suggest(key, sorted(_KNOWN))}")
            logger.warning(f"{key!r} is no setting of LfmConfig and is not kept.")
            del kwargs[key]
        # AutoModel.from_config chooses by it, also before anything was saved.
        kwargs["architectures"] = kwargs.get("architectures") or ["LfmForMultimodalClassification"]
        super().__init__(problem_type=problem_type, **kwargs)
        self.calibration = _check_calibration(calibration, self.modality_names)

    @classmethod
    def settings(cls):
        """The names (`set[str]`) of its own settings."""
        return set(inspect.signature(cls).parameters) - {"kwargs"}

    @property
    def custom_pipelines(self):
        """`dict`: pipelines whose code lies beside the weights, if this does; the package registers its own."""
        return deepcopy(PIPELINES) if __name__.startswith("transformers_modules.") else {}

    @property
    def modality_names(self):
        """`tuple[str]`: the modalities in the order of every tuple that the model returns."""
        return tuple(self.modalities)

    @property
    def is_multi_label(self):
        """`bool`: whether a sample may have several labels, or none."""
        return self.problem_type == "multi_label_classification"

    def temperature_of(self, name, calibrated=True):
        """The number by which the logits of `name`, `fused` or a modality, are divided for probabilities; 1 where
        nothing was fitted, or not `calibrated`."""
        return self.calibration["temperatures"].get(name, 1.0) if calibrated and self.calibration else 1.0

    def thresholds_of(self, name, calibrated=True):
        """The probability from which on each label counts (`list[float]`) in the prediction `name` of a multi-label
        problem; 0.5 where nothing was fitted, or not `calibrated`.

        Raises:
            ValueError: they are of another number of labels.
        """
        found = (self.calibration or {}).get("thresholds", {}).get(name) if calibrated else None
        if found is not None and len(found) != self.num_labels:
            raise ValueError(
                f"calibration has {len(found)} thresholds of {name!r}, but there are {self.num_labels} labels: "
                "calibrate again, or set calibration to None."
            )
        return [0.5] * self.num_labels if found is None else list(found)

    def fusion_arg(self, name):
        """The setting `name` of the fusion: that of `fusion_args`, or its default."""
        return self.fusion_args.get(name, FUSIONS[self.fusion].defaults[name])

    def tower_config(self, modality):
        """The nested `PreTrainedConfig` of a modality, or None for a timm tower or one not yet resolved."""
        return self._tower_configs.get(modality)

    def set_tower_config(self, modality, config):
        """Keep `config` (`PreTrainedConfig`) as the nested configuration of `modality`."""
        self._tower_configs[modality] = config
        self.modalities[modality]["config"] = config.to_dict()

    def parts(self):
        """The classes (`list`) that a model of this configuration is made of: its fusion and its towers."""
        return [FUSIONS[self.fusion], *(TOWERS[spec["tower"]] for spec in self.modalities.values())]

    def forget_sources(self):
        """Drop where pretrained weights are from, once a model holds them: a local path must not travel with it."""
        for spec in self.modalities.values():
            for key in TOWERS[spec["tower"]].sources:
                spec.pop(key, None)

    # An attention implementation asked of the model is asked of each tower; None leaves each its own default.
    @property
    def _attn_implementation(self):
        return getattr(self, "_attn_implementation_internal", None)

    @_attn_implementation.setter
    def _attn_implementation(self, value):
        check_implementation(value)
        self._attn_implementation_internal = value.get("") if isinstance(value, dict) else value
        for name, config in self._tower_configs.items():
            own = value.get(name) if isinstance(value, dict) else value
            if own is not None:
                config._attn_implementation = own

    def to_dict(self):
        output = super().to_dict()
        output.pop("_tower_configs", None)
        output["modality_order"] = list(self.modalities)
        output["custom_pipelines"] = deepcopy(PIPELINES)
        for name, config in self._tower_configs.items():
            nested = config.to_dict()
            for key in ("transformers_version", "_name_or_path", "name_or_path", "auto_map"):
                nested.pop(key, None)
            output["modalities"][name]["config"] = nested
        return output


_KNOWN = {*_OTHERS.split(), *PreTrainedConfig().to_dict(), *inspect.signature(LfmConfig.__init__).parameters} - {
    "kwargs"
}
LfmConfig.register_for_auto_class()  # saved with its code, as the models are
if not __name__.startswith("transformers_modules."):
    AutoConfig.register(LfmConfig.model_type, LfmConfig)


def _check_modality(name, spec):
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", str(name)):
        raise ValueError(f"modality name {name!r} must be letters, digits and underscores, a letter first.")
    if hasattr(dict, str(name)) or name in ("labels", "fused"):
        raise ValueError(f"modality name {name!r} is reserved; choose another.")
    if not isinstance(spec, dict) or "tower" not in spec:
        raise ValueError(f"modality {name!r} of modalities needs a mapping with the key 'tower', got {spec!r}.")
    with about(f"modality {name!r}"):
        kind = TOWERS.find(spec["tower"])
        known = ("tower", "name", "pretrained", *TRAINING_KEYS, *kind.keys)
        for key in set(spec) - set(known):
            raise ValueError(f"unknown key {key!r} of the tower {spec['tower']!r}; {suggest(key, known)}")
        if spec.get("pretrained") not in (None, True, False):
            raise ValueError(f"pretrained={spec['pretrained']!r} must be true or false")
        _check_training(spec)
        if not isinstance(spec.get("name") or "", (str, os.PathLike)):
            raise ValueError(f"name={spec['name']!r} must be a word")
        kind.check(spec)
        if kind.nested and isinstance(spec.get("config"), dict):
            check_nested(spec["config"])


def _check_training(spec):
    """Whether what an entry says of the training of its tower can be right."""
    frozen, rate, decay = (spec.get(key) for key in ("frozen", "learning_rate", "layer_decay"))
    if frozen is not None and not isinstance(frozen, bool) and not (isinstance(frozen, int) and frozen > 0):
        raise ValueError(f"frozen={frozen!r} must be true, false, or a number of layers from 1 on")
    for key, value, limit in (("learning_rate", rate, math.inf), ("layer_decay", decay, 1)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= limit:
            raise ValueError(f"{key}={value!r} must be a number above 0{' and up to 1' if limit == 1 else ''}")
        if frozen is True:
            raise ValueError(f"{key} has no place in a tower that is not trained: leave out {key}, or frozen")
    if not isinstance(spec.get("lora") or {}, dict):
        raise ValueError(f"lora={spec['lora']!r} must map settings of adapters to their values, such as r: 8")
    if spec.get("lora") and frozen:
        raise ValueError("lora trains adapters alone, so that frozen has no place beside it: leave out one of them")


def _check_calibration(calibration, modalities):
    """What is given (`dict`, or None), if it is as [`LfmConfig`] says."""
    if calibration is None:
        return None
    wanted = "a mapping with 'temperatures' above 0 and 'thresholds' within [0, 1], each by prediction"
    parts = dict(calibration) if isinstance(calibration, dict) else {}
    temperatures, thresholds = parts.pop("temperatures", {}), parts.pop("thresholds", {})
    if parts or not (isinstance(temperatures, dict) and isinstance(thresholds, dict) and temperatures):
        raise ValueError(f"calibration={calibration!r} must be {wanted}.")
    for name in {*temperatures, *thresholds} - {"fused", *modalities}:
        raise ValueError(f"calibration: unknown prediction {name!r}; {suggest(name, ('fused', *modalities))}")
    try:
        right = all(0 < float(value) < float("inf") for value in temperatures.values())
        right = right and all(0 <= float(value) <= 1 for values in thresholds.values() for value in values)
    except (TypeError, ValueError):
        right = False
    if not right:
        raise ValueError(f"calibration={calibration!r} must be {wanted}.")
    return {"temperatures": dict(temperatures), **({"thresholds": dict(thresholds)} if thresholds else {})}


def build_tower_config(spec):
    """Nested configuration of a modality's entry (`dict`) with a `config`; None where it changes a pretrained one."""
    config = spec["config"]
    if isinstance(config, PreTrainedConfig):
        spec["config"] = config.to_dict()
        return config
    model_type = TOWERS[spec["tower"]].model_type or config.get("model_type")
    config = {key: value for key, value in config.items() if key not in ("model_type", "auto_map", "_name_or_path")}
    if model_type is None:
        if "name" not in spec:
            raise ValueError(f"the tower's config needs 'model_type' (such as 'bert'), got keys {sorted(config)}.")
        return None
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"model_type={model_type!r} is not known to the installed transformers.")
    return CONFIG_MAPPING[model_type](**config)


from .plugins_lfm import PLUGINS  # noqa: E402, F401  (here, because they may import what stands above)
