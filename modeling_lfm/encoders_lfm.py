"""Towers of transformers: any text, vision, audio or video encoder, and the halves of CLIP with their projections."""

import inspect

import torch
import transformers
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
)

from .towers_lfm import HALVES, TOWERS, Tower, ask_half, check_temporal, find_halves
from .weights_lfm import check_missing, load_safely

POOLINGS = ("cls", "mean", "last", "pooler")
FIRST_TOKENS = ("cls_token", "class_embedding")  # of encoders of pictures


class NestedTower(Tower):
    """What the towers with a configuration of transformers share."""

    sources = ("name", "pretrained")
    nested = True

    @classmethod
    def check(cls, spec):
        if "name" not in spec and "config" not in spec:
            raise ValueError("it needs 'name' (a pretrained model) or 'config' (its configuration)")
        check_temporal(spec)

    def load_pretrained(self, spec):
        load = type(self.encoder).from_pretrained
        settings = {"config": self.encoder.config, "dtype": torch.float32, "output_loading_info": True}
        loaded, info = load_safely(load, spec["name"], **settings)
        check_missing(spec["name"], info["missing_keys"])
        self.encoder.load_state_dict(loaded.state_dict())

    def depths(self):
        # Layers are what stands in the largest list of modules; the stem was made before them, and the rest after.
        lists = [item for item in self.encoder.named_modules() if isinstance(item[1], nn.ModuleList)]
        place, layers = max(lists, key=lambda item: sum(p.numel() for p in item[1].parameters()), default=("", ()))
        depths, depth = {}, 0
        for name, _ in self.encoder.named_parameters():
            inside = bool(place) and name.startswith(f"{place}.")
            depth = int(name[len(place) + 1 :].partition(".")[0]) + 1 if inside else depth and len(layers) + 1
            depths[f"encoder.{name}"] = depth
        return depths if len(layers) else {}

    def set_gradient_checkpointing(self, enable, function):
        self.encoder._set_gradient_checkpointing(enable, function)


@TOWERS.register("transformers")
class TransformersTower(NestedTower):
    """Any text, vision, audio or video encoder of transformers, of an encoder-decoder the encoder.

    It reads `input_ids` and `attention_mask` (B, L); or `values`: pictures (B, C, H, W) and clips of them,
    clips (B, T, C, H, W) for an encoder of clips, or what a feature extractor makes of sound, with its mask.

    `pooling` is by the architecture where its entry does not say it: `last`, the last token that is there, for causal
    models; `pooler`, where the model has a vector of its own that is no layer above the first token, as CLIP, SigLIP,
    Swin and AST have; `cls`, the first token, where there is one that stands for the whole; `mean` over what the mask
    shows otherwise, as for T5, Whisper, wav2vec2 and VideoMAE.
    """

    keys = ("config", "half", "pooling", "temporal")

    @classmethod
    def check(cls, spec):
        super().check(spec)
        if spec.get("pooling") not in (None, *POOLINGS):
            raise ValueError(f"pooling={spec['pooling']!r} must be one of {', '.join(POOLINGS)}")
        if spec.get("half") not in (None, *HALVES):
            raise ValueError(f"half={spec['half']!r} must be one of {', '.join(HALVES)}")

    def __init__(self, spec, config):
        super().__init__()
        if find_halves(config):
            raise ValueError(ask_half(config))
        self.whole = config
        self.encoder = take_encoder(make_model(config))
        self.reads_text = self.encoder.main_input_name == "input_ids"
        self.reads_clips = type(config) in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING
        self.reads_sound = not self.reads_text and self.encoder.main_input_name != "pixel_values"
        arguments = inspect.signature(self.encoder.forward).parameters
        self.asks_length = "is_longer" in arguments
        self.settings = {"use_cache": False} if "use_cache" in arguments else {}  # nothing is generated
        if self.reads_text:
            self.input_names = ("input_ids", "attention_mask")
        elif self.reads_sound and "attention_mask" in arguments:
            self.input_names = ("values", "attention_mask")
        self.prefers_own = spec.get("pooling") is None
        self.pooling = self._choose_pooling(spec.get("pooling"), config)
        widths = (getattr(config, key, None) for key in ("hidden_size", "dim", "d_model", "hidden_sizes"))
        width = next(width for width in widths if width is not None)
        self.num_features = width[-1] if isinstance(width, (list, tuple)) else width
        self.read_clips_by(spec.get("temporal"))
        if self.temporal is not None and (self.reads_text or self.reads_clips or self.reads_sound):
            raise ValueError("temporal is for encoders of single pictures; leave it out")

    def _choose_pooling(self, pooling, config):
        """One of `POOLINGS`; where none is given, what stands in for the model's own vector if it has none."""
        causal = self.reads_text and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
        causal = causal and type(config) not in MODEL_FOR_MASKED_LM_MAPPING and not _has_decoder(config)
        if causal and pooling == "cls":
            raise ValueError("pooling=cls is constant in a causal model, whose first token sees itself alone; use last")
        pooler = getattr(self.encoder, "pooler", None)
        layered = isinstance(pooler, nn.Module) and any(isinstance(part, nn.Linear) for part in pooler.modules())
        if isinstance(pooler, nn.Module) and (layered if pooling is None else pooling != "pooler"):
            self.encoder.pooler = None  # it would hold parameters that never get a gradient, or that nobody trained
        if pooling is not None:
            return pooling
        if causal:
            self.prefers_own = False
            return "last"
        if self.reads_text:
            first = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not _has_decoder(config)
        else:
            first = any(name.endswith(FIRST_TOKENS) for name, _ in self.encoder.named_parameters())
        return "cls" if first else "mean"

    def forward(self, *inputs):
        if self.reads_text or self.reads_clips or self.reads_sound:
            return self.read(*inputs)
        return self.read_frames(self.read, *inputs)

    def read(self, values, mask=None):
        """The vectors of what the encoder reads at a time: texts, sounds, pictures, or clips if it is one of clips."""
        config, given = self.encoder.config, {self.encoder.main_input_name: values, **self.settings}
        if self.reads_clips:
            self._check_clip(values)
        if mask is not None and mask.dim() > 2:  # ones like the values, where none was given
            mask = mask[:, 0]
        mask = mask if mask is None else mask.long()
        unmasked = getattr(config, "feat_extract_norm", "") == "group" or config.model_type.startswith("siglip")
        if mask is not None and not unmasked:  # these were trained without
            given["attention_mask"] = mask
        if self.asks_length:  # than CLAP reads: the processor cuts it
            given["is_longer"] = torch.zeros(len(values), 1, dtype=torch.bool, device=values.device)
        output = self.encoder(**given)
        own = getattr(output, "pooler_output", None)
        if self.pooling == "pooler" and own is None:
            raise ValueError(f"pooling=pooler, but {config.model_type} has no such vector; leave pooling out")
        if self.pooling == "pooler" or (self.prefers_own and own is not None):
            return own.flatten(1)
        return self._pool(output.last_hidden_state, mask)

    def _pool(self, states, mask):
        if states.dim() == 4:  # (B, C, H, W) of convolutional encoders
            return states.mean((2, 3))
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "last":  # wherever the padding is
            places = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
            return states[torch.arange(len(states), device=states.device), places]
        if mask is None:
            return states.mean(1)
        mask = self._at_the_rate_of(states, mask) if self.reads_sound else mask
        weight = mask.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1).clamp(min=1)

    def _at_the_rate_of(self, states, mask):
        """The mask (B, steps) of sound for the encoder's states (B, T, D), of which there are fewer."""
        lengths, steps, config = mask.sum(1), states.shape[1], self.encoder.config
        if hasattr(config, "conv_kernel") and hasattr(config, "conv_stride"):  # wav2vec2 and its kin
            for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
                lengths = (lengths - kernel) // stride + 1
        else:
            lengths = -(-lengths * steps // mask.shape[1])
        return torch.arange(steps, device=mask.device) < lengths.clamp(1, steps).unsqueeze(1)

    def _check_clip(self, values):
        config = self.encoder.config
        wanted = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
        if values.dim() != 5 or (wanted and values.shape[1] != wanted):
            raise ValueError(
                f"{config.model_type} reads clips (B, {wanted}, C, H, W), got {tuple(values.shape)}: set num_frames: "
                f"{wanted} (and stored_frames, {wanted} or more) in the processor."
            )

    def load_pretrained(self, spec):
        load, settings = class_of(self.whole).from_pretrained, {"dtype": torch.float32, "output_loading_info": True}
        whole, info = load_safely(load, spec["name"], config=self.whole, **settings)
        own = self.encoder.state_dict()
        start = "encoder." if _has_decoder(self.whole) else ""
        missing = [key for key in info["missing_keys"] if key.removeprefix(start) in own]
        if missing:  # of a model of several encoders, which has other names for this one
            both = AutoConfig.from_pretrained(spec["name"])
            if find_halves(both):
                both = load_safely(class_of(both).from_pretrained, spec["name"], config=both, **settings)[0]
                whole = next((part for part in both.modules() if type(part) is type(whole)), None)
                missing = missing if whole is None else []
        check_missing(spec["name"], missing)
        loaded = take_encoder(whole).state_dict()
        # A pooler that is not used was removed, so that the checkpoint may hold more than the tower.
        self.encoder.load_state_dict({key: loaded[key] for key in own})


def class_of(config):
    """The class of transformers' plain model of a configuration (`PreTrainedConfig`); a `ValueError` if it has none."""
    found = MODEL_MAPPING.get(type(config), None)
    found = found[0] if isinstance(found, (list, tuple)) else found
    found = found or getattr(transformers, type(config).__name__.removesuffix("Config") + "Model", None)
    if found is None:
        raise ValueError(f"model_type={config.model_type!r} has no model that gives features")
    return found


def make_model(config):
    """A model of a configuration with fresh weights."""
    return AutoModel.from_config(config) if type(config) in MODEL_MAPPING else class_of(config)(config)


def take_encoder(model):
    """The encoder of an encoder-decoder; any other model itself."""
    return model.get_encoder() if _has_decoder(model.config) else model


def _has_decoder(config):
    return bool(getattr(config, "is_encoder_decoder", False))


@TOWERS.register("clip_vision")
class ClipVisionTower(NestedTower):
    """CLIP's image encoder with its projection, on `values` (B, 3, H, W), or frames (B, T, 3, H, W)."""

    keys = ("config", "temporal")
    model_type = "clip_vision_model"
    class_name, output_name = "CLIPVisionModelWithProjection", "image_embeds"

    def __init__(self, spec, config):
        super().__init__()
        self.encoder = getattr(transformers, self.class_name)(config)
        self.num_features = config.projection_dim
        self.read_clips_by(spec.get("temporal"))

    def forward(self, *inputs):
        def read(*tensors):
            return getattr(self.encoder(*tensors), self.output_name)

        return read(*inputs) if len(inputs) > 1 else self.read_frames(read, inputs[0])


@TOWERS.register("clip_text")
class ClipTextTower(ClipVisionTower):
    """CLIP's text encoder with its projection, on `input_ids` and `attention_mask` (B, L)."""

    keys = ("config",)
    input_names = ("input_ids", "attention_mask")
    model_type = "clip_text_model"
    class_name, output_name = "CLIPTextModelWithProjection", "text_embeds"
