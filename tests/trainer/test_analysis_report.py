"""The report holds every figure and asks nobody for anything; sections save their figures and numbers."""

import html.parser
import json
import re

import numpy as np
import pytest
from PIL import Image

from modeling_lfm.trainer.analysis import Section, write_report
from modeling_lfm.trainer.plots import new_figure, tidy


def make_section(name, figures, numbers=(), notes=("a < b",)):
    found = {}
    for title in figures:
        figure = new_figure(width=6)
        axes = figure.subplots()
        axes.plot([0, 1, 2], [3, 1, 2])
        axes.set(title=title, xlabel="epoch", ylabel="%")
        found[title] = tidy(figure, [axes])
    return Section(f"The {name}", found, dict(numbers), "so", list(notes))


class Reader(html.parser.HTMLParser):
    """Collects ids, references and images."""

    def __init__(self):
        super().__init__()
        self.ids, self.references, self.images = [], [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.references += [found[key] for key in ("href", "src", "srcset", "data") if key in found]
        self.images += [found] if tag == "img" else []


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The text of a page, and what a [`Reader`] found in it."""
    sections = {"first": make_section("first", ["one", "two"]), "second": make_section("second", ["three"])}
    folder = tmp_path_factory.mktemp("page") / "out"
    path = write_report(sections, folder, "A page", {"models": "<run>"}, {"maps": "no captum"})
    text, reader = path.read_text(encoding="utf-8"), Reader()
    reader.feed(text)
    return text, reader


def test_page_holds_every_figure_with_its_notes(page):
    text, reader = page
    assert [image["alt"] for image in reader.images] == ["The first", "The first", "The second"]
    assert len({image["src"] for image in reader.images}) == 3
    for piece in ("a &lt; b", "&lt;run&gt;", "maps: no captum", "<title>A page</title>"):
        assert piece in text


def test_page_asks_nobody_for_anything(page):
    text, reader = page
    bare = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]*", "", text)
    assert "http" not in bare.replace("http-equiv", "")
    assert "//" not in bare
    assert "<script" not in bare
    assert "default-src 'none'" in bare
    for reference in reader.references:
        assert reference.startswith("data:") or reference[1:] in reader.ids, reference


def test_figures_and_numbers_are_written(tmp_path):
    numbers = {"x": [1.0, float("nan")], "y": np.float32(0.5), "z": np.array([1 / 3, np.inf])}
    write_report({"first": make_section("first", ["one"], numbers)}, tmp_path / "new", "A page", {})
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["first.json", "one.png", "report.html"]
    assert json.loads((tmp_path / "new/first.json").read_text()) == {"x": [1.0, None], "y": 0.5, "z": [0.333333, None]}
    with Image.open(tmp_path / "new/one.png") as image:
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
        assert 700 <= image.width <= 900
