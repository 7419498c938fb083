"""The page holds every figure and asks nobody for anything; charts follow light and dark pages."""

import html.parser
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from modeling_lfm.trainer import plots as style
from modeling_lfm.trainer.analysis import Section, write_report
from modeling_lfm.trainer.analysis.report import Picture, Table, rounded


def make_figure(title="a title"):
    figure, (axes, other) = style.new_panels(2, 2.5)
    axes.plot([0, 1, 2], [3, 1, 2], label="line", **style.line_style(1))
    axes.set(title=title, xlabel="epoch", ylabel="%")
    axes.legend()
    other.imshow(np.eye(4))
    return style.tidy(figure, [axes])


def make_sections():
    tables = [Table("All <numbers>", ["run", "value"], [["a & b", "1.0"]])]
    pictures = {name: Picture(make_figure(name), f"What {name} shows") for name in ("one", "two")}
    numbers = {"x": [1.0, float("nan")]}
    return [
        Section("first", "The first", ["a < b"], pictures, rounded(numbers), tables, "so"),
        Section("second", "The second", ["c"], {"three": Picture(make_figure("three"), "Three")}, {}),
    ]


class Reader(html.parser.HTMLParser):
    """Collects ids, references, elements and text."""

    def __init__(self):
        super().__init__()
        self.ids, self.references, self.names, self.labels, self.open = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        for key, value in attributes:
            if key == "id":
                self.ids.append(value)
            if key in ("href", "src", "srcset", "xlink:href", "data"):
                self.references.append(value)
            if tag == "svg" and key == "aria-label":
                self.labels.append(value)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The text of a page, and what a [`Reader`] found in it."""
    facts, left_out = {"models": "<run>"}, {"maps": "no captum"}
    path = write_report(
        make_sections(), tmp_path_factory.mktemp("page") / "out" / "report.html", "A page", facts, left_out
    )
    text, reader = path.read_text(encoding="utf-8"), Reader()
    reader.feed(text)
    return text, reader


def test_page_holds_every_figure_with_its_sentence_and_numbers(page):
    text, reader = page
    assert reader.names.count("svg") == 3
    assert reader.labels == ["What one shows", "What two shows", "Three"]
    assert {"first", "second"} <= set(reader.ids)
    for piece in ("a &lt; b", "a &amp; b", "All &lt;numbers&gt;", "&lt;run&gt;", "maps: no captum"):
        assert piece in text
    assert "<script" not in text


def test_page_asks_nobody_for_anything(page):
    text, reader = page
    assert "http" not in text.replace("http-equiv", "")
    assert "//" not in re.sub(r"data:[^\"')]*", "", text)
    assert "@import" not in text
    assert "default-src 'none'" in text
    for reference in reader.references:
        assert reference.startswith(("#", "data:")), reference
    for reference in re.findall(r"url\(([^)]*)\)", text):
        assert reference.startswith("#"), reference


def test_ids_of_the_figures_do_not_meet_and_references_find_them(page):
    text, reader = page
    assert len(reader.ids) == len(set(reader.ids))
    wanted = {reference[1:] for reference in reader.references if reference.startswith("#")}
    wanted |= {reference[1:] for reference in re.findall(r"url\(([^)]*)\)", text)}
    assert wanted <= set(reader.ids)


def test_text_and_lines_turn_light_on_a_dark_page(tmp_path):
    png, svg = style.save_figure(make_figure(), tmp_path / "figure")
    text = svg.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)  # well-formed
    assert root.tag.endswith("svg")
    assert "prefers-color-scheme: dark" in text
    for kind in ("fill", "stroke"):
        assert f'[style*="{kind}: {style.INK}"] {{ {kind}: {style.DARK[style.INK]} !important }}' in text
        assert f"{kind}: {style.INK}" in text.split("</style>", 1)[1], "something is drawn in the ink"
    assert "#000000" not in text, "plain black would stay dark"
    assert "<metadata>" not in text
    with Image.open(png) as image:
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
        assert 900 <= image.width <= 1000


def test_saving_a_section_writes_figures_and_numbers(tmp_path):
    section = make_sections()[0]
    names = sorted(path.name for path in section.save(tmp_path))
    assert names == ["first.json", "one.png", "one.svg", "two.png", "two.svg"]
    assert (tmp_path / "first.json").read_text() == '{\n "x": [ 1.0, null ]\n}\n'


def test_panels_that_are_too_many_for_a_row_break_into_rows():
    figure, panels = style.new_panels(5, 2.0, columns=3, sharex=True)
    assert len(panels) == 5
    assert [axes.get_visible() for axes in figure.axes] == [True] * 5 + [False]
    assert figure.get_figheight() == 4
    figure, panels = style.new_panels(4, 2.0, columns=3)
    assert panels[0].get_gridspec().get_geometry() == (2, 2)
