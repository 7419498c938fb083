"""What all benchmarks share: a builder that plans its splits from annotations, then reads one sample at a time."""

import hashlib
import io
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
from datasets.exceptions import DatasetGenerationError
from PIL import Image

from ..registry_lfm import check_type
from . import find_benchmark
from .files import fingerprint, list_files
from .partial import MISSING_SHOWN, DownloadReport, SplitCount
from .sources import find_source

MEDIA = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
CUT = {"first_frame": datasets.Value("int32"), "last_frame": datasets.Value("int32")}
FEATURES = {"audio": MEDIA, "image": MEDIA, "video": MEDIA, "clip": MEDIA | CUT, "text": datasets.Value("string")}
SPLITS = ("train", "validation", "test")
REPORT = "download_report.json"  # beside the Arrow files
MAX_FILE, MAX_TEXT = 2**28, 2**20  # bytes of a picture, recording or annotation file, and of the text of one sample

logger = logging.getLogger(__name__)


@dataclass
class BenchmarkConfig(datasets.BuilderConfig):
    """Options of a benchmark; they and the state of the source files key the Arrow cache.

    Example:

        ```python
        >>> from dataclasses import dataclass
        >>> from modeling_lfm.data import BenchmarkConfig
        >>> @dataclass
        ... class CatsConfig(BenchmarkConfig):  # which a benchmark names in BUILDER_CONFIG_CLASS
        ...     indoors: bool = True
        >>> CatsConfig(indoors=False).seed
        0

        ```
    """

    seed: int = field(default=0, metadata={"help": "of every random choice"})
    links: bool = field(default=False, metadata={"help": "follow symbolic links out of data_dir, if you trust them"})
    only_split: str | None = None
    missing: str = "error"
    fingerprint: str = ""


class Benchmark(datasets.GeneratorBasedBuilder):
    """A data set of raw media with class labels, built from the files that people have.

    A benchmark sets `modalities` (column to `audio`, `image`, `text`, `video` or `clip`), `class_names` and `summary`,
    and defines `plan` and `example`; `@BENCHMARKS.register("name")` makes it known, in any file that is imported.
    Media are kept as `{"bytes", "path"}`, so that nothing has to be decoded to store them; a clip is a cut of a video
    and holds `first_frame` and `last_frame` too, both inclusive. Where the files may be there in part, `plan` sets
    `report`, a [`DownloadReport`].

    Example:

        ```python
        >>> from modeling_lfm.data import BENCHMARKS, Benchmark, load_benchmark
        >>> @BENCHMARKS.register("greetings")
        ... class Greetings(Benchmark):
        ...     modalities, class_names = {"text": "text"}, ["plain", "loud"]
        ...     def plan(self):
        ...         return {"train": ["Hello.", "Hello!"]}
        ...     def example(self, entry):
        ...         return {"text": entry, "label": "loud" if "!" in entry else "plain"}
        >>> load_benchmark("greetings")["train"][1]
        {'text': 'Hello!', 'label': 1}

        ```
    """

    BUILDER_CONFIG_CLASS = BenchmarkConfig
    VERSION = datasets.Version("1.0.0")
    modalities: ClassVar[dict[str, str]] = {}
    class_names: ClassVar[list[str]] = []
    summary: ClassVar[str] = ""
    benchmark: ClassVar[str] = ""  # the name under which it was registered
    report: DownloadReport | None = None

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
    def source(self):
        """[`Source`][modeling_lfm.data.sources.Source]: where its files are from, and what `data_dir` must hold."""
        return find_source(self.benchmark)

    @property
    def data_dir(self):
        """`Path` of the data set's files, which exists; a `ValueError` where it was not given."""
        if self.config.data_dir is None:
            raise ValueError(f"{self.benchmark} needs data_dir. {self.source.layout_line}")
        return Path(self.config.data_dir)

    @cached_property
    def files(self):
        """Sizes and times of the files below `data_dir`, as [`list_files`] gives them."""
        return list_files(self.data_dir, self.config.links)

    def file(self, path, hint, largest=MAX_FILE):
        """The one way to a file of the benchmark (`Path`): only what `files` lists is read, and only up to a size.

        Args:
            path (`str`): relative to `data_dir`, with slashes.
            hint (`str`): what to do if it cannot be read. largest (`int`): bytes.

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
        """Content (`bytes`) of a file that `read` (`load_audio` or `read_image`) can decode; errors as of `file`."""
        file = self.file(path, hint)
        content = file.read_bytes()
        read({"bytes": content, "path": str(file)})
        return content

    def _info(self):
        columns = {name: FEATURES[kind] for name, kind in self.modalities.items()}
        label = datasets.ClassLabel(names=list(self.class_names))
        return datasets.DatasetInfo(description=self.summary, features=datasets.Features({**columns, "label": label}))

    def _split_generators(self, dl_manager):
        wanted = self.config.only_split
        plan = {name: entries for name, entries in self.plan().items() if entries}
        if wanted is not None and wanted not in plan:
            raise ValueError(
                f"{self.name} has no samples for the split {wanted!r}; it has {', '.join(plan) or 'none'}."
            )
        if not plan:
            raise ValueError(f"{self.name} found no samples at all in {self.config.data_dir}.")
        wanted = plan if wanted is None else [wanted]
        return [datasets.SplitGenerator(name=name, gen_kwargs={"entries": plan[name]}) for name in wanted]

    def _generate_examples(self, entries):
        for number, entry in enumerate(entries):
            yield number, self.example(entry)


def png_bytes(pixels):
    """A picture (H, W) or (H, W, 3), uint8, as a PNG file (`bytes`)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def own_options(cls):
    """Options of a benchmark's class that a user may set, by name (`dict[str, dataclasses.Field]`)."""
    others = {f.name for f in fields(datasets.BuilderConfig)} | {"only_split", "fingerprint", "missing"}
    return {f.name: f for f in sorted(fields(cls.BUILDER_CONFIG_CLASS), key=lambda f: f.name) if f.name not in others}


def check_options(cls, options):
    """`options` (`dict`) of a benchmark's class in their types; a `ValueError` names what is unknown or wrong."""
    known, hints = own_options(cls), get_type_hints(cls.BUILDER_CONFIG_CLASS)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"benchmark_options: {cls.__name__} has no options {unknown}; it has {', '.join(known)}.")
    options = {key: check_type(f"benchmark_options.{key}", value, hints[key]) for key, value in options.items()}
    if options.get("seed", 0) < 0:
        raise ValueError(f"benchmark_options.seed={options['seed']} must not be negative.")
    return options


def make_builder(cls, data_dir, split, cache_dir, options, missing="error"):
    """The builder of a benchmark's class, which has not read its files yet; arguments as in [`load_benchmark`]."""
    name, options = cls.__name__, check_options(cls, options)
    if split is not None and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}.")
    files = {}
    if data_dir is not None:
        data_dir = os.path.realpath(Path(data_dir).expanduser())
        if not Path(data_dir).is_dir():
            raise FileNotFoundError(f"no folder at {data_dir}; data_dir must hold the files of {name}.")
        files = list_files(data_dir, options.get("links", False))
    keys = {"hash": hash_code(cls), "fingerprint": fingerprint(files), "only_split": split}
    keys |= {"missing": missing} if missing == "absent" else {}  # as if it were none, so that caches stay
    builder = cls(data_dir=data_dir, cache_dir=cache_dir, **keys, **options)
    builder.files = files  # a second listing could take long, and differ
    return builder


def load_benchmark(
    name,
    data_dir=None,
    split=None,
    cache_dir=None,
    strict=False,
    missing_shown=MISSING_SHOWN,
    missing="error",
    **options,
):
    """Build a benchmark from its files, or read it from the cache.

    Of the paper's six, a part of the files is enough: what is there is built, and what is missing is reported as a
    warning.

    Args:
        name (`str`): one of `list_benchmarks()`.
        data_dir (`str`): folder of its files; `demo` needs none.
        split (`str`, *optional*): build only this one.
        cache_dir (`str`, *optional*): of the Arrow files; that of `datasets` if not given.
        strict (`bool`): make missing media an error, for the paper's six too.
        missing_shown (`int`, *optional*): names of missing samples that the warning shows; None: no warning.
        missing (`str`): of the paper's six, a sample that lacks one of its media is left out and reported (`"error"`),
            or stays without it (`"absent"`; not of `nvgesture`).
        options: of the benchmark, see its configuration class.

    Returns:
        `datasets.DatasetDict` with raw media as `{"bytes", "path"}` (a cut of a video: `first_frame` and `last_frame`
        too) or text, and a `ClassLabel` column `label`; or one `datasets.Dataset` where `split` is given. The paper's
        six refer to their media by absolute paths, with `bytes` None.

    Raises:
        ValueError: an unknown benchmark, option or split, a damaged file, a wrong label, a split without samples.
        FileNotFoundError: a missing file or folder; with `strict`, an incomplete download.

    Example:

        ```python
        >>> from modeling_lfm.data import load_benchmark
        >>> data = load_benchmark("demo", split="validation", image_noise=0.5)
        >>> len(data), data.column_names
        (200, ['audio', 'image', 'label'])

        ```
    """
    builder = make_builder(find_benchmark(name), data_dir, split, cache_dir, options, missing)
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as error:
        raise (error.__cause__ or error) from None
    saved = Path(builder.cache_dir) / REPORT
    if builder.report is not None:
        builder.report.save(saved)
    elif saved.is_file():
        builder.report = DownloadReport.load(saved)
    if builder.report is not None:
        if strict:
            builder.report.require_complete(missing_shown or 0)
        if missing_shown is not None:
            level = logging.INFO if builder.report.complete else logging.WARNING
            logger.log(level, builder.report.text(missing_shown))
    return builder.as_dataset(split)


def check_benchmark(name, data_dir=None, missing="error", **options):
    """What is there of a benchmark's files and what is missing, without building it; arguments as [`load_benchmark`].

    Returns:
        [`DownloadReport`][modeling_lfm.data.partial.DownloadReport]. Of a benchmark that accepts nothing but whole
        sources, it counts what was found.

    Example:

        ```python
        >>> from modeling_lfm.data import check_benchmark
        >>> check_benchmark("demo").found
        1600

        ```
    """
    builder = make_builder(find_benchmark(name), data_dir, None, None, options, missing)
    plan = builder.plan()
    counts = {split: SplitCount(len(entries), len(entries)) for split, entries in plan.items()}
    return builder.report or DownloadReport(name, str(data_dir or ""), counts)


def hash_code(cls):
    """A hash (`str`) of the code that defines a benchmark: a new version must not read what an old one built."""
    bases = [base for base in cls.__mro__ if issubclass(base, Benchmark)]
    files = {getattr(sys.modules[base.__module__], "__file__", None) for base in bases} - {None}  # a notebook has none
    digest = hashlib.sha256(repr((cls.__qualname__, list(cls.class_names))).encode())
    for file in sorted(files):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]


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
