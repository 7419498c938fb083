"""The methods that [`LfmTrainer`] can train with, one file each: LFM, its rivals, and their baselines."""

from importlib import import_module
from pkgutil import iter_modules

from .base import METHODS, Method, MethodSpec, make_method, register

__all__ = ["METHODS", "Method", "MethodSpec", "list_methods", "make_method", "register"]

for _module in sorted(module.name for module in iter_modules(__path__)):
    import_module(f".{_module}", __name__)


def list_methods():
    """The [`MethodSpec`] of every method (`list`), LFM first, then by name.

    Example:

        ```python
        >>> from modeling_lfm.trainer import list_methods
        >>> [spec.name for spec in list_methods()[:3]]
        ['lfm', 'agm', 'auto']

        ```
    """
    return sorted((cls.spec for cls in METHODS.values()), key=lambda spec: (spec.name != "lfm", spec.name))
