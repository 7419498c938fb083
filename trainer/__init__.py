"""How LFM models are trained: the trainer, its settings, and the methods that it can train with."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors and type checkers; else each is imported when it is asked for
    from .alpha.hypergradient import hypergradient
    from .alpha.schedules import make_alpha
    from .cards.card import write_model_card
    from .collator import LfmDataCollator
    from .cross_validation import cross_validate
    from .methods import list_methods
    from .metrics import compute_multimodal_metrics
    from .trainer import LfmTrainer
    from .training_args import LfmTrainingArguments

_EXPORTS = {
    "LfmDataCollator": "collator",
    "LfmTrainer": "trainer",
    "LfmTrainingArguments": "training_args",
    "compute_multimodal_metrics": "metrics",
    "cross_validate": "cross_validation",
    "hypergradient": "alpha.hypergradient",
    "list_methods": "methods",
    "make_alpha": "alpha.schedules",
    "write_model_card": "cards.card",
}
__all__ = [
    "LfmDataCollator",
    "LfmTrainer",
    "LfmTrainingArguments",
    "compute_multimodal_metrics",
    "cross_validate",
    "hypergradient",
    "list_methods",
    "make_alpha",
    "write_model_card",
]


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
