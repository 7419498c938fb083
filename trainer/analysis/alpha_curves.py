"""Alpha over training, the losses that it weighs, and the hypergradient that moves it (Figure 3 of the LFM paper)."""

import math

from ..alpha.schedules import make_alpha
from ..plots import COLOURS, MUTED, WIDTH, alpha_by_epoch, new_figure, read_log_history, tidy
from .report import Section, rounded

REFERENCES = {"heuristic": "heuristic, 1 - exp(-1/t)", "polynomial": "polynomial of the paper"}
DASHES = {"heuristic": (0, (1, 1.5)), "polynomial": (0, (4, 2))}
LOSSES = {"loss_cls": "-", "loss_mm": "--"}
METHOD = (
    "Alpha weighs the matching loss and changes once an epoch; a share of training is the epoch over the number of "
    "epochs. The references are the schedules of the paper in a run of as many epochs: 1 - exp(-1/t), and the "
    "polynomial 1.5e-4 t^3 - 6.5e-3 t^2 + 3.2e-2 t + 1 fitted by its authors to their learned alpha, within 0..1. "
    "The hypergradient is the derivative of the held-out loss by alpha: where it is positive, alpha goes down."
)


def read_curves(source):
    """Alpha, losses and hypergradients of a run over the share of its training.

    Args:
        source: what `plots.read_log_history` takes, such as the folder of a run.

    Returns:
        `dict`, ready for JSON: `epochs` (how many were trained); `alpha`, one `from`, `to` (shares of training, within
        0..1) and `value` an epoch, empty for a method without; `losses`, with `share`, `loss` and where they were
        logged `loss_cls` and `loss_mm`; `hypergradient` with `share`, `value` and `cosine`.

    Raises:
        FileNotFoundError, ValueError: no log, or one without training.
    """
    history = read_log_history(source)
    steps = [entry for entry in history if "loss" in entry]
    if not steps:
        raise ValueError(f"{source} holds no training losses; give the folder of a run that train.py finished.")
    epochs = max(1, math.ceil(max(entry["epoch"] for entry in steps) - 1e-6))
    alphas = _fill(alpha_by_epoch(history), history, epochs)
    moves = [entry for entry in history if _is_number(entry.get("hypergradient"))]
    return rounded(
        {
            "epochs": epochs,
            "alpha": _by_share(alphas, epochs),
            "losses": [
                {"share": entry["epoch"] / epochs}
                | {key: float(entry[key]) for key in ("loss", *LOSSES) if _is_number(entry.get(key))}
                for entry in steps
            ],
            "hypergradient": [
                {"share": e["epoch"] / epochs, "value": e["hypergradient"], "cosine": e.get("hypergradient_cosine")}
                for e in moves
            ],
        },
        8,
    )


def _is_number(value):
    """Whether a logged value is there and finite: those of a run that diverged are not drawn."""
    return value is not None and math.isfinite(value)


def _fill(alphas, history, epochs):
    """Alpha of every epoch (`dict`): where an epoch was not logged, what was announced for it, or the one before."""
    if not alphas:
        return {}
    announced = {round(e["epoch"]) + 1: e["alpha"] for e in history if "loss" not in e and e.get("alpha") is not None}
    known, filled, value = announced | alphas, {}, alphas[min(alphas)]
    for t in range(1, epochs + 1):
        filled[t] = value = known.get(t, value)
    return filled


def measure_alpha(runs):
    """Curves of several runs, and the schedules of the paper.

    Args:
        runs (`dict[str, source]`): see [`read_curves`].

    Returns:
        `dict`, ready for JSON: `runs`, by name what [`read_curves`] returns; `references`, the paper's heuristic and
        polynomial in a run as long as the longest, as its `alpha`; and the `epochs` of that.

    Raises:
        ValueError: no run has an alpha.
    """
    curves = {name: read_curves(source) for name, source in runs.items()}
    if not any(curve["alpha"] for curve in curves.values()):
        raise ValueError(f"no alpha in the logs of {', '.join(curves) or 'no run'}: only the method lfm has one.")
    epochs = max(curve["epochs"] for curve in curves.values())
    rules = {name: make_alpha(name, num_epochs=epochs) for name in REFERENCES}
    references = {
        name: _by_share({t: rule.value(t) for t in range(1, epochs + 1)}, epochs) for name, rule in rules.items()
    }
    return {"runs": curves, "references": references, "epochs": epochs}


def _by_share(alphas, epochs):
    return [{"from": (t - 1) / epochs, "to": t / epochs, "value": value} for t, value in alphas.items()]


def _draw(numbers):
    """Alpha, the losses and the hypergradient over the share of training, one below the other."""
    figure = new_figure(WIDTH, 6.4)
    panels = alphas, losses, moves = figure.subplots(3, 1, sharex=True)
    for name, curve in numbers["references"].items():
        _stairs(alphas, curve, label=REFERENCES[name], color=MUTED, linestyle=DASHES[name])
    for number, (name, curve) in enumerate(numbers["runs"].items()):
        colour = COLOURS[number % len(COLOURS)]
        if curve["alpha"]:
            _stairs(alphas, curve["alpha"], label=name, color=colour, linewidth=2)
        else:
            alphas.plot([], [], color=colour, label=f"{name} (no alpha)")
        parts = [key for key in LOSSES if any(key in row for row in curve["losses"])]
        for key in parts or ["loss"]:  # a method that has one loss only, or others
            _plot(losses, curve["losses"], key, color=colour, linestyle=LOSSES.get(key, "-"))
        _plot(moves, curve["hypergradient"], "value", color=colour, marker="o", markersize=3)
    alphas.set(ylim=(-0.03, 1.03), xlim=(0, 100.5), ylabel="alpha")
    alphas.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    losses.set_yscale("log", nonpositive="mask")
    losses.set(ylabel="training loss (nats)\nmatching loss dashed")
    sizes = [abs(row["value"]) for curve in numbers["runs"].values() for row in curve["hypergradient"]]
    moves.set_yscale("symlog", linthresh=max(1e-3 * max(sizes, default=1), 1e-15), linscale=1)
    moves.set(ylabel="hypergradient (nats)", xlabel="share of training (%)")
    return tidy(figure, panels)


def _stairs(axes, alpha, **style):
    """Draw a curve of alpha, constant within each epoch."""
    edges = [100 * alpha[0]["from"], *(100 * row["to"] for row in alpha)]
    axes.stairs([row["value"] for row in alpha], edges, baseline=None, **style)


def _plot(axes, rows, key, **style):
    found = [row for row in rows if key in row]
    axes.plot([100 * row["share"] for row in found], [row[key] for row in found], linewidth=1.4, **style)


def explain_alpha(runs):
    """The [`Section`] on alpha in `runs`, see [`measure_alpha`]."""
    numbers, text = measure_alpha(runs), []
    for name, curve in numbers["runs"].items():
        values, moves = [row["value"] for row in curve["alpha"]], [row["value"] for row in curve["hypergradient"]]
        line = f"{name}: alpha goes from {values[0]:.2f} to {values[-1]:.2f}" if values else f"{name}: no alpha"
        down = f"; the hypergradient took it down in {sum(move > 0 for move in moves)} of {len(moves)} updates"
        text.append(f"{line}{down if moves else ''}.")
    return Section("alpha", "Alpha over training", text, {"alpha": _draw(numbers)}, numbers, METHOD)
