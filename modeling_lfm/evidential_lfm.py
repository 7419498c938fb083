"""Subjective logic: opinions of Dirichlet distributions, Dempster's rule, and a fusion by it."""

from functools import reduce

import torch
from torch import nn

from .fusion_base_lfm import Fusion, full_precision


def to_evidence(logits):
    """e = softplus(f), not negative, of logits f (..., K); in float32, float64 is kept."""
    return nn.functional.softplus(full_precision(logits))


def opinion(evidence):
    """What the Dirichlet distribution of parameters alpha = e + 1 says, with S = sum_k alpha_k.

    Args:
        evidence (`torch.Tensor` `(..., K)`): e, not negative.

    Returns:
        belief b = e / S (..., K) and uncertainty u = K / S (..., 1), which add up to 1.
    """
    classes = evidence.shape[-1]
    strength = evidence.sum(-1, keepdim=True) + classes
    return evidence / strength, classes / strength


def combine(first, second):
    """Dempster's rule: the evidence (..., K) of two opinions of evidence `first` and `second`, together.

    With the conflict C = sum over i != j of b1_i b2_j the rule is

        b = (b1 b2 + b1 u2 + b2 u1) / (1 - C),  u = u1 u2 / (1 - C),  S = K / u,  e = b S.

    C cancels in e = K b / u, and with b = e / S and u = K / S there remains e = e1 + e2 + e1 e2 / K: nothing is
    subtracted and nothing vanishes, however sure and contrary the two are. Their order does not matter.
    """
    return first + second + first * second / first.shape[-1]


class EtmcFusion(Fusion):
    """F = log alpha, alpha - 1 the evidence of all views combined by Dempster's rule: each modality and a pseudo view.

    f_m = W_m z_m + b_m and f_pseudo = W [z_1; ...; z_M] + b; evidence softplus(f). So softmax(F) = alpha / S is the
    expected probability, argmax F the prediction, and K / sum_k exp(F_k) the uncertainty u.

    An absent modality is a view without evidence, which changes nothing in Dempster's rule, and the pseudo view reads
    an absence feature in its place.

    Source: Han et al., "Trusted Multi-View Classification With Dynamic Evidential Fusion", TPAMI 2023, and its
    released code (`models/TMC.py`).
    """

    joint = True

    def __init__(self, config):
        super().__init__(config)
        self.heads = nn.ModuleList(nn.Linear(config.hidden_size, config.num_labels) for _ in range(self.num_modalities))
        self.pseudo_head = nn.Linear(self.num_modalities * config.hidden_size, config.num_labels)

    def pseudo_logits(self, features):
        """f_pseudo (B, K)."""
        return self.pseudo_head(torch.cat(features, dim=-1))

    def forward(self, features, present=None):
        modality_logits = tuple(head(feature) for head, feature in zip(self.heads, features, strict=True))
        evidence = self.stack_present(map(to_evidence, modality_logits), present)
        pseudo = to_evidence(self.pseudo_logits(self.fill(features, present)))
        return torch.log1p(reduce(combine, (*evidence, pseudo))), modality_logits
