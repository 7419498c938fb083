"""The folder that `prepare_data.py` writes: what was prepared how, and reading it back for training."""

import hashlib
import json
import os
from dataclasses import MISSING, fields
from pathlib import Path

import datasets

from . import find_benchmark
from .preparation import FORMAT, identify, read_prepared
from .shards import plan_shards, unwritable

MANIFEST = "preparation.json"
PROCESSOR = "processor"  # folder, as `LfmProcessor.save_pretrained` writes it


def describe_preparation(benchmark, options, raw, data_dir, processor, columns, shard_size):
    """What decides the bytes of a prepared folder.

    Args:
        benchmark (`str`), options (`dict`): name of the data set, and its options that differ from the defaults.
        raw (`datasets.DatasetDict`), data_dir (`str`, *optional*)
        processor ([`LfmProcessor`]), columns (`dict[str, str]`): from a modality to its column.
        shard_size (`int`): samples of a shard.

    Returns:
        `dict` of JSON values. The same on every machine: paths are relative, and it holds no time.
    """
    return {
        "format": FORMAT,
        "benchmark": benchmark,
        "benchmark_options": complete_options(benchmark, options),
        "columns": dict(columns),
        **_describe_processor(processor),
        "class_names": next(iter(raw.values())).features["label"].names,
        "samples_per_shard": shard_size,
        "samples": {split: len(part) for split, part in raw.items()},
        "files": {split: digest_samples(part, data_dir) for split, part in raw.items()},
    }


def _describe_processor(processor):
    stored, text = json.loads(identify(processor))
    digest = None if text is None else hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()[:16]
    return {"processor": stored, "tokenizer": digest}


def complete_options(benchmark, options):
    """`options` (`dict`) of a benchmark and the defaults of all others, as JSON values."""
    config = find_benchmark(benchmark).BUILDER_CONFIG_CLASS
    inherited = {f.name for f in fields(datasets.BuilderConfig)} | {"only_split", "fingerprint"}
    known = {f.name: f for f in fields(config) if f.name not in inherited}
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{benchmark} has no options {unknown}; it has {', '.join(sorted(known))}.")
    complete = {
        name: options.get(name, f.default if f.default_factory is MISSING else f.default_factory())
        for name, f in sorted(known.items())
    }
    return json.loads(json.dumps(complete))


def digest_samples(dataset, data_dir):
    """A hash (`str`) of a raw split: texts, labels, cuts, and names and sizes of media; of media in memory, the bytes.

    Args:
        dataset (`datasets.Dataset`), data_dir (`str`, *optional*)
    """
    digest = hashlib.sha256()
    for sample in dataset:
        for column, value in sample.items():
            if isinstance(value, dict):
                value = {**value, "path": str(value.get("path")).replace(f"{data_dir}/", "")}
                content = value.pop("bytes", None)
                size = os.stat(sample[column]["path"]).st_size if content is None else None
                value["content"] = size if content is None else hashlib.sha256(content).hexdigest()
            digest.update(json.dumps([column, value], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def digest_manifest(manifest):
    """A hash (`str`) of a manifest (`dict`), which each shard keeps."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]


def write_manifest(folder, manifest):
    """Write a manifest (`dict`) into a folder (`Path`), whole or not at all."""
    write_whole(Path(folder) / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def write_whole(path, text):
    """Write a file (`Path`) of `text` (`str`), whole or not at all; an `OSError` that names it if it cannot be."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def is_prepared(folder):
    """Whether `prepare_data.py` wrote a folder (`str`, or None), finished or not (`bool`)."""
    return folder is not None and (Path(folder).expanduser() / MANIFEST).is_file()


def read_manifest(folder):
    """The manifest (`dict`) of a folder.

    Raises:
        FileNotFoundError, ValueError: there is none; it is damaged.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a prepared folder (no {MANIFEST}).")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete the folder and prepare the data again.") from error


def first_difference(there, here, name=""):
    """Where two JSON values differ first: a dotted key (`str`) and both values (None where missing), or None."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(key for key in here if key not in there)]:
            found = first_difference(there.get(key), here.get(key), f"{name}.{key}" if name else str(key))
            if found is not None:
                return found
        return None
    return None if there == here else (name, there, here)


def load_prepared(folder, processor, columns=None, benchmark=None, options=None, split=None, cache_dir=None):
    """Read a prepared folder for training or evaluation, without its media.

    The samples are copied from Parquet to an Arrow cache at the first use, so that any of them is read at once.

    Args:
        folder (`str`): what `prepare_data.py` wrote.
        processor ([`LfmProcessor`]): all or some of its modalities; settings that only matter in reading may differ.
        columns (`dict[str, str]`, *optional*), benchmark (`str`, *optional*), options (`dict`, *optional*): what the
            folder must have been prepared from, where given.
        split (`str`, *optional*): read only this one.
        cache_dir (`str`, *optional*): of the Arrow files; that of `datasets` if not given.

    Returns:
        `datasets.DatasetDict`, or the `datasets.Dataset` of `split`, as [`prepare_dataset`] gives them.

    Raises:
        ValueError: it was prepared otherwise, the message names the setting; no such split. FileNotFoundError: it is
        not a prepared folder, or not finished.
    """
    folder = Path(folder).expanduser()
    manifest = read_manifest(folder)
    _check_manifest(folder, manifest, processor, columns, benchmark, options)
    if split is not None and split not in manifest["samples"]:
        raise ValueError(f"{folder} has no samples for the split {split!r}; it has {', '.join(manifest['samples'])}.")
    files = find_shards(folder, manifest, [split] if split else list(manifest["samples"]))
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=cache_dir)
    wanted = [f"{name}_{kind.parts[0]}" for name, kind in processor.kinds.items()]
    for name, part in loaded.items():
        if len(part) == 0:
            raise ValueError(f"{folder}: no sample of the split {name!r} could be read when it was prepared.")
    parts = {name: read_prepared(part.select_columns([*wanted, "labels"]), processor) for name, part in loaded.items()}
    return parts[split] if split else datasets.DatasetDict(parts)


def find_shards(folder, manifest, splits):
    """Paths of the shards of `splits` (`list[str]`), as `dict[str, list[str]]`.

    Raises:
        FileNotFoundError: some are missing.
    """
    shards = [s for s in plan_shards(manifest["samples"], manifest["samples_per_shard"]) if s.split in splits]
    missing = [shard.path for shard in shards if not (Path(folder) / shard.path).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} is not finished: {len(missing)} of {len(shards)} shards are missing, such as {missing[0]}; run "
            "prepare_data.py with the same settings to go on."
        )
    return {name: [str(Path(folder) / shard.path) for shard in shards if shard.split == name] for name in splits}


def _check_manifest(folder, manifest, processor, columns, benchmark, options):
    """Raise a `ValueError` that names the first setting in which a folder was prepared otherwise."""
    here = _describe_processor(processor)
    if manifest["format"] != FORMAT:
        raise ValueError(f"{folder} was written by another version of this library; prepare the data again.")
    missing = [name for name in here["processor"] if name not in manifest["processor"]]
    if missing:
        raise ValueError(
            f"{folder} holds no modality {missing[0]!r}, only {', '.join(manifest['processor'])}; prepare the data "
            "again with it."
        )
    there = {"processor": {name: manifest["processor"][name] for name in here["processor"]}}
    if here["tokenizer"] is not None:
        there["tokenizer"] = manifest["tokenizer"]
    else:
        here.pop("tokenizer")
    if columns is not None:
        here["columns"] = dict(columns)
        there["columns"] = {name: manifest["columns"][name] for name in columns}
    if benchmark is not None:
        here["benchmark"], there["benchmark"] = benchmark, manifest["benchmark"]
    found = first_difference(there, here)
    if found is None and options is not None and benchmark is not None:
        there, here = manifest["benchmark_options"], complete_options(benchmark, options)
        found = first_difference({"benchmark_options": there}, {"benchmark_options": here})
    if found is not None:
        raise ValueError(
            f"{folder} was prepared with {found[0]} = {json.dumps(found[1])}, but here it is {json.dumps(found[2])}; "
            "set it as it was, or prepare the data again into another folder."
        )
