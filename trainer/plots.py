"""Plots of training runs: alpha, the modality gap, and what each modality alone gets right, epoch by epoch."""

import json
import math
from pathlib import Path

from .style import COLOURS, FUSED_COLOUR, MARKERS, tidy
from .style import new_figure as _figure


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
    figure = _figure()
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
    figure = _figure()
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
    figure = _figure()
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
