"""What a run tells of itself in `lfm_run.json`: settings, versions and hardware, in words that may travel."""

import datetime
import functools
import importlib.metadata
import json
import os
import platform
import re
from dataclasses import MISSING, asdict, fields
from enum import Enum
from pathlib import Path

from ..privacy import portable

RUN_RECORD = "lfm_run.json"
# What a run writes at its end.
RESULTS = ("all_results.json", "train_results.json", "eval_results.json", "test_results.json", "trainer_state.json")
PACKAGES = ("modeling-lfm", "torch", "torchvision", "transformers", "accelerate", "datasets", "timm", "numpy")
# What the record holds, as far as it is read; "*" stands for any name.
RECORD_TYPES = {
    "benchmark": str | None,
    "benchmark_options": dict,
    "columns": {"*": str},
    "data": {
        **dict.fromkeys(("title", "licence", "citation"), str),
        **{"notes": [str], "hub": [str], "samples": {"*": int}, "majority": {"*": int | float}},
    },
    "run": {
        **dict.fromkeys(("date", "hardware"), str),
        **{"method": {"name": str}, "training": dict, "samples": {"*": int}, "pretrained": {"*": str | None}},
        **{"processes": int, "environment": {"*": str}, "calibration": {"*": int | float}},
    },
}
# Told even where they are the defaults: nobody can repeat a run without them.
ESSENTIAL = (
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "learning_rate",
    "lr_scheduler_type",
    "weight_decay",
    "max_grad_norm",
    "seed",
)
# Bookkeeping: what was printed, kept, sent or read by whom changes no result. Prefixes of the arguments' names.
BOOKKEEPING = (
    *("output_dir", "log", "report_to", "run_name", "project", "trackio", "disable_tqdm", "debug", "skip_memory"),
    *("save_", "enable_jit_checkpoint", "push_to_hub", "hub_", "resume_", "restore_", "ignore_data_skip"),
    *("do_", "eval_", "per_device_eval_batch_size", "prediction_loss_only", "include_", "batch_eval", "label_names"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent", "dataloader_prefetch"),
    *("dataloader_multiprocessing", "dataloader_in_order", "remove_unused_columns", "accelerator_config"),
    *("ddp_", "local_rank", "use_cpu", "method", "torch_empty"),
)


def describe_run(trainer):
    """What the run of an [`LfmTrainer`] was made with.

    Returns:
        `dict`, ready for JSON: `date`, `method` (its name and all its settings), `training` (the arguments that matter
        most, and all others that are not the defaults), `samples` by what they are for, `pretrained` (from each
        modality whose tower was fetched to its name on the Hub, or None), `processes`, `hardware`, `environment`
        (versions) and `calibration` (number of validation `samples`, and the errors on these).
    """
    method = trainer.method
    pretrained = getattr(trainer.model, "pretrained_towers", {})
    return portable(
        {
            "date": datetime.date.today().isoformat(),
            "method": {"name": method.spec.name, **asdict(method.settings)},
            "training": describe_arguments(trainer.args),
            "samples": _count_samples(trainer),
            "pretrained": {name: find_on_hub(spec) for name, spec in pretrained.items()},
            "processes": trainer.args.world_size,
            "hardware": describe_hardware(trainer.args.device),
            "calibration": trainer.calibrated_on or {},
            "environment": describe_environment(),
        }
    )


def describe_arguments(args):
    """The `ESSENTIAL` training arguments, then those that are not the defaults (`dict`); no `BOOKKEEPING`."""
    given, told = args.to_dict(), {}
    for field in sorted(fields(args), key=lambda field: field.name not in ESSENTIAL):  # the sort is stable
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        default = default.value if isinstance(default, Enum) else default
        value = given.get(field.name)
        differs = value != default and (value or default)  # None, False and nothing are the same
        if field.name in ESSENTIAL or (differs and not field.name.startswith(BOOKKEEPING)):
            told[field.name] = value
    told.pop("num_train_epochs" if args.max_steps > 0 else "max_steps")
    return told


def _count_samples(trainer):
    sets = {"train": trainer.train_dataset, "holdout": trainer.holdout_dataset, "validation": trainer.eval_dataset}
    if trainer.holdout_dataset is trainer.eval_dataset:
        sets.pop("holdout")
    sized = {name: samples for name, samples in sets.items() if hasattr(samples, "__len__")}
    return {name: len(samples) for name, samples in sized.items() if not isinstance(samples, dict)}


def find_on_hub(spec):
    """The repository of the Hub (`str`) that a tower's weights came from, or None if that is not known.

    `spec` (`dict`) is the tower's entry: `tower`, `name` and, where its weights were read from a file, `checkpoint`.
    """
    name = spec.get("name")
    if name is not None and spec["tower"] == "timm":
        import timm

        known = timm.get_pretrained_cfg(name)
        name = known and known.hf_hub_id
    is_local = not name or spec.get("checkpoint") or Path(name).exists()
    return None if is_local or not re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name) else name


def describe_hardware(device):
    """What computed, in words (`str`), such as `"1 x NVIDIA H200"` or `"CPU (x86_64, 2 cores)"`; of this process."""
    import torch

    if device.type == "cuda":
        return f"1 x {torch.cuda.get_device_name(device)}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{device.type.upper()} ({platform.machine()}, {cores} cores)"


def describe_environment():
    """Versions of Python and of the packages that matter (`dict[str, str]`)."""
    return {"python": platform.python_version(), **_find_versions()}


@functools.cache
def _find_versions():
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a copy that was put on the path, or a part that is optional
            continue
    return versions


def to_json(value, indent=2):
    """`value` as JSON (`str`) that every reader takes: null for a float that is no number, which Python calls NaN."""
    finite = json.loads(json.dumps(value), parse_constant=lambda word: None)
    return json.dumps(finite, indent=indent, ensure_ascii=False) + "\n"


def read_json(path, absent=None):
    """The mapping that a file (`Path`) holds (`dict`); `absent`, if given, where there is no file.

    Raises:
        ValueError: it is damaged, or holds something else; the message names it.
    """
    if absent is not None and not path.is_file():
        return absent
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); save it anew, or remove it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it should hold a JSON object; save it anew, or remove it.")
    return content


def read_record(folder):
    """What [`write_record`] wrote into a folder (`dict`), in portable form; empty if nothing.

    Raises:
        ValueError: the file is damaged, or an entry of it has a wrong type; the message names file and key.
    """
    path = Path(folder) / RUN_RECORD
    record = read_json(path, {})
    _check_types(record, RECORD_TYPES, path, "")
    return portable(record)


def _check_types(value, wanted, path, key):
    """Raise a `ValueError` where `value` is not as [`RECORD_TYPES`] says of `key`."""
    kind = type(wanted) if isinstance(wanted, (dict, list)) else wanted
    if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, int | float)):
        names = getattr(kind, "__name__", None) or str(kind)
        raise ValueError(f"{path}: {key.lstrip('.')} is {value!r}, not of type {names}; correct or remove it.")
    if isinstance(wanted, list):
        for index, entry in enumerate(value):
            _check_types(entry, wanted[0], path, f"{key}[{index}]")
    elif isinstance(wanted, dict):
        for name, entry in value.items():
            if name in wanted or "*" in wanted:
                _check_types(entry, wanted.get(name, wanted.get("*")), path, f"{key}.{name}")


def write_record(folder, **entries):
    """Write `entries` into the record of a folder, beside or in place of what it holds."""
    record = read_record(folder) | portable(entries)
    Path(folder).mkdir(parents=True, exist_ok=True)
    unfinished = Path(folder) / f"_{RUN_RECORD}"
    unfinished.write_text(to_json(record), encoding="utf-8")
    os.replace(unfinished, Path(folder) / RUN_RECORD)  # a run that is killed here can go on
