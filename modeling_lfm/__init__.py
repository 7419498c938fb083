"""Balanced multimodal classification: the models here, `modeling_lfm.trainer` to train, `modeling_lfm.data` to feed."""

from typing import TYPE_CHECKING

from .registration import register

__version__ = "0.1.0"

_EXPORTS = {
    "LfmConfig": "configuration_lfm",
    "LfmModel": "modeling_lfm",
    "LfmForMultimodalClassification": "modeling_lfm",
    "LfmOutput": "modeling_lfm",
    "LfmProcessor": "processing_lfm",
    "MultimodalClassificationPipeline": "pipeline_lfm",
}
__all__ = [
    "LfmConfig",
    "LfmForMultimodalClassification",
    "LfmModel",
    "LfmOutput",
    "LfmProcessor",
    "MultimodalClassificationPipeline",
    "__version__",
]

if TYPE_CHECKING:
    from .configuration_lfm import LfmConfig
    from .modeling_lfm import LfmForMultimodalClassification, LfmModel, LfmOutput
    from .pipeline_lfm import MultimodalClassificationPipeline
    from .processing_lfm import LfmProcessor


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


register()
