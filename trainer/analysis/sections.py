"""A section of the report: figures, the numbers that they show, and sentences that are computed from these."""

import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..style import draw_svg, save_figure


@dataclass
class Picture:
    """A figure and what it shows, in words: the caption in the page, and what a screen reader reads."""

    figure: Any
    caption: str

    @cached_property
    def svg(self):
        """The figure as an SVG file (`str`), see `draw_svg`: drawn once, since that takes a while."""
        return draw_svg(self.figure)


@dataclass
class Table:
    """A table of the report: `head` (`list[str]`) and `rows` (`list` of `list` of `str`), the first column names."""

    title: str
    head: list
    rows: list


@dataclass
class Section:
    """One figure of the report, or several that belong together.

    Args:
        name (`str`): of the files.
        title (`str`)
        text (`list[str]`): sentences that say what to see, computed from the numbers.
        pictures (`dict[str, Picture]`): by the name of the files.
        numbers (`dict`): ready for JSON.
        tables (`list[Table]`)
        method (`str`): how it is computed, and the source.
    """

    name: str
    title: str
    text: list
    pictures: dict
    numbers: dict
    tables: list = field(default_factory=list)
    method: str = ""

    def save(self, folder):
        """Write `{picture}.png`, `{picture}.svg` and `{name}.json` into a folder; returns the files (`list[Path]`)."""
        written = []
        for name, picture in self.pictures.items():
            written += save_figure(picture.figure, Path(folder) / name, picture.svg)
        path = Path(folder) / f"{self.name}.json"
        text = json.dumps(self.numbers, indent=1, ensure_ascii=False)
        # Lists of plain values, and of such lists, on one line.
        text = re.sub(r'\[(?:[^{}":]|"[^"\\]*")*\]', lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)
        path.write_text(text + "\n", encoding="utf-8")
        return [*written, path]


def percent(share, digits=1):
    """`12.3 %` of a share within 0..1, in one word."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def points(share, digits=1):
    """`+12.3` percentage points of a difference of shares."""
    return f"{100 * share:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def listing(words):
    """`a, b and c`."""
    words = list(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def shorten(text, length):
    """A text of at most `length` characters (8 at least), cut with an ellipsis."""
    length = max(length, 8)
    return text if len(text) <= length else text[: length - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def rounded(value, digits=6):
    """Numbers of arrays, lists and dictionaries as `float` rounded for JSON; what is not finite becomes None."""
    if isinstance(value, dict):
        return {str(key): rounded(item, digits) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    if isinstance(value, float):
        return round(value, digits) if math.isfinite(value) else None
    return value
