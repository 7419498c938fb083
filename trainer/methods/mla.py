"""MLA: modalities take turns at one classifier, whose gradient is kept away from what the others taught it."""

from dataclasses import dataclass

import torch

from ..objectives import full_precision
from ..presence import over
from .base import Method, MethodSpec, check_weights, register


@dataclass(frozen=True)
class MlaSettings:
    """
    Args:
        weights: of the modalities in the fused prediction, such as `[0.35, 0.25, 0.4]` (published, for audio, video and
            text); by the entropy of each sample's predictions if not given.
        modify_gradient: apply P; False trains as the released code does, whose condition for it is never met.
    """

    weights: list[float] | None = None
    modify_gradient: bool = True

    def __post_init__(self):
        check_weights(self.weights)


@register
class Mla(Method):
    """For each modality m in turn: CE(f_m), f_m = W z_m + b, and an optimizer step of encoder m and the shared head.

    Before a step the gradient of W becomes (gradient of W) P', where P (d, d) starts from the identity and follows
    recursive least squares: with r (d,) the mean of z_m over the step's samples and lambda = 0.1^(1 + t), t the part of
    the epoch that is over,

        k = P r,  P <- P - k k' / (lambda + r' k),  P <- P / ||P||_F.

    Only the very first step is plain. The gradient of b is not changed.

    Source: Zhang et al., "Multimodal Representation Learning by Alternating Unimodal Adaptation", CVPR 2024, and its
    released code (`main.py`, `utils/utils.py`). There the modification never happens (it looks for a parameter by a
    name that none has), its quotient would divide by a matrix of k and r element by element, and P would drag the
    features' graphs along; the recursion above is what it is meant to be (our derivation).
    """

    spec = MethodSpec(
        name="mla",
        title="MLA",
        venue="CVPR 2024",
        bibtex="zhang2024multimodal",
        formula="CE(f_m) and a step for each m in turn, gradient of the shared head W times P; F = sum_m w_m f_m",
        fusions=("mla",),
        extra_passes="none; M optimizer steps",
        modality_dropout=False,
        row="MLA",
        holes="the turn of m reads the samples that have it",
    )
    Settings = MlaSettings
    kept = ("projection", "steps")
    own_backward = True

    def config_settings(self, modalities):
        weights = self.settings.weights
        return {**super().config_settings(modalities), "fusion_args": {} if weights is None else {"weights": weights}}

    def check(self, config):
        super().check(config)
        given, used = self.settings.weights, config.fusion_arg("weights")
        if given is not None and given != used:
            raise ValueError(f"method.weights={given} are not those of this model's fusion_args, {used}.")

    def bind(self, trainer):
        super().bind(trainer)
        self.batches = []  # of the current step, each run once for every modality
        if not self.model.fusion.head.weight.requires_grad:
            raise ValueError(
                "method mla lets modalities take turns at one classifier, and this model's is frozen: train its fusion "
                "(PEFT: modules_to_save)."
            )

    def on_train_begin(self):
        weight = self.model.fusion.head.weight
        self.projection = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        self.steps, self.batches = 0, []

    def run_batch(self, inputs, labels):
        self.batches.append((inputs, labels))
        if not self.trainer.accelerator.sync_gradients:
            return {"loss": torch.zeros((), device=labels.device)}
        losses = {}
        for name in self.modalities:
            self.mean_feature = 0
            losses[f"loss_{name}"] = sum(self.backward_modality(name, *batch) for batch in self.batches)
            if name != self.modalities[-1]:  # the trainer takes the last step
                self.trainer.step_optimizer()
        self.batches = []
        return {"loss": sum(losses.values()), **losses}

    def backward_modality(self, name, inputs, labels):
        """Add the gradients of CE(f_m) on a batch, and its features to their mean; returns CE(f_m), detached."""
        with self.trainer.accelerator.autocast():
            feature = self.model.lfm.feature_of(name, **inputs)
            logits = self.model.fusion.head(feature)
        presence, place = self.trainer.find_presence(inputs, len(labels)), (self.modalities.index(name),)
        loss = over(presence, place, self.classification_loss, logits, labels)
        self.backward(loss)
        mean = over(presence, place, lambda features: features.mean(0), full_precision(feature.detach()))
        self.mean_feature = self.mean_feature + mean / self.trainer.accumulation
        return loss.detach()

    def on_gradients(self):
        r = self.trainer.reduce(self.mean_feature).to(self.projection.dtype)
        self.steps += 1
        if self.steps == 1 or not self.settings.modify_gradient:
            return
        k = self.projection @ r
        epoch = self.trainer.state.epoch or 0.0
        damping = 0.1 ** (1 + epoch - int(epoch))
        projection = self.projection - torch.outer(k, k) / (damping + r @ k)
        self.projection = projection / projection.norm()
        gradient = self.model.fusion.head.weight.grad
        gradient.copy_(gradient @ self.projection.T)
