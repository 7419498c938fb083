"""Markdown tables of finished runs: means and spreads over seeds, significance, cost, and the published figures."""

import statistics

from modeling_lfm.scripts.common import settings as arguments

COLUMNS = {"accuracy": "accuracy", "map": "mAP", "f1": "macro F1"}
SELECTION = (
    "Percent on the test split, mean ± sample standard deviation over the seeds {seeds} (in brackets: fewer). "
    "Every run keeps the epoch that is best on validation data (by {metric}), and reads the test split once."
)
SIGNIFICANCE = (
    "*p*: paired t-test over the seeds of the accuracy against {reference}; three seeds are few, so only large and "
    "steady differences come out below 0.05. *Cost*: seconds of training per step (on a CPU: of "
    "processor time), over those of {reference}."
)


def format_report(table, setting, records, inapplicable, failures):
    """The table of one setting or benchmark.

    Args:
        table ([`Table`])
        setting (`str`)
        records (`dict`): finished runs by (setting, row, seed).
        inapplicable (`dict`), failures (`dict`): reasons, by (setting, row) and by (setting, row, seed).

    Returns:
        `str`: Markdown.
    """
    rows = {row: [r for key, r in records.items() if key[:2] == (setting, row)] for row in table.rows}
    names = list(table.settings[setting]["modalities"])
    published = read_published(table.name, setting)
    best = find_best(rows)
    column = f"published ({published['benchmark']})" if published else "published"
    without = ["without " + " / ".join(names)] if table.absence else []
    head = [*COLUMNS.values(), " / ".join(names), "gap", *without, column, "p", "cost"]
    lines = [f"## {table.title}: {setting}", "", *_notes(table, setting, rows), ""]
    lines += ["| | " + " | ".join(head) + " |", "| --- " * (len(head) + 1) + "|"]
    remarks, most = [], max(map(len, rows.values()))
    for row, found in rows.items():
        failed = {key[2]: text for key, text in failures.items() if key[:2] == (setting, row)}
        reason = None if found else inapplicable.get((setting, row))
        figure = format_published(published.get("rows", {}).get(row))
        if reason is None and failed:
            reason = "; ".join(f"{seed} failed: {text}" for seed, text in failed.items())
        mark = f" ({len(found)})" if 0 < len(found) < most else ""
        if reason is not None:
            remarks.append(f"<sup>{len(remarks) + 1}</sup> {row}: {reason}")
            mark += f"<sup>{len(remarks)}</sup>"
        if found:
            cells = [
                mean_and_spread([r["test"][metric] for r in found], bold=row in best[metric]) for metric in COLUMNS
            ]
            cells += [format_modalities(found, names), format_gap(found, names)]
            cells += [*([format_modalities(found, [f"without_{name}" for name in names])] * len(without)), figure]
            reference = rows.get(table.reference, [])
            cells += [format_p(compare(found, reference), row == table.reference), format_cost(found, reference)]
        elif reason is not None:
            cells = [*["-"] * (5 + len(without)), figure, "-", "-"]
        else:
            continue
        lines.append(f"| {row}{mark} | " + " | ".join(cells) + " |")
    lines += ["", *(line for remark in remarks for line in (remark, ""))]
    if published:
        lines += [f"Published: {' '.join(published['source'].split())}", ""]
        if published["benchmark"] != setting:
            lines += [
                f"These figures are of another data set, {published['benchmark']}, with the towers and budgets "
                "of the paper: the order of the methods can be compared, not the figures.",
                "",
            ]
    return "\n".join(lines).rstrip() + "\n"


def _notes(table, setting, rows):
    """What stands above the table (`list[str]`)."""
    config = table.settings[setting]
    runs = [run for found in rows.values() for run in found]
    seeds = ", ".join(map(str, sorted({run["seed"] for run in runs})))
    notes = [" ".join(note.split()) for note in table.notes]
    notes.append(SELECTION.format(seeds=seeds, metric=config.get("metric_for_best_model", "loss")))
    if table.reference is not None:
        notes.append(SIGNIFICANCE.format(reference=table.reference))
    hours = sum(run["seconds"] for run in runs) / 3600
    notes.append(f"{len(runs)} runs, {hours:.2f} hours of training.")
    return [line for note in notes for line in (note, "")][:-1]


def mean(values):
    """Mean of fractions, in percent."""
    return f"{100 * statistics.fmean(values):.1f}"


def mean_and_spread(values, bold=False):
    """`mean ± standard deviation` of fractions, in percent (sample deviation; none for one value)."""
    centre = f"**{mean(values)}**" if bold else mean(values)
    return centre + (f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else "")


def find_best(rows):
    """The rows (`list[str]`; several if equal) with the highest mean of each metric, by metric."""
    best = {}
    for metric in COLUMNS:
        means = {row: statistics.fmean(r["test"][metric] for r in found) for row, found in rows.items() if found}
        best[metric] = [row for row, value in means.items() if value == max(means.values())]
    return best


def format_modalities(found, names):
    """Mean accuracy of each modality alone; `-` where the model does not have it."""
    cells = []
    for name in names:
        values = [r["test"][f"{name}_accuracy"] for r in found if f"{name}_accuracy" in r["test"]]
        cells.append(mean(values) if values else "-")
    return " / ".join(cells)


def format_gap(found, names):
    """Mean gap between the modalities' accuracies; `-` for a model of one modality among several."""
    alone = sum(f"{name}_accuracy" in found[0]["test"] for name in names) == 1 < len(names)
    return "-" if alone else mean([r["test"]["gap"] for r in found])


def compare(found, reference, metric="accuracy"):
    """p (`float`) of a paired, two-sided t-test over the seeds that both have; None for one seed or no difference.

    Args:
        found, reference (`list[dict]`): finished runs.
    """
    from scipy.stats import ttest_rel

    ours, theirs = ({r["seed"]: r["test"][metric] for r in runs} for runs in (found, reference))
    seeds = sorted(ours.keys() & theirs.keys())
    if len(seeds) < 2 or all(ours[seed] == theirs[seed] for seed in seeds):
        return None
    return float(ttest_rel([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]).pvalue)


def format_p(p, is_reference):
    """A p value to three digits."""
    if p is None or is_reference:
        return "" if is_reference else "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def format_cost(found, reference):
    """Seconds a step over those of the reference."""
    if not reference:
        return "-"
    ours, theirs = (statistics.fmean(r["seconds_per_step"] for r in runs) for runs in (found, reference))
    return f"{ours / theirs:.2f}"


def read_published(table, setting):
    """Published figures of a table for a data set, or for that of the paper which is set beside it.

    Returns:
        `dict` with `rows`, `source` and `benchmark`, the data set of the figures; empty where there are none.
    """
    content = arguments.read_config(str(arguments.CONFIGS / "published.yaml"))
    found = content["tables"].get(table)
    if found is None:
        return {}
    other = content["beside"].get(setting)
    for benchmark in (setting, other):
        if benchmark in found["benchmarks"]:
            return {"rows": found["benchmarks"][benchmark], "source": found["source"], "benchmark": benchmark}
    return {}


def format_published(figures):
    """Published figures of one row (`dict` from a metric to percent, or to mean and deviation; or None)."""
    cells = []
    for key, value in (figures or {}).items():
        mean, *deviation = value if isinstance(value, list) else [value]
        cells.append(f"{COLUMNS.get(key, key)} {mean:.1f}" + (f" ± {deviation[0]:.1f}" if deviation else ""))
    return ", ".join(cells)


def best_constant(records, rows):
    """Per setting (`dict`), the constant row with the best mean validation accuracy, and its mean test accuracy.

    Constant rows are those marked `constant_of_the_default`: default fusion, matching loss and total.

    Args:
        records (`list[dict]`): finished runs.
        rows (`dict`): of the table.
    """
    constants = [name for name, row in rows.items() if row.get("constant_of_the_default")]
    best = {}
    for setting in {r["setting"] for r in records}:
        means = {}
        for name in constants:
            found = [r for r in records if r["setting"] == setting and r["row"] == name]
            if found:
                validation = statistics.fmean(r["validation"]["accuracy"] for r in found)
                means[name] = (validation, statistics.fmean(r["test"]["accuracy"] for r in found))
        if means:
            name = max(means, key=lambda key: means[key][0])
            best[setting] = (name, means[name][1])
    return best


def format_settings(records, settings, rows):
    """Markdown: a row a method, the fused test accuracy, that of each modality, and the gap in each setting.

    Args:
        records (`list[dict]`): finished runs.
        settings, rows (`dict`): of the table.
    """
    best = best_constant(records, rows)
    present = [s for s in settings if any(r["setting"] == s for r in records)]
    lines = ["| | " + " | ".join(f"{s} | modalities, gap" for s in present) + " | regret mean / worst | seconds |"]
    lines.append("| --- " * (2 * len(present) + 3) + "|")
    for row in rows:
        cells, regrets, seconds = [], [], []
        for setting in present:
            found = [r for r in records if r["setting"] == setting and r["row"] == row]
            if not found:
                cells += ["", ""]
                continue
            cells.append(mean_and_spread([r["test"]["accuracy"] for r in found]))
            names = [k for k in found[0]["test"] if k.endswith("_accuracy") and not k.startswith("without_")]
            parts = [f"{100 * statistics.fmean(r['test'][name] for r in found):.0f}" for name in names]
            gap = f"{100 * statistics.fmean(r['test']['gap'] for r in found):.0f}"
            cells.append(" / ".join(parts) + f", {gap}")
            seconds += [r["seconds"] for r in found]
            if setting in best:
                regrets.append(100 * (best[setting][1] - statistics.fmean(r["test"]["accuracy"] for r in found)))
        if seconds:
            regret = f"{statistics.fmean(regrets):.2f} / {max(regrets):.2f}" if regrets else ""
            lines.append(f"| {row} | " + " | ".join(cells) + f" | {regret} | {statistics.fmean(seconds):.0f} |")
    for setting in present:
        if setting in best:
            lines += ["", f"{setting}: best constant by validation is {best[setting][0]!r}."]
    return "\n".join(lines) + "\n"
