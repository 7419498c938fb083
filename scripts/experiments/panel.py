"""Many data sets, one comparison: means, ranks, regret and a critical-difference diagram of the methods of a panel."""

import json
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from modeling_lfm.scripts.experiments.report import format_lines, mean_and_spread
from modeling_lfm.scripts.experiments.run import read_all

TITLES = {"vectors": "Frozen features and vectors", "end to end": "Towers trained end to end"}
PROBES, SINGLE = ("Linear probe", "Late fusion of probes"), "Best single modality"
COLUMNS = ["average rank", "mean regret", "wins", "below the single"]
KEPT = ("accuracy", "map", "f1")


def collect(table, folder):
    """The runs of the data set of a `table` in `folder` (`Path`), as lines of a panel (`list[dict]`): no more than
    figures, and why a row was left out."""
    lines, name, regime = [], next(iter(table.settings)), table.regime
    for record in read_all(folder):
        line = {"set": name, "regime": regime, "row": record["row"]}
        if "inapplicable" in record:
            lines.append({**line, "left_out": record["inapplicable"]})
        elif "test" in record:
            metric = "map" if record["chosen_by"] == "map" else "accuracy"  # where all labels have to be right
            line |= {"seed": record["seed"], "metric": metric, "best_epoch": record.get("best_epoch")}
            if record.get("learning_rate") is not None:  # else of a probe
                line["learning_rate"] = round(record["learning_rate"], 8)
            line |= {part: round(record[part][metric], 6) for part in ("validation", "test")}
            found = {f"test_{key}": record["test"][key] for key in record["test"] if key.endswith(KEPT)}
            line |= {key: round(value, 6) for key, value in found.items() if "without_" not in key}
            lines.append({**line, "seconds": round(record["seconds"], 2)})
    order, ran = {row: number for number, row in enumerate(table.rows)}, {r["row"] for r in lines if "test" in r}
    lines = [r for r in lines if r["row"] in order and ("test" in r or r["row"] not in ran)]
    return sorted(lines, key=lambda r: (order[r["row"]], r.get("seed", 0)))


def tabulate(lines, part="test"):
    """Scores of the runs of a regime on the `test` or `validation` part (`pandas.DataFrame`, a column a set; lists of a
    value a seed, or NaN); the single modality that is best on validation data stands for all."""
    runs = pd.DataFrame([line for line in lines if "test" in line])
    found = runs.groupby(["set", "row"], sort=False).agg(scores=(part, list), validation=("validation", "mean"))
    table = {}
    for name, rows in found.groupby("set", sort=False):
        rows = rows.droplevel("set")
        single = [row for row in rows.index if row.startswith("Unimodal")]
        table[name] = rows["scores"].drop(single)
        if single:
            table[name][SINGLE] = rows["scores"][rows["validation"][single].idxmax()]
    order = [*PROBES, SINGLE, *runs["row"].unique()]
    table = pd.DataFrame(table)[list(runs["set"].unique())]
    return table.loc[[row for row in dict.fromkeys(order) if row in table.index]]


def whole_block(means):
    """The part without a hole that has most cells of a table of means (rows are methods): ranks of a method that a set
    refuses would be of other sets than those of the rest."""
    sizes = range(means.shape[1], 1, -1)
    parts = [means[list(sets)].dropna() for size in sizes for sets in combinations(means.columns, size)]
    return max(parts, key=lambda part: part.size, default=means.iloc[:0])


def critical_difference(methods, sets, level=0.05):
    """Average ranks that differ by less are alike, by the test of Nemenyi (Demsar, JMLR 2006, equation 3).

    Example:

        ```python
        >>> from modeling_lfm.scripts.experiments.panel import critical_difference
        >>> round(critical_difference(4, 14), 2)  # of the paper's example with 4 classifiers on 14 data sets
        1.25

        ```
    """
    q = stats.studentized_range.ppf(1 - level, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * sets)))


def compare(block):
    """Average rank, mean regret (points behind the best of each set) and wins of the methods (rows) over the sets
    (columns) of a table of means without holes, best rank first (`pandas.DataFrame`); ties share a rank, and a win."""
    ranks, best = block.rank(ascending=False), block.max()
    regret, wins = (best - block).mean(axis=1), (block == best).sum(axis=1)
    found = {"average rank": ranks.mean(axis=1), "mean regret": regret, "wins": wins}
    return pd.DataFrame(found).sort_values("average rank", kind="stable")


def choose_by_validation(lines):
    """The methods of a regime that have all seeds on every set, as [`compare`] orders them by their validation scores:
    the first is what these data choose as a default. Test scores are not looked at; probes and single modalities are no
    candidates."""
    table = tabulate(lines, "validation")
    table = table.drop([row for row in (*PROBES, SINGLE) if row in table.index])
    seeds = table.map(lambda cell: len(cell) if isinstance(cell, list) else 0)
    whole = table[(seeds == seeds.max().max()).all(axis=1)]
    return compare(whole.map(lambda cell: 100 * np.mean(cell)))


def format_regime(title, lines, diagram=None):
    """The part of the page on one regime (Markdown); a `diagram` (`Path`) is drawn of three sets or more."""
    table = tabulate(lines)
    seeds = table.map(lambda cell: len(cell) if isinstance(cell, list) else 0)
    means = table.map(lambda cell: 100 * np.mean(cell) if isinstance(cell, list) else np.nan)
    whole = means.where(seeds == seeds.max().max())
    block = whole_block(whole)
    ranked = compare(block)
    joint = means.drop([row for row in (*PROBES, SINGLE) if row in means.index])
    below = joint.lt(means.loc[SINGLE]).sum(axis=1) if SINGLE in means.index else pd.Series(dtype=int)
    head, body = ["", *table.columns, *COLUMNS], []
    for row in table.index:
        cells = [_cell(table.at[row, name], seeds.max().max(), means[name].max()) for name in table]
        end = ["-"] * 3
        if row in ranked.index:
            rank, regret, wins = ranked.loc[row]
            end = [f"{rank:.1f}", f"{regret:.1f}", f"{wins:.0f}"]
        end += [f"{below[row]} of {joint.loc[row].notna().sum()}" if row in below.index else ""]
        body.append([row, *cells, *end])
    parts = [f"### {title}", format_lines([head, ["---"] * len(head), *body])]
    if not block.empty:
        told = f"Ranks, regret and wins are of the {len(block)} rows that have all seeds on {', '.join(block)}."
        if block.shape[1] > 2:
            (chi, p), difference = stats.friedmanchisquare(*block.to_numpy()), critical_difference(*block.shape)
            told += f" Friedman's test that they are alike: chi-squared {chi:.1f}, p = {p:.2g}; average ranks less than"
            told += f" {difference:.1f} apart are not told apart (Nemenyi, 0.05)."
        parts.append(told if block.shape[1] > 2 else f"{told} Two sets are too few for a test.")
        if block.shape[1] > 2 and diagram is not None:
            draw_diagram(ranked["average rank"], difference, diagram)
            parts.append(f"![Average ranks; methods under one bar are not told apart]({diagram.name})")
    parts += filter(None, (_verdict(name, whole[name].dropna()) for name in whole))
    parts += filter(None, [_tell_choice(choose_by_validation(lines))])
    reasons = {(line["row"], line["left_out"]): [] for line in lines if "left_out" in line}
    for line in lines:
        reasons.get((line["row"], line.get("left_out")), []).append(line["set"])
    told = [f"{row} on {', '.join(sets)}: {why.rstrip('.')}." for (row, why), sets in reasons.items()]
    return "\n\n".join([*parts, *(["Left out:\n\n" + "\n".join(f"- {line}" for line in told)] if told else [])])


def _cell(values, most, best):
    if not isinstance(values, list):
        return "-"
    mark = "" if len(values) == most else f" ({len(values)})"
    values = pd.Series(values)
    return mean_and_spread(values, np.isclose(100 * values.mean(), best)) + mark


def _tell_choice(ranked, shown=5):
    """What validation data choose, in a sentence (`str`), of what [`choose_by_validation`] found."""
    if len(ranked) < 2:
        return ""
    first = [f"{row} ({rank:.1f}; {regret:.1f})" for row, rank, regret, _ in ranked[:shown].itertuples()]
    told = f"**On validation data** {ranked.index[0]} comes first of the {len(ranked)} methods that have all seeds on"
    return f"{told} every set (average rank; mean regret, both of validation scores): {', '.join(first)}."


def _verdict(name, means):
    """Whether joint training helps on a set (`str`): its best method against the probes and the single modality."""
    others, joint = (means[means.index.isin((*PROBES, SINGLE)) == known] for known in (True, False))
    if joint.empty or others.empty:
        return ""
    best = f"{joint.idxmax()} {joint.max():.1f}"
    told = [f"{row} {value:.1f}" for row, value in others.items() if value >= joint.max()]
    if told:
        return f"`{name}`: **no joint method beats {' or '.join(told)}** (the best: {best})."
    return f"`{name}`: {best}, ahead of {', '.join(f'{row} {value:.1f}' for row, value in others.items())}."


def draw_diagram(ranks, difference, file):
    """Draw average ranks (`pandas.Series`, best first) on a line, with bars over those less than `difference` apart."""
    from matplotlib.figure import Figure

    count, half = len(ranks), (len(ranks) + 1) // 2
    values = ranks.to_numpy()
    ends = [int(np.searchsorted(values, value + difference)) - 1 for value in values]
    groups = [(i, e) for i, e in enumerate(ends) if e > i and (i == 0 or e > ends[i - 1])]
    figure = Figure(figsize=(8, 1.2 + 0.16 * len(groups) + 0.25 * half), layout="constrained")
    axes, low = figure.add_subplot(), -(0.5 * len(groups) + 0.9 * half + 1)
    axes.set(xlim=(-0.3 * count, 1.3 * count + 1), ylim=(low, 2.6))
    axes.axis("off")
    axes.plot([1, count], [0, 0], "k", lw=1)
    for tick in range(1, count + 1):
        axes.plot([tick, tick], [0, 0.2], "k", lw=1)
        axes.text(tick, 0.35, str(tick), ha="center", fontsize=8)
    axes.plot([1, 1 + min(difference, count - 1)], [1.6, 1.6], "k", lw=2)
    axes.text(1, 1.8, f"critical difference {difference:.1f}", fontsize=8)
    for number, (first, last) in enumerate(groups, 1):
        axes.plot([values[first] - 0.05, values[last] + 0.05], [-0.5 * number] * 2, "k", lw=3, solid_capstyle="butt")
    for number, (name, value) in enumerate(ranks.items()):
        left = number < half
        y = -0.5 * len(groups) - 0.9 * ((number if left else count - 1 - number) + 1)
        end = 0.6 if left else count + 0.4
        axes.plot([value, value, end], [0, y, y], color="0.4", lw=0.8)
        side = "right" if left else "left"
        axes.text(end + (-0.1 if left else 0.1), y, f"{name} ({value:.1f})", ha=side, va="center", fontsize=8)
    figure.savefig(file, dpi=130)


def format_panel(lines, folder=None):
    """The tables of the page (Markdown) of the `lines` of a panel; diagrams go into `folder` (`Path`), if given."""
    parts = []
    for regime, title in TITLES.items():
        part = [line for line in lines if line["regime"] == regime]
        if any("test" in line for line in part):
            diagram = folder / f"panel_{regime.replace(' ', '_')}.png" if folder else None
            parts.append(format_regime(title, part, diagram))
    return "\n\n".join(parts) + "\n"


def read_lines(file):
    """The lines (`list[dict]`) of a panel.jsonl (`Path`)."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_panel(lines, folder):
    """Write panel.jsonl, a line a run, panel.md and the diagrams into `folder` (`Path`); the Markdown."""
    text = format_panel(lines, folder)
    (folder / "panel.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "panel.md").write_text(text, encoding="utf-8")
    return text
