"""Weights are read from safetensors: a pickled file can run code when it is read, so pickled ones are refused."""

import os

import timm
from transformers.utils import cached_file

PICKLED = ("pytorch_model", "adapter_model")  # how transformers calls such files, with what follows and .bin
ADVICE = (
    "pickled weights can run code when they are read and are refused. Convert what you trust, once: "
    'safetensors.torch.save_file(torch.load(FILE, weights_only=True), "model.safetensors", {"format": "pt"})'
)


def load_safely(load, name, *args, **kwargs):
    """`load(name, ...)`, a `from_pretrained` of transformers, from safetensors only.

    Args:
        load (`callable`), name (`str` or `os.PathLike` or None): folder, or repository of the Hub.
        args, kwargs: of `load`; `use_safetensors` may not be False.

    Raises:
        ValueError: the weights are pickled. OSError: none at all; other errors of transformers.
    """
    if kwargs.pop("use_safetensors", None) is False:
        raise ValueError(f"use_safetensors=False: {ADVICE}.")
    file = name and _find_pickle(os.path.join(name, kwargs.get("subfolder") or ""), os.fspath(name))
    if file:
        raise ValueError(f"{file}: {ADVICE}.")
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
