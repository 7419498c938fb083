"""Fusions that trust each modality as far as it is sure of the sample at hand."""

import torch
from torch import nn

from .fusion_base_lfm import Fusion, full_precision


class QmfFusion(Fusion):
    """F = sum_m c_m f_m with f_m = W_m z_m + b_m and the confidence c_m = log sum_k exp(f_mk) / 10.

    No gradient flows through c_m. It is negative where all logits are low. The sum is over the modalities that are
    present.

    Source: Zhang et al., "Provable Dynamic Fusion for Low-Quality Multimodal Data", ICML 2023, and its released code
    (`src/models/late_fusion.py`).
    """

    def __init__(self, config):
        super().__init__(config)
        self.heads = nn.ModuleList(nn.Linear(config.hidden_size, config.num_labels) for _ in range(self.num_modalities))

    @staticmethod
    def confidence(logits):
        """c (...) of logits (..., K), in float32; float64 is kept."""
        return full_precision(logits).logsumexp(-1) / 10

    def forward(self, features, present=None):
        modality_logits = tuple(head(feature) for head, feature in zip(self.heads, features, strict=True))
        confidences = (self.confidence(logits).detach().unsqueeze(-1) for logits in modality_logits)
        weighted = (c * logits for c, logits in zip(confidences, modality_logits, strict=True))
        return self.stack_present(weighted, present).sum(0), modality_logits


class DomfnFusion(Fusion):
    """Fuses the samples on which the modalities agree; the others are left to the modality that is surest.

    q_m = sigmoid(W_m z_m + b_m), and for the fused prediction q = sigmoid(MLP [z_1; ...; z_M]), one hidden layer of 64
    with ReLU. With the penalty pen_m = max_k (q_m - mean_j q_j)_k^2 a sample is fused if pen_m / tau < gamma for all m.
    In evaluation F is q for those and q_m, m of the highest max_k q_mk, for the others; in training F is q throughout.

    As in the released code cross-entropy is applied to q, so sigmoids take the place of logits: all of them, fused or
    not, lie between 0 and 1, on one scale. softmax(F) is the probability that was trained; it is never far from
    uniform, exp(1) : 1 between two classes at most.

    A sample of which a modality is absent is left to the surest of those that are present.

    `fusion_args`: `gamma` and `tau`. pen_m is at most ((M - 1) / M)^2, 1/4 for two modalities: with gamma tau above
    that every sample is fused.

    Source: Yang et al., "DOMFN: A Divergence-Orientated Multi-Modal Fusion Network for Resume Assessment", ACM MM 2022,
    and its released code (`models/encoder.py`, `engines/mosi_trainer.py`).
    """

    def __init__(self, config):
        super().__init__(config)
        self.gamma, self.tau = config.fusion_arg("gamma"), config.fusion_arg("tau")
        self.heads = nn.ModuleList(nn.Linear(config.hidden_size, config.num_labels) for _ in range(self.num_modalities))
        self.fused_head = nn.Sequential(
            nn.Linear(self.num_modalities * config.hidden_size, 64), nn.ReLU(), nn.Linear(64, config.num_labels)
        )

    @staticmethod
    def penalties(predictions):
        """pen (M, B) of the modalities' q (M, B, K)."""
        return (predictions - predictions.mean(0)).square().amax(-1)

    def fuses(self, penalties):
        """Which samples are fused (B,), of pen (M, B)."""
        return (penalties / self.tau < self.gamma).all(0)

    def forward(self, features, present=None):
        outputs = [head(feature) for head, feature in zip(self.heads, features, strict=True)]
        outputs.append(self.fused_head(torch.cat(features, dim=-1)))
        outputs = [full_precision(output).sigmoid() for output in outputs]
        fused, alone = outputs.pop(), torch.stack(outputs)
        if self.training and present is None:
            return fused, tuple(alone)
        surest = self.stack_present(alone.amax(-1), present, absent=-1).argmax(0)
        routed = alone[surest, torch.arange(surest.shape[0], device=surest.device)]
        fuses = True if self.training else self.fuses(self.penalties(alone))
        fuses = fuses if present is None else fuses & present.all(0)
        return torch.where(fuses.unsqueeze(-1), fused, routed), tuple(alone)
