"""Figures of trained models: what they were taught, what each modality adds, where they look; and a page of them all.

Each `explain_...` returns a [`Section`]: figures, the numbers that they show, and sentences computed from these.
"""

from importlib import import_module

_EXPORTS = {
    "Observations": "observations",
    "Section": "report",
    "attention_rollout": "saliency",
    "centroid_distances": "modality_gap",
    "coalition_logits": "observations",
    "coalition_values": "contributions",
    "expected_calibration_error": "decisions",
    "explain_agreement": "decisions",
    "explain_alpha": "alpha_curves",
    "explain_calibration": "decisions",
    "explain_contributions": "contributions",
    "explain_gap": "modality_gap",
    "explain_label_fitting": "label_fitting",
    "explain_maps": "maps",
    "grad_cam": "saliency",
    "initial_model": "modality_gap",
    "observe": "observations",
    "rollout": "saliency",
    "shapley_values": "contributions",
    "write_report": "report",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
