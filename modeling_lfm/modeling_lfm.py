"""LFM models: towers, projections to a common width, a fusion and its classifier."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_lfm import LfmConfig
from .fusions_lfm import EXCHANGES, FUSIONS
from .towers_lfm import make_tower, resolve_tower_configs


@dataclass
class LfmOutput(ModelOutput):
    """Output of the LFM models. M modalities in the order of `config.modalities`.

    Args:
        loss (`torch.FloatTensor` of shape `()`): cross-entropy of the fused logits (binary cross-entropy for
            multi-label problems), when labels were given. The trainer's objective is not in it.
        logits (`torch.FloatTensor` of shape `(B, num_labels)`): of the fused prediction.
        modality_logits (`tuple` of M `torch.FloatTensor` `(B, num_labels)`): each from one modality alone.
        features (`tuple` of M `torch.FloatTensor` `(B, hidden_size)`): projected, before fusion.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    modality_logits: tuple[torch.FloatTensor, ...] | None = None
    features: tuple[torch.FloatTensor, ...] | None = None


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
    _no_split_modules = ("TimmTower", "TransformersTower", "ClipVisionTower", "ClipTextTower")

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

    def get_input_embeddings(self):
        """None: the towers own their embeddings."""
        return None


class LfmModel(LfmPreTrainedModel):
    """Towers and projections: inputs to one feature (B, hidden_size) a modality.

    Inputs are flat tensors, named after the modality: `{modality}_values` for images (B, C, H, W), frames
    (B, T, C, H, W) and spectrograms (B, 1, F, T), or `{modality}_input_ids` and `{modality}_attention_mask` (B, L).
    """

    def __init__(self, config):
        super().__init__(config)
        if not config.modalities:
            raise ValueError("config.modalities is empty; name at least one modality and its tower.")
        self.gradient_checkpointing = False
        self.towers = nn.ModuleDict({name: make_tower(config, name) for name in config.modalities})
        self.projections = nn.ModuleDict(
            {name: nn.Linear(tower.num_features, config.hidden_size) for name, tower in self.towers.items()}
        )
        self.exchange = EXCHANGES[config.fusion](config, self.towers) if config.fusion in EXCHANGES else None
        self.post_init()

    @property
    def input_names(self):
        """`tuple[str]`: the names of all tensors that `forward` reads."""
        return tuple(f"{name}_{part}" for name, tower in self.towers.items() for part in tower.input_names)

    def train(self, mode=True):
        """As in torch, but frozen towers stay in evaluation mode (their normalisation does not move)."""
        super().train(mode)
        for name, spec in self.config.modalities.items():
            if spec.get("frozen"):
                self.towers[name].eval()
        return self

    def encode(self, **inputs):
        """Inputs to the towers' vectors: a tuple of M tensors (B, num_features of the tower).

        Raises:
            ValueError: an input is missing or unknown; the message names it.
        """
        unknown = sorted(set(inputs) - set(self.input_names))
        if unknown:
            raise ValueError(f"unknown inputs {unknown}; this model reads {list(self.input_names)}.")
        tensors = {name: self._tower_inputs(name, inputs) for name in self.towers}
        if self.exchange is not None:
            return self.exchange(self.towers, tensors)
        return tuple(tower(*tensors[name]) for name, tower in self.towers.items())

    def encode_modality(self, name, **inputs):
        """The feature (B, hidden_size) of one modality; the inputs of others are not read.

        Raises:
            ValueError: its input is missing, or the fusion lets the towers talk to each other (`mmtm`).
        """
        if self.exchange is not None:
            raise ValueError(f"the towers of fusion {self.config.fusion} run together: call encode.")
        return self.projections[name](self.towers[name](*self._tower_inputs(name, inputs)))

    def _tower_inputs(self, name, inputs):
        tower = self.towers[name]
        tensors = [inputs.get(f"{name}_{part}") for part in tower.input_names]
        if tensors[0] is None:
            raise ValueError(
                f"input {name}_{tower.input_names[0]!s} is missing; this model reads {list(self.input_names)}."
            )
        if len(tensors) == 2 and tensors[1] is None:
            tensors[1] = torch.ones_like(tensors[0])
        return tensors

    def project(self, vectors):
        """The towers' vectors to features: a tuple of M tensors (B, hidden_size)."""
        return tuple(projection(vector) for projection, vector in zip(self.projections.values(), vectors, strict=True))

    def forward(self, return_dict=None, **inputs):
        """Returns an [`LfmOutput`] with `features`."""
        features = self.project(self.encode(**inputs))
        output = LfmOutput(features=features)
        return output.to_tuple() if return_dict is False else output


class LfmForMultimodalClassification(LfmPreTrainedModel):
    """LFM model with a fusion and classifier, for any number of modalities from one on.

    Source of the method: Yang et al., "Facilitating Multimodal Classification via Dynamically Learning Modality
    Gap", NeurIPS 2024.
    """

    def __init__(self, config):
        super().__init__(config)
        self.lfm = LfmModel(config)
        self.fusion = FUSIONS[config.fusion](config)
        self.unimodal_heads = None
        if config.unimodal_heads:
            heads = {name: nn.Linear(config.hidden_size, config.num_labels) for name in config.modalities}
            self.unimodal_heads = nn.ModuleDict(heads)
        self.post_init()

    @classmethod
    def from_towers(cls, config):
        """Make a new model, with the pretrained weights of each tower whose entry says `pretrained: true`.

        Only this fetches towers; `from_pretrained` reads the whole model from one place.

        Args:
            config (`LfmConfig`): nested tower configurations that are only named get filled in, in place.

        Returns:
            `LfmForMultimodalClassification` in evaluation mode.
        """
        resolve_tower_configs(config)
        model = cls(config)
        for name, spec in config.modalities.items():
            if spec.get("pretrained") or spec.get("checkpoint"):
                model.lfm.towers[name].load_pretrained(spec)
            # What was fetched is in the weights now; a local path must not travel with the model.
            spec.pop("checkpoint", None)
            if spec["tower"] != "timm":
                spec.pop("name", None)
            spec.pop("pretrained", None)
        return model.eval()

    def head_parameters(self):
        """Projections and fusion: the trainable parameters after the towers (`list` of `nn.Parameter`)."""
        heads = [self.fusion] if self.unimodal_heads is None else [self.fusion, self.unimodal_heads]
        return [*self.lfm.projections.parameters(), *(p for head in heads for p in head.parameters())]

    def encoder_parameters(self, name):
        """Tower and projection of a modality: its trainable parameters before the fusion (`list` of `nn.Parameter`)."""
        modules = (self.lfm.towers[name], self.lfm.projections[name])
        return [p for module in modules for p in module.parameters() if p.requires_grad]

    def classify(self, vectors, labels=None):
        """The towers' vectors (from `self.lfm.encode`) to an [`LfmOutput`].

        Args:
            vectors (`tuple` of M tensors `(B, num_features)`)
            labels (`torch.LongTensor` `(B,)`, or `torch.FloatTensor` `(B, num_labels)` for multi-label problems)
        """
        features = self.lfm.project(vectors)
        logits, modality_logits = self.fusion(features)
        if self.unimodal_heads is not None:
            heads = self.unimodal_heads.values()
            modality_logits = tuple(head(feature) for head, feature in zip(heads, features, strict=True))
        loss = None
        if labels is not None:
            if self.config.problem_type == "multi_label_classification":
                loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float())
            else:
                loss = nn.functional.cross_entropy(logits.float(), labels)
        return LfmOutput(loss=loss, logits=logits, modality_logits=modality_logits, features=features)

    def forward(self, labels=None, return_dict=None, **inputs):
        """Classify a batch.

        Args:
            labels (`torch.LongTensor` `(B,)`, or `torch.FloatTensor` `(B, num_labels)` for multi-label problems)
            return_dict (`bool`, *optional*): False returns a tuple.
            inputs: the tensors that [`LfmModel`] names.

        Returns:
            [`LfmOutput`]
        """
        output = self.classify(self.lfm.encode(**inputs), labels)
        return output.to_tuple() if return_dict is False else output
