"""One style for all charts, and plots of training runs: alpha, the modality gap, and accuracies, epoch by epoch."""

import io
import json
import math
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


def read_log_history(source):
    """The log entries of a run.

    Args:
        source: a trainer, its `state.log_history` (`list` of `dict`), a `trainer_state.json`, or a folder with one.

    Returns:
        `list[dict]`

    Raises:
        FileNotFoundError: there is no such file. ValueError: it holds no log.
    """
    if hasattr(source, "state"):
        source = source.state.log_history
    if isinstance(source, (list, tuple)):
        return list(source)
    path = Path(source)
    path = path / "trainer_state.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no trainer_state.json at {path}; give the folder in which a run was saved.")
    try:
        return json.loads(path.read_text())["log_history"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{path} is not the state of a trainer ({error}).") from error


def alpha_by_epoch(source):
    """`dict` from epoch (`int`, from 1) to the alpha that was in force in it (`float`); see [`read_log_history`]."""
    found = {}
    for entry in read_log_history(source):
        # Other entries with an alpha announce the one of the epoch to come.
        if "loss" in entry and entry.get("alpha") is not None:
            found[max(1, math.ceil(entry["epoch"] - 1e-6))] = entry["alpha"]
    return found


def accuracy_by_epoch(source, prefix="eval"):
    """Accuracies of a run's evaluations; of two in the same epoch the first (a last one may be of the best model).

    Args:
        source: see [`read_log_history`].
        prefix (`str`): of the evaluation's keys.

    Returns:
        `dict` from `"fused"` and each modality to a list of (epoch, accuracy), both `float`; the accuracy within 0..1.
    """
    suffix, found = "_accuracy", {}
    for entry in read_log_history(source):
        for key, value in entry.items():
            if key.startswith(f"{prefix}_") and key.endswith(suffix):
                name = key[len(prefix) + 1 : -len(suffix)] if key != prefix + suffix else "fused"
                found.setdefault(name, {}).setdefault(entry["epoch"], value)
    return {name: list(points.items()) for name, points in found.items()}


def gap_by_epoch(source, prefix="eval"):
    """`dict` from epoch (`float`) to the modality gap (`float`, within 0..1) of its first evaluation; see
    [`accuracy_by_epoch`]. Empty for a model of one modality, which has no gap."""
    found = {}
    for entry in read_log_history(source):
        if f"{prefix}_gap" in entry:
            found.setdefault(entry["epoch"], entry[f"{prefix}_gap"])
    return found if len(accuracy_by_epoch(source, prefix)) > 2 else {}


def plot_alpha(runs, path=None):
    """Draw alpha against epochs, one line a run.

    Args:
        runs (`dict[str, source]`): name of the run to what [`read_log_history`] takes.
        path (`str`, *optional*): the PNG to write.

    Returns:
        `matplotlib.figure.Figure`
    """
    figure = new_figure()
    axes = figure.subplots()
    for i, (name, source) in enumerate(runs.items()):
        alphas = alpha_by_epoch(source)
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "label": name}
        axes.plot(list(alphas), list(alphas.values()), markersize=4, **style)
    axes.set(xlabel="epoch", ylabel="alpha (weight of the matching loss)", ylim=(-0.03, 1.03))
    if len(runs) > 1:
        axes.legend(frameon=False)
    return _finish(figure, [axes], path)


def plot_gap(runs, path=None, prefix="eval"):
    """Draw the modality gap, accuracy of the best modality minus that of the worst, against epochs, one line a run.

    Args:
        runs, path: as in [`plot_alpha`].
        prefix (`str`): of the evaluation's keys.

    Returns:
        `matplotlib.figure.Figure`
    """
    figure = new_figure()
    axes = figure.subplots()
    for i, (name, source) in enumerate(runs.items()):
        gaps = gap_by_epoch(source, prefix)
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "label": name}
        axes.plot(list(gaps), [100 * gap for gap in gaps.values()], markersize=4, **style)
    axes.set(xlabel="epoch", ylabel=f"{'validation' if prefix == 'eval' else prefix} modality gap (points)")
    axes.set_ylim(bottom=0)
    if len(runs) > 1:
        axes.legend(frameon=False)
    return _finish(figure, [axes], path)


def plot_accuracy(runs, path=None, prefix="eval"):
    """Draw the accuracy of the fused prediction and of each modality alone against epochs, one panel a run.

    The shaded band is the modality gap, from the worst to the best modality.

    Args:
        runs, path: as in [`plot_alpha`].
        prefix (`str`): of the evaluation's keys.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        ValueError: a run was never evaluated.
    """
    figure = new_figure()
    panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axes, (name, source) in zip(panels, runs.items(), strict=True):
        accuracies = accuracy_by_epoch(source, prefix)
        if not accuracies:
            raise ValueError(f"the run {name!r} holds no {prefix}_accuracy; it was never evaluated.")
        _draw_accuracy(axes, accuracies)
        axes.set(xlabel="epoch", title=name)
    panels[0].set_ylabel("validation accuracy (%)" if prefix == "eval" else f"{prefix} accuracy (%)")
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return _finish(figure, panels, path)


def save_plots(source, folder, name="run"):
    """Write the plots of one run into `folder`: `alpha.png` of a method that has one, and `accuracy.png` and, of two or
    more modalities, `gap.png` when the run was evaluated.

    Returns:
        `list[Path]`: the files written.
    """
    folder, history = Path(folder), read_log_history(source)
    written = []
    if alpha_by_epoch(history):
        plot_alpha({name: history}, folder / "alpha.png")
        written.append(folder / "alpha.png")
    if accuracy_by_epoch(history):
        plot_accuracy({name: history}, folder / "accuracy.png")
        written.append(folder / "accuracy.png")
    if gap_by_epoch(history):
        plot_gap({name: history}, folder / "gap.png")
        written.append(folder / "gap.png")
    return written


def _draw_accuracy(axes, accuracies):
    modalities = {name: points for name, points in accuracies.items() if name != "fused"}
    for i, (name, points) in enumerate(modalities.items()):
        epochs, values = zip(*points, strict=True)
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "label": name}
        axes.plot(epochs, [100 * value for value in values], markersize=4, **style)
    if len(modalities) > 1:
        per_epoch = list(zip(*([100 * value for _, value in points] for points in modalities.values()), strict=True))
        low, high = [min(values) for values in per_epoch], [max(values) for values in per_epoch]
        axes.fill_between(epochs, low, high, color="#999999", alpha=0.25, linewidth=0, label="modality gap")
    epochs, values = zip(*accuracies["fused"], strict=True)
    axes.plot(epochs, [100 * value for value in values], color=FUSED_COLOUR, marker="o", markersize=4, label="fused")


def _finish(figure, panels, path):
    from matplotlib.ticker import MaxNLocator

    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    tidy(figure, panels)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    return figure
