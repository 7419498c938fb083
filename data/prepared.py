"""The folder that `prepare_data.py` writes: its manifest, and reading it back for training, checked against it."""

import contextlib
import hashlib
import json
import os
from dataclasses import MISSING, fields
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from . import find_benchmark
from .preparation import FORMAT, identify, read_prepared
from .sources import find_source

MANIFEST = "preparation.json"
PROCESSOR = "processor"  # folder, as `LfmProcessor.save_pretrained` writes it
OWN = b"lfm"  # key of what a shard tells of itself, as JSON: identity and path, and what was left out
MAX_FOOTER, MAX_ROW_GROUP = 2**26, 2**31  # bytes; of a shard of ours 64 kB and 32 MB


def describe_preparation(benchmark, options, raw, data_dir, processor, columns, features, shard_size):
    """What decides the bytes of a prepared folder, but for `shards`, which tells of each that is written.

    Args:
        benchmark (`str`), options (`dict`): name of the data set, and its options that differ from the defaults.
        raw (`datasets.DatasetDict`), data_dir (`str`, *optional*)
        processor ([`LfmProcessor`]), columns (`dict[str, str]`): from a modality to its column.
        features (`datasets.Features`): of the prepared samples.
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
        "schema": features.to_dict(),
        "samples_per_shard": shard_size,
        "samples": {split: len(part) for split, part in raw.items()},
        "files": {split: digest_samples(part, data_dir) for split, part in raw.items()},
        "shards": {},
    }


def _describe_processor(processor):
    stored, text = json.loads(identify(processor))
    return {"processor": stored, "tokenizer": None if text is None else _digest(text)}


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


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def digest_manifest(manifest):
    """The identity (`str`) of a preparation: a hash of all that its manifest (`dict`) tells but the shards."""
    return _digest({key: value for key, value in manifest.items() if key != "shards"})


def digest_file(path):
    """The SHA-256 of a file's content (`str`)."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def is_prepared(folder):
    """Whether `prepare_data.py` wrote a folder (`str`, or None), finished or not (`bool`)."""
    return folder is not None and (Path(folder).expanduser() / MANIFEST).is_file()


def read_manifest(folder):
    """The manifest (`dict`) of a folder.

    Raises:
        FileNotFoundError, ValueError: there is none; it is damaged, or of another version of this library.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a prepared folder (no {MANIFEST}).")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(manifest, dict) and manifest.get("format") != FORMAT:
            raise ValueError("it was written by another version of this library")
        kinds = {key: type(manifest[key]) for key in ("processor", "columns", "schema", "samples", "files", "shards")}
        wrong = [key for key, kind in kinds.items() if kind is not dict]
        wrong += [path for path, told in manifest["shards"].items() if not {"rows", "sha256"} <= set(told)]
        if wrong or not isinstance(manifest["samples_per_shard"], int):
            raise ValueError(f"{', '.join(wrong[:3]) or 'samples_per_shard'} is wrong")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be used ({error}); delete the folder and prepare the data again.") from error
    return manifest


def first_difference(there, here, name=""):
    """Where two JSON values differ first: a dotted key (`str`) and both values (None where missing), or None."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(key for key in here if key not in there)]:
            found = first_difference(there.get(key), here.get(key), f"{name}.{key}" if name else str(key))
            if found is not None:
                return found
        return None
    return None if there == here else (name, there, here)


def load_prepared(
    folder, processor, columns=None, benchmark=None, options=None, split=None, cache_dir=None, verify=False
):
    """Read a prepared folder for training or evaluation, without its media.

    The samples are copied from Parquet to an Arrow cache at the first use, so that any of them is read at once.

    Args:
        folder (`str`): what `prepare_data.py` wrote.
        processor ([`LfmProcessor`]): all or some of its modalities; settings that only matter in reading may differ.
        columns (`dict[str, str]`, *optional*), benchmark (`str`, *optional*), options (`dict`, *optional*): what the
            folder must have been prepared from, where given.
        split (`str`, *optional*): read only this one.
        cache_dir (`str`, *optional*): of the Arrow files; that of `datasets` if not given.
        verify (`bool`): compute the checksum of each shard, even if it was done since the file last changed.

    Returns:
        `datasets.DatasetDict`, or the `datasets.Dataset` of `split`, as [`prepare_dataset`] gives them.

    Raises:
        ValueError: it was prepared otherwise, the message names the setting; a shard is damaged, or not the one of its
        name; no such split. FileNotFoundError: it is not a prepared folder, or not finished.
    """
    folder = Path(folder).expanduser()
    manifest = read_manifest(folder)
    _check_manifest(folder, manifest, processor, columns, benchmark, options)
    if split is not None and split not in manifest["samples"]:
        raise ValueError(f"{folder} has no samples for the split {split!r}; it has {', '.join(manifest['samples'])}.")
    files = find_shards(folder, manifest, [split] if split else list(manifest["samples"]))
    check_shards(folder, manifest, [path for paths in files.values() for path in paths], verify, cache_dir)
    files = {name: [str(folder / path) for path in paths] for name, paths in files.items()}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=cache_dir)
    wanted = [f"{name}_{kind.parts[0]}" for name, kind in processor.kinds.items()]
    for name, part in loaded.items():
        if len(part) == 0:
            raise ValueError(f"{folder}: no sample of the split {name!r} could be read when it was prepared.")
    parts = {name: read_prepared(part.select_columns([*wanted, "labels"]), processor) for name, part in loaded.items()}
    return parts[split] if split else datasets.DatasetDict(parts)


def find_shards(folder, manifest, splits):
    """Relative paths of the shards of `splits` (`list[str]`), as `dict[str, list[str]]`.

    Raises:
        FileNotFoundError: some are missing.
    """
    from .shards import plan_shards

    shards = [s for s in plan_shards(manifest["samples"], manifest["samples_per_shard"]) if s.split in splits]
    there = [s.path in manifest["shards"] and (Path(folder) / s.path).is_file() for s in shards]
    if not all(there):
        raise FileNotFoundError(
            f"{folder} is not finished: {there.count(False)} of {len(shards)} shards are missing, such as "
            f"{shards[there.index(False)].path}; run prepare_data.py with the same settings to go on."
        )
    return {name: [shard.path for shard in shards if shard.split == name] for name in splits}


def read_footer(path, largest=MAX_ROW_GROUP):
    """Metadata of a Parquet file (`pyarrow.parquet.FileMetaData`), whose sizes are checked before more is read.

    Raises:
        ValueError: it is not whole, or would unpack to more than any shard of ours.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 8))
        tail = file.read()
    try:
        if tail[4:] != b"PAR1" or int.from_bytes(tail[:4], "little") > min(size, MAX_FOOTER):
            raise ValueError("it has no end, or one that is too large")
        footer = pq.read_metadata(path)
        sizes = [footer.row_group(number).total_byte_size for number in range(footer.num_row_groups)]
        if max(sizes, default=0) > largest:
            raise ValueError(f"a part of it unpacks to {max(sizes):,} bytes")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}).") from error
    return footer


def read_shard(folder, path, manifest):
    """What a shard tells of itself, if it is the one of this name and preparation.

    Args:
        folder (`Path`), path (`str`): relative to it. manifest (`dict`): of the folder.

    Returns:
        Its samples (`int`), and those left out as `list` of index, name and reason.

    Raises:
        ValueError: it is another one, or damaged; the message names it. OSError: it cannot be read.
    """
    footer = read_footer(Path(folder) / path)
    try:
        own = json.loads((footer.metadata or {})[OWN])
        features = datasets.Features.from_arrow_schema(footer.schema.to_arrow_schema()).to_dict()
        found = {"identity": own["identity"], "shard": own["path"], "schema": features}
        left_out = list(own["left_out"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{Path(folder) / path} was not written by prepare_data.py.") from error
    difference = first_difference(
        {"identity": digest_manifest(manifest), "shard": path, "schema": manifest["schema"]}, found
    )
    if difference is not None:
        key, there, here = difference
        raise ValueError(
            f"{Path(folder) / path} is not the shard of this name and preparation: {key} is {here!r}, and "
            f"{MANIFEST} tells {there!r}."
        )
    return footer.num_rows, left_out


def check_shards(folder, manifest, paths, verify=False, cache_dir=None):
    """Compare shards with the manifest: always what they are, and their checksums once for each state of a file.

    Args:
        folder (`Path`), manifest (`dict`), paths (`list[str]`): relative to it.
        verify (`bool`): compute all checksums again. cache_dir (`str`, *optional*): remembers what was computed.

    Raises:
        ValueError: a shard is damaged, or not the one of its name; the message names it.
    """
    hint = "Fetch it again, or delete it and run prepare_data.py with the same settings."
    cache = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "modeling_lfm"
    memory = cache / f"verified-{_digest(str(Path(folder).resolve()))}.json"
    known = {}
    with contextlib.suppress(OSError, ValueError):
        known = dict(json.loads(memory.read_text(encoding="utf-8")))
    before = dict(known)
    for path in paths:
        file, told = Path(folder) / path, manifest["shards"][path]
        try:
            rows, _ = read_shard(folder, path, manifest)
        except ValueError as error:
            raise ValueError(f"{error} {hint}") from error
        if rows != told["rows"]:
            raise ValueError(f"{file} has {rows} samples, and {MANIFEST} tells {told['rows']}. {hint}")
        state = file.stat()
        state = [state.st_size, state.st_mtime_ns, told["sha256"]]
        if verify or known.get(path) != state:
            if digest_file(file) != told["sha256"]:
                raise ValueError(f"{file} is damaged: its checksum is not that of {MANIFEST}. {hint}")
            known[path] = state
    if known != before:
        with contextlib.suppress(OSError):  # then it is computed again the next time
            cache.mkdir(parents=True, exist_ok=True)
            part = memory.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps(known), encoding="utf-8")
            part.replace(memory)


def _check_manifest(folder, manifest, processor, columns, benchmark, options):
    """Raise a `ValueError` that names the first setting in which a folder was prepared otherwise."""
    here = _describe_processor(processor)
    missing = [name for name in here["processor"] if name not in manifest["processor"]]
    if missing:
        raise ValueError(
            f"{folder} holds no modality {missing[0]!r}, only {', '.join(manifest['processor'])}; prepare the data "
            "again with it."
        )
    if here["tokenizer"] is None:
        del here["tokenizer"]
    if columns is not None:
        here["columns"] = dict(columns)
    if benchmark is not None:
        here["benchmark"] = benchmark
    there = {key: manifest[key] for key in here}
    for key in {"processor", "columns"} & set(here):  # some of its modalities are enough
        there[key] = {name: manifest[key].get(name) for name in here[key]}
    found = first_difference(there, here)
    if found is None and options is not None and benchmark is not None:
        there, here = manifest["benchmark_options"], complete_options(benchmark, options)
        found = first_difference({"benchmark_options": there}, {"benchmark_options": here})
    if found is not None:
        raise ValueError(
            f"{folder} was prepared with {found[0]} = {json.dumps(found[1])}, but here it is {json.dumps(found[2])}; "
            "set it as it was, or prepare the data again into another folder."
        )


CARD = """# {title}, prepared

{title} as arrays and token numbers, for training multimodal classifiers on {modalities}: nothing is left to decode.
Written by `prepare_data.py` of `modeling-lfm`, which trains from a copy of all files: `--data_dir FOLDER`.

Licence of the source: {licence}. Cite: {citation}.

| split | samples |
| --- | --- |
{samples}

Of the source, {missing:,} listed samples are not here; `report.json` counts and names them. `preparation.json` tells
how all was prepared, and holds a checksum of each file.

```python
import numpy as np
from datasets import load_dataset

data = load_dataset("path/or/name/of/this/data/set")
row = data["train"][0]
{columns}
label = data["train"].features["labels"].int2str(row["labels"])
```
"""


def make_card(preparation, counts, report):
    """The text (`str`) of README.md, of a [`Preparation`], its samples by split and a [`DownloadReport`]."""
    from huggingface_hub import DatasetCardData

    processor, source = preparation.processor, find_source(preparation.manifest["benchmark"])
    # The files of each split by name, so that those of another preparation beside them are not read too.
    totals = {shard.split: shard.total for shard in preparation.shards}
    files = [{"split": name, "path": f"data/{name}-*-of-{total:05d}.parquet"} for name, total in totals.items()]
    header = DatasetCardData(
        pretty_name=f"{source.title}, prepared",
        license=source.hub_licence,
        tags=["multimodal", "classification", *source.modalities],
        configs=[{"config_name": "default", "data_files": files}],
    )
    columns = []
    for name, kind in processor.kinds.items():
        value, shape = f'row["{name}_{kind.parts[0]}"]', processor.shape(name)
        array = shape and f'np.frombuffer({value}, "{np.dtype(kind.dtype)}").reshape({list(shape)})'
        columns.append(f"{name} = {array or value}")
    text = CARD.format(
        title=source.title,
        modalities=" + ".join(processor.modalities),
        licence=source.licence,
        citation=source.citation,
        samples="\n".join(f"| {name} | {count:,} |" for name, count in counts.items()),
        missing=len(report.missing),
        columns="\n".join(columns),
    )
    return f"---\n{header.to_yaml().strip()}\n---\n\n{text}"
