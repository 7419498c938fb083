"""Balanced multimodal classification: the models here, `modeling_lfm.trainer` to train, `modeling_lfm.data` to feed.

Importing it makes the Auto classes and pipelines of transformers know it.
"""

import sys
from pathlib import Path
from pkgutil import extend_path
from typing import TYPE_CHECKING

__path__ = extend_path(__path__, __name__)  # within a clone: trainer, data and scripts lie where they are installed
__version__ = "0.1.0"

_EXPORTS = {
    "LfmConfig": "configuration_lfm",
    "LfmEnsemble": "ensemble_lfm",
    "LfmModel": "modeling_lfm",
    "LfmForMultimodalClassification": "modeling_lfm",
    "LfmOutput": "modeling_lfm",
    "LfmProcessor": "processing_lfm",
    "MultimodalClassificationPipeline": "pipeline_lfm",
    "Predictor": "scripts.common.fit",
    "fit": "scripts.common.fit",
}
__all__ = [
    "LfmConfig",
    "LfmEnsemble",
    "LfmForMultimodalClassification",
    "LfmModel",
    "LfmOutput",
    "LfmProcessor",
    "MultimodalClassificationPipeline",
    "Predictor",
    "__version__",
    "fit",
]


def _runs_a_program():
    """Whether a program of scripts/ runs, which imports what it needs after it has read its arguments."""
    here = Path(__file__).resolve()
    folders = (here.parent / "scripts", here.parents[1] / "scripts")
    return any(
        "modeling_lfm.scripts" in word or Path(word).name == "lfm" or Path(word).resolve().parent in folders
        for word in sys.orig_argv[1:]
    )


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


if TYPE_CHECKING or not _runs_a_program():
    from transformers import AutoProcessor

    from .configuration_lfm import LfmConfig
    from .ensemble_lfm import LfmEnsemble
    from .modeling_lfm import LfmForMultimodalClassification, LfmModel, LfmOutput
    from .pipeline_lfm import MultimodalClassificationPipeline
    from .processing_lfm import LfmProcessor

    AutoProcessor.register(LfmConfig, LfmProcessor)
