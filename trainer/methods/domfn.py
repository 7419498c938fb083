"""DOMFN: fuses the samples on which the modalities agree, and leaves the others to the modalities alone."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..objectives import full_precision, no_autocast
from .base import Method, MethodSpec, check_limits, register


@dataclass(frozen=True)
class DomfnSettings:
    """Published for CMU-MOSI, of three modalities.

    Args:
        gamma, tau: a sample is fused if pen_m / tau < gamma for every modality m. pen_m is at most ((M - 1) / M)^2, so
            with two modalities gamma tau from 1/4 on fuses every sample. The tau of 0.2 that is published for resumes,
            of two classes, is for another pen_m (see [`Domfn`]).
        eta: of the reward for divergence.
        pretraining_epochs: epochs before that, of sum_m CE(q_m) alone. Published: 30, and 15 for resumes, on top of
            the training, with higher learning rates; 0 here, as these epochs are part of the training.
    """

    gamma: float = 0.8
    tau: float = 0.5
    eta: float = 0.5
    pretraining_epochs: float = 0.0

    def __post_init__(self):
        check_limits(self, "be positive", "gamma", "tau")
        check_limits(self, "not be negative", "eta", "pretraining_epochs")


@register
class Domfn(Method):
    """Mean over samples of sum_m CE(q_m), and for a sample that is fused of CE(q) + sum_m (CE(q_m)^2 / 2 - eta pen_m).

    q_m = sigmoid(W_m z_m + b_m) and q = sigmoid(MLP [z_1; ...; z_M]); pen_m = max_k (q_m - mean_j q_j)_k^2. A sample is
    fused if pen_m / tau < gamma for every m. Then q predicts, else the q_m that is highest in some class. With two
    modalities pen_m is at most 1/4, so that the published gamma and tau fuse every sample: nothing is ever routed.

    Source: Yang et al., "DOMFN: A Divergence-Orientated Multi-Modal Fusion Network for Resume Assessment", ACM MM 2022,
    and its released code (`models/encoder.py`, `engines/mosi_trainer.py`), which trains on one sample at a time and,
    as here, applies cross-entropy, softmax and all, to the sigmoids. This is its branch `Torch`. For resumes (`Paddle`)
    pen_m is max_k (q_m - q)_k^2; there and in `MindSpore` samples that are not fused have the loss
    sum_m CE(q_m)^2 / 2 - eta pen_m.
    """

    spec = MethodSpec(
        name="domfn",
        title="DOMFN",
        venue="ACM MM 2022",
        bibtex="yang2022domfn",
        formula="sum_m CE(q_m); where modalities agree also CE(q) + sum_m CE(q_m)^2 / 2 - eta max_k (q_m - mean q)_k^2",
        fusions=("domfn",),
        row="DOMFN",
        note="with two modalities the published settings fuse every sample",
        own_loss=True,
        holes="the sums are over what is there; a sample is fused if it has every modality",
    )
    Settings = DomfnSettings

    def config_settings(self, modalities):
        fusion_args = {"gamma": self.settings.gamma, "tau": self.settings.tau}
        return {**super().config_settings(modalities), "fusion_args": fusion_args}

    def check(self, config):
        super().check(config)
        for name in ("gamma", "tau"):
            given, own = getattr(self.settings, name), config.fusion_arg(name)
            if given != own:
                raise ValueError(f"method.{name}={given} differs from the model's: LfmConfig.fusion_args has {own}.")

    def losses(self, outputs, labels, inputs):
        with no_autocast(labels):
            alone = torch.stack([full_precision(q) for q in outputs.modality_logits])
            there = torch.ones(alone.shape[:2], dtype=torch.bool, device=alone.device)
            there = there if outputs.present is None else outputs.present
            alone = alone.where(there.unsqueeze(-1), 0.5)  # no NaN; counts for nothing
            errors = torch.stack([F.cross_entropy(q, labels, reduction="none") for q in alone]) * there
            error = F.cross_entropy(full_precision(outputs.logits), labels, reduction="none")
            penalties = self.model.fusion.penalties(alone)
            fused = self.model.fusion.fuses(penalties) & there.all(0) & (not self.pretraining)
            further = error + (errors.square() / 2 - self.settings.eta * penalties).sum(0)
            loss = (errors.sum(0) + fused * further).mean()  # times 0, so that every parameter has a gradient
        means = self.named([part.mean() for part in errors])
        return {"loss": loss, **means, "loss_fused": error.mean(), "fused_share": fused.float().mean()}

    @property
    def pretraining(self):
        """`bool`: whether the current step is one of the epochs before fusion."""
        return (self.trainer.state.epoch or 0.0) + 1e-6 < self.settings.pretraining_epochs  # its fractions are rounded
