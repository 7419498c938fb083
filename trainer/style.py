"""The one style of all charts: colours that are told apart with any colour vision, sizes, and PNG and SVG files."""

import io
import re
from pathlib import Path

# Okabe & Ito's palette; the fused prediction has the colour of the text.
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
MARKERS = ("s", "^", "D", "v", "P", "X")
# Many classes: after Paul Tol's "muted" palette, without what a dark page would hide; grey for the rest.
CLASS_COLOURS = (
    *("#CC6677", "#4B6BC6", "#DDCC77", "#117733", "#88CCEE", "#882255"),
    *("#44AA99", "#999933", "#AA4499", "#B87333"),
)
OTHER_COLOUR = "#AAAAAA"
# Neither is plain black: matplotlib leaves that out of an SVG, where a dark page could not change it.
INK, MUTED, GRID = "#1b1b1f", "#6b6b70", "#dddddd"
FUSED_COLOUR = INK
DARK = {INK: "#ececf0", MUTED: "#a5a5ad", GRID: "#3d3f46"}
"""What the colours of text and lines become on a dark page."""
ON_LIGHT, ON_DARK = "#0b0b0b", "#fefefe"
"""Text on a coloured field, which no page changes."""
WIDTH, HEIGHT, DPI = 7.5, 3.4, 130
DARK_RULES = "@media (prefers-color-scheme: dark) {{ {rules} }}".format(
    rules=" ".join(
        f'[style*="{kind}: {light}"] {{ {kind}: {dark} !important }}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    )
)
"""CSS that turns the charts' text and lines light on a dark page; elsewhere they stay as they were drawn."""


def new_figure(width=WIDTH, height=HEIGHT):
    """An empty `matplotlib.figure.Figure` of so many inches, without pyplot: no display and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def new_panels(count, height, columns=3, width=WIDTH, **kwargs):
    """A figure with `count` axes in as few rows of at most `columns` as can be, about equally long.

    Args:
        count (`int`), columns (`int`)
        height (`float`): of a row, in inches.
        kwargs: of `Figure.subplots`.

    Returns:
        the figure, and the axes (`list`)
    """
    rows = -(-count // columns)
    columns = -(-count // rows)
    figure = new_figure(width, height * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False, **kwargs).flat)
    for axes in panels[count:]:
        axes.set_visible(False)
    for axes in panels[max(count - columns, 0) : count]:
        axes.tick_params(labelbottom=True)  # which `sharex` gives to the last row alone, hidden or not
    return figure, panels[:count]


def line_style(number):
    """Colour and marker of the line `number` (`int`, from 0) of a chart, as keyword arguments of `plot`."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "markersize": 4}


def tidy(figure, panels, grid="y"):
    """Give axes the style: no box, a faint grid, text in the ink of the page.

    Args:
        figure (`matplotlib.figure.Figure`)
        panels: its axes that are charts.
        grid (`str`): `x`, `y`, `both` or `none`.

    Returns:
        the figure
    """
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        if grid != "none":
            axes.grid(axis=grid, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
    return ink(figure)


def ink(figure):
    """Draw in [`INK`] what matplotlib draws in black by default: text, axes and ticks; returns the figure."""
    from matplotlib.colors import to_hex
    from matplotlib.text import Text

    for axes in figure.axes:
        axes.tick_params(colors=INK, which="both")
        for spine in axes.spines.values():
            if to_hex(spine.get_edgecolor()) == "#000000":
                spine.set_edgecolor(INK)
    for text in figure.findobj(Text):
        if to_hex(text.get_color()) == "#000000":
            text.set_color(INK)
    return figure


def draw_svg(figure):
    """A `matplotlib.figure.Figure` as an SVG file (`str`) with a transparent ground; its layout is settled then."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "lfm", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    figure.set_layout_engine("none")  # which costs as much as drawing, and would find the same again
    return re.sub(r"<metadata>.*?</metadata>\s*", "", buffer.getvalue(), flags=re.DOTALL)


def to_svg(figure, standalone=True):
    """A figure as SVG (`str`) with a transparent ground, whose text and lines follow a dark page.

    Args:
        figure (`matplotlib.figure.Figure`, or what [`draw_svg`] made of one)
        standalone (`bool`): a file of its own; else an element to be put into a page that holds [`DARK_RULES`].
    """
    text = figure if isinstance(figure, str) else draw_svg(figure)
    start = text.index("<svg")
    if standalone:
        head = text.index(">", start) + 1
        return f"{text[:head]}\n <style>{DARK_RULES}</style>{text[head:]}"
    # Names of namespaces are no addresses, but in a page they are not needed either.
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text[start:]).replace("xlink:href", "href")
    inches = float(re.search(r'\swidth="([\d.]+)pt"', text)[1]) / 72
    limits = f'style="min-width: {72 * inches:.0f}px; max-width: {120 * inches:.0f}px"'  # an inch of CSS is 96 px
    for key in ("width", "height"):
        text = re.sub(rf'(<svg[^>]*?)\s+{key}="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f"<svg {limits}", 1)


def save_figure(figure, path, svg=None):
    """Write a figure as PNG (on white) and SVG (transparent, for light and dark pages).

    Args:
        figure (`matplotlib.figure.Figure`)
        path (`str` or `Path`): without a suffix.
        svg (`str`, *optional*): what [`draw_svg`] made of the figure, where that is known.

    Returns:
        `list[Path]`: the two files.
    """
    files = [Path(f"{path}.{kind}") for kind in ("png", "svg")]
    files[0].parent.mkdir(parents=True, exist_ok=True)
    files[1].write_text(to_svg(svg or figure), encoding="utf-8")
    figure.savefig(files[0], format="png", pil_kwargs={"optimize": True})
    return files
