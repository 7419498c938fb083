"""Gradient-Blending: a classifier on each modality and on all, their losses weighted by how well each generalises."""

import copy
from dataclasses import dataclass, replace

import torch

from ._modalities import take_modality
from .base import Method, MethodSpec, check_limits, check_weights, register
from .concat import Concat

LEAST_OVERFITTING = 0.01  # nats; ours: a smaller change of the gap is noise, and 1 / O^2 would hand it all the weight


@dataclass(frozen=True)
class GBlendSettings:
    """
    Args:
        weights: constants w_k instead of an estimate, modalities in their order, then the fused prediction, such as
            `[0.014, 0.63, 0.356]` (published, for audio and video on Kinetics).
        mode: estimate the weights once before training (`offline`), or again every `super_epoch` epochs (`online`).
        super_epoch: epochs between estimates of `online`.
        estimation_epochs: epochs for which each branch trains alone to be measured; if not given those of the whole
            training for `offline`, and `super_epoch` for `online`.
    """

    weights: list[float] | None = None
    mode: str = "offline"
    super_epoch: int = 10
    estimation_epochs: float | None = None

    def __post_init__(self):
        check_weights(self.weights)
        if self.mode not in ("offline", "online"):
            raise ValueError(f"method.mode={self.mode!r} is unknown; choose offline or online.")
        check_limits(self, "be positive", "super_epoch", "estimation_epochs")


@register
class GBlend(Method):
    """sum_k w_k CE_k over the M unimodal heads and the fused prediction, w_k = G_k / O_k^2, normalised to the sum 1.

    Copies of the model train each branch alone from epoch N to N + n, with the learning rate's schedule from its start.
    With the losses L on held-out samples (V) and on a fixed part of the training set, as large (T):
    G = L^V_N - L^V_(N+n), what was gained, and O = (L^V - L^T)_(N+n) - (L^V - L^T)_N, what the gap grew. Where that
    breaks down, our choice: G below 0 (the branch got worse) or not finite counts 0, |O| counts at least 0.01, and if
    no branch gained anything all weights are equal.

    Source: Wang et al., "What Makes Training Multi-Modal Classification Networks Hard?", CVPR 2020, offline and online
    Gradient-Blending. The code of MultiBench (`training_structures/gradient_blend.py`) takes G = L^V_(N+n) and
    O = (L^V - L^T)_(N+n) by default, which is not the paper's formula, and not offered here.
    """

    spec = MethodSpec(
        name="g_blend",
        title="G-Blend",
        venue="CVPR 2020",
        bibtex="wang2020what",
        formula="sum_k w_k CE_k over unimodal heads and fused prediction, w_k ~ G_k / O_k^2",
        unimodal_heads=True,
        multi_label=True,
        extra_passes="before that two trainings, of each modality alone and of all; none with constant weights",
        row="G-Blend",
        no_holes="its weights come from losses of all branches on the same samples",
    )
    Settings = GBlendSettings
    kept = ("weights",)

    def check(self, config):
        super().check(config)
        given, branches = self.settings.weights, [*config.modalities, "fused"]
        if given is not None and len(given) != len(branches):
            raise ValueError(f"method.weights={given} must hold {len(branches)} numbers: {', '.join(branches)}.")

    def bind(self, trainer):
        super().bind(trainer)
        self.branches, self.weights = (*self.modalities, "fused"), self.settings.weights

    @property
    def needs_holdout(self):
        return self.settings.weights is None

    def on_epoch_begin(self, epoch):
        every = self.settings.super_epoch if self.settings.mode == "online" else None
        if self.needs_holdout and (epoch == 1 or (every is not None and (epoch - 1) % every == 0)):
            self.weights = self.estimate_weights(self.settings.estimation_epochs or every)

    def estimate_weights(self, epochs):
        """w (`list` of M + 1) of copies of the model as it is, trained for `epochs` (None: as long as the training)."""
        size = min(len(self.trainer.holdout_dataset), len(self.trainer.train_dataset))
        parts = (self.trainer.holdout_dataset, None), (self.trainer.train_dataset, self.trainer.draw_indices(size, 0))
        before = [self.mean_over(dataset, self.branch_losses, indices) for dataset, indices in parts]
        changes = []
        for place in range(len(self.branches)):
            model, method, measure = self.make_branch(place)
            model = self.trainer.train_apart(model, method, epochs)
            after = [self.mean_over(dataset, measure, indices, model) for dataset, indices in parts]
            changes.append(torch.stack([new - old[place] for new, old in zip(after, before, strict=True)]))
        held, trained = torch.stack(changes).unbind(1)
        return blend(-held, held - trained).tolist()

    def make_branch(self, place):
        """The branch number `place` (`int`) as a model, the method that trains it, and the measure of its loss.

        Without the other towers where a modality has its own, as nothing else is trained or measured.
        """
        if place == len(self.modalities) or self.model.lfm.exchange is not None:
            branch = copy.deepcopy(self.model)
            return branch, Branch(place), lambda outputs, labels: self.branch_losses(outputs, labels)[place]
        name = self.modalities[place]
        branch = take_modality(self.model, name, self.args.seed)
        head = self.model.unimodal_heads[name]
        branch.fusion.head.load_state_dict({"weight": head.weight, "bias": head.bias})
        return branch, Concat(), lambda outputs, labels: self.classification_loss(outputs.logits, labels)

    def branch_losses(self, outputs, labels):
        """CE_k of a batch, (M + 1,)."""
        logits = (*outputs.modality_logits, outputs.logits)
        return torch.stack([self.classification_loss(part, labels) for part in logits])

    def losses(self, outputs, labels, inputs):
        losses = self.branch_losses(outputs, labels)
        weighted = [weight * loss for weight, loss in zip(self.weights, losses, strict=True)]
        return {"loss": torch.stack(weighted).sum(), **self.named(losses, "fused")}

    def logs(self):
        return {f"weight_{name}": weight for name, weight in zip(self.branches, self.weights or [], strict=False)}


class Branch(GBlend):
    """Minimises CE_k of the branch number `place` (`int`), and trains nothing else; not in the registry."""

    spec = replace(GBlend.spec, name="g_blend_branch")
    needs_holdout = False

    def __init__(self, place):
        super().__init__()
        self.place = place

    def bind(self, trainer):
        super().bind(trainer)
        if self.place < len(self.modalities):
            own = set(self.branch_parameters(self.modalities[self.place]))
        else:
            own = {p for module in (self.model.lfm, self.model.fusion) for p in module.parameters() if p.requires_grad}
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter in own)

    def losses(self, outputs, labels, inputs):
        return {"loss": self.branch_losses(outputs, labels)[self.place]}


def blend(gains, gaps):
    """w (M + 1,), which sum to 1, of G (M + 1,) and O (M + 1,); see [`GBlend`]."""
    finite = gains.isfinite() & gaps.isfinite()
    raw = torch.where(finite, gains.clamp_min(0) / gaps.square().clamp_min(LEAST_OVERFITTING**2), 0.0)
    return raw / raw.sum() if raw.sum() > 0 else torch.full_like(raw, 1 / len(raw))
