"""What a checkpoint may make the loader do: read safetensors of its own folder, and no more; and what is saved.

A pickled file can run code when it is read, and so can what some settings of a configuration name.
"""

import copy
import json
import math
import os
import re

import timm
from transformers.utils import cached_file

from .registry_lfm import list_some

try:  # transformers brings it along
    from safetensors import SafetensorError, safe_open
except ImportError:
    SafetensorError = safe_open = None  # type: ignore[assignment, misc]

PICKLED = ("pytorch_model", "adapter_model")  # how transformers calls such files, with what follows and .bin
ADVICE = (
    "pickled weights can run code when they are read and are refused. Convert what you trust, once: "
    'safetensors.torch.save_file(torch.load(FILE, weights_only=True), "model.safetensors", {"format": "pt"})'
)


def load_safely(load, name, *args, **kwargs):
    """`load(name, *args, **kwargs)`, a `from_pretrained` of transformers, from safetensors only.

    Raises:
        ValueError: the weights are pickled, or `use_safetensors` is False. OSError: there are none.
    """
    if kwargs.pop("use_safetensors", None) is False:
        raise ValueError(f"use_safetensors=False: {ADVICE}.")
    file = name and _find_pickle(os.path.join(name, kwargs.get("subfolder") or ""), os.fspath(name))
    if file:
        raise ValueError(f"{file}: {ADVICE}.")
    check_index(os.path.join(name or "", kwargs.get("subfolder") or ""), kwargs.get("variant"))
    kwargs["weights_only"] = True  # whatever files a list of shards may name
    try:
        return load(name, *args, use_safetensors=True, **kwargs)
    except OSError as error:
        if "use_safetensors" not in str(error):  # transformers' advice to a repository without safetensors
            raise
        raise ValueError(f"{name} has no weights in safetensors; {ADVICE}.") from error


def _find_pickle(folder, name):
    """A file that transformers would take the weights from and that is pickled, or None."""
    if os.path.isfile(name):
        return None if name.endswith((".safetensors", ".safetensors.index.json")) else name
    files = os.listdir(folder) if os.path.isdir(folder) else []
    for start in PICKLED:
        safe = "model" if start == "pytorch_model" else start
        pickled = [file for file in files if file.startswith(start) and file.endswith((".bin", ".bin.index.json"))]
        if pickled and not any(file.startswith(safe) and ".safetensors" in file for file in files):
            return os.path.join(folder, min(pickled))
    return None


def check_index(folder, variant=None):
    """The shards (`set[str]`) that the list of a local `folder` (`str`) names, if it has one.

    Raises:
        ValueError: one leads elsewhere, or to another format.
    """
    file = os.path.join(folder, f"model.safetensors.index{f'.{variant}' if variant else ''}.json")
    if not os.path.isfile(file):
        return set()
    try:
        with open(file, encoding="utf-8") as opened:
            shards = set(json.load(opened)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({type(error).__name__}: {error}); fetch it again.") from error
    # A folder of the Hub's cache has links to the blobs beside it.
    homes = [os.path.realpath(folder), os.path.realpath(os.path.join(folder, "..", "..", "blobs"))]
    for shard in shards:
        plain = isinstance(shard, str) and re.fullmatch(r"[\w.-]+\.safetensors", shard)
        there = os.path.join(folder, shard) if plain else ""
        odd = os.path.exists(there) and not os.path.isfile(there)  # a pipe would be waited for
        if not plain or odd or os.path.dirname(os.path.realpath(there)) not in homes:
            raise ValueError(f"{file} names {shard!r}, which is no safetensors file of its folder; it is refused.")
    return shards


def read_header(file):
    """Names and shapes (`dict[str, tuple[int, ...]]`) of the tensors in a safetensors file (`str`), which is whole."""
    try:
        with safe_open(file, "np") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged ({error}); fetch it or save it again.") from error


def check_shapes(folder, model, variant=None, resized=False):
    """Compare the weights of a local `folder` (`str`) with a sketch of their model, before memory is taken for them.

    Args:
        model (`nn.Module`): on the meta device. variant (`str`, *optional*), resized (`bool`): as of `from_pretrained`.

    Raises:
        ValueError: a tensor of another shape, or far fewer numbers than the model has.
    """
    single = f"model{f'.{variant}' if variant else ''}.safetensors"
    files = [single] if os.path.isfile(os.path.join(folder, single)) else check_index(folder, variant)
    if not files:
        return  # transformers says what is missing
    headers = [read_header(os.path.join(folder, file)) for file in files]
    found = {name.removeprefix("lfm."): shape for header in headers for name, shape in header.items()}
    wanted = {name.removeprefix("lfm."): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in () if resized else sorted(found.keys() & wanted.keys()):
        if found[name] != wanted[name]:
            told = f"{name} has the shape {found[name]} in the weights, and {wanted[name]} by config.json"
            raise ValueError(f"{folder}: {told}; they are not of one model.")
    sizes = [sum(map(math.prod, shapes.values())) for shapes in (found, wanted)]
    if not resized and sizes[0] < sizes[1] - 100_000_000:
        told = f"its weights hold {sizes[0]:,} numbers, and the model of config.json has {sizes[1]:,}"
        raise ValueError(f"{folder}: {told}; they are not of one model.")


def merge_adapters(model):
    """The `state_dict` of a model with its adapters (of peft) merged into what they adapt, or None if it has none.

    The model stays as it is.
    """
    state, merged = model.state_dict(), {}
    for place, module in model.named_modules():
        if hasattr(module, "base_digest"):  # a tower with adapters
            plain = copy.deepcopy(module)
            for name, layer in list(plain.named_modules()):
                if hasattr(layer, "get_base_layer"):
                    layer.merge(safe_merge=True)
                    parent, _, last = name.rpartition(".")
                    setattr(plain.get_submodule(parent), last, layer.get_base_layer())
            state = {key: tensor for key, tensor in state.items() if not key.startswith(f"{place}.")}
            merged |= {f"{place}.{key}": tensor for key, tensor in plain.state_dict().items()}
    return state | merged if merged else None


def check_missing(name, missing, unexpected=()):
    """Raise a ValueError if a checkpoint, `name`, lacks tensors (`list[str]`) that its model cannot do without."""
    if any("lora_" in key for key in unexpected):
        raise ValueError(
            f"{name} is a checkpoint of a run with lora, which holds adapters alone: go on training from it, or load "
            "the folder of the run, whose weights are merged."
        )
    missing = sorted(key for key in missing if not key.endswith("fusion.absence"))  # it starts from zeros
    if missing:
        raise ValueError(
            f"{name} lacks the weights {list_some(missing, 3)}; predictions would be random. Fetch or save it "
            "again; a new model is made with from_towers(config)."
        )


def check_plain(name, value):
    """Raise a ValueError unless `value`, of a configuration's key `name`, is a number, a word, or lists of such."""
    if isinstance(value, (list, tuple)):
        for part in value:
            check_plain(name, part)
    elif isinstance(value, str):
        if not re.fullmatch(r"[\w-]{0,64}", value):
            raise ValueError(
                f"{name}={value[:80]!r} is refused: no paths or addresses, names of letters and digits alone"
            )
    elif value is not None and not (isinstance(value, (bool, int, float)) and math.isfinite(value)):
        raise ValueError(f"{name}={str(value)[:80]} is refused: numbers, names, true, false and lists of these alone")


def check_count(name, value):
    """Raise a ValueError unless `value`, of a setting `name`, is a whole number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a positive integer.")


# What makes transformers fetch or run what a configuration names: code, kernels, other models, quantisation.
_TRIGGERS = """quantization_config kernel_config use_kernels custom_pipelines transformers_weights
    backbone backbone_config backbone_kwargs use_timm_backbone use_pretrained_backbone""".split()  # noqa: SIM905
_WRAPPERS = ("timm_wrapper", "timm_backbone")


def check_nested(config, path="config"):
    """Raise a ValueError if a tower's configuration (`dict`) holds what fetches or runs something that it names."""
    for key, value in config.items():
        if key in _TRIGGERS and value not in (None, False, {}):
            raise ValueError(f"{path}: {key!r} is refused in the configuration of a tower; leave it out")
        if key == "model_type" and value in _WRAPPERS:
            raise ValueError(f"{path}: model_type={value!r} is refused; give the model of timm as a tower 'timm'")
        if str(key).lstrip("_") in ("attn_implementation", "experts_implementation"):
            check_implementation(value, f"{path}: {key}")
        if isinstance(value, dict):
            check_nested(value, f"{path}.{key}")


def check_implementation(value, name="attn_implementation"):
    """Raise a ValueError if an implementation (`str`, or a `dict` of them by tower) is code of the Hub."""
    for word in value.values() if isinstance(value, dict) else (value,):
        if word is not None and not re.fullmatch(r"\w+", str(word)):
            raise ValueError(f"{name}={word!r} is refused: it must be one of transformers, such as 'sdpa' or 'eager'")


def check_checkpoint(file):
    """Raise an error if a file of weights (`str`) is missing (`FileNotFoundError`) or not in safetensors."""
    if not os.path.isfile(file):
        raise FileNotFoundError(f"no file at {file}, the checkpoint of a tower.")
    if not str(file).endswith(".safetensors"):
        raise ValueError(f"{file}: {ADVICE}.")


def timm_weights(name):
    """The file (`str`) with the pretrained weights of the timm model `name`, fetched from the Hub or in its cache.

    Raises:
        ValueError: there are none in safetensors. OSError: no connection, and not in the cache.
    """
    source = timm.get_pretrained_cfg(name)
    wanted = "" if source is None or not source.hf_hub_id else source.hf_hub_filename or "model.safetensors"
    try:
        if wanted.endswith(".safetensors"):
            return cached_file(source.hf_hub_id, wanted)
    except OSError as error:
        if "does not appear to have a file" not in str(error):
            raise
    raise ValueError(
        f"timm has no weights of {name!r} in safetensors; choose another model of timm.list_pretrained(), or give the "
        f"weights as 'checkpoint': {ADVICE}."
    )
