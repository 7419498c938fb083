"""Alpha over training, the losses that it weighs, and the hypergradient that moves it (Figure 3 of the LFM paper)."""

import math

import pandas as pd

from ..alpha.schedules import make_alpha
from ..plots import MUTED, WIDTH, alpha_by_epoch, new_figure, read_log_history, styles, tidy
from .report import Section

REFERENCES = {"heuristic": ":", "polynomial": "--"}
LOGGED = ("epoch", "loss", "loss_cls", "loss_mm", "hypergradient", "hypergradient_cosine")
METHOD = (
    "Alpha weighs the matching loss and changes once an epoch. The references are the schedules of the paper: "
    "1 - exp(-1/t), and the polynomial 1.5e-4 t^3 - 6.5e-3 t^2 + 3.2e-2 t + 1 fitted by its authors to their learned "
    "alpha, within 0..1. Losses in nats, the matching loss dashed. The hypergradient is the derivative of the held-out "
    "loss by alpha: where it is positive, alpha goes down."
)


def measure_alpha(runs):
    """Alpha, losses and hypergradients of runs (`dict` by name of what `plots.read_log_history` takes, such as a
    folder), and the schedules of the paper.

    Returns:
        `dict`: `runs`, by name `alpha` (by epoch, from 1; empty for a method without) and `log`, the entries of the
        training log that hold a loss or a hypergradient; `references`, the paper's heuristic and polynomial alpha by
        epoch, of a run as long as the longest.

    Raises:
        FileNotFoundError, ValueError: no log, one without training, or no run has an alpha.
    """
    measured, epochs = {}, 1
    for name, source in runs.items():
        history = read_log_history(source)
        log = [{key: entry[key] for key in LOGGED if key in entry} for entry in history]
        log = [entry for entry in log if "loss" in entry or "hypergradient" in entry]
        if not log:
            raise ValueError(f"{source} holds no training losses; give the folder of a run that train.py finished.")
        epochs = max(epochs, math.ceil(log[-1]["epoch"] - 1e-6))
        measured[name] = {"alpha": alpha_by_epoch(history), "log": log}
    if not any(run["alpha"] for run in measured.values()):
        raise ValueError(f"no alpha in the logs of {', '.join(runs) or 'no run'}: only the method lfm has one.")
    rules = {name: make_alpha(name, num_epochs=epochs) for name in REFERENCES}
    references = {name: {t: rule.value(t) for t in range(1, epochs + 1)} for name, rule in rules.items()}
    return {"runs": measured, "references": references}


def explain_alpha(runs):
    """The [`Section`] on alpha in `runs`, see [`measure_alpha`]: alpha, losses and hypergradient by epoch."""
    numbers = measure_alpha(runs)
    figure = new_figure(WIDTH, 6.4)
    alphas, losses, moves = panels = figure.subplots(3, 1, sharex=True)
    for name, alpha in numbers["references"].items():
        line = {"color": MUTED, "linestyle": REFERENCES[name], "label": f"{name} of the paper"}
        alphas.plot(list(alpha), list(alpha.values()), **line)
    for name, style in styles(runs).items():
        run = numbers["runs"][name]
        alphas.plot(list(run["alpha"]), list(run["alpha"].values()), label=name, **style)
        log = pd.DataFrame(run["log"])
        loss = "loss_cls" if "loss_cls" in log else "loss"  # of a method that has one loss only, or others
        for axes, key, line in ((losses, loss, "-"), (losses, "loss_mm", "--"), (moves, "hypergradient", "-")):
            if key in log:
                axes.plot(*log[["epoch", key]].dropna().to_numpy().T, linestyle=line, **style)
    alphas.set(ylim=(-0.03, 1.03), ylabel="alpha")
    losses.set(yscale="log", ylabel="training loss (nats)")
    moves.set_yscale("symlog", linthresh=1e-3)
    moves.set(ylabel="hypergradient (nats)", xlabel="epoch")
    return Section("Alpha over training", {"alpha": tidy(figure, panels, legend=True)}, numbers, METHOD)
