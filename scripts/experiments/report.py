"""Markdown tables of finished runs: means and spreads over seeds, significance, cost, and the published figures."""

from dataclasses import replace

from modeling_lfm.scripts.common import settings as arguments
from modeling_lfm.scripts.experiments.run import read_all, read_records
from modeling_lfm.scripts.experiments.search import tell_search

COLUMNS = {"accuracy": "accuracy", "map": "mAP", "f1": "macro F1"}
SELECTION = (
    "Percent on the test split, mean ± sample standard deviation over the seeds {seeds} (in brackets: fewer). "
    "Every run keeps the epoch that is best on validation data (by {metric}), and reads the test split once."
)
SIGNIFICANCE = (
    "*p*: paired t-test over the seeds of the accuracy against {reference}; over few seeds only large and steady "
    "differences come out below 0.05. *Cost*: seconds of training over those of {reference}."
)
FOLDS = (
    "Percent on the test fold, mean ± sample standard deviation over the {folds} folds that each of the seeds {seeds} "
    "draws (in brackets: fewer runs). Every run keeps the epoch that is best on the next fold (by {metric}), and reads "
    "its test fold once."
)
FOLDS_SIGNIFICANCE = (
    "*p*: paired t-test over folds and seeds of the accuracy against {reference}, with the variance that shared "
    "training samples ask for (Nadeau and Bengio, 2003). *Cost*: seconds of training over those of {reference}."
)
BESIDE = (
    "These figures are of another data set, {benchmark}, with the towers and budgets of the paper: the order of the "
    "methods can be compared, not the figures."
)


def write_report(table, folder):
    """Print the table of what `folder` holds, and write it there."""
    records, others = read_records(folder), read_all(folder)
    table = replace(table, notes=[*table.notes, *filter(None, [tell_search(folder)])])
    inapplicable = {(r["setting"], r["row"]): r["inapplicable"] for r in others if "inapplicable" in r}
    failures = {(r["setting"], r["row"], r["seed"]): r["error"] for r in others if "error" in r}
    if table.folds is not None:
        text = format_report(*join_folds(table, records, inapplicable, failures))
    else:
        there = {record["setting"] for record in others}
        settings = [setting for setting in table.settings if setting in there]
        text = "\n".join(format_report(table, s, records, inapplicable, failures) for s in settings)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {folder / 'table.md'}")


def make_frame(records):
    """Finished runs (`list[dict]`) as a `pandas.DataFrame`, a run a line, metrics in columns (`test.accuracy`)."""
    import pandas as pd

    frame = pd.json_normalize(records)
    return frame if len(frame) else pd.DataFrame(columns=["setting", "row", "seed", "seconds"])


def join_folds(table, records, inapplicable, failures):
    """The arguments of [`format_report`] (`list`) of a table whose settings are folds: one table of all."""
    settings = list(table.settings)
    name = settings[0].rpartition(", fold ")[0]
    table = replace(table, settings={name: table.settings[settings[0]]})

    def join(found):
        return {(name, row, (seed, s)): found[s, row, seed] for s, row, seed in found if s in settings}

    records = {key: {**record, "seed": key[2]} for key, record in join(records).items()}
    inapplicable = {(name, row): reason for (setting, row), reason in inapplicable.items() if setting in settings}
    failures = {(name, row, f"{seed}, {setting}"): text for (_, row, (seed, setting)), text in join(failures).items()}
    return [table, name, records, inapplicable, failures]


def format_report(table, setting, records, inapplicable, failures):
    """The table of one setting or benchmark, as Markdown (`str`).

    Args:
        records (`dict`): finished runs by (setting, row, seed), where settings are joined (seed, setting) for a seed.
        inapplicable (`dict`), failures (`dict`): reasons, by (setting, row) and by (setting, row, seed).
    """
    runs = make_frame([record for key, record in records.items() if key[0] == setting and key[1] in table.rows])
    groups, names = dict(list(runs.groupby("row"))), name_modalities(table.settings[setting], records.values())
    most, best = max(map(len, groups.values()), default=0), runs.groupby("row").mean(numeric_only=True).max()
    published = read_published(table.name, setting)
    column = f"published ({published['benchmark']})" if published else "published"
    without = ["without " + " / ".join(names)] if table.absence else []
    head = ["", *COLUMNS.values(), " / ".join(names), "gap", *without, column, "p", "cost"]
    lines, remarks, reference = [head, ["---"] * len(head)], [], groups.get(table.reference)
    for row in table.rows:
        found = groups.get(row)
        reasons = [f"seed {key[2]} failed: {text}" for key, text in failures.items() if key[:2] == (setting, row)]
        if found is None and not reasons:
            reasons = [inapplicable[setting, row]] if (setting, row) in inapplicable else []
            if not reasons:
                continue
        mark = "" if found is None or len(found) == most else f" ({len(found)})"
        if reasons:
            remarks.append(f"<sup>{len(remarks) + 1}</sup> {row}: {'; '.join(reasons)}")
            mark += f"<sup>{len(remarks)}</sup>"
        cells, end = ["-"] * (5 + len(without)), ["-", "-"]
        if found is not None:
            tests = [found[f"test.{metric}"] for metric in COLUMNS]
            cells = [mean_and_spread(values, values.mean() == best[values.name]) for values in tests]
            cells += [format_modalities(found, names), format_gap(found, names)]
            cells += [format_modalities(found, [f"without_{name}" for name in names])] * len(without)
            p = "" if row == table.reference else format_p(compare(found, reference, folds=table.folds))
            end = [p, "-" if reference is None else f"{found['seconds'].mean() / reference['seconds'].mean():.2f}"]
        lines.append([row + mark, *cells, format_published(published.get("rows", {}).get(row)), *end])
    parts = [f"## {table.title}: {setting}", *_notes(table, setting, runs), format_lines(lines), *remarks]
    if published:
        parts.append(f"Published: {' '.join(published['source'].split())}")
        parts += [BESIDE.format(**published)] if published["benchmark"] != setting else []
    return "\n\n".join(parts) + "\n"


def name_modalities(config, records):
    """Names of the modalities (`list`): those of a configuration, of one's own table those of the run with most."""
    if config.get("benchmark") != "table":
        return list(config["modalities"])
    tests = (record["test"] for record in records)
    found = ([key[:-9] for key in test if key.endswith("_accuracy") and "without_" not in key] for test in tests)
    return max(found, key=len, default=[])


def format_lines(lines):
    """Markdown of a table's lines (`list` of lists of texts), the heads first."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _notes(table, setting, runs):
    """What stands above the table (`list[str]`)."""
    notes = [" ".join(note.split()) for note in table.notes]
    metric = table.settings[setting].get("metric_for_best_model", "loss")
    if "chosen_by" in runs:
        metric = runs["chosen_by"].dropna().iloc[-1]
    seeds = sorted({seed[0] if table.folds else seed for seed in runs["seed"]})
    told = {"seeds": ", ".join(map(str, seeds)), "metric": metric, "folds": table.folds, "reference": table.reference}
    selection, significance = (FOLDS, FOLDS_SIGNIFICANCE) if table.folds else (SELECTION, SIGNIFICANCE)
    notes.append(selection.format(**told))
    if table.reference is not None:
        notes.append(significance.format(**told))
    return [*notes, f"{len(runs)} runs, {runs['seconds'].sum() / 3600:.2f} hours of training."]


def mean_and_spread(values, bold=False):
    """`mean ± standard deviation` of fractions (`pandas.Series`), in percent (sample deviation; none for one value)."""
    centre = f"{100 * values.mean():.1f}"
    return (f"**{centre}**" if bold else centre) + (f" ± {100 * values.std():.1f}" if len(values) > 1 else "")


def format_modalities(found, names):
    """Mean accuracy of each modality alone; `-` where the model does not have it."""
    columns = [f"test.{name}_accuracy" for name in names]
    values = [found[column].mean() if column in found else float("nan") for column in columns]
    return " / ".join("-" if value != value else f"{100 * value:.1f}" for value in values)


def format_gap(found, names):
    """Mean gap between the modalities' accuracies; `-` for a model of one modality among several."""
    columns = [f"test.{name}_accuracy" for name in names if f"test.{name}_accuracy" in found]
    alone = found[columns].notna().any().sum() == 1 < len(names)
    return "-" if alone else f"{100 * found['test.gap'].mean():.1f}"


def compare(found, reference, metric="test.accuracy", folds=None):
    """p (`float`) of a paired, two-sided t-test over the seeds that both have; None for one seed or no difference.

    Args:
        found, reference (`pandas.DataFrame`): finished runs of two rows, or None.
        folds (`int`, *optional*): the runs are those of so many folds, of which one is tested on and one validated on.
    """
    from modeling_lfm.trainer.cross_validation import paired_test

    if reference is None or reference.empty:
        return None
    pairs = found.merge(reference, on="seed", suffixes=("", "_reference"))
    p = paired_test(pairs[metric], pairs[f"{metric}_reference"], 1 / (folds - 2) if folds else 0.0)
    return None if p != p else p


def format_p(p):
    """A p value, or None, to three digits."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def read_published(table, setting):
    """Published figures of a table for a data set, or for that of the paper which is set beside it: a `dict` with
    `rows`, `source` and `benchmark`, the data set of the figures; empty where there are none."""
    content = arguments.read_config(str(arguments.CONFIGS / "published.yaml"))
    found = content["tables"].get(table, {"benchmarks": {}})
    for benchmark in (setting, content["beside"].get(setting)):
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
