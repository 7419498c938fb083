"""MSES: stops the training of each modality on its own, once it overfits."""

import math
from dataclasses import dataclass

from ._states import on_cpu, restore_state, save_state
from .base import Method, MethodSpec, check_limits, register


@dataclass(frozen=True)
class MsesSettings:
    """
    Args:
        patience: a modality stops once its held-out loss is more than so many epochs past its minimum. Published: 80
            for CREMA-D, 10 for AV-MNIST, 30 for UR-Funny; a run that is not longer stops nothing.
        smoothing: weight of the loss of the epoch before in the smoothed loss.
    """

    patience: int = 10
    smoothing: float = 0.6

    def __post_init__(self):
        check_limits(self, "not be negative", "patience")
        check_limits(self, "lie in [0, 1]", "smoothing")


@register
class Mses(Method):
    """CE(F), F = sum_m f_m; encoder m and head m stop for good when s_m has had no new minimum for `patience` epochs.

    s_m(t) = 0.6 l_m(t - 1) + 0.4 l_m(t), s_m(1) = l_m(1), where l_m is CE(f_m) on held-out samples after epoch t. At
    each new minimum of s_m the whole model and the optimizer's moments are kept (in memory, on the CPU, and in the
    checkpoints of a run); when m stops they are brought back, of all modalities. When all have stopped training ends.

    Source: Fujimori et al., "Modality-Specific Learning Rate Control for Multimodal Classification", ACPR 2019. Of the
    paper only the abstract was at hand: unimodal classifiers are trained as further tasks, and each modality stops by
    its own overfitting. Loss and rule are those of the code of AGM (Li et al., ICCV 2023, `run/CREMAD_main.py`), where
    MSES is a baseline; that code watches the test set, and keeps no checkpoint of the first epoch. As there, running
    statistics of a stopped encoder's normalisation go on moving.
    """

    spec = MethodSpec(
        name="mses",
        title="MSES",
        venue="ACPR 2019",
        bibtex="fujimori2019modality",
        formula="CE(sum_m f_m); encoder m stops when CE(f_m) on held-out samples has no new minimum",
        fusions=("sum",),
        multi_label=True,
        extra_passes="one pass over the held-out samples an epoch",
        row="MSES",
        holes="CE(f_m) is measured on the held-out samples that have m",
    )
    Settings = MsesSettings
    kept = ("last", "best", "stopped")
    needs_holdout = True

    def bind(self, trainer):
        super().bind(trainer)
        self.on_train_begin()

    def on_train_begin(self):
        self.last = {}  # modality to its latest held-out loss
        self.best = {name: {"loss": math.inf, "epoch": 0} for name in self.modalities}
        self.stopped = []

    def on_epoch_begin(self, epoch):
        if epoch > 1:
            self.end_epoch(epoch - 1)

    def end_epoch(self, epoch):
        """Measure the modalities after `epoch`, keep what is best, and stop those whose best is long ago."""
        found = self.mean_over(self.trainer.holdout_dataset, self.unimodal_losses)
        checkpoint, running = None, [name for name in self.modalities if name not in self.stopped]
        for name, loss in zip(self.modalities, found.tolist(), strict=True):
            share = self.settings.smoothing if name in self.last else 0.0
            smoothed = share * self.last.get(name, 0.0) + (1 - share) * loss
            self.last[name] = loss
            if name in running and smoothed < self.best[name]["loss"]:
                checkpoint = save_state(self.trainer) if checkpoint is None else checkpoint  # one for all that need it
                self.best[name] = {"loss": smoothed, "epoch": epoch, "checkpoint": checkpoint}
        for name in running:  # after all were kept that are to be kept
            if epoch - self.best[name]["epoch"] > self.settings.patience:
                self.stopped.append(name)
                kept = self.best[name].pop("checkpoint", None)
                if kept is not None:  # else every loss was infinite or no number
                    restore_state(self.trainer, kept)
        if len(self.stopped) == len(self.modalities):
            self.trainer.control.should_training_stop = True

    def on_gradients(self):
        # Without a gradient no weight decay and no momentum moves a parameter either.
        for name in self.stopped:
            for parameter in self.branch_parameters(name):
                parameter.grad = None

    def logs(self):
        return {f"stopped_{name}": int(name in self.stopped) for name in self.modalities}

    def load_state_dict(self, state):
        self.last, self.stopped, self.best = state["last"], state["stopped"], on_cpu(state["best"])
