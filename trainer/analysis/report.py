"""The report: sections of figures, their numbers and sentences computed from these, and one HTML page of them all."""

import base64
import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..collator import LfmDataCollator
from ..plots import to_svg

BEFORE = "before training"
FIGURES = ("modality_gap", "alpha", "maps", "contributions", "agreement", "calibration", "label_fitting")
# What goes on beyond the edge of a `.scroll` throws a shadow there.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --soft: #5c5c63; --line: #dcdce0; --page: #ffffff; --edge: #a8a8b0; }
@media (prefers-color-scheme: dark) { :root { --soft: #a9a9b2; --line: #37383e; --page: #16171a; --edge: #5c5d66; } }
body { margin: 0 auto; padding: 1rem; max-width: 56rem; background: var(--page);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; } dd { margin: 0; min-width: 0; }
nav { border-block: 1px solid var(--line); padding: .5rem 0; } nav a { margin-right: 1rem; }
figure { margin: 1rem 0; } figcaption, dt, .method { color: var(--soft); font-size: .9rem; }
img { display: block; height: auto; }
.scroll { overflow-x: auto; background:
  linear-gradient(90deg, var(--page) 40%, transparent) left / 2rem 100% no-repeat local,
  linear-gradient(270deg, var(--page) 40%, transparent) right / 2rem 100% no-repeat local,
  linear-gradient(90deg, var(--edge), transparent) left / .7rem 100% no-repeat scroll,
  linear-gradient(270deg, var(--edge), transparent) right / .7rem 100% no-repeat scroll; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<dl>{% for name, fact in facts.items() %}<dt>{{ name }}</dt><dd>{{ fact }}</dd>{% endfor %}</dl>
<nav>{% for section in sections %}<a href="#{{ section.name }}">{{ section.title }}</a> {% endfor %}</nav>
{% for section in sections %}
<section id="{{ section.name }}">
<h2>{{ section.title }}</h2>
<ul>{% for line in section.text %}<li>{{ line }}</li>{% endfor %}</ul>
{% for picture in section.pictures.values() %}
<figure><div class="scroll" tabindex="0">{{ picture.to_html() }}</div>
<figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}
{% if section.method %}
<details><summary>How it is computed</summary><p class="method">{{ section.method }}</p></details>
{% endif %}
</section>
{% endfor %}
{% if left_out %}
<section id="left_out"><h2>Left out</h2>
<ul>{% for name, reason in left_out.items() %}<li>{{ name }}: {{ reason }}</li>{% endfor %}</ul></section>
{% endif %}
</body>
</html>
"""


@dataclass
class Picture:
    """A `matplotlib.figure.Figure`, and what it shows in words: the caption, and what a screen reader reads."""

    figure: Any
    caption: str

    def to_html(self):
        """An `<img>` that holds the figure, at least as wide as its text can be read."""
        from markupsafe import Markup

        width = self.figure.get_figwidth()
        style = f"width: 100%; min-width: {72 * width:.0f}px; max-width: {120 * width:.0f}px"
        source = base64.b64encode(to_svg(self.figure).encode()).decode()
        image = '<img alt="{}" style="{}" src="data:image/svg+xml;base64,{}">'
        return Markup(image).format(self.caption, style, source)


@dataclass
class Section:
    """One figure of the report, or several that belong together.

    Args:
        name (`str`): of the files.
        title (`str`)
        text (`list[str]`): sentences that say what to see, computed from the numbers.
        pictures (`dict[str, Picture]`): by the name of the files.
        numbers (`dict`): ready for JSON.
        method (`str`): how it is computed, and the source.
    """

    name: str
    title: str
    text: list
    pictures: dict
    numbers: dict
    method: str = ""

    def save(self, folder):
        """Write `{picture}.png`, `{picture}.svg` and `{name}.json` into a folder; returns the files (`list[Path]`)."""
        folder, written = Path(folder), []
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in self.pictures.items():
            written += [folder / f"{name}.png", folder / f"{name}.svg"]
            picture.figure.savefig(written[-2])
            written[-1].write_text(to_svg(picture.figure), encoding="utf-8")
        path = folder / f"{self.name}.json"
        text = json.dumps(self.numbers, indent=1, ensure_ascii=False)
        # Lists of plain values, and of such lists, on one line.
        text = re.sub(r'\[(?:[^{}":]|"[^"\\]*")*\]', lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)
        path.write_text(text + "\n", encoding="utf-8")
        return [*written, path]


@dataclass
class Look:
    """Trained models of one data set, and the figures of them.

    Args:
        models (`dict[str, LfmForMultimodalClassification]`): by name, of the same modalities, classes and processor.
        processor ([`LfmProcessor`])
        load_data: a function that gives prepared samples (`datasets.Dataset`), called when the first figure needs them.
        initial ([`LfmForMultimodalClassification`], *optional*): as it was before training, for `modality_gap`.
        logs (`dict[str, source]`): of runs, for `alpha`; see `plots.read_log_history`.
        results (`tuple`): for `label_fitting`: the arguments of `explain_label_fitting`.
        samples (`Sequence[int]`), layers (`dict[str, str]`): for `maps`: those shown, and see `plan_maps`.
        projection (`str`): for `modality_gap`, see `project`.
        batch_size (`int`), device (`torch.device`, *optional*): of the outputs that figures are drawn of.

    Example:

        ```python
        look = Look({"LFM": trainer.model}, processor, lambda: prepared["test"], logs={"LFM": trainer})
        look.explain("contributions").save("outputs/look")
        ```
    """

    models: dict
    processor: Any
    load_data: Any
    initial: Any = None
    logs: dict = field(default_factory=dict)
    results: tuple = ((), None)
    samples: Any = ()
    layers: dict = field(default_factory=dict)
    projection: str = "pca"
    batch_size: int = 64
    device: Any = None

    @cached_property
    def dataset(self):
        """The prepared samples."""
        return self.load_data()

    @cached_property
    def observed(self):
        """`dict[str, Observations]`: of the models by name, on all samples."""
        return {name: self._observe(model) for name, model in self.models.items()}

    def _observe(self, model, subsets=True):
        from .observations import observe

        collator = LfmDataCollator(self.processor)
        found = observe(model, self.dataset, collator, self.batch_size, self.device, subsets)
        model.cpu()
        return found

    def check(self, figure):
        """Raise a `ValueError` or `FileNotFoundError` where a figure cannot be drawn, before anything is computed."""
        from . import alpha_curves, label_fitting, maps, modality_gap

        single = len(next(iter(self.models.values())).config.modality_names) < 2
        if figure not in FIGURES:
            raise ValueError(f"figures {figure}: unknown; choose of {', '.join(FIGURES)}.")
        if single and figure in ("modality_gap", "contributions", "agreement"):
            raise ValueError("the model has one modality, and this compares several.")
        if figure == "modality_gap":
            modality_gap.check_projection(self.projection)
        elif figure == "alpha":
            alpha_curves.measure_alpha(self.logs)
        elif figure == "label_fitting":
            label_fitting.measure_label_fitting(*self.results)
        elif figure == "maps":
            kinds = [maps.plan_maps(model, self.layers)[0] for model in self.models.values()]
            if not kinds[0] or any(found != kinds[0] for found in kinds):
                raise ValueError("no tower has a map, or those of the models are of different kinds.")

    def explain(self, figure):
        """The [`Section`] of a figure, one of [`FIGURES`]."""
        from modeling_lfm.trainer import analysis

        if figure == "alpha":
            return analysis.explain_alpha(self.logs)
        if figure == "label_fitting":
            return analysis.explain_label_fitting(*self.results)
        if figure == "maps":
            return analysis.explain_maps(self.models, self.dataset, self.processor, self.layers, self.samples)
        if figure == "modality_gap":
            before = {} if self.initial is None else {BEFORE: self._observe(self.initial, subsets=False)}
            return analysis.explain_gap({**before, **self.observed}, self.projection, next(iter(before), None))
        return getattr(analysis, f"explain_{figure}")(self.observed)

    def explain_all(self, figures=FIGURES, asked=()):
        """All `figures` that can be drawn.

        Returns:
            their [`Section`]s (`list`), and by the name of the others the reason (`dict`).

        Raises:
            ValueError, FileNotFoundError: one that was `asked` for cannot be drawn, if possible before any computation.
        """
        sections, left_out = [], {}
        for step in (self.check, lambda figure: sections.append(self.explain(figure))):
            for figure in (figure for figure in figures if figure not in left_out):
                try:
                    step(figure)
                except (ValueError, OSError) as error:
                    if figure in asked:
                        raise type(error)(f"{figure}: {error}") from error
                    left_out[figure] = str(error)
        return sections, left_out


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

    template = Environment(autoescape=True, trim_blocks=True).from_string(PAGE)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = template.render(sections=sections, title=title, facts=facts, left_out=left_out)
    path.write_text(page, encoding="utf-8")
    return path


def percent(share, digits=0):
    """`12 %` of a share within 0..1, in one word."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


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
