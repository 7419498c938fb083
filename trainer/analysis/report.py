"""The report: sections of figures, numbers and sentences computed from these, and one HTML page of them all."""

import html
import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..plots import DARK_RULES, draw_svg, save_figure, to_svg


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


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}
{dark}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
{intro}
</header>
<nav aria-label="figures"><ul>
{links}
</ul></nav>
<main>
{sections}
</main>
</body>
</html>
"""
STYLE = """
:root { --page: #ffffff; --text: #1b1b1f; --soft: #5c5c63; --line: #dcdce0; --edge: #a8a8b0; --link: #0059a8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #16171a; --text: #ececf0; --soft: #a9a9b2; --line: #37383e; --edge: #5c5d66; --link: #7ab8f5; }
}
* { box-sizing: border-box; }
html { color-scheme: light dark; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 56rem; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .75rem; }
h2 { font-size: 1.25rem; margin: 0 0 .5rem; }
a { color: var(--link); }
header dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; min-width: 0; }
nav ul { display: flex; flex-wrap: wrap; gap: .35rem 1.1rem; list-style: none; padding: .75rem 0; margin: 1rem 0 0;
  border-block: 1px solid var(--line); font-size: .95rem; }
section { padding-top: 2rem; }
section > ul { padding-left: 1.2rem; margin: 0 0 1rem; }
section > ul li { margin-bottom: .3rem; }
figure { margin: 1rem 0 1.5rem; }
/* What goes on beyond an edge throws a shadow there. */
.scroll { overflow-x: auto; background:
  linear-gradient(90deg, var(--page) 40%, transparent) left / 2rem 100% no-repeat local,
  linear-gradient(270deg, var(--page) 40%, transparent) right / 2rem 100% no-repeat local,
  linear-gradient(90deg, var(--edge), transparent) left / .7rem 100% no-repeat scroll,
  linear-gradient(270deg, var(--edge), transparent) right / .7rem 100% no-repeat scroll; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .4rem; }
details { border-top: 1px solid var(--line); padding: .5rem 0; font-size: .9rem; }
summary { cursor: pointer; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-top: .5rem; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--soft); font-weight: 600; }
.method { color: var(--soft); }
""".strip()


def write_report(sections, path, title, facts, left_out=None):
    """Write the page.

    Args:
        sections (`list[Section]`)
        path (`str`): of the HTML file.
        title (`str`)
        facts (`dict[str, str]`): what stands at its top.
        left_out (`dict[str, str]`, *optional*): from a figure that is not there to the reason.

    Returns:
        `Path`
    """
    entries = "\n".join(f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in facts.items())
    links = "\n".join(f'<li><a href="#{section.name}">{_text(section.title)}</a></li>' for section in sections)
    bodies = [format_section(section) for section in sections]
    if left_out:
        reasons = "\n".join(f"<li>{_text(name)}: {_text(reason)}</li>" for name, reason in left_out.items())
        bodies.append(f'<section id="left_out">\n<h2>Left out</h2>\n<ul>\n{reasons}\n</ul>\n</section>')
    page = PAGE.format(
        title=_text(title),
        style=STYLE,
        dark=DARK_RULES,
        intro=f"<dl>\n{entries}\n</dl>",
        links=links,
        sections="\n".join(bodies),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def format_section(section):
    """A [`Section`] as HTML (`str`): what to see, the figures, and the numbers and the method to be unfolded."""
    parts = [f'<section id="{section.name}">', f"<h2>{_text(section.title)}</h2>", "<ul>"]
    parts += [*(f"<li>{_text(line)}</li>" for line in section.text), "</ul>"]
    for name, picture in section.pictures.items():
        svg = _embed(to_svg(picture.svg, standalone=False), name, picture.caption)
        parts += ["<figure>", f'<div class="scroll" tabindex="0">{svg}</div>']
        parts += [f"<figcaption>{_text(picture.caption)}</figcaption>", "</figure>"]
    for table in section.tables:
        parts += [f"<details><summary>{_text(table.title)}</summary>", format_table(table), "</details>"]
    if section.method:
        parts += ["<details><summary>How it is computed</summary>"]
        parts += [f'<p class="method">{_text(section.method)}</p>', "</details>"]
    return "\n".join([*parts, "</section>"])


def format_table(table):
    """A [`Table`] as HTML (`str`)."""
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in table.head)
    rows = "\n".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{_text(table.title)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _embed(svg, name, caption):
    """An SVG whose ids belong to it alone, and which says what it shows."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{_text(caption)}"', 1)


def _text(value):
    return html.escape(str(value), quote=True)
