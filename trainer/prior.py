"""A temperature that keeps the class prior: for models whose matching loss has shrunk what the modalities say.

The Jensen-Shannon divergence draws the modalities' predictions together, so logits are F = log pi + s e with the class
shares pi, evidence e and s < 1: the largest class wins too often. F' = w (F - log pi) + log pi with the w that fits
held-out samples gives the evidence its weight back, and the prior counts once.
"""

import numpy as np
import torch

from .alpha.outer_loss import fit_inverse_temperature
from .objectives import is_multi_label

LINEAR_FUSIONS = ("concat", "sum")
"""Fusions whose logits are linear in the head: F' is one of them, and F is the sum of the modalities' own logits."""


def log_prior(labels, num_labels, problem_type="single_label_classification"):
    """log pi of labels (N,), or the log-odds of each label of (N, K): (K,) float64.

    A class without a sample counts as half a one, and so does in multi-label problems one without exceptions.
    """
    if is_multi_label(problem_type):
        present = np.clip(labels.sum(0), 0.5, len(labels) - 0.5) / len(labels)
        return torch.from_numpy(np.log(present / (1 - present)))
    counts = np.bincount(labels, minlength=num_labels)
    return torch.from_numpy(np.log(np.maximum(counts, 0.5) / len(labels)))


def fit_weight(logits, labels, prior, problem_type="single_label_classification"):
    """The w (`float`) that minimises the (binary) cross-entropy of w (F - log pi) + log pi, which is convex in w.

    Args:
        logits (`(B, K)`): F, of held-out samples.
        labels: `(B,)` int64, or `(B, K)` zeros and ones for multi-label problems.
        prior (`(K,)`): log pi, or log-odds, see `log_prior`.
    """
    prior = prior.to(logits.device, torch.float64)
    return fit_inverse_temperature(logits.double() - prior, labels, problem_type, offset=prior)


@torch.no_grad()
def fold(fusion, weight, prior):
    """Change the head of a fusion of `LINEAR_FUSIONS` so that its logits are w F + (1 - w) log pi.

    A modality's own logits become w f_m + (1 - w) log pi / M: their sum is that of the fused prediction still.

    Example:

        ```python
        >>> import torch
        >>> from modeling_lfm import LfmConfig, LfmForMultimodalClassification
        >>> from modeling_lfm.trainer.prior import fold
        >>> towers = dict.fromkeys("ab", {"tower": "mlp", "in_features": 3})
        >>> model = LfmForMultimodalClassification(LfmConfig(towers, hidden_size=4, num_labels=2)).eval()
        >>> inputs, prior = {"a_values": torch.rand(5, 3), "b_values": torch.rand(5, 3)}, torch.tensor([-0.1, -2.4])
        >>> before = model(**inputs).logits
        >>> fold(model.fusion, 3.0, prior)
        >>> torch.allclose(model(**inputs).logits, 3 * (before - prior) + prior, atol=1e-5)
        True

        ```
    """
    layers = [fusion.head] if hasattr(fusion, "head") else list(fusion.heads)
    for layer in layers:
        layer.weight *= weight
        layer.bias.copy_(weight * layer.bias + (1 - weight) / len(layers) * prior.to(layer.bias))
