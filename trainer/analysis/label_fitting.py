"""Label fitting: what softer labels do to each modality (Figure 1 of the LFM paper)."""

import statistics

from ..plots import MUTED, WIDTH, new_figure, styles, tidy
from .report import Section, rounded

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
            f"no results of the rows {', '.join(TITLES)}; make them by reproduce.py --table figure_1, and name their "
            "folder (--label_fitting DIR)."
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


def _draw(numbers):
    """Bars of the accuracies on the left, and the gap, measured and published, on the right."""
    figure = new_figure(WIDTH, 3.4)
    left, right = figure.subplots(1, 2, width_ratios=(2.1, 1))
    names, rows = ["fused", *numbers["modalities"]], numbers["rows"]
    width = 0.8 / len(names)
    for i, (name, style) in enumerate(styles(names).items()):
        places = [place + (i - (len(names) - 1) / 2) * width for place in range(len(rows))]
        _bars(left, places, [row[name] for row in rows.values()], width * 0.92, style["color"], name)
    _bars(right, range(len(rows)), [row["gap"] for row in rows.values()], 0.55, "#AAAAAA", "measured")
    published = numbers["published"].get("rows", {})
    shown = [(place, published[row]["gap"]) for place, row in enumerate(rows) if row in published]
    if shown:
        label = f"published ({numbers['published']['benchmark']})"
        right.plot(*zip(*shown, strict=True), "D", color="none", markeredgecolor="black", label=label)
    for axes, text in ((left, "test accuracy (%)"), (right, "gap (points)")):
        axes.set_xticks(range(len(rows)), [TITLES[row] for row in rows], fontsize=8)
        axes.set_ylabel(text)
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2 + (axes is left))
    return tidy(figure, [left, right])


def _bars(axes, places, entries, width, colour, label):
    heights, spreads = ([100 * (entry[key] or 0) for entry in entries] for key in ("mean", "std"))
    bars = axes.bar(
        places, heights, width, yerr=spreads if any(spreads) else None, color=colour, label=label, ecolor=MUTED
    )
    axes.bar_label(bars, fmt="%.0f", fontsize=7, padding=2)


def explain_label_fitting(records, published=None):
    """The [`Section`] on label fitting, of the arguments of [`measure_label_fitting`]."""
    numbers, text = measure_label_fitting(records, published), []
    for row, found in numbers["rows"].items():
        parts = ", ".join(f"{name} {100 * found[name]['mean']:.1f}" for name in ("fused", *numbers["modalities"]))
        gap = 100 * found["gap"]["mean"]
        text.append(f"{row}: accuracy in percent: {parts}; gap {gap:.1f} points ({len(numbers['seeds'][row])} seeds).")
    title = f"Fitting softer labels: {numbers['benchmark']}"
    return Section("label_fitting", title, text, {"label_fitting": _draw(numbers)}, numbers, METHOD)
