"""The report: sections of figures with their numbers, written as PNG, JSON and one HTML page of them all."""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path

from ..cards.record import to_json

TEMPLATE = Path(__file__).with_suffix(".html")


@dataclass
class Section:
    """One figure of the report, or several that belong together.

    Args:
        title (`str`)
        figures (`dict[str, matplotlib.figure.Figure]`): by the name of the file.
        numbers (`dict`): that they show; arrays are allowed.
        method (`str`): how it is computed, and the source.
        notes (`list[str]`): what is missing in it.
    """

    title: str
    figures: dict
    numbers: dict
    method: str
    notes: list = field(default_factory=list)


def write_report(sections, folder, title, facts, left_out=None):
    """Write `{figure}.png` and `{name}.json` of each section, and the page `report.html`, which needs nothing else.

    Args:
        sections (`dict[str, Section]`): by name. folder (`str` or `Path`): made if need be.
        facts (`dict[str, str]`): what stands at the top of the page.
        left_out (`dict[str, str]`, *optional*): from a figure that is not there to the reason.

    Returns:
        `Path` of the page.
    """
    from jinja2 import Environment

    folder, pictures = Path(folder), {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, section in sections.items():
        numbers = json.dumps(section.numbers, default=lambda value: value.tolist())
        numbers = json.loads(numbers, parse_float=lambda digits: round(float(digits), 6))
        (folder / f"{name}.json").write_text(to_json(numbers, 1), encoding="utf-8")
        for figure, drawn in section.figures.items():
            drawn.savefig(folder / f"{figure}.png")
            pictures[figure] = base64.b64encode((folder / f"{figure}.png").read_bytes()).decode()
    page = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = page.render(sections=sections, pictures=pictures, title=title, facts=facts, left_out=left_out)
    (folder / "report.html").write_text(text, encoding="utf-8")
    return folder / "report.html"
