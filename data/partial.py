"""What is there of a download and what is missing, counted against the annotation files and the whole data set."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

MISSING_SHOWN = 10  # names that are printed where nothing else is asked for


@dataclass
class SplitCount:
    """Samples of one split of the source."""

    found: int  # whose media are there
    listed: int  # that the annotation file names, after the filters of the data set's authors
    published: int | None = None  # of the whole data set; None where nobody tells


@dataclass(frozen=True)
class MissingSample:
    """A listed sample that is left out: its split of the source, its name, and why."""

    split: str
    name: str
    reason: str


@dataclass
class DownloadReport:
    """Counts of a benchmark's files: what was built, and what is missing."""

    benchmark: str
    data_dir: str
    counts: dict[str, SplitCount]  # by split of the source; a validation split that is set aside counts as train
    missing: list[MissingSample] = field(default_factory=list)  # in the order of the annotation files
    notes: list[str] = field(default_factory=list)  # what else to know, such as lines that were there twice
    origin: dict[str, str] = field(default_factory=dict)  # from a built split to the source's: {"validation": "train"}

    @property
    def found(self):
        """Number of samples (`int`) of all splits whose media are there."""
        return sum(count.found for count in self.counts.values())

    @property
    def listed(self):
        """Number of samples (`int`) of all splits that the annotation files name."""
        return sum(count.listed for count in self.counts.values())

    @property
    def shortened(self):
        """Splits of the source whose annotation file names fewer samples than were published (`list[str]`)."""
        return [name for name, count in self.counts.items() if count.listed < (count.published or 0)]

    @property
    def complete(self):
        """Whether nothing is missing: no media, and no lines of an annotation file (`bool`)."""
        return not self.missing and not self.shortened

    def leave_out(self, split, name, reason):
        """Count a sample of a built split (`str`) as missing after all: its media turned out to be damaged."""
        split = self.origin.get(split, split)
        self.counts[split].found -= 1
        self.missing.append(MissingSample(split, name, reason))

    def text(self, missing_shown=MISSING_SHOWN):
        """The report as lines of text (`str`), with the names of at most so many missing samples."""
        lines = [f"{self.benchmark}: {self.found:,} of {self.listed:,} listed samples are in {self.data_dir}."]
        lines.append(f"  {'split':<12}{'found':>10}{'listed':>10}{'published':>11}")
        for name, count in self.counts.items():
            published = "?" if count.published is None else f"{count.published:,}"
            lines.append(f"  {name:<12}{count.found:>10,}{count.listed:>10,}{published:>11}")
        for name in self.shortened:
            told = f"{self.counts[name].listed:,} samples of {self.counts[name].published:,}"
            lines.append(f"  The annotation file of {name} names {told}; is it the whole file?")
        lines += [f"  Missing samples, left out: {len(self.missing):,}."] if self.missing else []
        shown = self.missing[: max(0, missing_shown)]
        lines += [f"    {sample.split}: {sample.name}: {sample.reason}" for sample in shown]
        if len(self.missing) > len(shown):
            lines.append(f"    ... and {len(self.missing) - len(shown):,} more")
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    def require_complete(self, missing_shown=MISSING_SHOWN):
        """Raise a `FileNotFoundError` with the report unless it is complete."""
        if not self.complete:
            raise FileNotFoundError(
                f"{self.text(missing_shown)}\nFetch what is missing, or build what is there with strict=False."
            )

    def save(self, path):
        """Write it as JSON to `path`, whole or not at all."""
        path = Path(path)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(asdict(self)), encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path):
        """The [`DownloadReport`] that `save` wrote to `path`."""
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        values["counts"] = {name: SplitCount(**count) for name, count in values["counts"].items()}
        values["missing"] = [MissingSample(**sample) for sample in values["missing"]]
        return cls(**values)
