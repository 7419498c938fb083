"""Plain fusion baselines: one classifier, one cross-entropy."""

from dataclasses import dataclass

import torch.nn.functional as F

from ..objectives import full_precision, no_autocast
from .base import Method, MethodSpec, check_limits, register


@dataclass(frozen=True)
class ConcatSettings:
    """`label_smoothing`: share s of the uniform distribution in the targets, (1 - s) one-hot + s / K."""

    label_smoothing: float = 0.0

    def __post_init__(self):
        check_limits(self, "lie in [0, 1]", "label_smoothing")


@register
class Concat(Method):
    """CE(F), F = W [z_1; ...; z_M] + b.

    With label smoothing 0, 0.3 and 1 it is the label fitting experiment of Figure 1 of the LFM paper: one-hot targets,
    a mixture, and uniform ones.
    """

    spec = MethodSpec(
        name="concat",
        title="Concat",
        formula="CE(W [z_1; ...; z_M] + b)",
        fusions=("concat",),
        min_modalities=1,
        multi_label=True,
        row="Concat",
    )
    Settings = ConcatSettings

    def check(self, config):
        super().check(config)
        if self.settings.label_smoothing and config.problem_type == "multi_label_classification":
            raise ValueError("method.label_smoothing is defined for single-label problems only.")

    def losses(self, outputs, labels, inputs):
        if not self.settings.label_smoothing:
            return super().losses(outputs, labels, inputs)
        with no_autocast(outputs.logits):
            logits = full_precision(outputs.logits)
            return {"loss": F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)}
