"""Fusions with one classifier that all modalities share."""

import torch
from torch import nn

from .fusion_base_lfm import Fusion


class MlaFusion(Fusion):
    """F = sum_m w_m f_m with f_m = W z_m + b: one linear head for all modalities, and the surer modality weighs more.

    For each sample w_m = exp(-H_m) / sum_j exp(-H_j), H_m the entropy of softmax(f_m) in nats; or w is fixed by
    `fusion_args`: `weights`, M numbers in the order of the modalities. Where some are absent, the others share their
    weight in proportion.

    Source: Zhang et al., "Multimodal Representation Learning by Alternating Unimodal Adaptation", CVPR 2024,
    where the exponent is max_j H_j - H_m, which gives the same weights. The released code (`main.py`) takes each
    softmax over the batch instead of the classes, and gives all samples of a batch the same weights.

    Raises:
        ValueError: not as many weights as modalities.
    """

    def __init__(self, config):
        super().__init__(config)
        self.weights = config.fusion_arg("weights")
        if self.weights is not None and len(self.weights) != self.num_modalities:
            raise ValueError(
                f"fusion_args weights={self.weights} must hold one number for each of {', '.join(config.modalities)}."
            )
        self.head = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, features, present=None):
        modality_logits = tuple(self.head(feature) for feature in features)
        logits = torch.stack(modality_logits)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.weights is None:
            log_p = logits.log_softmax(-1)
            sureness = (log_p.exp() * log_p).sum(-1, keepdim=True)  # -H, (M, B, 1)
            weights = self.stack_present(sureness, present, absent=-torch.inf).softmax(0)
        else:
            weights = logits.new_tensor(self.weights).view(-1, 1, 1)
            if present is not None:
                there = self.stack_present(weights.expand(*logits.shape[:2], 1), present)
                weights = there * (weights.sum() / there.sum(0))
        return (weights * logits).sum(0), modality_logits


class ReconBoostFusion(Fusion):
    """F = b sum_m f_m with f_m = W_2 ReLU(W_1 z_m + b_1) + b_2, one head for all modalities; the number b is learned.

    The sum is over the modalities that are present.

    Source: Hua et al., "ReconBoost: Boosting Can Achieve Modality Reconcilement", ICML 2024, and its released code
    (`models/dynamic_net.py`). `fusion_args`: `width` of the hidden layer. b starts from 1.
    """

    def __init__(self, config):
        super().__init__(config)
        width = config.fusion_arg("width")
        self.head = nn.Sequential(nn.Linear(config.hidden_size, width), nn.ReLU(), nn.Linear(width, config.num_labels))
        self.boost_rate = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self):
        """b = 1; the layers of the head initialise themselves."""
        nn.init.ones_(self.boost_rate)

    def forward(self, features, present=None):
        modality_logits = tuple(self.head(feature) for feature in features)
        return self.boost_rate * self.stack_present(modality_logits, present).sum(0), modality_logits
