"""Weight: predictions weighted by attention, and trained on their own as well (CMML)."""

from dataclasses import dataclass
from itertools import combinations

import torch
from torch.nn import functional as F

from ..objectives import full_precision, no_autocast
from ..presence import over
from .base import Method, MethodSpec, check_limits, register


@dataclass(frozen=True)
class WeightSettings:
    """Published defaults of the released code.

    Args:
        unimodal: weight of each modality's cross-entropy.
        fused: weight of the cross-entropy of the weighted prediction.
        diversity: weight of the mean cosine between the modalities' predictions.
    """

    unimodal: float = 1.0
    fused: float = 2.0
    diversity: float = 0.01

    def __post_init__(self):
        check_limits(self, "not be negative", "unimodal", "diversity")
        check_limits(self, "be positive", "fused")  # nothing else trains the attention


@register
class Weight(Method):
    """sum_m CE(f_m) + 2 CE(F) + 0.01 mean_{m<j} cos(q_m, q_j), F = sum_m a_m f_m with a by attention (`WeightFusion`).

    q_m are the predicted probabilities: softmax f_m, or sigmoid f_m for multi-label problems, as in the source.

    `Weight` in the table of the LFM paper.

    Source: Yang et al., "Comprehensive Semi-Supervised Multi-Modal Learning", IJCAI 2019, and its released code
    (`code/Model/Train.py`), for labelled samples: its term on unlabelled pairs has no place here. The mean over pairs
    of more than two modalities is our derivation.
    """

    spec = MethodSpec(
        name="weight",
        title="CMML",
        venue="IJCAI 2019",
        bibtex="yang2019comprehensive",
        formula="sum_m CE(f_m) + 2 CE(sum_m a_m f_m) + 0.01 cos(q_1, q_2)",
        fusions=("weight",),
        multi_label=True,
        row="Weight",
        holes="CE(f_m) over the samples that have m, cosines over those that have both; attention over what is there",
    )
    Settings = WeightSettings

    def losses(self, outputs, labels, inputs):
        settings = self.settings
        unimodal, presence = self.unimodal_losses(outputs, labels).sum(), self.presence(outputs)
        fused = self.classification_loss(outputs.logits, labels)
        with no_autocast(outputs.logits):
            logits = [full_precision(f) for f in outputs.modality_logits]
            single = self.model.config.problem_type != "multi_label_classification"
            pairs = list(combinations(range(len(logits)), 2))

            def cosine_of(*logits):
                return F.cosine_similarity(*(f.softmax(-1) if single else f.sigmoid() for f in logits)).mean()

            cosines = [over(presence, pair, cosine_of, *(logits[m] for m in pair)) for pair in pairs]
            cosine = torch.stack(cosines).mean() if presence is None else presence.mean(pairs, cosines)
        loss = settings.unimodal * unimodal + settings.fused * fused + settings.diversity * cosine
        return {"loss": loss, "loss_unimodal": unimodal, "loss_fused": fused, "cosine": cosine}
