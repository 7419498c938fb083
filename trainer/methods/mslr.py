"""MSLR: a learning rate of its own for each modality."""

from dataclasses import dataclass

import torch

from ..presence import over
from .base import Method, MethodSpec, check_limits, check_names, register

LEAST_RATIO = 0.01  # ours: a modality that predicts nothing right in one epoch could not recover from a rate of 0


@dataclass(frozen=True)
class MslrSettings:
    """
    Args:
        factors: from a modality to the factor of its learning rate, such as `{"audio": 0.9, "video": 1.1}`; 1 where
            not given. Published: audio 0.9, video 1.1 for CREMA-D; audio 1.3, video 0.7 for AV-MNIST; audio 0.9,
            video 1.4, text 0.7 for UR-Funny.
        strategy: `keep` these learning rates, or `dynamic`: scale them by how a modality's held-out accuracy develops.
        memory: epochs over which `dynamic` averages the accuracy.
    """

    factors: dict | None = None
    strategy: str = "dynamic"
    memory: int = 5

    def __post_init__(self):
        for name, factor in (self.factors or {}).items():
            if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor > 0:
                raise ValueError(f"method.factors.{name}={factor!r} must be a positive number.")
        if self.strategy not in ("keep", "dynamic"):
            raise ValueError(f"method.strategy={self.strategy!r} is unknown; choose keep or dynamic.")
        check_limits(self, "be positive", "memory")


@register
class Mslr(Method):
    """CE(F), F = sum_m f_m; encoder m and head m learn at the rate eta c_m r_m(t).

    c_m is the modality's factor. Strategy `dynamic`: r_m(t) = a_m(t - 1) / mean of a_m over the `memory` epochs before
    that, where a_m(t) is the accuracy of f_m on held-out samples after epoch t (multi-label: the share of labels that
    are right); 1 until there are so many. Ratios do not build up: each epoch starts from eta c_m, times the schedule.

    Source: Yao and Mihalcea, "Modality-specific Learning Rates for Effective Multimodal Additive Late-fusion",
    Findings of ACL 2022, and the code of AGM (Li et al., ICCV 2023, `run/CREMAD_main.py`), where MSLR is a baseline.
    That code scales gradients, which is a learning rate under SGD only, and watches the test set; here the optimizer's
    rates change, and held-out samples are watched.
    """

    spec = MethodSpec(
        name="mslr",
        title="MSLR",
        venue="Findings of ACL 2022",
        bibtex="yao2022modality",
        formula="CE(sum_m f_m); learning rate eta c_m acc_m(t) / mean of the last acc_m for encoder and head m",
        fusions=("sum",),
        multi_label=True,
        extra_passes="one pass over the held-out samples an epoch (dynamic)",
        row="MSLR",
        holes="accuracies are measured on the held-out samples that have m",
    )
    Settings = MslrSettings
    kept = ("accuracies", "ratios")  # the rates themselves come back with the optimizer and its schedule

    def check(self, config):
        super().check(config)
        check_names("factors", self.settings.factors, config)

    def bind(self, trainer):
        super().bind(trainer)
        self.accuracies, self.ratios = {}, dict.fromkeys(self.modalities, 1.0)

    @property
    def needs_holdout(self):
        return self.settings.strategy == "dynamic"

    def parameter_groups(self):
        factors = self.settings.factors or {}
        return [(self.branch_parameters(name), factors.get(name, 1.0)) for name in self.modalities]

    def on_train_begin(self):
        if any("method_group" not in group for group in self.trainer.optimizer.param_groups):
            raise ValueError("method mslr sets learning rates: leave the optimizer to the trainer (args.optim).")
        self.accuracies = {name: [] for name in self.modalities}
        self.scale_rates(dict.fromkeys(self.modalities, 1.0))

    def on_epoch_begin(self, epoch):
        if self.settings.strategy == "keep" or epoch == 1:
            return
        found, ratios = self.mean_over(self.trainer.holdout_dataset, self.unimodal_accuracies), {}
        for name, accuracy in zip(self.modalities, found.tolist(), strict=True):
            past, memory = self.accuracies[name], self.settings.memory
            mean = sum(past) / memory if len(past) == memory else 0.0
            ratios[name] = max(accuracy / mean, LEAST_RATIO) if mean > 0 else 1.0
            self.accuracies[name] = [*past, accuracy][-memory:]
        self.scale_rates(ratios)

    def unimodal_accuracies(self, outputs, labels):
        """Accuracy of each f_m in a batch over the samples that have m, (M,)."""
        single = self.model.config.problem_type != "multi_label_classification"

        def accuracy(logits, labels):
            return ((logits.argmax(-1) if single else logits > 0) == labels).float().mean()

        presence = self.presence(outputs)
        return torch.stack(
            [over(presence, (m,), accuracy, logits, labels) for m, logits in enumerate(outputs.modality_logits)]
        )

    def scale_rates(self, ratios):
        """Let the ratios (`dict` from modality to `float`) take the place of those before, now and in the schedule."""
        scheduler = self.trainer.lr_scheduler
        bases = getattr(scheduler, "base_lrs", None)  # ReduceLROnPlateau has none: it scales the current rates
        for place, group in enumerate(self.trainer.optimizer.param_groups):
            if group["method_group"] == len(self.modalities):  # no modality's own
                continue
            name = self.modalities[group["method_group"]]
            change = ratios[name] / self.ratios[name]
            group["lr"] *= change
            if bases is not None:
                bases[place] *= change
                group["initial_lr"] = bases[place]
        self.ratios = dict(ratios)

    def logs(self):
        ratios = self.ratios if self.needs_holdout else {}
        return {f"rate_ratio_{name}": ratio for name, ratio in ratios.items()}
