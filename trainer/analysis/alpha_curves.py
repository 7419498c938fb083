"""Alpha over training, the losses that it weighs, and the hypergradient that moves it (Figure 3 of the LFM paper)."""

import math

from ..alpha.schedules import make_alpha
from ..plots import COLOURS, MUTED, WIDTH, alpha_by_epoch, new_figure, read_log_history, tidy
from .report import Picture, Section, Table, listing, rounded

REFERENCES = {"heuristic": "heuristic, 1 - exp(-1/t)", "polynomial": "polynomial of the paper"}
DASHES = {"heuristic": (0, (1, 1.5)), "polynomial": (0, (4, 2))}
LOSSES = {"loss_cls": "classification loss", "loss_mm": "matching loss"}
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
            "alpha": [{"from": (t - 1) / epochs, "to": t / epochs, "value": value} for t, value in alphas.items()],
            "losses": [
                {"share": entry["epoch"] / epochs}
                | {key: float(entry[key]) for key in ("loss", *LOSSES) if _is_number(entry.get(key))}
                for entry in steps
            ],
            "hypergradient": [
                {
                    "share": entry["epoch"] / epochs,
                    "value": entry["hypergradient"],
                    "cosine": entry.get("hypergradient_cosine"),
                }
                for entry in moves
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


def reference_curves(epochs):
    """The paper's heuristic and polynomial in a run of so many epochs (`int`), as `alpha` of [`read_curves`]."""
    rules = {name: make_alpha(name, num_epochs=epochs) for name in REFERENCES}
    return {
        name: [{"from": (t - 1) / epochs, "to": t / epochs, "value": rule.value(t)} for t in range(1, epochs + 1)]
        for name, rule in rules.items()
    }


def measure_alpha(runs):
    """Curves of several runs and the references.

    Args:
        runs (`dict[str, source]`): see [`read_curves`].

    Returns:
        `dict`, ready for JSON: `runs`, by name what [`read_curves`] returns; `references`, see [`reference_curves`],
        for the longest run; and its `epochs`.

    Raises:
        ValueError: no run has an alpha.
    """
    curves = {name: read_curves(source) for name, source in runs.items()}
    if not any(curve["alpha"] for curve in curves.values()):
        raise ValueError(f"no alpha in {', '.join(curves)}: only runs of the method lfm have one.")
    epochs = max(curve["epochs"] for curve in curves.values())
    return {"runs": curves, "references": reference_curves(epochs), "epochs": epochs}


def steps_of(alpha):
    """Edges (`list`, one more than values, in percent of training) and values (`list`) of a curve of alpha."""
    return [100 * alpha[0]["from"], *(100 * row["to"] for row in alpha)], [row["value"] for row in alpha]


def draw_alpha(numbers):
    """Alpha, the losses and the hypergradient over the share of training, one below the other.

    Args:
        numbers (`dict`): what [`measure_alpha`] returns.

    Returns:
        `matplotlib.figure.Figure`
    """
    moves = any(curve["hypergradient"] for curve in numbers["runs"].values())
    ratios = (2, 1.5, 1.2) if moves else (2, 1.5)
    figure = new_figure(WIDTH, 1.35 * sum(ratios) + 0.3)
    panels = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    for name, alpha in numbers["references"].items():
        edges, values = steps_of(alpha)
        style = {"color": MUTED, "linestyle": DASHES[name], "linewidth": 1.4, "zorder": 4}
        panels[0].stairs(values, edges, baseline=None, label=REFERENCES[name], **style)
    for i, (name, curve) in enumerate(numbers["runs"].items()):
        colour = COLOURS[i % len(COLOURS)]
        if curve["alpha"]:
            edges, values = steps_of(curve["alpha"])
            panels[0].stairs(values, edges, baseline=None, label=name, color=colour, linewidth=2)
        else:
            panels[0].plot([], [], color=colour, linewidth=2, label=f"{name} (no alpha)")
        _draw_losses(panels[1], curve["losses"], colour)
        if moves and curve["hypergradient"]:
            rows = curve["hypergradient"]
            x, y = [100 * row["share"] for row in rows], [row["value"] for row in rows]
            panels[2].plot(x, y, color=colour, marker="o", markersize=3, linewidth=1.4)
    panels[0].set(ylim=(-0.03, 1.03), xlim=(0, 100.5))
    panels[0].set_ylabel("alpha")
    panels[0].legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    panels[1].set_yscale("log")
    panels[1].set_ylabel("training loss (nats)")
    for label, line in (("classification", "-"), ("matching", "--")):
        panels[1].plot([], [], color=MUTED, linestyle=line, label=label)
    panels[1].legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 0.97), ncols=2)
    if moves:
        _scale_hypergradient(panels[2], [row["value"] for c in numbers["runs"].values() for row in c["hypergradient"]])
    panels[-1].set_xlabel("share of training (%)")
    figure.align_ylabels()
    return tidy(figure, panels)


def _scale_hypergradient(axes, values):
    """A logarithmic scale for both signs, with zero between them, which shows the largest four decades."""
    decade = math.floor(math.log10(max(max(map(abs, values)), 1e-12)))
    least = 10.0 ** (decade - 3)
    low, high = min(2 * min(values), -least), max(2 * max(values), least)
    axes.set_yscale("symlog", linthresh=least, linscale=0.5)
    axes.set_ylim(low, high)
    ticks = [sign * 10.0**power for sign in (-1, 1) for power in (decade - 2, decade)]
    axes.set_yticks([0, *(tick for tick in ticks if low <= tick <= high)])
    axes.minorticks_off()
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_ylabel("hypergradient\n(nats)")


def _draw_losses(axes, losses, colour):
    drawn = False
    for key, line in zip(LOSSES, ("-", "--"), strict=True):
        found = [(100 * row["share"], row[key]) for row in losses if row.get(key, 0) > 0]
        if found:
            axes.plot(*zip(*found, strict=True), color=colour, linestyle=line, linewidth=1.4)
            drawn = True
    if not drawn:  # a method that has one loss only, or others
        found = [(100 * row["share"], row["loss"]) for row in losses if row.get("loss", 0) > 0]
        axes.plot(*zip(*found or [(0, math.nan)], strict=True), color=colour, linewidth=1.4)


def tell_alpha(numbers):
    """Sentences (`list[str]`): where alpha began and ended, what moved it, and what the schedules would have done."""
    text = []
    for name, curve in numbers["runs"].items():
        if not curve["alpha"]:
            text.append(f"{name} has no alpha.")
            continue
        values = [row["value"] for row in curve["alpha"]]
        line = f"{name}: alpha goes from {values[0]:.2f} to {values[-1]:.2f} in {curve['epochs']} epochs"
        if curve["hypergradient"]:
            positive = sum(row["value"] > 0 for row in curve["hypergradient"])
            line += f"; the hypergradient was positive, and took alpha down, in {positive} of "
            line += f"{len(curve['hypergradient'])} updates"
        text.append(line + ".")
    ends = {name: rows[-1]["value"] for name, rows in numbers["references"].items()}
    parts = listing(f"the {name} {value:.2f}" for name, value in ends.items())
    text.append(f"In a run of {numbers['epochs']} epochs the schedules of the paper end at: {parts}.")
    return text


def explain_alpha(runs):
    """The section on alpha.

    Args:
        runs (`dict[str, source]`): see [`measure_alpha`].

    Returns:
        [`Section`]
    """
    numbers = measure_alpha(runs)
    columns = {**{name: curve["alpha"] for name, curve in numbers["runs"].items()}, **numbers["references"]}
    columns = {name: alpha for name, alpha in columns.items() if alpha}
    rows = []
    for t in range(1, numbers["epochs"] + 1):
        cells = [f"{alpha[t - 1]['value']:.3f}" if t <= len(alpha) else "" for alpha in columns.values()]
        rows.append([str(t), *cells])
    caption = (
        "Alpha in force in each epoch, beside the schedules of the paper; below it the losses (classification solid, "
        "matching dashed, logarithmic) and the hypergradient (logarithmic away from zero)."
    )
    return Section(
        name="alpha",
        title="Alpha over training",
        text=tell_alpha(numbers),
        pictures={"alpha": Picture(draw_alpha(numbers), caption)},
        numbers=numbers,
        tables=[Table("Alpha by epoch", ["epoch", *columns], rows)],
        method=METHOD,
    )
