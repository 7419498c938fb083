"""One style for all charts, and plots of training runs: alpha, the modality gap, and accuracies, epoch by epoch."""

import json
import math
from pathlib import Path

# Okabe & Ito's palette, told apart with any colour vision; the fused prediction has the colour of the text.
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
MARKERS = ("s", "^", "D", "v", "P", "X")
MUTED = "#808080"
WIDTH, HEIGHT, DPI = 7.5, 3.4, 130


def new_figure(width=WIDTH, height=HEIGHT):
    """An empty `matplotlib.figure.Figure` of so many inches, without pyplot: no display and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def line_style(number):
    """Colour and marker of the line `number` (`int`, from 0) of a chart, as keyword arguments of `plot`."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "markersize": 4}


def styles(names):
    """By name the [`line_style`] of modalities; of `fused`, which may be among them, black dots."""
    others = [name for name in names if name != "fused"]
    fused = {"color": "black", "marker": "o", "markersize": 4}
    return {name: fused if name == "fused" else line_style(others.index(name)) for name in names}


def tidy(figure, panels, grid="y"):
    """Give axes the style, no box and a faint grid along `x`, `y` or `both`; returns the figure."""
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis=grid, color=MUTED, alpha=0.3, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure


def add_legend(figure, axes, place="outside upper center", **kwargs):
    """Put the legend of `axes` beside all axes of a figure, in one row if `kwargs` of `Figure.legend` say no other."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc=place, **{"ncols": len(names), "frameon": False, "fontsize": 9, **kwargs})


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


def accuracy_by_epoch(source):
    """Accuracies on the validation split; of two in the same epoch the first (a last one may be of the best model).

    Args:
        source: see [`read_log_history`].

    Returns:
        `dict` from `"fused"` and each modality to a list of (epoch, accuracy), both `float`; the accuracy within 0..1.
    """
    found = {}
    for entry in read_log_history(source):
        for key, value in entry.items():
            if key.startswith("eval_") and key.endswith("_accuracy"):
                name = key[len("eval_") : -len("_accuracy")] if key != "eval_accuracy" else "fused"
                found.setdefault(name, {}).setdefault(entry["epoch"], value)
    return {name: list(points.items()) for name, points in found.items()}


def gap_by_epoch(source):
    """`dict` from epoch (`float`) to the modality gap (`float`, within 0..1) of its first evaluation; see
    [`accuracy_by_epoch`]. Empty for a model of one modality, which has no gap."""
    found = {}
    for entry in read_log_history(source):
        if "eval_gap" in entry:
            found.setdefault(entry["epoch"], entry["eval_gap"])
    return found if len(accuracy_by_epoch(source)) > 2 else {}


def plot_alpha(runs, path=None):
    """Draw alpha against epochs, one line a run.

    Args:
        runs (`dict[str, source]`): name of the run to what [`read_log_history`] takes.
        path (`str`, *optional*): the PNG to write.

    Returns:
        `matplotlib.figure.Figure`
    """
    lines = {name: alpha_by_epoch(source) for name, source in runs.items()}
    return _plot_lines(lines, path, ylabel="alpha (weight of the matching loss)", ylim=(-0.03, 1.03))


def plot_gap(runs, path=None):
    """Draw the modality gap, accuracy of the best modality minus that of the worst; as [`plot_alpha`]."""
    gaps = {name: gap_by_epoch(source) for name, source in runs.items()}
    lines = {name: {epoch: 100 * gap for epoch, gap in found.items()} for name, found in gaps.items()}
    return _plot_lines(lines, path, ylabel="validation modality gap (points)", ylim=(0, None))


def _plot_lines(lines, path, **limits):
    """A chart of `lines` (by name a `dict` from epoch to value)."""
    figure = new_figure()
    axes = figure.subplots()
    for number, (name, points) in enumerate(lines.items()):
        axes.plot(list(points), list(points.values()), label=name, **line_style(number))
    axes.set(xlabel="epoch", **limits)
    if len(lines) > 1:
        axes.legend(frameon=False)
    return _finish(figure, [axes], path)


def plot_accuracy(runs, path=None):
    """Draw the accuracy of the fused prediction and of each modality alone, one panel a run; as [`plot_alpha`].

    The shaded band is the modality gap, from the worst to the best modality.

    Raises:
        ValueError: a run was never evaluated.
    """
    figure = new_figure()
    panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axes, (run, source) in zip(panels, runs.items(), strict=True):
        found = accuracy_by_epoch(source)
        if not found:
            raise ValueError(f"the run {run!r} holds no eval_accuracy; it was never evaluated.")
        lines = {name: {epoch: 100 * value for epoch, value in points} for name, points in found.items()}
        for name, style in styles(lines).items():
            axes.plot(list(lines[name]), list(lines[name].values()), label=name, **style)
        alone = [list(points.values()) for name, points in lines.items() if name != "fused"]
        if len(alone) > 1:
            low, high = ([pick(values) for values in zip(*alone, strict=True)] for pick in (min, max))
            axes.fill_between(list(lines["fused"]), low, high, color=MUTED, alpha=0.25, lw=0, label="modality gap")
        axes.set(xlabel="epoch", title=run)
    panels[0].set_ylabel("validation accuracy (%)")
    add_legend(figure, panels[-1], "outside lower center")
    return _finish(figure, panels, path)


def _finish(figure, panels, path):
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True)
    tidy(figure, panels)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    return figure


def save_plots(source, folder, name="run"):
    """Write the plots of one run into `folder`: `alpha.png` of a method that has one, and `accuracy.png` and, of two or
    more modalities, `gap.png` when the run was evaluated.

    Returns:
        `list[Path]`: the files written.
    """
    history, written = read_log_history(source), []
    plots = {"alpha": (alpha_by_epoch, plot_alpha), "accuracy": (accuracy_by_epoch, plot_accuracy)}
    for stem, (read, plot) in {**plots, "gap": (gap_by_epoch, plot_gap)}.items():
        if read(history):
            written.append(Path(folder) / f"{stem}.png")
            plot({name: history}, written[-1])
    return written
