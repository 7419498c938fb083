"""Towers of transformers: any text, vision, audio or video encoder, and the halves of CLIP with their projections."""

import torch
import transformers
from torch import nn
from transformers import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING, AutoModel

from .towers_lfm import TOWERS, Tower, check_temporal
from .weights_lfm import load_safely


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
        loaded = load_safely(load, spec["name"], config=self.encoder.config, dtype=torch.float32).state_dict()
        # A pooler that is not used was removed, so that the checkpoint may hold more than the tower.
        self.encoder.load_state_dict({key: loaded[key] for key in self.encoder.state_dict()})

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
    """Any text or vision encoder of transformers, on `input_ids` and `attention_mask` (B, L), or `values`."""

    keys = ("config", "pooling", "temporal")

    @classmethod
    def check(cls, spec):
        super().check(spec)
        if spec.get("pooling", "cls") not in ("cls", "mean", "pooler"):
            raise ValueError(f"pooling={spec['pooling']!r} must be one of cls, mean, pooler")

    def __init__(self, spec, config):
        super().__init__()
        self.encoder = AutoModel.from_config(config)
        self.pooling = spec.get("pooling", "cls")
        self.reads_text = self.encoder.main_input_name == "input_ids"
        self.input_names = ("input_ids", "attention_mask") if self.reads_text else ("values",)
        if self.pooling != "pooler" and isinstance(getattr(self.encoder, "pooler", None), nn.Module):
            self.encoder.pooler = None  # it would hold parameters that never get a gradient
        width = getattr(config, "hidden_size", None) or getattr(config, "dim", None) or config.hidden_sizes[-1]
        self.num_features = width
        self.reads_clips = type(config) in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING
        self.read_clips_by(spec.get("temporal"))
        if self.temporal is not None and (self.reads_text or self.reads_clips):
            raise ValueError("temporal is for encoders of single pictures; leave it out")

    def forward(self, *inputs):
        if self.reads_text or self.reads_clips:
            return self.read(*inputs)
        return self.read_frames(self.read, *inputs)

    def read(self, values, mask=None):
        """The vectors of what the encoder reads at a time: texts, pictures, or whole clips for an encoder of clips."""
        output = self.encoder(input_ids=values, attention_mask=mask) if self.reads_text else self.encoder(values)
        if self.pooling == "pooler":
            return output.pooler_output.flatten(1)
        states = output.last_hidden_state
        if states.dim() == 4:  # (B, C, H, W) of convolutional encoders
            return states.mean((2, 3))
        if self.pooling == "cls":
            return states[:, 0]
        if mask is None:
            return states.mean(1)
        weight = mask.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


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
