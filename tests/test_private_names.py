"""The private names of other libraries that the product uses: all of them, where, and what breaks without.

A new one fails the first test; one that its library has given up fails the second, which says what to mend.
"""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("modeling_lfm", "trainer", "data", "scripts")
TRAINER, MODEL, PIPELINE = "transformers.Trainer", "transformers.PreTrainedModel", "transformers.Pipeline"
METRIC, MODULE = "evaluate.Metric", "torch.nn.Module"
BUILDER = "datasets.GeneratorBasedBuilder"
# name: whose it is, and what breaks without it
LISTED = {
    "_attn_implementation": ("transformers.PreTrainedConfig", "the attention implementation asked of every tower"),
    "_batch_size": (PIPELINE, "batches of the pipeline"),
    "_buffers": (MODULE, "buffers of towers that are made on the meta device"),
    "_compute": (METRIC, "metrics"),
    "_exit": ("os", "(documented) the end of a worker whose main process has died"),
    "_fingerprint": ("datasets.Dataset", "finding a prepared data set in the cache"),
    "_finish_current_push": (TRAINER, "waiting for what is being sent before the last commit"),
    "_forward": (PIPELINE, "the pipeline"),
    "_forward_params": (PIPELINE, "settings of the pipeline given at a call"),
    "_generate_examples": (BUILDER, "benchmarks"),
    "_get_arguments_from_pretrained": ("transformers.ProcessorMixin", "loading a processor without a tokenizer"),
    "_get_output_dir": (TRAINER, "checkpoints that are written under another name until they are whole"),
    "_get_train_sampler": (TRAINER, "balanced sampling"),
    "_globalstep_last_logged": (TRAINER, "logged losses of a run that is resumed between two log entries"),
    "_info": (BUILDER, "benchmarks and metrics"),
    "_init_weights": (MODEL, "initial weights"),
    "_is_hf_initialized": (MODEL, "weights of a pretrained tower that are not drawn anew"),
    "_load_callback_state": (TRAINER, "the state of alpha in a resumed run"),
    "_load_feature_extractor": (PIPELINE, "the pipeline made from a name"),
    "_load_image_processor": (PIPELINE, "the pipeline made from a name"),
    "_load_optimizer_and_scheduler": (TRAINER, "the state of the method in a resumed run"),
    "_load_processor": (PIPELINE, "the pipeline made from a name"),
    "_load_tokenizer": (PIPELINE, "the pipeline made from a name"),
    "_load_video_processor": (PIPELINE, "the pipeline made from a name"),
    "_new_shared": ("torch.UntypedStorage", "batches in shared memory, without a copy"),
    "_non_persistent_buffers_set": (MODULE, "buffers of towers that no checkpoint holds"),
    "_num_workers": (PIPELINE, "workers of the pipeline"),
    "_postprocess_params": (PIPELINE, "settings of the pipeline given at a call"),
    "_prepare_inputs": (TRAINER, "batches on the training device for methods"),
    "_preprocess_params": (PIPELINE, "settings of the pipeline given at a call"),
    "_push_from_checkpoint": (TRAINER, "what is sent to the Hub while training: the model alone"),
    "_sanitize_parameters": (PIPELINE, "settings of the pipeline"),
    "_save": (TRAINER, "the processor beside the model"),
    "_save_checkpoint": (TRAINER, "checkpoints with a manifest, and their rotation"),
    "_save_optimizer_and_scheduler": (TRAINER, "the state of the method in a checkpoint"),
    "_set_gradient_checkpointing": (MODEL, "gradient checkpointing of the towers"),
    "_split_generators": (BUILDER, "benchmarks"),
    "_supports_attention_backend": (MODEL, "the choice of attention"),
    "_supports_flash_attn": (MODEL, "the choice of attention"),
    "_supports_flex_attn": (MODEL, "the choice of attention"),
    "_supports_sdpa": (MODEL, "the choice of attention"),
    "_total_loss_scalar": (TRAINER, "train_loss of a resumed run"),
    "_tr_loss": (TRAINER, "train_loss of a resumed run"),
}
OURS = {"_fresh_buffers", "_auto_class", "_backward_cls"}  # an attribute that we set, and two set by public calls


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name != "_"


def files():
    return [file for folder in PRODUCT for file in sorted((ROOT / folder).rglob("*.py"))]


def names_in(tree):
    """Private names that a file defines, and those that it uses as attributes or imports from others (two sets)."""
    defined, used = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (defined if own and isinstance(node.ctx, ast.Store) else used).add(node.attr)
        elif isinstance(node, ast.ImportFrom) and not node.level and not str(node.module).startswith("modeling_lfm"):
            used |= {alias.name for alias in node.names}
    return set(filter(is_private, defined)), set(filter(is_private, used))


def found_in_files():
    """From each private name that is used and nowhere defined to the files (`dict[str, set[str]]`)."""
    trees = {str(file.relative_to(ROOT)): names_in(ast.parse(file.read_text())) for file in files()}
    defined = set().union(*(names for names, _ in trees.values()))
    found = {}
    for file, (_, used) in trees.items():
        for name in used - defined:
            found.setdefault(name, set()).add(file)
    return found


def found_in_classes():
    """Private methods of other libraries' classes that the product's classes override, likewise."""
    found = {}
    for package in ("modeling_lfm", "modeling_lfm.trainer", "modeling_lfm.trainer.cards", "modeling_lfm.data"):
        home = importlib.import_module(package)
        for info in pkgutil.iter_modules(home.__path__):
            module = importlib.import_module(f"{package}.{info.name}")
            for cls in vars(module).values():
                if inspect.isclass(cls) and cls.__module__ == module.__name__:
                    others = [base for base in cls.__mro__ if not base.__module__.startswith("modeling_lfm")]
                    for name in filter(is_private, vars(cls)):
                        if any(name in vars(base) for base in others) and not name.startswith("_abc"):
                            found.setdefault(name, set()).add(cls.__qualname__)
    return found


def test_no_other_private_name_is_used():
    found = found_in_files()
    for name, places in found_in_classes().items():
        found.setdefault(name, set()).update(places)
    unlisted = {name: sorted(places) for name, places in found.items() if name not in LISTED and name not in OURS}
    assert not unlisted, "do without them, or list them above with what breaks"
    assert set(LISTED) <= set(found), "what is used no more is not listed"


@pytest.mark.parametrize("name", LISTED)
def test_the_library_still_has_it(name):
    owner, breaks = LISTED[name]
    module, _, attribute = owner.rpartition(".")
    thing = getattr(importlib.import_module(module), attribute) if module else importlib.import_module(owner)
    there = hasattr(thing, name) or name in inspect.getsource(thing)
    assert there, f"{owner} has no {name} any more; {breaks} breaks"
