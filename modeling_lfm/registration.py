"""Makes transformers' Auto classes and pipelines know this package, whichever of the two is imported first.

Importing the Auto classes takes seconds, and `import modeling_lfm` must not. So each is told of its class when it is
imported itself; where that was before this package, at once.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

_AUTO = "transformers.models.auto."


class _Models(tuple):
    """The models, of which `AutoModel` takes that of `config.architectures`; imported when it looks for one.

    Not before: they need modules of transformers that may be half imported when `AutoModel` is.
    """

    def __iter__(self):
        from .modeling_lfm import LfmForMultimodalClassification, LfmModel

        return iter((LfmForMultimodalClassification, LfmModel))

    def __getitem__(self, index):
        return tuple(iter(self))[index]


def _register_config():
    from transformers import AutoConfig

    from .configuration_lfm import LfmConfig

    AutoConfig.register(LfmConfig.model_type, LfmConfig, exist_ok=True)


def _register_models():
    from transformers import AutoModel

    from .configuration_lfm import LfmConfig

    AutoModel.register(LfmConfig, _Models(), exist_ok=True)


def _register_processor():
    from transformers import AutoProcessor

    from .configuration_lfm import LfmConfig
    from .processing_lfm import LfmProcessor

    AutoProcessor.register(LfmConfig, LfmProcessor, exist_ok=True)


def _register_pipeline():
    import_module(".pipeline_lfm", __package__)  # it registers itself; it may be what imports transformers.pipelines


# What is done once a module of transformers is there. What it imports of this package must not import that module
# while it is itself imported.
_ACTIONS = {
    f"{_AUTO}configuration_auto": _register_config,
    f"{_AUTO}modeling_auto": _register_models,
    f"{_AUTO}processing_auto": _register_processor,
    "transformers.pipelines": _register_pipeline,
}


class _AfterImport(MetaPathFinder):
    """Finds nothing itself; what the other finders find is loaded as ever, and the action follows."""

    def __init__(self, actions):
        self.actions = actions

    def find_spec(self, name, path=None, target=None):
        action = self.actions.pop(name, None)
        spec = None if action is None else find_spec(name)
        if spec is None:
            return None
        load = spec.loader.exec_module

        def load_and_act(module):
            spec.loader.exec_module = load
            load(module)
            action()

        spec.loader.exec_module = load_and_act
        return spec


def register():
    """Register with the Auto classes that were imported, and with each other one when it is."""
    waiting = {}
    for module, action in _ACTIONS.items():
        if module in sys.modules:
            action()
        else:
            waiting[module] = action
    if waiting:
        sys.meta_path.insert(0, _AfterImport(waiting))
