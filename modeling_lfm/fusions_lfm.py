"""Fusions: the modalities' features in, the fused logits and each modality's own logits out."""

import torch
from torch import nn

from .confidence_lfm import DomfnFusion, QmfFusion
from .evidential_lfm import EtmcFusion
from .fusion_base_lfm import Fusion
from .joint_fusions_lfm import FilmFusion, LstmFusion
from .mmtm_lfm import MmtmExchange, MmtmFusion
from .shared_head_lfm import MlaFusion, ReconBoostFusion


class SlicedHead(nn.Linear):
    """A linear classifier W of concatenated features, and what its slice for each of them says.

    Both come from one call: weights that are offloaded are there only while their module is called.
    """

    def forward(self, features, filled):
        """W [y_1; ...; y_M] + b of `filled`, and W_m z_m + b / M of each z_m of `features` (tuples of M (B, d))."""
        share = self.bias / len(features)
        slices = self.weight.chunk(len(features), dim=1)
        return super().forward(torch.cat(filled, dim=-1)), tuple(
            nn.functional.linear(feature, weight, share) for feature, weight in zip(features, slices, strict=True)
        )


class ConcatFusion(Fusion):
    """F = W [z_1; ...; z_M] + b. A modality's logits are its slice of the head, W_m z_m + b / M (OGM, CVPR 2022).

    In place of an absent z_m stands its absence feature; without modality dropout its slice is left out.
    """

    joint = True

    def __init__(self, config):
        super().__init__(config)
        self.head = SlicedHead(self.num_modalities * config.hidden_size, config.num_labels)

    def forward(self, features, present=None):
        return self.head(features, self.fill(features, present))


class SumFusion(Fusion):
    """F = sum_m f_m with f_m = W_m z_m + b_m, over the modalities that are present."""

    def __init__(self, config):
        super().__init__(config)
        self.heads = nn.ModuleList(nn.Linear(config.hidden_size, config.num_labels) for _ in range(self.num_modalities))

    def forward(self, features, present=None):
        modality_logits = tuple(head(feature) for head, feature in zip(self.heads, features, strict=True))
        return self.stack_present(modality_logits, present).sum(0), modality_logits


class WeightFusion(SumFusion):
    """F = sum_m a_m f_m, a = softmax over modalities of one shared attention network's score of z_m.

    After CMML (Yang et al., IJCAI 2019): layers d -> d/2 -> d/4 -> 1 with ReLU, and the predictions weighted, as the
    LFM paper's table calls it. The released CMML code weights features instead; its loss terms are not part of a
    fusion. The softmax is over the modalities that are present.
    """

    def __init__(self, config):
        super().__init__(config)
        d = config.hidden_size
        self.attention = nn.Sequential(
            nn.Linear(d, max(d // 2, 1)),
            nn.ReLU(),
            nn.Linear(max(d // 2, 1), max(d // 4, 1)),
            nn.ReLU(),
            nn.Linear(max(d // 4, 1), 1),
        )

    def forward(self, features, present=None):
        _, modality_logits = super().forward(features)
        scores = self.attention(torch.stack(features))  # (M, B, 1)
        weights = self.stack_present(scores, present, absent=-torch.inf).softmax(dim=0)
        return (weights * torch.stack(modality_logits)).sum(0), modality_logits


FUSIONS = {
    "concat": ConcatFusion,
    "sum": SumFusion,
    "weight": WeightFusion,
    "film": FilmFusion,
    "mmtm": MmtmFusion,
    "lstm": LstmFusion,
    "etmc": EtmcFusion,
    "qmf": QmfFusion,
    "domfn": DomfnFusion,
    "mla": MlaFusion,
    "reconboost": ReconBoostFusion,
}

# Modules by which towers exchange what they see before their last layer: `run(towers, tensors, present)` takes the
# ModuleDict of towers and a dict from each modality to its tower's inputs, and returns the towers' vectors.
EXCHANGES = {"mmtm": MmtmExchange}
