"""The report: sections of figures, their numbers and sentences computed from these, and one HTML page of them all."""

import base64
import io
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..collator import LfmDataCollator

BEFORE = "before training"
FIGURES = ("alpha", "label_fitting", "modality_gap", "maps", "contributions", "agreement", "calibration")
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

    def explain(self, figure):
        """The [`Section`] of a figure, one of [`FIGURES`].

        Raises:
            ValueError, FileNotFoundError: it cannot be drawn of these models.
        """
        from modeling_lfm.trainer import analysis

        if figure not in FIGURES:
            raise ValueError(f"figures {figure}: unknown; choose of {', '.join(FIGURES)}.")
        if figure == "alpha":
            return analysis.explain_alpha(self.logs)
        if figure == "label_fitting":
            return analysis.explain_label_fitting(*self.results)
        if figure == "maps":
            return analysis.explain_maps(self.models, self.dataset, self.processor)
        if figure == "modality_gap":
            before = {} if self.initial is None else {BEFORE: self._observe(self.initial, subsets=False)}
            return analysis.explain_gap({**before, **self.observed})
        return getattr(analysis, f"explain_{figure}")(self.observed)


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
