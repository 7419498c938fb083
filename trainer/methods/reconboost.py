"""ReconBoost: one modality at a time learns what the others got wrong, then all learn together."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..objectives import full_precision
from .base import Method, MethodSpec, check_limits, register


@dataclass(frozen=True)
class ReconBoostSettings:
    """Published settings for CREMA-D.

    Args:
        modality_epochs: epochs of a stage in which one modality trains alone; parts of an epoch are possible.
        joint_epochs: epochs after that in which all train together.
        weight1: of the modality's own cross-entropy (4 for AVE and ModelNet40, 1 for sentiment data).
        weight2: of the reward for disagreement with the others (1; 0.25 for sentiment data).
        alpha: of the agreement with the modality of the stage before.
    """

    modality_epochs: float = 4.0
    joint_epochs: float = 4.0
    weight1: float = 5.0
    weight2: float = 1.0
    alpha: float = 0.5

    def __post_init__(self):
        check_limits(self, "be positive", "modality_epochs")
        check_limits(self, "not be negative", "joint_epochs", "weight1", "weight2", "alpha")


@register
class ReconBoost(Method):
    """Stages s = 0, 1, ..., of modality m = s mod M, with f_j of a shared head and F = b sum_j f_j.

    First encoder m and the head minimise, with y the true class, p_j = softmax(f_j), q = softmax(b sum_{j != m} f_j)
    held constant, and K classes, the mean over samples of

        (-w_1 + w_2 q_y) log p_m,y / K + alpha / K ||p_m - p_l||^2,

    l the modality of the stage before, whose p_l is held constant (no such term in stage 0). Then everything minimises
    CE(F). Both start without the optimizer's past.

    Source: Hua et al., "ReconBoost: Boosting Can Achieve Modality Reconcilement", ICML 2024, and its released code
    (`train.py`, `train_MSA.py`). In that code both sides of the last term are detached, so it has no effect; here it
    has a gradient with respect to f_m. All modalities are in F from the start, as in the published runs, which begin
    from trained unimodal networks; other runs of the code add them one by one.
    """

    spec = MethodSpec(
        name="reconboost",
        title="ReconBoost",
        venue="ICML 2024",
        bibtex="hua2024reconboost",
        formula="in turns: one modality by (-w_1 + w_2 q_y) log p_y + alpha MSE, then all by CE(b sum_m f_m)",
        fusions=("reconboost",),
        extra_passes="none; one encoder trains while the others only look on, in half of the epochs",
        modality_dropout=False,
        row="ReconBoost",
        own_loss=True,
        no_holes="in each stage a modality learns what the others got wrong, sample by sample",
    )
    Settings = ReconBoostSettings
    kept = ("phase",)
    own_backward = True

    def bind(self, trainer):
        super().bind(trainer)
        self.phase = None

    def on_train_begin(self):
        self.phase = None

    def current_phase(self):
        """The stage, from 0, and whether all modalities train in it now (`tuple` of `int`, `bool`)."""
        epoch = (self.trainer.state.epoch or 0.0) + 1e-6  # its fractions are rounded
        stage, past = divmod(epoch, self.settings.modality_epochs + self.settings.joint_epochs)
        return int(stage), past >= self.settings.modality_epochs

    def run_batch(self, inputs, labels):
        phase = self.current_phase()
        if self.phase not in (None, phase):
            self.trainer.optimizer.state.clear()
        self.phase = phase
        if phase[1]:
            loss = self.classification_loss(self.model(**inputs).logits, labels)
        else:
            loss = self.boosting_loss(phase[0], inputs, labels)
        self.backward(loss)
        return {"loss": loss.detach()}

    def boosting_loss(self, stage, inputs, labels):
        """The loss of a batch (scalar) while the modality of `stage` trains alone."""
        settings, number = self.settings, len(self.modalities)
        place, logits = stage % number, []
        for name in self.modalities:
            with torch.set_grad_enabled(name == self.modalities[place]), self.trainer.accelerator.autocast():
                feature = self.model.lfm.feature_of(name, **inputs)
                logits.append(full_precision(self.model.fusion.head(feature)))
        others = sum(logits[:place] + logits[place + 1 :])
        samples = torch.arange(len(labels), device=labels.device)
        q = (self.model.fusion.boost_rate.detach() * others).softmax(-1)[samples, labels]
        log_p = logits[place].log_softmax(-1)
        own = (settings.weight2 * q - settings.weight1) * log_p[samples, labels]
        loss = own.mean() / log_p.shape[1]
        if stage == 0:
            return loss
        return loss + settings.alpha * F.mse_loss(log_p.exp(), logits[(stage - 1) % number].softmax(-1))

    def logs(self):
        return {} if self.phase is None else {"stage": self.phase[0], "joint": int(self.phase[1])}
