"""Label fitting: what softer labels do to each modality (Figure 1 of the LFM paper)."""

import statistics

from ..plots import COLOURS, FUSED_COLOUR, INK, MUTED, OTHER_COLOUR, WIDTH, new_figure, tidy
from .report import Picture, Section, Table, listing, points, rounded

TITLES = {
    "one-hot labels": "one-hot",
    "label smoothing 0.3": "0.7 one-hot\n+ 0.3 uniform",
    "uniform labels": "uniform",
}
METHOD = (
    "Figure 1 of the LFM paper: plain concatenation is trained on one-hot labels, on a mixture of 0.7 one-hot and 0.3 "
    "uniform labels (label smoothing 0.3), and on uniform labels. Means over the seeds of the epoch that is best on "
    "validation data, on the test split; bars of one standard deviation. The gap is the accuracy of the best modality "
    "minus that of the worst."
)


def measure_label_fitting(records, published=None):
    """Means and spreads over the seeds.

    Args:
        records (`list[dict]`): finished runs of the table `figure_1` on one data set, each with `setting` (its name),
            `row`, `seed` and `test`.
        published (`dict`, *optional*): the paper's: `rows`, by row `accuracy` and `gap` in percent, and `benchmark`.

    Returns:
        `dict`, ready for JSON: `benchmark`; the `seeds` of each row; by row in `rows` the `mean` and sample standard
        deviation `std` (None for one seed) of `fused`, each modality, and `gap`, all within 0..1; `modalities`; and
        `published`.

    Raises:
        ValueError: no run of that table.
    """
    rows = {name: [record for record in records if record["row"] == name] for name in TITLES}
    rows = {name: found for name, found in rows.items() if found}
    if not rows:
        raise ValueError(
            f"the results hold none of the rows {', '.join(TITLES)}; make them by reproduce.py --table figure_1."
        )
    test = next(iter(rows.values()))[0]["test"]
    ends = "_accuracy"
    names = [key.removesuffix(ends) for key in test if key.endswith(ends) and not key.startswith("without_")]
    keys = {"fused": "accuracy", **{name: f"{name}_accuracy" for name in names}, "gap": "gap"}
    measured = {}
    for row, found in rows.items():
        values = {name: [record["test"][key] for record in found] for name, key in keys.items()}
        measured[row] = {
            name: {"mean": statistics.fmean(v), "std": statistics.stdev(v) if len(v) > 1 else None}
            for name, v in values.items()
        }
    seeds = {row: sorted(record["seed"] for record in found) for row, found in rows.items()}
    benchmark = next(iter(rows.values()))[0]["setting"]
    found = {"benchmark": benchmark, "seeds": seeds, "modalities": names, "rows": measured}
    return rounded(found | {"published": published or {}})


def draw_label_fitting(numbers):
    """Bars of the accuracies on the left, and the gap, measured and published, on the right.

    Args:
        numbers (`dict`): what [`measure_label_fitting`] returns.

    Returns:
        `matplotlib.figure.Figure`
    """
    figure = new_figure(WIDTH, 3.4)
    left, right = figure.subplots(1, 2, width_ratios=(2.1, 1))
    names, rows = ["fused", *numbers["modalities"]], numbers["rows"]
    places, width = range(len(rows)), 0.8 / len(names)
    for i, name in enumerate(names):
        x = [place + (i - (len(names) - 1) / 2) * width for place in places]
        colour = FUSED_COLOUR if name == "fused" else COLOURS[(i - 1) % len(COLOURS)]
        _bars(left, x, [row[name] for row in rows.values()], width * 0.92, colour, name)
    _bars(right, places, [row["gap"] for row in rows.values()], 0.55, OTHER_COLOUR, "measured")
    right.set_ylim(bottom=0)
    published = numbers["published"].get("rows", {})
    shown = [(place, published[row]["gap"]) for place, row in enumerate(rows) if row in published]
    if shown:
        label = f"published ({numbers['published']['benchmark']})"
        right.plot(*zip(*shown, strict=True), "D", color="none", markeredgecolor=INK, markersize=6, label=label)
    for axes, text in ((left, "test accuracy (%)"), (right, "gap (points)")):
        axes.set_xticks(list(places), [TITLES[row] for row in rows], fontsize=8)
        axes.set_ylabel(text)
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2 + (axes is left))
    return tidy(figure, [left, right])


def _bars(axes, x, entries, width, colour, label):
    heights = [100 * entry["mean"] for entry in entries]
    spreads = [100 * (entry["std"] or 0) for entry in entries]
    style = {"ecolor": MUTED, "error_kw": {"elinewidth": 1.2, "capsize": 2}}
    axes.bar(x, heights, width, yerr=spreads if any(spreads) else None, color=colour, label=label, **style)
    for place, height, spread in zip(x, heights, spreads, strict=True):
        axes.annotate(
            f"{height:.0f}", (place, height + spread), (0, 2), textcoords="offset points", ha="center", fontsize=7
        )


def tell_label_fitting(numbers):
    """Sentences (`list[str]`): how gap and accuracy change from one-hot labels to softer ones."""
    rows = numbers["rows"]
    base = rows.get("one-hot labels")
    text = []
    for row, found in rows.items():
        parts = listing(f"{name} {100 * found[name]['mean']:.1f} %" for name in ("fused", *numbers["modalities"]))
        line = f"{row} (seeds {listing(map(str, numbers['seeds'][row]))}): {parts}, "
        line += f"gap {100 * found['gap']['mean']:.1f} points"
        if base is not None and found is not base:
            line += f" ({points(found['gap']['mean'] - base['gap']['mean'])} against one-hot labels"
            line += f", fused accuracy {points(found['fused']['mean'] - base['fused']['mean'])})"
        text.append(line + ".")
    return text


def explain_label_fitting(records, published=None):
    """The section on label fitting.

    Args: as in [`measure_label_fitting`].

    Returns:
        [`Section`]
    """
    numbers = measure_label_fitting(records, published)
    names = ["fused", *numbers["modalities"], "gap"]
    given = numbers["published"].get("rows", {})
    rows = []
    for row, found in numbers["rows"].items():
        cells = [
            f"{100 * found[name]['mean']:.1f}"
            + ("" if found[name]["std"] is None else f" \N{PLUS-MINUS SIGN} {100 * found[name]['std']:.1f}")
            for name in names
        ]
        paper = given.get(row)
        rows.append([row, *cells, f"{paper['accuracy']} / {paper['gap']}" if paper else ""])
    beside = numbers["published"].get("benchmark")
    head = ["labels", *names, f"published: fused / gap ({beside})" if beside else "published"]
    caption = f"{numbers['benchmark']}: accuracy of the fused prediction and of each modality alone on the left, "
    caption += "their gap on the right."
    return Section(
        name="label_fitting",
        title="Fitting softer labels",
        text=tell_label_fitting(numbers),
        pictures={"label_fitting": Picture(draw_label_fitting(numbers), caption)},
        numbers=numbers,
        tables=[Table(f"Accuracy and gap on {numbers['benchmark']}, %: means and deviations over seeds", head, rows)],
        method=METHOD,
    )
