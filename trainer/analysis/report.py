"""The report: sections of figures, their numbers and sentences computed from these, and one HTML page of them all."""

import base64
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>body { margin: auto; padding: 1rem; max-width: 60rem; font: 1rem/1.5 sans-serif } img { max-width: 100% }</style>
<h1>{{ title }}</h1>
<ul>{% for name, fact in facts.items() %}<li>{{ name }}: {{ fact }}</li>{% endfor %}</ul>
{% for section in sections %}
<h2>{{ section.title }}</h2>
<ul>{% for line in section.text %}<li>{{ line }}</li>{% endfor %}</ul>
{% for png in section.to_base64() %}<p><img alt="{{ section.title }}" src="data:image/png;base64,{{ png }}"></p>
{% endfor %}
<details><summary>How it is computed</summary><p>{{ section.method }}</p></details>
{% endfor %}
{% if left_out %}
<h2>Left out</h2>
<ul>{% for name, reason in left_out.items() %}<li>{{ name }}: {{ reason }}</li>{% endfor %}</ul>
{% endif %}
</html>
"""


@dataclass
class Section:
    """One figure of the report, or several that belong together.

    Args:
        name (`str`): of the file of numbers.
        title (`str`)
        text (`list[str]`): sentences that say what to see, computed from the numbers.
        figures (`dict[str, matplotlib.figure.Figure]`): by the name of the file.
        numbers (`dict`): ready for JSON.
        method (`str`): how it is computed, and the source.
    """

    name: str
    title: str
    text: list
    figures: dict
    numbers: dict
    method: str

    def save(self, folder):
        """Write `{figure}.png` and `{name}.json` into a folder; returns the files (`list[Path]`)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / f"{name}.png" for name in self.figures] + [folder / f"{self.name}.json"]
        for path, figure in zip(written, self.figures.values(), strict=False):
            figure.savefig(path)
        written[-1].write_text(json.dumps(self.numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return written

    def to_base64(self):
        """Its figures as PNG in base64 (`list[str]`)."""
        files = [io.BytesIO() for _ in self.figures]
        for file, figure in zip(files, self.figures.values(), strict=True):
            figure.savefig(file)
        return [base64.b64encode(file.getvalue()).decode() for file in files]


def write_report(sections, path, title, facts, left_out=None):
    """Write the page, which needs nothing else.

    Args:
        sections (`list[Section]`)
        path (`str`): of the HTML file.
        title (`str`)
        facts (`dict[str, str]`): what stands at its top.
        left_out (`dict[str, str]`, *optional*): from a figure that is not there to the reason.

    Returns:
        `Path`
    """
    from jinja2 import Environment

    page = Environment(autoescape=True, trim_blocks=True).from_string(PAGE)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.render(sections=sections, title=title, facts=facts, left_out=left_out), encoding="utf-8")
    return path


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
