"""Figures of trained models: what they were taught, what each modality adds, where they look; and a page of them all.

Each `explain_...` returns a [`Section`]: figures, and the numbers that they show.

Example:

    ```python
    observed = {"LFM": observe(trainer.model, prepared["test"], LfmDataCollator(processor))}
    write_report({"contributions": explain_contributions(observed)}, "outputs/look", "LFM", {})
    ```
"""

from .alpha_curves import explain_alpha
from .contributions import explain_contributions
from .decisions import explain_agreement, explain_calibration
from .label_fitting import explain_label_fitting
from .maps import explain_maps
from .modality_gap import explain_gap, make_initial
from .observations import Observations, observe
from .report import Section, write_report

__all__ = [
    "Observations",
    "Section",
    "explain_agreement",
    "explain_alpha",
    "explain_calibration",
    "explain_contributions",
    "explain_gap",
    "explain_label_fitting",
    "explain_maps",
    "make_initial",
    "observe",
    "write_report",
]
