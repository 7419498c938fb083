"""MMTM: convolutional towers that reweight each other's channels, and the late fusion that goes with them."""

from typing import ClassVar

import torch
from timm.models import checkpoint_seq
from timm.models.resnet import ResNet
from torch import nn

from .fusion_base_lfm import FUSIONS, SplitFusion
from .weights_lfm import check_count

STAGES = ("layer2", "layer3", "layer4")


class MmtmBlock(nn.Module):
    """Gates g_m (B, c_m) for the feature maps of M towers, from a squeeze of all of them.

    Z = ReLU(W [s_1; ...; s_M] + b) with s_m (B, c_m) the mean of map m over space; g_m = 2 sigmoid(W_m Z + b_m).

    Source: Joze et al., "MMTM: Multimodal Transfer Module for CNN Fusion", CVPR 2020, equations 1 to 4. The released
    code (`mmtm.py`) leaves the factor 2 out.

    Args:
        channels (`dict[str, int]`): c_m of each modality.
        ratio (`int`): Z has 2 sum_m c_m / ratio numbers, rounded down.
    """

    def __init__(self, channels, ratio):
        super().__init__()
        total = sum(channels.values())
        width = max(2 * total // ratio, 1)
        self.squeeze = nn.Linear(total, width)
        self.excite = nn.ModuleDict({name: nn.Linear(width, number) for name, number in channels.items()})
        self.gate_means = {}
        """What the gates of the last training batch were on average, (c_m,) a modality."""
        self.held = {}
        """Gates (c_m,) that take the place of those of a modality while training (`greedy`); part of no checkpoint."""

    def forward(self, squeezed):
        """The gates (B, c_m) of each modality from its squeezed map (B, c_m): two `dict`."""
        shared = torch.relu(self.squeeze(torch.cat(tuple(squeezed.values()), dim=-1)))
        gates = {name: 2 * torch.sigmoid(excite(shared)) for name, excite in self.excite.items()}
        if self.training:
            self.gate_means = {name: gate.detach().float().mean(0) for name, gate in gates.items()}
            for name, held in self.held.items():
                gates[name] = held.to(gates[name]).expand_as(gates[name])
        return gates


class MmtmExchange(nn.Module):
    """Runs ResNets of timm stage by stage, with an [`MmtmBlock`] after the second, third and fourth.

    `fusion_args`: `ratio`. Frames of a clip share one gate, made of their mean squeeze (our derivation). The squeeze of
    an absent modality is zero.

    Raises:
        ValueError: a tower is no ResNet of timm (the message names the modality), or a wrong ratio.
    """

    def __init__(self, config, towers):
        super().__init__()
        for name, tower in towers.items():
            if not isinstance(getattr(tower, "encoder", None), ResNet):
                spec = config.modalities[name]
                raise ValueError(
                    f"fusion mmtm reweights the channels of convolutional feature maps, and the tower of modality "
                    f"{name!r} ({spec['name'] if spec['tower'] == 'timm' else spec['tower']}) has none that "
                    "it knows; give it a ResNet of timm, such as resnet18."
                )
        ratio = config.fusion_arg("ratio")
        check_count("fusion_args ratio", ratio)
        self.blocks = nn.ModuleDict()
        for stage in STAGES:
            infos = [(name, info) for name, tower in towers.items() for info in tower.encoder.feature_info]
            channels = {name: info["num_chs"] for name, info in infos if info["module"] == stage}
            self.blocks[stage] = MmtmBlock(channels, ratio)

    def run(self, towers, tensors, present):
        """The towers' vectors: a `dict` from the modalities in `tensors` to (B, num_features).

        Not `forward`: hooks that move the inputs of modules (a `device_map`) would move the towers.

        Args:
            towers (`nn.ModuleDict`): M towers.
            tensors (`dict[str, list]`): from modalities to their values (B, C, H, W), or frames (B, T, C, H, W); those
                absent from the whole batch are left out.
            present (`dict[str, torch.Tensor]`): which samples have a modality, bool (B,), where some lack it.
        """
        encoders = {name: towers[name].encoder for name in tensors}
        frames = {name: _frames(values) for name, (values,) in tensors.items()}
        maps = {name: _stem(encoders[name], values.flatten(0, 1)) for name, values in frames.items()}
        for stage in ("layer1", *STAGES):
            maps = {name: _run(encoders[name], stage, values) for name, values in maps.items()}
            if stage not in self.blocks:
                continue
            maps = {name: values.unflatten(0, frames[name].shape[:2]) for name, values in maps.items()}
            gates = self.blocks[stage](self._squeeze(stage, maps, present))
            maps = {
                name: values * gates[name][:, None, :, None, None].to(values.device) for name, values in maps.items()
            }
            maps = {name: values.flatten(0, 1) for name, values in maps.items()}
        vectors = {name: encoders[name].forward_head(values, pre_logits=True) for name, values in maps.items()}
        vectors = {name: vector.unflatten(0, frames[name].shape[:2]) for name, vector in vectors.items()}
        return {name: towers[name].over_time(vector) for name, vector in vectors.items()}

    def _squeeze(self, stage, maps, present):
        """The means s_m (B, c_m) of the feature maps (B, T, c_m, H, W) of all modalities, zero where one is absent."""
        squeezed = {name: values.mean((1, 3, 4)) for name, values in maps.items()}
        for name, there in present.items():
            squeezed[name] = torch.where(there.unsqueeze(-1).to(squeezed[name].device), squeezed[name], 0)
        any_map = next(iter(squeezed.values()))
        widths = {name: excite.out_features for name, excite in self.blocks[stage].excite.items()}
        return {
            name: squeezed[name] if name in squeezed else any_map.new_zeros(any_map.shape[0], width)
            for name, width in widths.items()
        }


@FUSIONS.register("mmtm")
class MmtmFusion(SplitFusion):
    """F = 1/M sum_m f_m with f_m = W_m z_m + b_m: a classifier for each stream, and the mean of those present.

    `fusion_args`: `ratio`, see [`MmtmBlock`].
    """

    defaults: ClassVar = {"ratio": 4}
    exchange = MmtmExchange

    def forward(self, features, present=None):
        modality_logits = self.predict(features)
        count = self.num_modalities if present is None else present.sum(0).unsqueeze(-1)
        return self.stack_present(modality_logits, present).sum(0) / count, modality_logits


def _frames(values):
    if values.dim() not in (4, 5):
        raise ValueError(f"a ResNet reads (B, C, H, W) or frames (B, T, C, H, W), got {tuple(values.shape)}.")
    return values if values.dim() == 5 else values.unsqueeze(1)


def _stem(encoder, values):
    return encoder.maxpool(encoder.act1(encoder.bn1(encoder.conv1(values))))


def _run(encoder, stage, values):
    layer = getattr(encoder, stage)
    if encoder.grad_checkpointing and encoder.training:
        return checkpoint_seq(layer, values)
    return layer(values)
