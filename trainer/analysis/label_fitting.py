"""Label fitting: what softer labels do to each modality (Figure 1 of the LFM paper)."""

import pandas as pd

from ..plots import MUTED, WIDTH, new_figure, styles, tidy
from .report import Section

TITLES = {
    "one-hot labels": "one-hot",
    "label smoothing 0.3": "0.7 one-hot\n+ 0.3 uniform",
    "uniform labels": "uniform",
}
METHOD = (
    "Figure 1 of the LFM paper: plain concatenation is trained on one-hot labels, on a mixture of 0.7 one-hot and 0.3 "
    "uniform labels (label smoothing 0.3), and on uniform labels. Means over the seeds of the epoch that is best on "
    "validation data, on the test split; bars of one standard deviation. The gap is the accuracy of the best modality "
    "minus that of the worst; diamonds are the published one."
)


def measure_label_fitting(records, published=None):
    """Means and spreads over the seeds.

    Args:
        records (`list[dict]`): finished runs of the table `figure_1` on one data set, each with `setting` (its name),
            `row`, `seed` and `test`.
        published (`dict`, *optional*): the paper's: `rows`, by row `accuracy` and `gap` in percent, and `benchmark`.

    Returns:
        `dict`: `benchmark`; the `seeds` of each row; by row in `rows` the `mean` and sample standard deviation `std`
        (NaN for one seed) of `fused`, each modality, and `gap`, all within 0..1; and `published`.

    Raises:
        ValueError: no run of that table.
    """
    records = [record for record in records if record["row"] in TITLES]
    if not records:
        raise ValueError(
            f"no results of the rows {', '.join(TITLES)}; make them by reproduce.py --table figure_1, and name their "
            "folder (--label_fitting DIR)."
        )
    table = pd.DataFrame([record["test"] for record in records], [record["row"] for record in records])
    kept = [key for key in table if key.endswith("accuracy") and not key.startswith("without_")]
    names = {key: key.removesuffix("_accuracy") for key in kept} | {"accuracy": "fused", "gap": "gap"}
    groups = table[list(names)].rename(columns=names).groupby(level=0)
    mean, std = groups.mean(), groups.std()
    seeds, rows = {}, {}
    for row in (row for row in TITLES if row in mean.index):
        rows[row] = {name: {"mean": mean[name][row], "std": std[name][row]} for name in mean}
        seeds[row] = sorted(record["seed"] for record in records if record["row"] == row)
    return {"benchmark": records[0]["setting"], "seeds": seeds, "rows": rows, "published": published or {}}


def explain_label_fitting(records, published=None):
    """The [`Section`] on label fitting, of the arguments of [`measure_label_fitting`]: accuracies, and the gap."""
    numbers = measure_label_fitting(records, published)
    figure = new_figure(WIDTH, 3.4)
    panels = accuracies, gaps = figure.subplots(1, 2, width_ratios=(2.1, 1))
    rows = numbers["rows"]
    names = [name for name in next(iter(rows.values())) if name != "gap"]
    for number, (name, style) in enumerate(styles([*names, "gap"]).items()):
        axes, width = (gaps, 0.6) if name == "gap" else (accuracies, 0.8 / len(names))
        places = [
            place + (0 if name == "gap" else width * (number - (len(names) - 1) / 2)) for place in range(len(rows))
        ]
        heights, spreads = ([100 * row[name][key] for row in rows.values()] for key in ("mean", "std"))
        bars = axes.bar(places, heights, width, yerr=spreads, color=style["color"], label=name, ecolor=MUTED)
        axes.bar_label(bars, fmt="%.0f", fontsize=7, padding=2)
    told = numbers["published"].get("rows", {})
    shown = [(place, told[row]["gap"]) for place, row in enumerate(rows) if row in told]
    gaps.plot(*zip(*shown, strict=True), "kD", fillstyle="none") if shown else None
    for axes, label in ((accuracies, "test accuracy (%)"), (gaps, "gap (points)")):
        axes.set_xticks(range(len(rows)), [TITLES[row] for row in rows], fontsize=8)
        axes.set_ylabel(label)
    title = f"Fitting softer labels: {numbers['benchmark']}"
    return Section(title, {"label_fitting": tidy(figure, panels, legend=True)}, numbers, METHOD)
