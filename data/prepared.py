"""The folder that `prepare_data.py` writes: its manifest, and reading it back for training, checked against it."""

import hashlib
import json
import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from . import find_benchmark
from .benchmark import check_options, own_options
from .holes import present_key
from .preparation import FORMAT, identify, read_prepared
from .streams import PreparedStream

MANIFEST = "preparation.json"
PROCESSOR = "processor"  # folder, as `LfmProcessor.save_pretrained` writes it
MAX_FOOTER, MAX_ROW_GROUP = 2**26, 2**31  # bytes; of a shard of ours 64 kB and 32 MB


def describe_preparation(benchmark, options, raw, data_dir, processor, columns, features, shard_size):
    """What decides the bytes of a prepared folder (`dict` of JSON values); `shards` tells of each that is written.

    It is the same on every machine: paths are relative, and it holds no time. Arguments as in
    [`Preparation`][modeling_lfm.data.shards.Preparation]; `features` are those of the prepared samples.
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
    return {"processor": stored, "tokenizer": None if text is None else digest(text)}


def complete_options(benchmark, options):
    """`options` (`dict`) of a benchmark and the defaults of all others, as JSON values."""
    cls = find_benchmark(benchmark)
    config = cls.BUILDER_CONFIG_CLASS(**check_options(cls, options))
    return json.loads(json.dumps({name: getattr(config, name) for name in own_options(cls)}))


def digest_samples(dataset, data_dir):
    """A hash (`str`) of a raw split: cells, labels, cuts, names and sizes of media; of media in memory, the bytes."""
    digest = hashlib.sha256()
    for sample in dataset:
        for column, value in sample.items():
            if isinstance(value, str) and data_dir and value.startswith(f"{data_dir}/"):  # a file that a table names
                value = {"path": value, "bytes": None}
            if isinstance(value, dict) and "path" in value:
                path, content = str(value["path"] or ""), value.get("bytes")
                size = os.path.getsize(path) if os.path.exists(path) else None
                held = size if content is None else hashlib.sha256(content).hexdigest()
                value = {**value, "path": path.replace(f"{data_dir}/", ""), "content": held}
                value.pop("bytes", None)
            digest.update(json.dumps([column, value], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def digest(value):
    """A hash (`str`) of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def digest_file(path):
    """The SHA-256 of a file's content (`str`)."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def is_prepared(folder):
    """Whether `prepare_data.py` wrote a folder (`str`, or None), finished or not (`bool`); of an address such as
    `s3://bucket/folder` it is believed.

    Example:

        ```python
        >>> from modeling_lfm.data import is_prepared
        >>> is_prepared("no/such/folder")
        False

        ```
    """
    return folder is not None and (_is_address(folder) or (Path(folder).expanduser() / MANIFEST).is_file())


def read_manifest(folder):
    """The manifest (`dict`) of a folder, which may be an address that fsspec reads.

    Raises:
        FileNotFoundError, ValueError: there is none; it is damaged, or of another version of this library.
    """
    path = f"{folder}/{MANIFEST}"
    if not (_is_address(path) or Path(path).is_file()):
        raise FileNotFoundError(f"{folder} is not a prepared folder (no {MANIFEST}).")
    try:
        with fsspec.open(path, "r", encoding="utf-8") as file:
            manifest = json.load(file)
        if isinstance(manifest, dict) and manifest.get("format") != FORMAT:
            raise ValueError("it was written by another version of this library")
        parts = ("processor", "columns", "schema", "samples", "files", "shards")
        wrong = [key for key in parts if not isinstance(manifest[key], dict)]
        wrong += [path for path, told in manifest["shards"].items() if not {"rows", "sha256", "left_out"} <= set(told)]
        numbers = [manifest["samples_per_shard"], *manifest["samples"].values()]
        if wrong or not all(isinstance(number, int) and number > 0 for number in numbers):
            raise ValueError(f"{', '.join(wrong[:3]) or 'a number of samples'} is wrong")
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is not a prepared folder (no {MANIFEST}).") from None
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


@dataclass(frozen=True)
class Shard:
    """Samples `start` to `stop` (exclusive) of a raw split, in file `number` (from 0) of `total`."""

    split: str
    number: int
    total: int
    start: int
    stop: int

    @property
    def path(self):
        """Relative to the prepared folder (`str`), a name that `datasets` and the Hub understand."""
        return f"data/{self.split}-{self.number:05d}-of-{self.total:05d}.parquet"

    def __len__(self):
        return self.stop - self.start


def plan_shards(manifest):
    """All shards (`list[Shard]`) of a preparation, of its `manifest` (`dict`)."""
    shards, size = [], manifest["samples_per_shard"]
    for split, count in manifest["samples"].items():
        total = -(-count // size)
        shards += [Shard(split, n, total, n * size, min((n + 1) * size, count)) for n in range(total)]
    return shards


def load_prepared(
    folder,
    processor,
    columns=None,
    benchmark=None,
    options=None,
    split=None,
    cache_dir=None,
    verify=False,
    streaming=False,
    seed=0,
):
    """Read a prepared folder for training or evaluation, without its media.

    The samples are copied from Parquet to an Arrow cache at the first use, so that any of them is read at once; the
    checksums are compared then.

    Args:
        folder (`str`): what `prepare_data.py` wrote; also an address that fsspec reads, such as `s3://bucket/folder` or
            `hf://datasets/me/name`, whose checksums are not compared.
        processor ([`LfmProcessor`]): all or some of its modalities; settings that only matter in reading may differ.
        columns (`dict[str, str]`, *optional*), benchmark (`str`, *optional*), options (`dict`, *optional*): what the
            folder must have been prepared from, where given.
        split (`str`, *optional*): read only this one.
        cache_dir (`str`, *optional*): of the Arrow files; that of `datasets` if not given.
        verify (`bool`): compute the checksum of each shard, even if it was copied before.
        streaming (`bool`): copy nothing, and read shard by shard; `split` says which.
        seed (`int`): of the order of a stream.

    Returns:
        `datasets.DatasetDict`, or the `datasets.Dataset` of `split`, as [`prepare_dataset`] gives them; where
        `streaming`, a [`PreparedStream`][modeling_lfm.data.streams.PreparedStream] of `split`.

    Raises:
        ValueError: it was prepared otherwise, the message names the setting; a shard is damaged, or not the one of its
        name; no such split. FileNotFoundError: it is not a prepared folder, or not finished.

    Example:

        ```python
        >>> from modeling_lfm import LfmProcessor
        >>> from modeling_lfm.data import load_benchmark, load_prepared
        >>> from modeling_lfm.data.shards import Preparation
        >>> raw = load_benchmark("demo", split="validation").select(range(4))
        >>> processor = LfmProcessor({"image": {"type": "image", "size": [8, 8], "num_channels": 1}})
        >>> shards = Preparation("prepared", "demo", {}, {"train": raw}, None, processor, {"image": "image"})
        >>> shards.begin()  # as prepare_data.py does
        >>> len(list(shards.write()))
        1
        >>> load_prepared("prepared", processor, split="train")[0]["image_values"].shape
        torch.Size([1, 8, 8])

        ```
    """
    folder = str(folder) if _is_address(folder) else str(Path(folder).expanduser())
    manifest = read_manifest(folder)
    check_manifest(folder, manifest, processor, columns, benchmark, options)
    if (split is not None or streaming) and split not in manifest["samples"]:
        raise ValueError(f"{folder} has no samples for the split {split!r}; it has {', '.join(manifest['samples'])}.")
    files, wanted = _list_files(folder, manifest, split), stored_columns(manifest, processor)
    if streaming:
        rows = sum(manifest["shards"][path]["rows"] for path in files[split])
        features = datasets.Features.from_dict({key: manifest["schema"][key] for key in wanted})
        return PreparedStream([f"{folder}/{path}" for path in files[split]], features, rows, processor, seed)
    data_files = {name: [f"{folder}/{path}" for path in paths] for name, paths in files.items()}
    builder = datasets.load_dataset_builder("parquet", data_files=data_files, cache_dir=cache_dir)
    verify = verify or not Path(builder.cache_dir).is_dir()  # whose name tells the times of the files
    for path in () if _is_address(folder) else chain(*files.values()):
        try:
            check_shard(Path(folder), path, manifest, verify)
        except ValueError as error:
            hint = "Fetch it again, or delete it and run prepare_data.py with the same settings."
            raise ValueError(f"{error} {hint}") from error
    builder.download_and_prepare()
    parts = {}
    for name, part in builder.as_dataset().items():
        if len(part) == 0:
            raise ValueError(f"{folder}: no sample of the split {name!r} could be read when it was prepared.")
        parts[name] = read_prepared(part.select_columns(wanted), processor)
    return parts[split] if split else datasets.DatasetDict(parts)


def _list_files(folder, manifest, split):
    """Paths of the shards of each split (`dict` of `list[str]`), or of one; a `FileNotFoundError` where any is
    missing."""
    shards = [shard for shard in plan_shards(manifest) if split in (None, shard.split)]
    missing = [shard.path for shard in shards if shard.path not in manifest["shards"]]
    if not _is_address(folder):
        missing += [s.path for s in shards if s.path not in missing and not Path(folder, s.path).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} is not finished: {len(missing)} of {len(shards)} shards are missing, such as {missing[0]}; run "
            "prepare_data.py with the same settings to go on."
        )
    names = dict.fromkeys(shard.split for shard in shards)
    return {name: [shard.path for shard in shards if shard.split == name] for name in names}


def _is_address(folder):
    return "://" in str(folder)


def stored_columns(manifest, processor):
    """The columns of a prepared folder (`list[str]`) that hold what a processor reads, and the labels."""
    wanted = [f"{name}_{kind.parts[0]}" for name, kind in processor.kinds.items()]
    return [*wanted, *(key for key in map(present_key, processor.kinds) if key in manifest["schema"]), "labels"]


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


def check_shard(folder, path, manifest, checksum=False):
    """Raise a `ValueError` that names a shard (`path`, in `folder`) unless it is as the `manifest` tells.

    Number and types of its samples are compared, and with `checksum` (`bool`) all bytes.
    """
    file, told = folder / path, manifest["shards"][path]
    footer = read_footer(file)
    try:
        found = {"schema": datasets.Features.from_arrow_schema(footer.schema.to_arrow_schema()).to_dict()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} was not written by prepare_data.py.") from error
    found |= {"rows": footer.num_rows, "sha256": digest_file(file) if checksum else told["sha256"]}
    wrong = first_difference({"schema": manifest["schema"], "rows": told["rows"], "sha256": told["sha256"]}, found)
    if wrong is not None:
        key, there, here = wrong
        raise ValueError(f"{file} is damaged, or another one: its {key} is {here!r}, and {MANIFEST} tells {there!r}.")


def check_manifest(folder, manifest, processor, columns, benchmark, options):
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
    told = {"columns": columns and dict(columns), "benchmark": benchmark}
    if benchmark is not None and options is not None:
        told["benchmark_options"] = complete_options(benchmark, options)
    here |= {key: value for key, value in told.items() if value is not None}
    there = {key: manifest.get(key) for key in here}
    if "benchmark_options" in here:  # an option that is younger than the folder had its default
        there["benchmark_options"] = {**complete_options(benchmark, {}), **(manifest.get("benchmark_options") or {})}
    for key in {"processor", "columns"} & set(here):  # some of its modalities are enough
        there[key] = {name: manifest[key].get(name) for name in here[key]}
    check_equal(folder, there, here)


def check_equal(folder, there, here):
    """Raise a `ValueError` that names where what a folder was prepared of (`dict`) differs from what is asked for."""
    found = first_difference(there, here)
    if found is None:
        return
    what = f"{found[0]} = {json.dumps(found[1])}, but here it is {json.dumps(found[2])}"
    if found[0].partition(".")[0] in ("files", "samples"):
        what = "other files: those in data_dir have changed since, or are others"
    raise ValueError(
        f"{folder} was prepared with {what}. The two must not be mixed: set it as it was, or prepare the data into "
        "another folder."
    )
