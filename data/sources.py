"""Where each benchmark comes from: its publisher, licence, folder layout, counts and citation."""

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from . import find_benchmark


@dataclass(frozen=True)
class Source:
    """What `prepare_data.py --how` tells of a benchmark."""

    title: str
    modalities: list[str]
    classes: int
    counts: dict[str, int]  # samples of each published split; empty where they depend on options
    where: list[str]  # how to obtain it, step by step
    licence: str  # as far as its publisher states one
    layout: list[str]  # what `data_dir` must hold, one entry a line
    citation: str
    urls: dict[str, str]  # from an annotation file to an address that serves it
    names: str = ""  # of which names the files may be
    notes: list[str] = field(default_factory=list)  # what differs from the paper, and other things to know
    hub: list[str] = field(default_factory=list)  # data sets of the Hub that hold these very samples, or a part of them
    hub_licence: str = "unknown"  # what the Hub calls the licence

    @property
    def layout_line(self):
        """The layout as one sentence (`str`), for messages."""
        return f"data_dir must hold {'; '.join(self.layout)}."


_FILE = Path(__file__).with_suffix(".yaml")
SOURCES = {name: Source(**told) for name, told in yaml.safe_load(_FILE.read_text(encoding="utf-8")).items()}


def find_source(name):
    """[`Source`] of a benchmark (`str`); of one that a user registered without an entry here, little more than a name.

    Raises:
        ValueError: an unknown name.
    """
    if name in SOURCES:
        return SOURCES[name]
    cls = find_benchmark(name)
    words = {"where": ["not stated"], "licence": "not stated", "layout": ["its files"], "citation": "none"}
    return Source(name, list(cls.modalities.values()), len(cls.class_names), counts={}, urls={}, **words)


def how(name=None):
    """Where a benchmark (all of ours if None) is obtained, its licence and its layout, as lines of text (`str`)."""
    if name is None:
        return "\n\n".join(how(name) for name in SOURCES)
    source = find_source(name)
    classes = f"; {source.classes} classes" if source.classes else ""
    lines = [f"{name}: {source.title} ({', '.join(source.modalities)}{classes})", "Where from:"]
    lines += [f"  - {step}" for step in source.where]
    lines += [f"  - {file}: {url}" for file, url in source.urls.items()]
    lines += [f"Licence: {source.licence}", "Layout of data_dir:"]
    lines += [f"  - {part}" for part in source.layout]
    if source.counts:
        lines.append("Samples: " + ", ".join(f"{split} {count:,}" for split, count in source.counts.items()))
    lines += [f"Note: {note}" for note in (source.names, *source.notes) if note]
    return "\n".join([*lines, f"Cite: {source.citation}"])
