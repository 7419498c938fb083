"""What is known of files without reading them: which there are, and whether they have changed."""

import functools
import hashlib
import os
from pathlib import Path

import datasets
import pyarrow as pa


def list_files(folder, links=False):
    """All files below a folder in one pass; hidden ones are left out.

    Args:
        folder (`str` or `Path`)
        links (`bool`): follow symbolic links that lead out of it too.

    Returns:
        `dict[str, tuple[int, int]]`: from a path relative to it, with slashes, to size in bytes and time of the last
        change in ns; sorted by path.

    Raises:
        ValueError: a link leads out of the folder; the message names it. A set of files from somebody else could make
        samples of any file of this machine by it.
    """
    root = os.path.realpath(folder)
    found, seen, waiting = {}, set(), [("", os.fspath(folder))]
    while waiting:
        prefix, path = waiting.pop()
        state = os.stat(path)
        if (state.st_dev, state.st_ino) in seen:  # a link to a folder above it
            continue
        seen.add((state.st_dev, state.st_ino))
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not links and entry.is_symlink() and os.path.exists(entry.path):
                    target = os.path.realpath(entry.path)
                    if os.path.commonpath([root, target]) != root:
                        raise ValueError(
                            f"{entry.path} is a symbolic link out of {folder}; put the file itself there or, if you "
                            "trust the links of this folder, set the benchmark's option links (to true)."
                        )
                if entry.is_dir():
                    waiting.append((f"{prefix}{entry.name}/", entry.path))
                elif entry.is_file():
                    state = entry.stat()
                    found[prefix + entry.name] = (state.st_size, state.st_mtime_ns)
    return dict(sorted(found.items()))


def fingerprint(files):
    """A hash (`str`) of names, sizes and times of `files`, as [`list_files`] gives them; empty for none."""
    if not files:
        return ""
    digest = hashlib.sha256()
    for path, (size, time) in files.items():
        digest.update(f"{path}\0{size}\0{time}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def digest_files(dataset, columns):
    """A hash (`str`) of the size and the time of change of each file that samples name instead of holding it.

    A data set knows the paths of its files; what is prepared of them must not outlive a file that is replaced.

    Args:
        dataset (`datasets.Dataset`), columns (`list[str]`): of media.
    """
    digest, state = hashlib.sha256(), functools.lru_cache(maxsize=None)(_file_state)
    if not columns:  # text alone; datasets cannot read samples without columns where some were selected
        return digest.hexdigest()
    for table in dataset.select_columns(list(dict.fromkeys(columns))).with_format("arrow").iter(256):
        for column in table.columns:
            for path in _named_files(column.combine_chunks()):
                digest.update(f"{path} {state(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def cache_folder():
    """Where this library keeps files of its own in the cache of `datasets` (`Path`)."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "modeling_lfm"


def cache_file(raw, fingerprint):
    """Where samples of a data set in memory are written, which `datasets` would keep there; None beside its files."""
    if raw.cache_files:
        return None
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / f"prepared-{fingerprint}.arrow")


def _named_files(values):
    """Paths (`list[str]`) in an Arrow array of texts, of `{"bytes", "path"}`, or of lists of these."""
    if pa.types.is_struct(values.type):
        names = {field.name for field in values.type}
        paths = values.field("path") if "path" in names else pa.array([])
        return _named_files(paths.filter(values.field("bytes").is_null()) if {"path", "bytes"} <= names else paths)
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return _named_files(values.flatten())
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    return [path for path in values.to_pylist() if path and len(path) < 4096] if is_text else []


def _file_state(path):
    """Absolute path, sizes and times of a file or of those in a folder; None of an address, or where there is none."""
    try:
        files = [path, *(entry.path for entry in os.scandir(path))] if os.path.isdir(path) else [path]
        return os.path.abspath(path), sorted((os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files)
    except (OSError, ValueError):
        return None
