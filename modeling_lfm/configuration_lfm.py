"""Configuration of LFM models: which modalities there are, which tower reads each, and how they are fused."""

import re
from copy import deepcopy

from transformers import PreTrainedConfig

_COMMON_KEYS = {"tower", "name", "pretrained", "frozen"}
TOWER_KEYS = {
    "timm": _COMMON_KEYS | {"in_chans", "num_frames", "model_args", "checkpoint", "frontend"},
    "transformers": _COMMON_KEYS | {"config", "pooling"},
    "clip_vision": _COMMON_KEYS | {"config"},
    "clip_text": _COMMON_KEYS | {"config"},
}
PIPELINES = {  # where `transformers.pipeline` finds the code of a task, and the class by which it loads the model
    "multimodal-classification": {
        "impl": "pipeline_lfm.MultimodalClassificationPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}
FUSION_ARGS = {  # the settings of each fusion, with their defaults
    "concat": {},
    "sum": {},
    "weight": {},
    "film": {},
    "mmtm": {"ratio": 4},
    "lstm": {"num_layers": 2},
    "etmc": {},
    "qmf": {},
    "mla": {"weights": None},
    "domfn": {"gamma": 0.8, "tau": 0.5},
    "reconboost": {"width": 256},
}
FUSION_NAMES = tuple(FUSION_ARGS)
POOLINGS = ("cls", "mean", "pooler")
CLIP_MODEL_TYPES = {"clip_vision": "clip_vision_model", "clip_text": "clip_text_model"}


class LfmConfig(PreTrainedConfig):
    """Configuration of [`LfmForMultimodalClassification`].

    Args:
        modalities (`dict[str, dict]`): an ordered mapping from the name of a modality (free, a Python identifier)
            to its tower. Every tower has the keys `tower` (one of `timm`, `transformers`, `clip_vision`,
            `clip_text`), `name` (timm architecture, or repository / folder of a pretrained model), `pretrained`
            (`bool`, fetch weights in `from_towers`), and `frozen` (`bool`, never trained). Further keys:

            - `timm`: `in_chans` (`int`, default 3), `num_frames` (`int`, frames of a clip; they share the tower
              and are averaged), `model_args` (`dict`, passed to `timm.create_model`), `checkpoint` (`str`, a local
              .safetensors file that `from_towers` loads), `frontend` (`dict`, the tower reads waveforms `(B, samples)`
              and makes spectrograms of them by these settings, see
              [`LogSpectrogram`][modeling_lfm.frontend_lfm.LogSpectrogram]).
            - `transformers`: `config` (`dict`, the nested configuration with its `model_type`, or with `name`
              given, changes to that of the pretrained model), `pooling` (`"cls"`, `"mean"` or `"pooler"`).
            - `clip_vision`, `clip_text`: `config` (`dict`, a CLIP vision or text configuration).
        modality_order (`list[str]`, *optional*): written on saving, because JSON files of configurations are sorted by
            key; given by hand it reorders `modalities`.
        fusion (`str`, defaults to `"concat"`): how the modalities are combined, one of `FUSION_ARGS`; the classes in
            `fusions_lfm.py` and its siblings tell their formulas.
        fusion_args (`dict`, *optional*): settings of the fusion; those in `FUSION_ARGS` where not given.
        unimodal_heads (`bool`, defaults to False): give each modality a linear classifier of its own, apart from the
            fusion, from which its `modality_logits` come.
        hidden_size (`int`, defaults to 512): the common width d to which each tower's output is projected.
        modality_dropout (`float`, defaults to 0): probability, in training, that a modality of a sample is hidden from
            the fused prediction; one of them is always kept. Above 0, fusions that read all features at once learn
            what they read in place of an absent one; at 0 they read zeros.
        kwargs: those of `PreTrainedConfig`, among them `num_labels`, `id2label` and `problem_type`
            (`"single_label_classification"`, the default here, or `"multi_label_classification"`).

    Raises:
        ValueError: an unknown tower, key, fusion or problem type, a name that cannot be one, a size out of range.
    """

    model_type = "lfm_multimodal"
    keys_to_ignore_at_inference = ["features"]  # noqa: RUF012  (the name and type that transformers reads)

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
        if fusion not in FUSION_NAMES:
            raise ValueError(f"fusion={fusion!r} is unknown; choose one of {', '.join(FUSION_NAMES)}.")
        unknown = sorted(set(self.fusion_args) - set(FUSION_ARGS[fusion]))
        if unknown:
            raise ValueError(
                f"fusion_args has unknown keys {unknown}; {fusion!r} has {', '.join(FUSION_ARGS[fusion]) or 'none'}."
            )
        if not (isinstance(hidden_size, int) and hidden_size > 0):
            raise ValueError(f"hidden_size={hidden_size!r} must be a positive integer.")
        if isinstance(modality_dropout, bool) or not (
            isinstance(modality_dropout, (int, float)) and 0 <= modality_dropout < 1
        ):
            raise ValueError(f"modality_dropout={modality_dropout!r} must be a probability below 1.")
        if problem_type not in ("single_label_classification", "multi_label_classification"):
            raise ValueError(
                f"problem_type={problem_type!r} is not supported; choose single_label_classification or "
                "multi_label_classification."
            )
        self._tower_configs = {
            name: build_tower_config(spec) for name, spec in self.modalities.items() if "config" in spec
        }
        weights = kwargs.get("transformers_weights")  # a file that transformers would read in place of the usual one
        if weights is not None and ".safetensors" not in weights:
            raise ValueError(f"transformers_weights={weights!r} must name a file in safetensors.")
        # AutoModel.from_config chooses by it, also before anything was saved.
        kwargs["architectures"] = kwargs.get("architectures") or ["LfmForMultimodalClassification"]
        super().__init__(problem_type=problem_type, **kwargs)

    @property
    def custom_pipelines(self):
        """`dict`: pipelines whose code lies beside the weights, if this does; the package registers its own."""
        return deepcopy(PIPELINES) if __name__.startswith("transformers_modules.") else {}

    @property
    def modality_names(self):
        """`tuple[str]`: the modalities in the order of every tuple that the model returns."""
        return tuple(self.modalities)

    def fusion_arg(self, name):
        """The setting `name` of the fusion: that of `fusion_args`, or its default."""
        return self.fusion_args.get(name, FUSION_ARGS[self.fusion][name])

    def tower_config(self, modality):
        """The nested `PreTrainedConfig` of a modality, or None for a timm tower or one not yet resolved."""
        return self._tower_configs.get(modality)

    def set_tower_config(self, modality, config):
        """Keep `config` (`PreTrainedConfig`) as the nested configuration of `modality`."""
        self._tower_configs[modality] = config
        self.modalities[modality]["config"] = config.to_dict()

    def forget_sources(self):
        """Drop where pretrained weights are from, once a model holds them: a local path must not travel with it."""
        for spec in self.modalities.values():
            for key in ("checkpoint", "pretrained") if spec["tower"] == "timm" else ("name", "pretrained"):
                spec.pop(key, None)

    # An attention implementation asked of the model is asked of each tower; None leaves each its own default.
    @property
    def _attn_implementation(self):
        return getattr(self, "_attn_implementation_internal", None)

    @_attn_implementation.setter
    def _attn_implementation(self, value):
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
            output["modalities"][name]["config"] = _without_run_time_keys(config.to_dict())
        return output


LfmConfig.register_for_auto_class()  # saved with its code, as the models are


def _without_run_time_keys(nested):
    for key in ("transformers_version", "_name_or_path", "name_or_path"):
        nested.pop(key, None)
    return nested


def _check_modality(name, spec):
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", str(name)):
        raise ValueError(f"modality name {name!r} must be letters, digits and underscores, a letter first.")
    if hasattr(dict, str(name)) or name in ("labels", "fused"):
        raise ValueError(f"modality name {name!r} is reserved; choose another.")
    if not isinstance(spec, dict) or "tower" not in spec:
        raise ValueError(f"modality {name!r} needs a mapping with the key 'tower', got {spec!r}.")
    if spec["tower"] not in TOWER_KEYS:
        raise ValueError(
            f"modality {name!r} has the unknown tower {spec['tower']!r}; choose one of {', '.join(TOWER_KEYS)}."
        )
    unknown = set(spec) - TOWER_KEYS[spec["tower"]]
    if unknown:
        raise ValueError(
            f"modality {name!r} (tower {spec['tower']!r}) has unknown keys {sorted(unknown)}; "
            f"known are {sorted(TOWER_KEYS[spec['tower']])}."
        )
    if spec["tower"] == "timm" and "name" not in spec:
        raise ValueError(f"modality {name!r} needs 'name', a timm architecture such as 'resnet18'.")
    if spec["tower"] == "timm" and {":", "/"} & set(str(spec["name"])):  # a place, which loading would ask every time
        raise ValueError(
            f"modality {name!r}: name={spec['name']!r} must be a timm architecture, such as 'resnet18.a1_in1k' for "
            "'hf-hub:timm/resnet18.a1_in1k'; give weights of your own as 'checkpoint'."
        )
    if "name" not in spec and "config" not in spec:
        raise ValueError(f"modality {name!r} needs 'name' (a pretrained model) or 'config' (its configuration).")
    if spec.get("pooling", "cls") not in POOLINGS:
        raise ValueError(f"modality {name!r}: pooling={spec['pooling']!r} must be one of {', '.join(POOLINGS)}.")


def build_tower_config(spec):
    """Nested configuration of a resolved spec; None for a spec whose `config` only changes a pretrained one.

    Args:
        spec (`dict`): a modality's entry with the key `config` (`dict` or `PreTrainedConfig`).

    Raises:
        ValueError: the `model_type` is not known to the installed transformers.
    """
    config = spec["config"]
    if isinstance(config, PreTrainedConfig):
        spec["config"] = config.to_dict()
        return config
    # Not above: the Auto classes take seconds to import, and ask for LfmConfig when they are (registration.py).
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = CLIP_MODEL_TYPES.get(spec["tower"], config.get("model_type"))
    config = {key: value for key, value in config.items() if key != "model_type"}
    if model_type is None:
        if "name" not in spec:
            raise ValueError(f"the tower's config needs 'model_type' (such as 'bert'), got keys {sorted(config)}.")
        return None
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"model_type={model_type!r} is not known to the installed transformers.")
    return CONFIG_MAPPING[model_type](**config)
