"""QMF: a modality counts as much as it is sure of the sample, and learns to be sure where its loss has been low."""

from dataclasses import dataclass

import torch

from ..objectives import full_precision, gather_with_gradients, no_autocast
from .base import Method, MethodSpec, check_limits, register


@dataclass(frozen=True)
class QmfSettings:
    """`rank_weight`: weight of the ranking losses (1 for text and images, 0.1 for NYUD2 in the released code)."""

    rank_weight: float = 1.0

    def __post_init__(self):
        check_limits(self, "not be negative", "rank_weight")


@register
class Qmf(Method):
    """CE(F) + sum_m CE(f_m) + sum_m R_m, with F = sum_m c_m f_m and c_m = log sum_k exp(f_mk) / 10.

    R_m wants confidences in the order of past losses. h_m of a sample is the sum of its CE(f_m) over all steps until
    now, this one included, scaled to [0, 1] by the least and the greatest over the samples that were seen. Each sample
    i of a batch is paired with the next, j, the last with the first:

        R_m = mean over i of max(0, sign(h_i - h_j) (c_i - c_j) - |h_i - h_j|).

    The batch is that of all processes. Samples not seen yet have no part in the scale; in the released code they count
    as 0, which matters in the first epoch.

    Source: Zhang et al., "Provable Dynamic Fusion for Low-Quality Multimodal Data", ICML 2023, and its released code
    (`train_qmf.py`, `src/utils/utils.py`); R_m is what its `MarginRankingLoss` amounts to (our derivation). There the
    margin |h_i - h_j| is subtracted, so confidences may differ by it in the wrong direction; the ranking loss from
    which it was adapted (Moon et al., "Confidence-Aware Learning for Deep Neural Networks", ICML 2020) adds it.
    """

    spec = MethodSpec(
        name="qmf",
        title="QMF",
        venue="ICML 2023",
        bibtex="zhang2023provable",
        formula="CE(F) + sum_m CE(f_m) + R_m, F = sum_m c_m f_m, R_m ranks confidences c_m by past losses",
        fusions=("qmf",),
        batch_statistics=True,
        no_holes="it ranks each sample by the past losses of all its modalities beside the next sample",
    )
    Settings = QmfSettings
    kept = ("history", "seen")
    needs_sample_ids = True

    def on_train_begin(self):
        size = len(self.trainer.train_dataset)
        self.history = torch.zeros(len(self.modalities), size, device=self.args.device)  # summed losses of the samples
        self.seen = torch.zeros(size, dtype=torch.bool, device=self.args.device)

    def on_step_begin(self, step):
        self.before = None  # the history before this step

    def losses(self, outputs, labels, inputs):
        loss_fused = self.classification_loss(outputs.logits, labels)
        with no_autocast(labels):
            logits = torch.stack([full_precision(f) for f in outputs.modality_logits])
            confidences = self.model.fusion.confidence(logits)
            errors = -logits.log_softmax(-1)[:, torch.arange(len(labels), device=labels.device), labels]
            pairs = torch.stack((confidences, errors.detach()), dim=-1)
            even = self.trainer.accelerator.even_batches
            confidences, past = gather_with_gradients(pairs, even)[0].unbind(-1)
            ids = gather_with_gradients(inputs["sample_ids"].view(1, -1, 1), even)[0].flatten()
            rank = rank_loss(confidences, self.remember(ids, past))
        means = self.named(self.unimodal_losses(outputs, labels))
        loss = loss_fused + sum(means.values()) + self.settings.rank_weight * rank
        return {"loss": loss, "loss_fused": loss_fused, **means, "loss_rank": rank}

    @torch.no_grad()
    def remember(self, ids, errors):
        """Add the losses (M, B) of the samples `ids` (B,), once in an optimizer step; returns h (M, B)."""
        self.before = self.history.clone() if self.before is None else self.before
        self.history[:, ids] = self.before[:, ids] + errors.to(self.history.dtype)
        self.seen[ids] = True
        least, greatest = self.history[:, self.seen].aminmax(dim=1, keepdim=True)
        return (self.history[:, ids] - least) / (greatest - least).clamp_min(torch.finfo(least.dtype).tiny)


def rank_loss(confidences, past):
    """Sum over modalities of R_m (scalar), of confidences and h, both (M, B); see [`Qmf`]."""
    gaps = past - past.roll(-1, dims=1)
    excess = gaps.sign() * (confidences - confidences.roll(-1, dims=1)) - gaps.abs()
    return excess.clamp(min=0).mean(1).sum()
