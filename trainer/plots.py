"""One style for all charts, and plots of training runs: alpha, the modality gap, and accuracies, epoch by epoch."""

import functools
import io
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


def styles(names):
    """By name (`dict`) colour and marker of lines, as keyword arguments of `plot`; those of `fused` are black dots."""
    others = [name for name in names if name != "fused"]
    chosen = {name: (COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)]) for n, name in enumerate(others)}
    chosen["fused"] = ("black", "o")
    return {name: dict(zip(("color", "marker"), chosen[name], strict=True), markersize=4) for name in names}


def tidy(figure, panels, grid="y", legend=False):
    """Give the panels of a figure, which is returned, the style: no box, a faint grid along `x`, `y` or `both`, and
    above all the `legend` of the first."""
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis=grid, color=MUTED, alpha=0.3, linewidth=0.6)
        axes.set_axisbelow(True)
    if legend:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 4), frameon=False, fontsize=9)
    return figure


def read_log_history(source):
    """The log entries of a run (`list[dict]`).

    Args:
        source: a trainer's `state.log_history`, a `trainer_state.json`, or a folder with one.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it holds no log.
    """
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
    """`dict` from `"fused"` and each modality to its accuracy on the validation split, a `dict` from epoch to `float`
    within 0..1; of two in the same epoch the first (a last one may be of the best model). See [`read_log_history`]."""
    history, found = read_log_history(source), {}
    for key in dict.fromkeys(key for entry in history for key in entry):
        if key.startswith("eval_") and key.endswith("_accuracy"):
            found[key[len("eval_") : -len("_accuracy")] or "fused"] = _by_epoch(history, key)
    return found


def gap_by_epoch(source):
    """`dict` from epoch to the modality gap (`float`, within 0..1), as [`accuracy_by_epoch`]; empty for a model of one
    modality, which has no gap."""
    return _by_epoch(read_log_history(source), "eval_gap") if len(accuracy_by_epoch(source)) > 2 else {}


def _by_epoch(history, key):
    found = {}
    for entry in history:
        if key in entry:
            found.setdefault(entry["epoch"], entry[key])
    return found


def plot_alpha(runs, path=None):
    """Draw alpha against epochs (`matplotlib.figure.Figure`), one line a run.

    Args:
        runs (`dict[str, source]`): name of the run to what [`read_log_history`] takes.
        path (`str`, *optional*): the PNG to write.
    """
    lines = {name: alpha_by_epoch(source) for name, source in runs.items()}
    return _plot([lines], path, ylabel="alpha (weight of the matching loss)", ylim=(-0.03, 1.03))


def plot_gap(runs, path=None):
    """Draw the modality gap, accuracy of the best modality minus that of the worst; as [`plot_alpha`]."""
    lines = {name: _percent(gap_by_epoch(source)) for name, source in runs.items()}
    return _plot([lines], path, ylabel="validation modality gap (points)", ylim=(0, None))


def plot_accuracy(runs, path=None):
    """Draw the accuracy of the fused prediction and of each modality alone, one panel a run; as [`plot_alpha`].

    Raises:
        ValueError: a run was never evaluated.
    """
    panels = []
    for run, source in runs.items():
        panels.append({name: _percent(points) for name, points in accuracy_by_epoch(source).items()})
        if not panels[-1]:
            raise ValueError(f"the run {run!r} holds no eval_accuracy; it was never evaluated.")
    return _plot(panels, path, list(runs), ylabel="validation accuracy (%)")


def _percent(points):
    return {epoch: 100 * value for epoch, value in points.items()}


def _plot(panels, path, titles=("",), **limits):
    """Charts side by side, each of lines (by name a `dict` from epoch to value)."""
    figure = new_figure()
    columns = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, title, lines in zip(columns, titles, panels, strict=True):
        for name, style in styles(lines).items():
            axes.plot(list(lines[name]), list(lines[name].values()), label=name, **style)
        axes.set(xlabel="epoch", title=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
    columns[0].set(**limits)
    tidy(figure, columns, legend=len(panels[0]) > 1)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    return figure


def save_plots(source, folder, name="run"):
    """Write the plots of one run into `folder`: `alpha.png` of a method that has one, and `accuracy.png` and, of two or
    more modalities, `gap.png` when the run was evaluated; the files (`list[Path]`)."""
    history, written, folder = read_log_history(source), [], Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plots = {"alpha": (alpha_by_epoch, plot_alpha), "accuracy": (accuracy_by_epoch, plot_accuracy)}
    for stem, (read, plot) in {**plots, "gap": (gap_by_epoch, plot_gap)}.items():
        if read(history):
            written.append(folder / f"{stem}.png")
            written[-1].write_bytes(_draw(plot, name, json.dumps(history, default=float)))
    return written


@functools.lru_cache(maxsize=12)  # a run that is saved and then sent has the same pictures in both cards
def _draw(plot, name, history):
    """The bytes of a PNG, whose drawing takes longer than all else of a card."""
    file = io.BytesIO()
    plot({name: json.loads(history)}).savefig(file, format="png")
    return file.getvalue()
