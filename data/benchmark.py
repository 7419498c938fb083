"""What all benchmarks share: a builder that plans its splits from annotations, then reads one sample at a time."""

import hashlib
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

import datasets
from datasets.exceptions import DatasetGenerationError

MEDIA = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
SPLITS = ("train", "validation", "test")


@dataclass
class BenchmarkConfig(datasets.BuilderConfig):
    """Options of a benchmark; they and the state of the source files key the Arrow cache."""

    seed: int = field(default=0, metadata={"help": "of every random choice"})
    only_split: str | None = None
    fingerprint: str = ""


class Benchmark(datasets.GeneratorBasedBuilder):
    """A data set of raw media with class labels, built from the files that people have.

    A benchmark sets `modalities` (column to `audio`, `image` or `text`), `class_names` and `summary`, and defines
    `plan` and `example`. Media are kept as `{"bytes", "path"}`, so that nothing has to be decoded to store them.
    """

    BUILDER_CONFIG_CLASS = BenchmarkConfig
    VERSION = datasets.Version("1.0.0")
    modalities: ClassVar[dict[str, str]] = {}
    class_names: ClassVar[list[str]] = []
    summary: ClassVar[str] = ""

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

    def _info(self):
        columns = {
            name: datasets.Value("string") if kind == "text" else dict(MEDIA) for name, kind in self.modalities.items()
        }
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
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"entries": plan[name]})
            for name in plan
            if wanted in (None, name)
        ]

    def _generate_examples(self, entries):
        for number, entry in enumerate(entries):
            yield number, self.example(entry)


def build(cls, data_dir, split, cache_dir, options):
    """Build a benchmark, or read it from the cache when options and files are as they were.

    Args:
        cls: a [`Benchmark`].
        data_dir (`str`, *optional*), split (`str`, *optional*), cache_dir (`str`, *optional*)
        options (`dict`): fields of its configuration.

    Returns:
        `datasets.DatasetDict`, or the `datasets.Dataset` of `split`.
    """
    name = cls.__name__
    own = {f.name for f in fields(cls.BUILDER_CONFIG_CLASS)} - {f.name for f in fields(datasets.BuilderConfig)}
    known = sorted(own - {"only_split", "fingerprint"})
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{name} has no options {unknown}; it has {', '.join(known)}.")
    if split is not None and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}.")
    if data_dir is not None:
        data_dir = str(Path(data_dir).expanduser().resolve())
        if not Path(data_dir).is_dir():
            raise FileNotFoundError(f"no folder at {data_dir}; data_dir must hold the files of {name}.")
    try:
        builder = cls(
            data_dir=data_dir,
            cache_dir=cache_dir,
            hash=hash_code(cls),
            only_split=split,
            fingerprint=fingerprint(data_dir),
            **options,
        )
        builder.download_and_prepare()
    except DatasetGenerationError as error:
        raise (error.__cause__ or error) from None
    return builder.as_dataset(split)


def fingerprint(data_dir):
    """A hash (`str`) of names, sizes and times of all files below `data_dir`; empty for None."""
    if data_dir is None:
        return ""
    digest = hashlib.sha256()
    for file in sorted(path for path in Path(data_dir).rglob("*") if path.is_file()):
        state = file.stat()
        digest.update(f"{file.relative_to(data_dir)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def hash_code(cls):
    """A hash (`str`) of the files that define a benchmark: a new version must not read what an old one built."""
    files = {sys.modules[base.__module__].__file__ for base in cls.__mro__ if issubclass(base, Benchmark)}
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in sorted(files))).hexdigest()[:16]


def stratified_part(entries, labels, share, seed):
    """Split `entries` (`list`) into the rest and a `share` (0 to 1) of it, stratified by `labels`, both in order."""
    if share == 0:
        return list(entries), []
    from sklearn.model_selection import train_test_split

    try:
        rest, part = train_test_split(range(len(entries)), test_size=share, random_state=seed, stratify=labels)
    except ValueError as error:
        raise ValueError(
            f"of {len(entries)} samples, a share of {share:g} cannot be set aside with all classes in both parts "
            f"({error}); choose another share, or 0."
        ) from error
    return [entries[i] for i in sorted(rest)], [entries[i] for i in sorted(part)]


def check_share(name, value):
    """Raise a `ValueError` unless `value` is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value} must be at least 0 and below 1.")


def read_media(path, hint, read):
    """Content (`bytes`) of an audio or image file that can be decoded.

    Args:
        path (`Path`), hint (`str`): what to do if not.
        read: `load_audio` or `read_image` of `modeling_lfm.media_lfm`.

    Raises:
        FileNotFoundError, ValueError: missing, empty, damaged; the message names the file.
    """
    content = require_file(path, hint).read_bytes()
    read({"bytes": content, "path": str(path)})
    return content


def require_file(path, hint):
    """`path` (`Path`) of a file that exists and is not empty.

    Raises:
        FileNotFoundError, ValueError: with `hint`, what to do.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}; {hint}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; {hint}")
    return path
