"""Benchmarks whose samples are lines of annotation files, and whose media may be there in part."""

import csv
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from .benchmark import SPLITS, Benchmark, BenchmarkConfig, check_share, stratified_split
from .partial import DownloadReport, MissingSample, SplitCount

EXTENSIONS = {  # those that come first win where a clip lies there twice
    "audio": (".wav", ".flac", ".m4a", ".mp3", ".ogg"),
    "image": (".jpg", ".jpeg", ".png", ".webp"),
    "video": (".mp4", ".mkv", ".webm", ".avi", ".flv", ".mov"),
}
MAX_LINE = 10_000  # bytes; the longest line of any of the real files has 694
POINTER = b"version https://git-lfs.github.com/spec/"
MAX_POINTER = 300  # bytes of a git-lfs pointer file


def read_lines(path, strict=False):
    """Number (`int`, from 1) and text of each line of a file (`Path`) that is not blank; only line feeds end one.

    Bytes that are not UTF-8 become the replacement character, or with `strict` (`bool`) an error.

    Raises:
        ValueError: a line of more than 10,000 bytes, or not UTF-8; the message names file and line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if len(line) > MAX_LINE:
                raise ValueError(f"{path}, line {number}: more than {MAX_LINE:,} bytes; is it the annotation file?")
            try:
                encoding = "utf-8-sig" if number == 1 else "utf-8"
                text = line.decode(encoding, errors="strict" if strict else "replace").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: not UTF-8 ({error.reason}); convert the file from its encoding, such as "
                    f"with: iconv -f LATIN1 -t UTF-8 {path.name} > new.csv"
                ) from error
            if text.strip():
                yield number, text


def read_csv(path, width):
    """Number and cells (`list[str]`, without blanks around them) of each line of comma separated values in a file.

    Cells may be quoted. There are `width` (`int`) of them, or as many as in the first line if that is None.

    Raises:
        ValueError: a row of another width, an open quote, not UTF-8; the message names file and line.
    """
    for number, line in read_lines(path, strict=True):
        try:
            cells = next(csv.reader([line], strict=True))
        except csv.Error as error:
            raise ValueError(f"{path}, line {number}: {error}; mend the line, or fetch the file again.") from error
        width = len(cells) if width is None else width
        if len(cells) != width:
            raise ValueError(f"{path}, line {number}: {len(cells)} cells, but {width} are expected: {line[:80]!r}.")
        yield number, [cell.strip() for cell in cells]


def check_path(value, name_only=True):
    """`value` (`str`) of an annotation file, without `./` and doubled slashes, if it stays below `data_dir` (`str`).

    Raises:
        ValueError: empty, too long, absolute, or with `..`; with `name_only` (`bool`) also one with slashes.
    """
    parts = value.split("/")
    clean = "/".join(part for part in parts if part not in ("", "."))
    bad = not clean or len(value) > 255 or ".." in parts or any(character in value for character in "\0\\:")
    if bad or value.startswith("/") or (name_only and len(parts) > 1):
        what = "a file name" if name_only else "a path below data_dir"
        raise ValueError(f"{value[:80]!r} is not {what}; remove the line.")
    return clean


def read_classes(name):
    """Names of the classes (`list[str]`) of the benchmark `name`, which stand in a text file beside it."""
    return (Path(__file__).parent / "benchmarks" / f"{name}_classes.txt").read_text(encoding="utf-8").splitlines()


def split_path(path):
    """Folders (`str`), name without ending and ending in lower case of a relative `path` (`str`) with slashes.

    A function of strings, because `datasets` replaces those of `os.path` by slower ones in a builder's module.
    """
    folders, _, name = path.rpartition("/")
    stem, dot, ending = name.rpartition(".")
    return (folders, stem, dot + ending.lower()) if stem else (folders, name, "")


def is_pointer(path):
    """Whether a file (`Path`) is what git-lfs leaves in the place of a large file (`bool`)."""
    return path.stat().st_size <= MAX_POINTER and path.read_bytes().startswith(POINTER)


class MediaIndex:
    """Media below a `folder` (`Path`) by kind, a key of `EXTENSIONS`, and by name without ending.

    Args:
        files (`dict[str, tuple[int, int]]`): as [`list_files`] returns it. kinds (`set[str]`): those to index.
    """

    def __init__(self, files, folder, kinds=frozenset(EXTENSIONS)):
        kinds = {ending: kind for kind, endings in EXTENSIONS.items() if kind in kinds for ending in endings}
        self.files, self.folder, self.paths, self.unusable = files, folder, {}, {}
        for path in files:
            _, stem, ending = split_path(path)
            kind = kinds.get(ending)
            if kind is not None:
                reason = self.flaw(path)
                where = self.paths if reason is None else self.unusable
                where.setdefault((kind, stem), []).append(path if reason is None else reason)

    def flaw(self, path):
        """Why the file at `path` (`str`, relative) cannot be used (`str`), or None: absent, empty, or a pointer."""
        if path not in self.files:
            return f"no file {path}"
        size = self.files[path][0]
        if size == 0:
            return f"{path} is empty; fetch it again"
        if size <= MAX_POINTER and is_pointer(self.folder / path):
            return f"{path} is a git-lfs pointer, not the file; run: git lfs pull"
        return None

    def find(self, kind, name, prefer=()):
        """Path (`str`, relative) of the file of this kind and name, or None.

        A file below a folder that is in `prefer` (`tuple[str]`) wins over others of the same name.
        """

        def rank(path):
            folders, _, ending = split_path(path)
            return not {*prefer} & {*folders.split("/")}, EXTENSIONS[kind].index(ending), path

        paths = self.paths.get((kind, name), ())
        return paths[0] if len(paths) == 1 else min(paths, key=rank, default=None)

    def reason(self, kind, name, expected):
        """Why `find` has nothing (`str`): a file that cannot be used, or no file, such as `expected` (`str`)."""
        return self.unusable.get((kind, name), [f"no file {expected}"])[0]


@dataclass
class HeldOutConfig(BenchmarkConfig):
    """Options of a benchmark whose source has no validation split.

    Args:
        validation: share of train that is set aside as validation, stratified by class; 0 for none. It is drawn from
            the annotation file, so that the same clips are in it whatever part of the media is there.
    """

    validation: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_share("validation", self.validation)


class ListedBenchmark(Benchmark):
    """A data set that annotation files list; a benchmark defines `lists` and `read_line`.

    Media stay where they are: the samples hold `{"bytes": None, "path": absolute path}`. A listed sample without its
    media is left out and reported (see [`DownloadReport`]).
    """

    BUILDER_CONFIG_CLASS = HeldOutConfig
    # From a split of the source to names that its annotation file may have, and where these may lie.
    lists: ClassVar[dict[str, tuple[str, ...]]] = {}
    folders: ClassVar[tuple[str, ...]] = ("", "annotations")
    width: ClassVar[int | None] = None  # cells of a line of comma separated values
    place: ClassVar[str] = "{}"  # where a missing file should be, with {} for its name
    prefer: ClassVar[tuple[str, ...]] = ()  # a file below a folder of such a name wins over others of the same name
    first_of_two: ClassVar[bool] = False  # whether of two lines that contradict each other the first one counts

    def read_line(self, line, split):
        """The sample that a line of the annotation file of `split` (`str`) names; None of one that does not count.

        It has `name`, `label` (a class's name), `text` where there is one, and what `stems` and `locate` need. Samples
        are the same if their `key` is, or the `name` if there is none.

        Raises:
            ValueError: a wrong line (as [`rows`] yields it).
        """
        raise NotImplementedError(f"{type(self).__name__} must define read_line")

    def rows(self, path):
        """Number and cells (`list[str]`) of each line of an annotation file (`Path`)."""
        return read_csv(path, self.width)

    def stems(self, sample):
        """Names without ending that the files of a sample may have (`list[str]`), the most telling first."""
        return [sample["name"]]

    def annotations(self):
        """Samples of each split of the source (`dict[str, list[dict]]`): all that are listed, with media or without."""
        return {split: self.read_list(split, *names) for split, names in self.lists.items()}

    def read_list(self, split, *names):
        """Samples (`list[dict]`) of the annotation file with one of `names`, each with the line that it is `at`.

        Raises:
            ValueError: a wrong line; the message names file and line. FileNotFoundError: no such file.
        """
        path, samples = self.data_dir / self.annotation_file(*names), []
        for number, line in self.rows(path):
            try:
                sample = self.read_line(line, split)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            if sample is not None:
                sample["at"] = (path.name, number)
                samples.append(sample)
        return samples

    def locate(self, sample):
        """An entry of the plan (`dict`, column to a relative path or a text), or why there is none (`str`)."""
        entry, stems = {}, self.stems(sample)
        for column, kind in self.modalities.items():
            if kind == "text":
                entry[column] = sample["text"]
                continue
            # Without a recording, the sound track of the video is read.
            kinds = ("audio", "video") if kind == "audio" else (kind,)
            found = (self.media.find(kind, stem, self.prefer) for kind in kinds for stem in stems)
            entry[column] = next(filter(None, found), None)
            if entry[column] is None and self.config.missing == "error":
                reasons = [self.media.reason(kinds[-1], stem, self.place.format(stem)) for stem in stems]
                # A file that is there but cannot be used tells more than one that is not.
                return next((reason for reason in reasons if not reason.startswith("no file")), reasons[0])
        lacking = [column for column, found in entry.items() if found is None]
        if len(lacking) == len(entry):
            return f"no file of any of {', '.join(entry)}"
        self.lacking += bool(lacking)
        return entry

    @cached_property
    def class_index(self):
        """From a class's name to its number (`dict[str, int]`)."""
        return {name: index for index, name in enumerate(self.class_names)}

    def class_number(self, word, first=0):
        """Name of the class (`str`) whose number, from `first` on, a line tells as `word` (`str`)."""
        last = first + len(self.class_names) - 1
        if not re.fullmatch(r"[0-9]{1,3}", word) or not first <= int(word) <= last:
            raise ValueError(f"label {word[:80]!r} is not {first} to {last}.")
        return self.class_names[int(word) - first]

    @cached_property
    def media(self):
        return MediaIndex(self.files, self.data_dir, set(self.modalities.values()))

    def annotation_file(self, *names):
        """Relative path (`str`) of the first of `names` that is there; an error if none is, or if it is empty."""
        for folder in self.folders:
            for name in names:
                path = f"{folder}/{name}" if folder else name
                if path in self.files:
                    self.file(path, "fetch it again.")
                    return path
        places = " or ".join(f"{folder}/" for folder in self.folders if folder)
        raise FileNotFoundError(
            f"no {' or '.join(names)} in {self.data_dir} (or in its {places}). {self.source.layout_line}"
        )

    def plan(self):
        self.notes, self.lacking, source = [], 0, self.source
        self.listed = listed = self._distinct(self.annotations())
        share, held_out = getattr(self.config, "validation", 0), set()
        origin = {"validation": "train"} if share and "train" in listed else {}
        report = DownloadReport(self.benchmark, str(self.data_dir), {}, notes=self.notes, origin=origin)
        wanted = origin.get(self.config.only_split, self.config.only_split)
        if wanted in listed:  # what is missing of the others is no concern of the caller
            listed = {wanted: listed[wanted]}
        if origin and listed.get("train"):
            labels = [self.class_index[sample["label"]] for sample in listed["train"]]
            held_out = set(stratified_split(labels, round(share * len(labels)), self.config.seed)[1].tolist())
            self.notes.append(
                f"Validation: a share of {share:g} of train, stratified by class, because the source has none."
            )
        plan = {split: [] for split in SPLITS if origin.get(split, split) in listed}
        for split, samples in listed.items():
            count = report.counts[split] = SplitCount(0, len(samples), source.counts.get(split))
            for index, sample in enumerate(samples):
                entry = self.locate(sample)
                if isinstance(entry, str):
                    report.missing.append(MissingSample(split, sample["name"], entry))
                    continue
                target = "validation" if split == "train" and index in held_out else split
                plan[target].append({**entry, "label": sample["label"]})
                count.found += 1
        if self.lacking:
            self.notes.append(f"Samples that lack some of their media: {self.lacking:,}.")
        self.report = report
        if not report.found:
            raise FileNotFoundError(f"{report.text(3)}\n{source.layout_line}")
        return plan

    def _distinct(self, listed):
        """The samples without lines that repeat others; contradictions are errors (see `first_of_two`)."""
        seen, repeated, contradicting = {}, [], 0
        kept = {split: [] for split in listed}
        lines = [(sample["at"], split, sample) for split, samples in listed.items() for sample in samples]
        for (file, line), split, sample in sorted(lines, key=lambda line: line[0]):
            first, first_split = seen.setdefault(sample.get("key", sample["name"]), (sample, split))
            if first is sample:
                kept[split].append(sample)
                continue
            other = first_split != split or first["label"] != sample["label"]
            if other and not self.first_of_two:
                raise ValueError(
                    f"{file}, line {line}: {sample['name']} stands in {first['at'][0]}, line {first['at'][1]} too, "
                    "with another label or split; remove one of the lines."
                )
            contradicting += other
            repeated.append(f"{file}:{line}")
        if repeated:
            self.notes.append(
                f"Lines left out because an earlier one names the same sample: {len(repeated):,} ({contradicting:,} "
                f"with another label or split): {', '.join(repeated[:5])}{', ...' if len(repeated) > 5 else ''}."
            )
        return kept

    def _full_path(self, path):
        return None if path is None else f"{self.config.data_dir}/{path}"

    def example(self, entry):
        columns = {
            name: entry[name] if kind == "text" else {"bytes": None, "path": self._full_path(entry[name])}
            for name, kind in self.modalities.items()
        }
        return {**columns, "label": entry["label"]}
