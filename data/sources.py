"""Where each benchmark comes from: its publisher, licence, folder layout, counts and citation."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from . import find_benchmark

YOUTUBE = (
    "Found anywhere below data_dir (class folders too) under the names that downloaders leave, as mp4, mkv, webm, avi, "
    "flv or mov: {id}_{start:06d}_{end:06d} (ActivityNet crawler, CVDF archives), {id}_{start:06d} (VGGSound's own), "
    "{id}_{start}_{end}, {id}_{start}, {id}_{start}_{end} in ms (audiosetdl), or {id} (Showmax's and CLIPSep's; it "
    "must be cut to the clip). Sound is read from a wav, flac, m4a, mp3 or ogg file of the same name if there is one, "
    "else from the video's own track."
)


@dataclass(frozen=True)
class Source:
    """What `prepare_data.py --how` tells of a benchmark.

    Args:
        title (`str`), modalities (`tuple[str]`), classes (`int`)
        counts (`dict[str, int]`): samples of each published split; empty where they depend on options.
        where (`tuple[str]`): how to obtain it, step by step.
        licence (`str`): as far as its publisher states one.
        layout (`tuple[str]`): what `data_dir` must hold, one entry a line.
        citation (`str`)
        urls (`dict[str, str]`): from an annotation file to an address that serves it.
        notes (`tuple[str]`): what differs from the paper, and other things to know.
        hub (`tuple[str]`): data sets of the Hub that hold these very samples, or a part of them.
        hub_licence (`str`): what the Hub calls the licence.
    """

    title: str
    modalities: tuple[str, ...]
    classes: int
    counts: dict[str, int]
    where: tuple[str, ...]
    licence: str
    layout: tuple[str, ...]
    citation: str
    urls: dict[str, str]
    notes: tuple[str, ...] = ()
    hub: tuple[str, ...] = ()
    hub_licence: str = "unknown"

    @property
    def layout_line(self):
        """The layout as one sentence (`str`), for messages."""
        return f"data_dir must hold {'; '.join(self.layout)}."


def _read(told):
    told = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    return Source(**{**told, "notes": tuple(YOUTUBE if note == "YOUTUBE" else note for note in told.get("notes", ()))})


_FILE = Path(__file__).with_suffix(".yaml")
SOURCES = {name: _read(told) for name, told in yaml.safe_load(_FILE.read_text(encoding="utf-8")).items()}


def find_source(name):
    """[`Source`] of a benchmark (`str`); of one that a user registered without an entry here, little more than a name.

    Raises:
        ValueError: an unknown name.
    """
    if name in SOURCES:
        return SOURCES[name]
    cls = find_benchmark(name)
    words = {
        "where": ("not stated",),
        "licence": "not stated",
        "layout": ("its files",),
        "citation": "none",
    }
    return Source(name, tuple(cls.modalities.values()), len(cls.class_names), counts={}, urls={}, **words)


def how(name=None):
    """Where a benchmark is obtained, its licence and its layout, as lines of text (`str`).

    Args:
        name (`str`, *optional*): of a benchmark; all of ours if not given.

    Raises:
        ValueError: an unknown name.
    """
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
    lines += [f"Note: {note}" for note in source.notes]
    return "\n".join([*lines, f"Cite: {source.citation}"])
