"""ETMC: each modality gives evidence for the classes, and Dempster's rule combines it."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from ..objectives import no_autocast
from ..presence import over
from .base import Method, MethodSpec, check_limits, register


@dataclass(frozen=True)
class EtmcSettings:
    """`annealing_epochs`: over so many epochs the weight of the KL divergence grows from 0 to 1."""

    annealing_epochs: float = 10.0

    def __post_init__(self):
        check_limits(self, "be positive", "annealing_epochs")


@register
class Etmc(Method):
    """Sum over all views of L(alpha): the modalities, the pseudo view of all their features, and the fused prediction.

    alpha = softplus(f) + 1 are the parameters of a view's Dirichlet distribution, those of the fused prediction come
    from Dempster's rule. With psi the digamma function and S = sum_k alpha_k,

        L(alpha) = psi(S) - psi(alpha_y) + min(1, t / 10) KL(Dir(alpha') || Dir(1)),

    the expected cross-entropy, and a divergence that removes the evidence for wrong classes: alpha' is alpha with
    alpha'_y = 1. t counts the epochs that are over, as in the released code: the first has no divergence.

    Source: Han et al., "Trusted Multi-View Classification With Dynamic Evidential Fusion", TPAMI 2023, and its
    released code (`models/TMC.py`, `train_ETMC_nyud2.py`).
    """

    spec = MethodSpec(
        name="etmc",
        title="ETMC",
        venue="TPAMI 2023",
        bibtex="han2023trusted",
        formula="sum over views of E[CE] + min(1, t / 10) KL(Dir(alpha') || Dir(1)), views combined by Dempster's rule",
        fusions=("etmc",),
        row="ETMC",
        own_loss=True,
        holes="L(alpha) of a modality over the samples that have it; an absent one gives no evidence",
    )
    Settings = EtmcSettings

    def losses(self, outputs, labels, inputs):
        fusion, presence = self.model.fusion, self.presence(outputs)
        with self.trainer.accelerator.autocast():
            pseudo = fusion.pseudo_logits(fusion.fill(outputs.features, outputs.present))
        annealing = min(1.0, (self.trainer.epoch - 1) / self.settings.annealing_epochs)
        with no_autocast(labels):
            alphas = [F.softplus(widest(logits)) + 1 for logits in (*outputs.modality_logits, pseudo)]
            alphas.append(widest(outputs.logits).exp())
            views = [(m,) for m in range(len(outputs.modality_logits))]
            losses = [
                over(presence, view, partial(evidential_loss, annealing=annealing), alpha, labels).float()
                for view, alpha in zip(views, alphas, strict=False)
            ]
            losses += [evidential_loss(alpha, labels, annealing).float() for alpha in alphas[len(views) :]]
        return {"loss": sum(losses), **self.named(losses, "pseudo_view", "fused")}


def widest(tensor):
    """`tensor` in float64: float32 loses the divergence of large evidence, the small difference of large numbers."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def evidential_loss(alpha, labels, annealing):
    """Mean of L(alpha) over a batch (scalar); see [`Etmc`].

    Args:
        alpha (`torch.Tensor` `(B, K)`): from 1 on.
        labels (`torch.Tensor` `(B,)` int64)
        annealing (`float`): weight of the divergence.
    """
    chosen = labels.unsqueeze(1)
    expected = torch.digamma(alpha.sum(1)) - torch.digamma(alpha.gather(1, chosen)).squeeze(1)
    wrong = alpha.scatter(1, chosen, 1.0)
    total = wrong.sum(1, keepdim=True)
    divergence = ((wrong - 1) * (torch.digamma(wrong) - torch.digamma(total))).sum(1) - torch.lgamma(wrong).sum(1)
    divergence = divergence + torch.lgamma(total).squeeze(1) - math.lgamma(alpha.shape[1])
    return (expected + annealing * divergence).mean()
