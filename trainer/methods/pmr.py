"""PMR: pulls the features of the slower modality to the prototypes of their classes."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..objectives import full_precision, no_autocast
from .base import Method, MethodSpec, check_limits, register

LEAST_PER_CLASS = 10  # samples; ours: a tenth of a small training set would leave classes without a prototype


@dataclass(frozen=True)
class PmrSettings:
    """
    Args:
        alpha: weight of the cross-entropy over prototypes (1 by default in the released code; its scripts take 2).
        momentum: share of the old prototype in the new one (its scripts take 0).
        first_epoch, last_epoch: epochs, counted from 1, with that cross-entropy (0 to 70, both included, in the
            scripts, which count from 0 to 129).
        share: part of the training set from which prototypes are computed; never less than ten samples a class.
    """

    alpha: float = 1.0
    momentum: float = 0.2
    first_epoch: int = 1
    last_epoch: int = 71
    share: float = 0.1

    def __post_init__(self):
        check_limits(self, "not be negative", "alpha")
        check_limits(self, "lie in [0, 1)", "momentum")
        check_limits(self, "lie in (0, 1]", "share")


@register
class Pmr(Method):
    """CE(F) + alpha CE(sim_m), m the slower modality, sim_mk = -||z_m - c_mk|| for each class k.

    The prototype c_mk is the mean of z_m over samples of class k, in evaluation mode, on a draw of the training set
    before each epoch; it moves to (1 - momentum) new + momentum old. The slower of two modalities is the first unless
    s_1 > s_2, s_m the sum over the batch of softmax(sim_m)[y]. Of more, all but the one of highest s_m are slower, and
    their cross-entropies add up (our derivation; the code is for two). A class that was never drawn has no prototype:
    its samples add nothing to CE(sim_m) and tell no modality from another, and no sample can be taken for it.

    Source: Fan et al., "PMR: Prototypical Modal Rebalance for Multimodal Learning", CVPR 2023, and its released code
    (`main_Prototype_grad.py`), which also replaces the prototypes before the second epoch, instead of moving them. It
    follows the code: the paper's clipped continuous weight of each modality is there a choice of one or the other, and
    its entropy term for early epochs is not there, and not here.
    """

    spec = MethodSpec(
        name="pmr",
        title="PMR",
        venue="CVPR 2023",
        bibtex="fan2023pmr",
        formula="CE(F) + alpha CE(-||z_m - c_m||) for the modality m that is further from its class prototypes c_m",
        extra_passes="none; a forward pass over a tenth of the training set an epoch",
        batch_statistics=True,
        row="PMR",
        note="after the released code: one modality or the other, no entropy term",
        no_holes="it compares how far the modalities of every sample are from their prototypes",
    )
    Settings = PmrSettings
    kept = ("prototypes", "known")

    def on_train_begin(self):
        self.prototypes, self.known = None, None

    def active(self, epoch):
        """Whether prototypes have an effect in `epoch`."""
        return self.settings.first_epoch <= epoch <= self.settings.last_epoch

    def on_epoch_begin(self, epoch):
        if not self.active(epoch):
            return
        means, drawn = self.class_means(epoch)
        if self.prototypes is not None:
            momentum = self.settings.momentum * self.known.view(-1, 1)  # 0 where there is no old one
            blended = (1 - momentum) * means + momentum * self.prototypes
            means, drawn = torch.where(drawn.view(-1, 1), blended, self.prototypes), drawn | self.known
        self.prototypes, self.known = means, drawn

    def class_means(self, epoch):
        """Means of the features in each class on the draw of `epoch`, (M, K, d), and which classes were drawn, (K,)."""
        dataset, classes = self.trainer.train_dataset, self.model.config.num_labels
        size = min(len(dataset), max(math.ceil(self.settings.share * len(dataset)), LEAST_PER_CLASS * classes))
        totals, counts = 0, 0
        for outputs, labels in self.trainer.run_batches(dataset, self.trainer.draw_indices(size, epoch)):
            features = torch.stack([full_precision(feature) for feature in outputs.features])
            members = F.one_hot(labels, classes).to(features.dtype).T  # (K, B)
            totals, counts = totals + members @ features, counts + members.sum(1)
        return self.trainer.reduce(totals / counts.clamp(min=1).view(-1, 1)), counts > 0

    def losses(self, outputs, labels, inputs):
        loss_cls = super().losses(outputs, labels, inputs)["loss"]
        if not self.active(self.trainer.epoch):
            return {"loss": loss_cls}
        log_p = torch.where(self.known[labels], self.log_probabilities(outputs.features, labels), 0)
        with torch.no_grad():
            scores = self.trainer.reduce(log_p.exp().sum(1), "sum")  # samples of unknown classes count 1 in each
            faster = len(scores) - 1 - scores.flip(0).argmax()  # of equals the last
            slower = (torch.arange(len(scores), device=scores.device) != faster).to(scores.dtype)
        loss = (slower * -log_p.mean(1)).sum()
        return {"loss": loss_cls + self.settings.alpha * loss, "loss_cls": loss_cls, "loss_prototypes": loss}

    def log_probabilities(self, features, labels):
        """log softmax(sim_m)[y] of a batch's features, (M, B), over the classes that have a prototype."""
        with no_autocast(labels):
            features = torch.stack([full_precision(feature) for feature in features])
            distances = torch.cdist(features, self.prototypes, compute_mode="donot_use_mm_for_euclid_dist")
            distances = distances.masked_fill(~self.known, torch.finfo(distances.dtype).max)
            return (-distances).log_softmax(-1)[:, torch.arange(len(labels), device=labels.device), labels]
