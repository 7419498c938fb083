"""What all benchmarks share: a builder that plans its splits from annotations, then reads one sample at a time."""

import functools
import hashlib
import logging
import math
import os
import sys
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import ClassVar, get_type_hints

import datasets
import numpy as np
import pyarrow as pa
from datasets.exceptions import DatasetGenerationError

from ..registry_lfm import check_type
from .partial import MISSING_SHOWN, DownloadReport, SplitCount

MEDIA = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
CUT = {"first_frame": datasets.Value("int32"), "last_frame": datasets.Value("int32")}
FEATURES = {"audio": MEDIA, "image": MEDIA, "video": MEDIA, "clip": MEDIA | CUT}  # text is a string
SPLITS = ("train", "validation", "test")
REPORT = "download_report.json"  # beside the Arrow files
MAX_FILE, MAX_TEXT = 2**28, 2**20  # bytes of a picture, recording or annotation file, and of the text of one sample

logger = logging.getLogger(__name__)


@dataclass
class BenchmarkConfig(datasets.BuilderConfig):
    """Options of a benchmark; they and the state of the source files key the Arrow cache."""

    seed: int = field(default=0, metadata={"help": "of every random choice"})
    links: bool = field(default=False, metadata={"help": "follow symbolic links out of data_dir, if you trust them"})
    only_split: str | None = None
    fingerprint: str = ""


class Benchmark(datasets.GeneratorBasedBuilder):
    """A data set of raw media with class labels, built from the files that people have.

    A benchmark sets `modalities` (column to `audio`, `image`, `text`, `video` or `clip`), `class_names` and `summary`,
    and defines `plan` and `example`; `@BENCHMARKS.register("name")` makes it known, in any file that is imported.
    Media are kept as `{"bytes", "path"}`, so that nothing has to be decoded to store them; a clip is a cut of a video
    and holds `first_frame` and `last_frame` too, both inclusive. Where the files may be there in part, `plan` sets
    `report`, a [`DownloadReport`].
    """

    BUILDER_CONFIG_CLASS = BenchmarkConfig
    VERSION = datasets.Version("1.0.0")
    modalities: ClassVar[dict[str, str]] = {}
    class_names: ClassVar[list[str]] = []
    summary: ClassVar[str] = ""
    benchmark: ClassVar[str] = ""  # the name under which it was registered
    report: DownloadReport | None = None
    strict: bool = False
    missing_shown: int = MISSING_SHOWN

    def __init_subclass__(cls):
        cls.benchmark = cls.__module__.rpartition(".")[2]

    def plan(self):
        """Entries of each split (`dict[str, list]`), light and in order; checks that the files are there.

        Raises:
            FileNotFoundError, ValueError: a missing or damaged file, a wrong label; the message names it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define plan")

    def example(self, entry):
        """One sample (`dict`) of an entry of the plan: its media, and `label`."""
        raise NotImplementedError(f"{type(self).__name__} must define example")

    @property
    def data_dir(self):
        """`Path` of the data set's files, which exists."""
        return Path(self.config.data_dir)

    @cached_property
    def files(self):
        """Sizes and times of the files below `data_dir`, as [`list_files`] gives them."""
        return list_files(self.data_dir, self.config.links)

    def file(self, path, hint, largest=MAX_FILE):
        """The one way to a file of the benchmark: only what [`list_files`] lists is read, and only up to a size.

        Args:
            path (`str`): relative to `data_dir`, with slashes.
            hint (`str`): what to do if it cannot be read. largest (`int`): bytes.

        Returns:
            `Path`

        Raises:
            FileNotFoundError, ValueError: missing (or hidden), empty, too large; the message names it.
        """
        full, (size, _) = self.data_dir / path, self.files.get(path, (None, None))
        if size is None:
            raise FileNotFoundError(f"no file at {full}; {hint}")
        if size == 0:
            raise ValueError(f"{full} is empty; {hint}")
        if size > largest:
            raise ValueError(f"{full} has {size:,} bytes, and no more than {largest:,} are read; {hint}")
        return full

    def read_media(self, path, hint, read):
        """Content (`bytes`) of an audio or image file that can be decoded.

        Args:
            path (`str`), hint (`str`): see [`file`].
            read: `load_audio` or `read_image` of `modeling_lfm.media_lfm`.

        Raises:
            FileNotFoundError, ValueError: as [`file`], or damaged.
        """
        file = self.file(path, hint)
        content = file.read_bytes()
        read({"bytes": content, "path": str(file)})
        return content

    def _info(self):
        columns = {
            name: datasets.Value("string") if kind == "text" else dict(FEATURES[kind])
            for name, kind in self.modalities.items()
        }
        label = datasets.ClassLabel(names=list(self.class_names))
        return datasets.DatasetInfo(description=self.summary, features=datasets.Features({**columns, "label": label}))

    def _split_generators(self, dl_manager):
        wanted = self.config.only_split
        plan = {name: entries for name, entries in self.plan().items() if entries}
        if self.strict and self.report is not None:
            self.report.require_complete(self.missing_shown)
        if wanted is not None and wanted not in plan:
            raise ValueError(
                f"{self.name} has no samples for the split {wanted!r}; it has {', '.join(plan) or 'none'}."
            )
        if not plan:
            raise ValueError(f"{self.name} found no samples at all in {self.config.data_dir}.")
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"entries": plan[name]})
            for name in plan
            if wanted in (None, name)
        ]

    def _generate_examples(self, entries):
        for number, entry in enumerate(entries):
            yield number, self.example(entry)


def own_options(cls):
    """Options of a benchmark's class that a user may set, by name (`dict[str, dataclasses.Field]`)."""
    others = {f.name for f in fields(datasets.BuilderConfig)} | {"only_split", "fingerprint"}
    return {f.name: f for f in sorted(fields(cls.BUILDER_CONFIG_CLASS), key=lambda f: f.name) if f.name not in others}


def check_options(cls, options):
    """`options` (`dict`) of a benchmark's class in their types; a `ValueError` names what is unknown or wrong."""
    known, hints = own_options(cls), get_type_hints(cls.BUILDER_CONFIG_CLASS)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{cls.__name__} has no options {unknown}; it has {', '.join(known)}.")
    options = {key: check_type(f"benchmark_options.{key}", value, hints[key]) for key, value in options.items()}
    if options.get("seed", 0) < 0:
        raise ValueError(f"benchmark_options.seed={options['seed']} must not be negative.")
    return options


def make_builder(cls, data_dir, split, cache_dir, options):
    """The builder of a benchmark, which has not read its files yet.

    Args:
        cls: a [`Benchmark`].
        data_dir (`str`, *optional*), split (`str`, *optional*), cache_dir (`str`, *optional*)
        options (`dict`): fields of its configuration.
    """
    name, options = cls.__name__, check_options(cls, options)
    if split is not None and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}.")
    files = {}
    if data_dir is not None:
        data_dir = os.path.realpath(Path(data_dir).expanduser())
        if not Path(data_dir).is_dir():
            raise FileNotFoundError(f"no folder at {data_dir}; data_dir must hold the files of {name}.")
        files = list_files(data_dir, options.get("links", False))
    builder = cls(
        data_dir=data_dir,
        cache_dir=cache_dir,
        hash=hash_code(cls),
        only_split=split,
        fingerprint=fingerprint(files),
        **options,
    )
    builder.files = files  # a second listing could take long, and differ
    return builder


def build(cls, data_dir, split, cache_dir, options, strict=False, missing_shown=MISSING_SHOWN):
    """Build a benchmark, or read it from the cache when options and files are as they were.

    Args:
        cls, data_dir, split, cache_dir, options: see [`make_builder`].
        strict (`bool`): whether missing media are an error; otherwise they are left out, and reported as a warning.
        missing_shown (`int`, *optional*): names of missing samples in that warning; None: no warning.

    Returns:
        `datasets.DatasetDict`, or the `datasets.Dataset` of `split`.
    """
    builder = make_builder(cls, data_dir, split, cache_dir, options)
    builder.strict, builder.missing_shown = strict, missing_shown
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as error:
        raise (error.__cause__ or error) from None
    saved = Path(builder.cache_dir) / REPORT
    if builder.report is not None:
        builder.report.save(saved)
    elif saved.is_file():
        builder.report = DownloadReport.load(saved)
    if builder.report is not None and strict:
        builder.report.require_complete(missing_shown or 0)
    if builder.report is not None and missing_shown is not None:
        logger.log(logging.INFO if builder.report.complete else logging.WARNING, builder.report.text(missing_shown))
    return builder.as_dataset(split)


def check(cls, data_dir, options):
    """What is there of a benchmark's files, without building it.

    Args:
        cls, data_dir, options: see [`make_builder`].

    Returns:
        [`DownloadReport`]. Of a benchmark that accepts nothing but whole sources, it counts what was found.
    """
    builder = make_builder(cls, data_dir, None, None, options)
    plan = builder.plan()
    if builder.report is None:
        counts = {name: SplitCount(len(entries), len(entries)) for name, entries in plan.items()}
        return DownloadReport(cls.benchmark, str(data_dir or ""), counts)
    return builder.report


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


def _named_files(values):
    """Paths (`list[str]`) in an Arrow array of texts, of `{"bytes", "path"}`, or of lists of these."""
    if pa.types.is_struct(values.type):
        names = [values.type.field(number).name for number in range(values.type.num_fields)]
        if "path" not in names:
            return []
        path = values.field("path")
        return _named_files(path if "bytes" not in names else path.filter(values.field("bytes").is_null()))
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


def hash_code(cls):
    """A hash (`str`) of the code that defines a benchmark: a new version must not read what an old one built."""
    bases = [base for base in cls.__mro__ if issubclass(base, Benchmark)]
    files = {getattr(sys.modules[base.__module__], "__file__", None) for base in bases} - {None}  # a notebook has none
    parts = [cls.__qualname__.encode(), *(Path(file).read_bytes() for file in sorted(files))]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def stratified_split(labels, count, seed):
    """Draw a part of samples, stratified by label, as the only stratified draw of the project.

    A class with one sample stays in the rest. Where the part is smaller than the number of classes, or a sample has
    several labels, it is drawn without regard to them.

    Args:
        labels (array_like of shape (N,), or (N, K) with K labels a sample)
        count (`int`): samples of the part. seed (`int`)

    Returns:
        `tuple[np.ndarray, np.ndarray]`: indices of the rest and of the part, both ascending.

    Raises:
        ValueError: one of the two would be empty.

    Example:

        ```python
        >>> from modeling_lfm.data.benchmark import stratified_split
        >>> rest, part = stratified_split([0, 0, 0, 0, 1, 1, 2], 2, seed=0)
        >>> len(rest), len(part)
        (5, 2)

        ```
    """
    labels, indices = np.asarray(labels), np.arange(len(labels))
    if count == 0:
        return indices, indices[:0]
    classes, counts = np.unique(labels, return_counts=True) if labels.ndim == 1 else ([0], [len(labels)])
    single = np.isin(labels, classes[counts < 2]) if labels.ndim == 1 else np.zeros(len(labels), bool)
    drawn = indices[~single]
    if not 0 < count < len(drawn):
        raise ValueError(
            f"{count} of {len(labels)} samples cannot be set aside so that both parts hold some; choose another share, "
            "or 0."
        )
    from sklearn.model_selection import train_test_split

    even = labels.ndim == 1 and len(classes) <= count <= len(drawn) - len(np.unique(labels[drawn]))
    rest, part = train_test_split(drawn, test_size=count, random_state=seed, stratify=labels[drawn] if even else None)
    return np.sort(np.concatenate([rest, indices[single]])), np.sort(part)


def split_entries(entries, share, seed):
    """Split `entries` (`list[dict]` with `label`) into the rest and a `share` of it (rounded up), both in order."""
    labels = [entry["label"] for entry in entries]
    rest, part = stratified_split(labels, math.ceil(share * len(entries)), seed)
    return [entries[i] for i in rest], [entries[i] for i in part]


def check_share(name, value):
    """Raise a `ValueError` unless `value` is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value} must be at least 0 and below 1.")
