"""LFM models: towers, projections to a common width, a fusion and its classifier."""

import os
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

# Older releases of transformers fetch what this file imports, but not what those files import: hence the unused ones.
from .configuration_lfm import LfmConfig
from .encoders_lfm import TransformersTower  # noqa: F401
from .frontend_lfm import LogSpectrogram  # noqa: F401
from .fusion_base_lfm import FUSIONS, blank_absent
from .fusions_lfm import SumFusion  # noqa: F401
from .handler import EndpointHandler  # noqa: F401  (an endpoint looks for it beside the weights)
from .mmtm_lfm import MmtmFusion  # noqa: F401
from .plugins_lfm import PLUGINS  # noqa: F401
from .registry_lfm import about, save_plugins, suggest
from .small_towers_lfm import MlpTower  # noqa: F401
from .temporal_lfm import TimeEncoder  # noqa: F401
from .towers_lfm import make_tower, resolve_tower_configs, run_tower, sketch, wants_weights
from .weights_lfm import check_missing, check_shapes, load_safely, merge_adapters

_PLACES = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


@dataclass
class LfmOutput(ModelOutput):
    """Output of the LFM models. M modalities in the order of `config.modalities`.

    Args:
        loss (`torch.FloatTensor` of shape `()`): cross-entropy of the fused logits (binary cross-entropy for
            multi-label problems), when labels were given. The trainer's objective is not in it.
        logits (`torch.FloatTensor` of shape `(B, num_labels)`): of the fused prediction.
        modality_logits (`tuple` of M `torch.FloatTensor` `(B, num_labels)`): each from one modality alone; NaN for the
            samples from which it is absent.
        features (`tuple` of M `torch.FloatTensor` `(B, hidden_size)`): projected, before fusion; NaN likewise.
        present (`torch.BoolTensor` of shape `(M, B)`): which modalities the samples have, where the inputs tell.

    Example:

        ```python
        >>> import torch
        >>> from modeling_lfm import LfmOutput
        >>> output = LfmOutput(logits=torch.tensor([[0.0, 2.0]]), features=(torch.rand(1, 8), torch.rand(1, 8)))
        >>> output.logits.argmax(-1), output.loss is None
        (tensor([1]), True)

        ```
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    modality_logits: tuple[torch.FloatTensor, ...] | None = None
    features: tuple[torch.FloatTensor, ...] | None = None
    present: torch.BoolTensor | None = None


class LfmPreTrainedModel(PreTrainedModel):
    """What the LFM models share: initialisation, attention and checkpointing of the towers."""

    config_class = LfmConfig
    base_model_prefix = "lfm"
    main_input_name = "labels"  # inputs are named after modalities, so there is no fixed one
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """As in transformers, but from safetensors only, and all weights must be there.

        Raises:
            ValueError: the weights are pickled, damaged, missing, or of another model than `config.json` describes.
        """
        name, with_info = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        config = kwargs.get("config")
        if name is not None and not isinstance(config, PreTrainedConfig):
            places = {key: kwargs[key] for key in (*_PLACES, *LfmConfig.settings()) if key in kwargs}
            config = cls.config_class.from_pretrained(config or name, **places)
        if name is not None and not hasattr(config, "quantization_config"):
            drawn = sketch(lambda: cls(config))
            folder = os.path.normpath(os.path.join(name, kwargs.get("subfolder") or ""))
            if os.path.isdir(folder):
                check_shapes(folder, drawn, kwargs.get("variant"), kwargs.get("ignore_mismatched_sizes", False))
        load = super().from_pretrained
        model, info = load_safely(load, name, *model_args, output_loading_info=True, **kwargs)
        if name is not None:
            headless = (getattr(config, "architectures", None) or [""])[0] == "LfmModel"
            missing = [key for key in info["missing_keys"] if not headless or key.startswith("lfm.")]
            check_missing(name, missing, info["unexpected_keys"])
        return (model, info) if with_info else model

    def save_pretrained(self, save_directory, *args, state_dict=None, **kwargs):
        """As in transformers; the code of the model is saved beside its weights, and no path of its towers. Adapters
        are merged, unless a `state_dict` is given.

        Weights keep the names that they have here: a trainer that goes on from a checkpoint, or takes the best one,
        reads it by them, and those that a tower's architecture had in older releases it would pass over.
        """
        kwargs = {"save_original_format": False, **kwargs}
        self.config.forget_sources()
        left_out, merged = self._keys_to_ignore_on_save, merge_adapters(self) if state_dict is None else None
        if merged is not None:
            state_dict, self._keys_to_ignore_on_save = merged, None
        try:
            super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)
        finally:
            self._keys_to_ignore_on_save = left_out
        save_plugins(save_directory, self.config.parts())

    def _init_weights(self, module):
        # Towers of transformers initialise themselves; timm's were initialised when they were made.
        for key, value in getattr(module, "_fresh_buffers", {}).items():
            module._buffers[key].copy_(value)
        missing = any(not getattr(p, "_is_hf_initialized", False) for p in module.parameters(recurse=False))
        if missing and hasattr(module, "reset_parameters"):
            module.reset_parameters()

    def _set_gradient_checkpointing(
        self, enable=True, gradient_checkpointing_func=torch.utils.checkpoint.checkpoint, **kwargs
    ):
        for module in self.modules():
            if isinstance(module, LfmModel):
                for tower in module.towers.values():
                    tower.set_gradient_checkpointing(enable, gradient_checkpointing_func)
                module.gradient_checkpointing = enable

    @property
    def input_modalities(self):
        """`list[str]`: the names of the modalities, in the order of every tuple that the model returns."""
        return list(self.config.modality_names)

    def get_input_embeddings(self):
        """None: each tower has embeddings of its own, or none."""
        return None


class LfmModel(LfmPreTrainedModel):
    """Towers and projections: inputs to one feature (B, hidden_size) a modality.

    Inputs are flat tensors, named after the modality: `{modality}_values` for images (B, C, H, W), frames
    (B, T, C, H, W) and spectrograms (B, 1, F, T), or `{modality}_input_ids` and `{modality}_attention_mask` (B, L).
    Values may be of any floating type; they are cast to that of the tower.

    Modalities may be absent from samples, where `{modality}_present`, bool (B,), is False; what stands in their place
    is not used, and a tower that trains does not see it. In evaluation mode the tensors of one that is absent from the
    whole batch may be left out.

    `{modality}_vector` (B, num_features) of a frozen tower is what it would give, computed before.

    Example:

        ```python
        >>> import torch
        >>> from modeling_lfm import LfmConfig, LfmModel
        >>> towers = {"sound": {"tower": "mlp", "in_features": 3}, "sight": {"tower": "mlp", "in_features": 5}}
        >>> model = LfmModel(LfmConfig(towers, hidden_size=8)).eval()
        >>> [feature.shape for feature in model(sound_values=torch.rand(2, 3), sight_values=torch.rand(2, 5)).features]
        [torch.Size([2, 8]), torch.Size([2, 8])]

        ```
    """

    def __init__(self, config):
        super().__init__(config)
        if not config.modalities:
            raise ValueError("config.modalities is empty; name at least one modality and its tower.")
        self.gradient_checkpointing = False
        self.towers = nn.ModuleDict({name: make_tower(config, name) for name in config.modalities})
        self._no_split_modules = sorted({type(tower).__name__ for tower in self.towers.values()})
        self.projections = nn.ModuleDict(
            {name: nn.Linear(tower.num_features, config.hidden_size) for name, tower in self.towers.items()}
        )
        exchange = FUSIONS[config.fusion].exchange
        self.exchange = None if exchange is None else exchange(config, self.towers)
        self.post_init()

    @property
    def input_names(self):
        """`tuple[str]`: the names of all tensors that `forward` reads, `{modality}_present` apart."""
        frozen = tuple(f"{name}_vector" for name, spec in self.config.modalities.items() if spec.get("frozen") is True)
        return tuple(f"{name}_{part}" for name, tower in self.towers.items() for part in tower.input_names) + frozen

    def run_towers(self, **inputs):
        """Inputs to the towers' vectors: a tuple of M tensors (B, num_features of the tower).

        Those of an absent modality mean nothing; zeros where it is absent from the whole batch.

        Raises:
            ValueError: an unknown input, no input at all, or in training mode one that is missing; the message names
            it.
        """
        marks = {f"{name}_present": name for name in self.towers}
        for key in set(inputs) - set(self.input_names) - set(marks):
            raise ValueError(f"unknown input {key!r}; {suggest(key, self.input_names)}")
        given = self._given(inputs)
        if self.exchange is not None:
            tensors = {name: self._tower_inputs(name, inputs) for name in given}
            present = {name: inputs[mark] for mark, name in marks.items() if mark in inputs and name in given}
            vectors = self.exchange.run(self.towers, tensors, present)
        else:
            vectors = {name: self.run_tower(name, inputs) for name in given}
        example = next(iter(vectors.values()))
        return tuple(
            vectors[name] if name in vectors else example.new_zeros(example.shape[0], tower.num_features)
            for name, tower in self.towers.items()
        )

    def _given(self, inputs):
        """Names of the modalities to be read (`list[str]`): those whose tensors are there; in training, all."""
        given = [name for name in self.towers if self._first_input(name, inputs) is not None]
        return given if given and not self.training else list(self.towers)

    def _first_input(self, name, inputs):
        """The vector of a modality if it is given, else the first of what its tower reads, or None."""
        vector = inputs.get(f"{name}_vector")
        return inputs.get(f"{name}_{self.towers[name].input_names[0]}") if vector is None else vector

    def run_tower(self, name, inputs):
        """The vector (B, num_features) of one tower, or `{name}_vector` where `inputs` (`dict`) hold it."""
        vector = inputs.get(f"{name}_vector")
        if vector is None:
            return run_tower(self.towers[name], self._tower_inputs(name, inputs), inputs.get(f"{name}_present"))
        if self.config.modalities[name].get("frozen") is not True:
            raise ValueError(f"{name}_vector is given, but the tower of {name} is not frozen: it would not learn.")
        return vector.to(self.projections[name].weight.dtype)

    def read_presence(self, inputs):
        """Which modalities the `inputs` (`dict`) of `forward` hold: bool (M, B), or None if all are there.

        Raises:
            ValueError: a wrong type or size of `{modality}_present`, or a sample from which every modality is absent.
        """
        given = self._given(inputs)
        marks = {name: inputs.get(f"{name}_present") for name in self.towers}
        if len(given) == len(self.towers) and all(mark is None for mark in marks.values()):
            return None
        example = self._first_input(given[0], inputs)
        if example is None:
            self._tower_inputs(given[0], inputs)  # which says what is missing
        here = torch.ones(example.shape[0], dtype=torch.bool, device=example.device)
        rows = []
        for name, mark in marks.items():
            if mark is not None and (mark.dtype != torch.bool or mark.shape != here.shape):
                raise ValueError(
                    f"{name}_present must be bool of shape ({example.shape[0]},), got {mark.dtype} {tuple(mark.shape)}."
                )
            rows.append(~here if name not in given else here if mark is None else mark)
        present = torch.stack(rows)
        if not torch.compiler.is_compiling() and not present.any(0).all():
            number = int((~present.any(0)).nonzero()[0])
            raise ValueError(f"sample {number} of the batch has no modality; each needs one at least.")
        return present

    def feature_of(self, name, **inputs):
        """The feature (B, hidden_size) of one modality; the inputs of others are not read.

        Raises:
            ValueError: its input is missing, or the fusion lets the towers talk to each other (`mmtm`).
        """
        if self.exchange is not None:
            raise ValueError(f"the towers of fusion {self.config.fusion} run together: call run_towers.")
        return self.projections[name](self.run_tower(name, inputs))

    def _tower_inputs(self, name, inputs):
        tower = self.towers[name]
        tensors = [inputs.get(f"{name}_{part}") for part in tower.input_names]
        if tensors[0] is None:
            hint = "; training needs every modality (modality_dropout hides some)" if self.training else ""
            raise ValueError(
                f"input {name}_{tower.input_names[0]} is missing; this model reads {list(self.input_names)}{hint}."
            )
        if len(tensors) == 2 and tensors[1] is None:
            tensors[1] = torch.ones_like(tensors[0])
        if getattr(tower, "frontend", None) is not None:  # which needs all digits
            return tensors
        learns = next(tower.parameters(), None) is not None
        dtype = tower.dtype if learns else self.projections[name].weight.dtype
        return [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]

    def project(self, vectors):
        """The towers' vectors to features: a tuple of M tensors (B, hidden_size)."""
        return tuple(projection(vector) for projection, vector in zip(self.projections.values(), vectors, strict=True))

    def forward(self, return_dict=None, **inputs):
        """The inputs to an [`LfmOutput`] with `features` and `present`; `return_dict=False` returns a tuple."""
        present = self.read_presence(inputs)
        features = blank_absent(self.project(self.run_towers(**inputs)), present)
        output = LfmOutput(features=features, present=present)
        return output.to_tuple() if return_dict is False else output


class LfmForMultimodalClassification(LfmPreTrainedModel):
    """LFM model with a fusion and classifier, for any number of modalities from one on.

    Source of the method: Yang et al., "Facilitating Multimodal Classification via Dynamically Learning Modality
    Gap", NeurIPS 2024.

    Example:

        ```python
        >>> import torch
        >>> from modeling_lfm import LfmConfig, LfmForMultimodalClassification
        >>> towers = {"sound": {"tower": "mlp", "in_features": 3}, "sight": {"tower": "mlp", "in_features": 5}}
        >>> model = LfmForMultimodalClassification.from_towers(LfmConfig(towers, num_labels=4))
        >>> output = model(sound_values=torch.rand(2, 3), sight_values=torch.rand(2, 5), labels=torch.tensor([0, 3]))
        >>> output.logits.shape, len(output.modality_logits), output.loss.shape
        (torch.Size([2, 4]), 2, torch.Size([]))

        ```
    """

    def __init__(self, config):
        super().__init__(config)
        self.lfm = LfmModel(config)
        self._no_split_modules = self.lfm._no_split_modules
        self.fusion = FUSIONS[config.fusion](config)
        self.unimodal_heads = None
        if config.unimodal_heads:
            heads = {name: nn.Linear(config.hidden_size, config.num_labels) for name in config.modalities}
            self.unimodal_heads = nn.ModuleDict(heads)
        self.post_init()

    @classmethod
    def from_towers(cls, config):
        """Make a new model, with the pretrained weights of each tower whose entry says `pretrained: true`, or names a
        repository or folder of transformers and does not say `pretrained: false`.

        Only this fetches towers; `from_pretrained` reads the whole model from one place.

        Args:
            config (`LfmConfig`): nested tower configurations that are only named get filled in, in place.

        Returns:
            `LfmForMultimodalClassification` in evaluation mode. Its `pretrained_towers` (`dict`) keeps the entries of
            the towers that were fetched, for a model card; it is not saved.
        """
        resolve_tower_configs(config)
        sketch(lambda: cls(config))  # sizes that no memory holds are refused
        model = cls(config)
        model.pretrained_towers = {}
        for name, spec in config.modalities.items():
            if wants_weights(spec):
                with about(f"modality {name!r} ({spec.get('name')})"):
                    model.lfm.towers[name].load_pretrained(spec)
                model.pretrained_towers[name] = {key: spec.get(key) for key in ("tower", "name", "checkpoint")}
        config.forget_sources()
        return model.eval()

    def as_pipeline(self, processor, **kwargs):
        """A [`MultimodalClassificationPipeline`] of this model and its [`LfmProcessor`]; `kwargs` are for it."""
        from .pipeline_lfm import MultimodalClassificationPipeline  # takes a while; its code is saved with this one

        return MultimodalClassificationPipeline(self, processor, **kwargs)

    def head_parameters(self):
        """Projections and fusion: the trainable parameters after the towers (`list` of `nn.Parameter`)."""
        heads = [self.fusion] if self.unimodal_heads is None else [self.fusion, self.unimodal_heads]
        return [*self.lfm.projections.parameters(), *(p for head in heads for p in head.parameters())]

    def encoder_parameters(self, name):
        """Tower and projection of a modality: its trainable parameters before the fusion (`list` of `nn.Parameter`)."""
        modules = (self.lfm.towers[name], self.lfm.projections[name])
        return [p for module in modules for p in module.parameters() if p.requires_grad]

    def classify(self, vectors, labels=None, present=None, seen=None):
        """The towers' vectors (from `self.lfm.run_towers`) to an [`LfmOutput`].

        Args:
            vectors (`tuple` of M tensors `(B, num_features)`)
            labels: as of `forward`.
            present (`torch.BoolTensor` `(M, B)`, *optional*): which modalities are there; all if not given.
            seen (`torch.BoolTensor` `(M, B)`, *optional*): which of them the fused prediction is made of; all that are
                present if not given.
        """
        # Zeros, because a weight of 0 would not silence a NaN that came from what stands in an absent one's place.
        features = self.lfm.project(blank_absent(vectors, present, 0.0))
        logits, modality_logits = self.fusion(features, present if seen is None else seen)
        if self.unimodal_heads is not None:
            heads = self.unimodal_heads.values()
            modality_logits = tuple(head(feature) for head, feature in zip(heads, features, strict=True))
        loss = None
        if labels is not None:
            labels = labels.to(logits.device)
            if self.config.is_multi_label:
                loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float())
            else:
                loss = nn.functional.cross_entropy(logits.float(), labels)
        modality_logits, features = blank_absent(modality_logits, present), blank_absent(features, present)
        return LfmOutput(loss, logits, modality_logits, features, present)

    def hide_modalities(self, present, size, device):
        """Modality dropout: what the fused prediction of each training sample is made of, bool (M, B).

        Each modality is hidden with probability `config.modality_dropout`, independently; of a sample that would lose
        all, one that is `present` (bool (M, B), or None) is kept at random.
        """
        shape = (len(self.config.modalities), size)
        seen = torch.rand(shape, device=device) >= self.config.modality_dropout
        chances = torch.rand(shape, device=device)
        if present is not None:
            seen, chances = seen & present, chances.masked_fill(~present, -1)
        rescued = nn.functional.one_hot(chances.argmax(0), shape[0]).T.bool()
        return torch.where(seen.any(0), seen, rescued)

    def forward(self, labels=None, return_dict=None, **inputs):
        """Classify a batch.

        Args:
            labels (`torch.LongTensor` `(B,)`, or `torch.FloatTensor` `(B, num_labels)` for multi-label problems)
            return_dict (`bool`, *optional*): False returns a tuple.
            inputs: the tensors that [`LfmModel`] names.

        Returns:
            [`LfmOutput`]
        """
        present = self.lfm.read_presence(inputs)
        vectors, seen = self.lfm.run_towers(**inputs), None
        if self.training and self.config.modality_dropout > 0 and len(vectors) > 1:
            seen = self.hide_modalities(present, vectors[0].shape[0], vectors[0].device)
        output = self.classify(vectors, labels, present, seen)
        return output.to_tuple() if return_dict is False else output


# The code is saved beside the weights, so that AutoModel can load them where this package is not installed.
LfmModel.register_for_auto_class("AutoModel")
LfmForMultimodalClassification.register_for_auto_class("AutoModel")
if not __name__.startswith("transformers_modules."):
    AutoModel.register(LfmConfig, (LfmForMultimodalClassification, LfmModel))  # it takes that of config.architectures
