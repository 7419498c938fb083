"""Figures of trained models: what they were taught, what each modality adds, where they look; and a page of them all.

Each `explain_...` returns a [`Section`]: figures, and the numbers that they show.

Example:

    ```python
    observed = {"LFM": observe(trainer.model, prepared["test"], LfmDataCollator(processor))}
    write_report({"contributions": explain_contributions(observed)}, "outputs/look", "LFM", {})
    ```
"""

from .alpha_curves import explain_alpha
from .contributions import coalition_values, explain_contributions
from .decisions import expected_calibration_error, explain_agreement, explain_calibration
from .label_fitting import explain_label_fitting
from .maps import explain_maps
from .modality_gap import centroid_distances, explain_gap, make_initial
from .observations import Observations, coalition_logits, observe
from .report import Section, write_report
from .saliency import attention_rollout, grad_cam, rollout

__all__ = [
    "Observations",
    "Section",
    "attention_rollout",
    "centroid_distances",
    "coalition_logits",
    "coalition_values",
    "expected_calibration_error",
    "explain_agreement",
    "explain_alpha",
    "explain_calibration",
    "explain_contributions",
    "explain_gap",
    "explain_label_fitting",
    "explain_maps",
    "grad_cam",
    "make_initial",
    "observe",
    "rollout",
    "write_report",
]
