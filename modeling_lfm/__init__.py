"""Balanced multimodal classification: the models here, `modeling_lfm.trainer` to train, `modeling_lfm.data` to feed."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_EXPORTS = {
    "LfmConfig": "configuration_lfm",
    "LfmModel": "modeling_lfm",
    "LfmForMultimodalClassification": "modeling_lfm",
    "LfmOutput": "modeling_lfm",
    "LfmProcessor": "processing_lfm",
}
__all__ = [
    "LfmConfig",
    "LfmForMultimodalClassification",
    "LfmModel",
    "LfmOutput",
    "LfmProcessor",
    "__version__",
]

if TYPE_CHECKING:
    from .configuration_lfm import LfmConfig
    from .modeling_lfm import LfmForMultimodalClassification, LfmModel, LfmOutput
    from .processing_lfm import LfmProcessor


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    _register()
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


def _register():
    """Make transformers' Auto classes know the models, when the first of this package's classes is asked for."""
    from transformers import AutoConfig, AutoModel, AutoProcessor

    from .configuration_lfm import LfmConfig
    from .modeling_lfm import LfmForMultimodalClassification
    from .processing_lfm import LfmProcessor

    AutoConfig.register(LfmConfig.model_type, LfmConfig, exist_ok=True)
    AutoModel.register(LfmConfig, LfmForMultimodalClassification, exist_ok=True)
    AutoProcessor.register(LfmConfig, LfmProcessor, exist_ok=True)
