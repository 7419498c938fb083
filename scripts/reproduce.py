"""Run a table of experiments, every row with every seed, and print it; goes on where it stopped."""

import sys
from pathlib import Path

from modeling_lfm.scripts.common import settings as arguments
from modeling_lfm.scripts.common.console import run
from modeling_lfm.scripts.experiments import report
from modeling_lfm.scripts.experiments.run import FORCED, append, read_lines, read_records, sweep
from modeling_lfm.scripts.experiments.tables import TABLES, check_cells, find_table, make_cells, read_table

HELP = """
Run a table of experiments and print it as Markdown.

usage: python scripts/reproduce.py --table 1 --benchmark av_mnist [--data_dir DIR] [--seeds 0 1 2] [--rows NAME ...]
                                   [--jobs 2] [--output FILE.jsonl] [--report] [--key value ...]
       python scripts/reproduce.py TABLE [--settings NAME ...] [the same]

Tables of the LFM paper, on a data set of yours:
  1, 2       every method: unimodal, fusions, rivals, LFM
  3          ablation: matching loss and moving alpha on and off
  4          strategies for alpha
  5          CLIP towers (their weights come from the Hub, or from folders: --modalities.image.name FOLDER ...)
  figure_1   label fitting: label smoothing 0, 0.3 and 1
Others: a YAML file with `rows` and either `benchmarks`, or `base` and `settings` (see scripts/configs/tables/), or the
name of one that comes along: {tables}.

  --table NAME      which table
  --benchmark NAME  a configuration of train.py, for a table with `benchmarks`
  --data_dir DIR    folder of the data set's files
  --seeds 0 1 2     one run a seed
  --rows, --settings   only those (default: all)
  --jobs N          runs at the same time, each on its own share of the cores, and on one CUDA device (default 1)
  --output FILE     one JSON line a finished run; runs that are there already are not repeated, unless their
                    configuration has changed (default outputs/TABLE_BENCHMARK.jsonl; the table goes beside it, as .md)
  --report          print the table of what is there, run nothing
  --key value       any setting of train.py, for all runs

examples:
  python scripts/reproduce.py --table 1 --benchmark av_mnist --data_dir DIR --jobs 2
  python scripts/reproduce.py --table 3 --benchmark demo --rows "cross-entropy only" --num_train_epochs 2
  python scripts/reproduce.py av_mnist --data_dir DIR --settings "S1 Adam"

All rows have the same towers, budget and optimizer, and train on the same samples. A run is evaluated on validation
data after each epoch and keeps the best, by `metric_for_best_model` of the configuration; then it reads the test split
once. What makes no sense on a data set, such as a third modality of two, is told before anything is trained. A run that
fails does not stop the others; the program then ends with status 1, and the next call tries it again.
"""
OWN = {"seeds": ["0", "1", "2"], "jobs": ["1"]} | dict.fromkeys(
    ("table", "benchmark", "settings", "rows", "output", "report")
)


def parse(argv):
    """The table, the program's own settings (`dict`) and those of train.py (`dict`) of a command line."""
    words, overrides = arguments.parse_command_line(argv)
    own = {key: overrides.pop(key, default) for key, default in OWN.items()}
    words += own["table"] or []
    if len(words) != 1:
        raise ValueError(f"one table is expected, got {', '.join(words) or 'none'}; --help tells more.")
    if own["benchmark"] is not None and len(own["benchmark"]) != 1:
        raise ValueError("--benchmark takes one data set; run the program once for each.")
    benchmark = None if own["benchmark"] is None else own["benchmark"][0]
    table = read_table(str(find_table(words[0])), benchmark)
    for kind in ("settings", "rows"):
        known = getattr(table, kind)
        unknown = [name for name in own[kind] or [] if name not in known]
        if unknown:
            raise ValueError(f"unknown {kind} {unknown}; the table has {', '.join(known)}.")
        own[kind] = own[kind] or list(known)
    own["seeds"], own["jobs"] = whole_numbers("seeds", own["seeds"], 0), whole_numbers("jobs", own["jobs"], 1)[-1]
    stem = table.name if benchmark is None else f"{table.name}_{Path(benchmark).stem}"
    own["output"] = Path(own["output"][0] if own["output"] else f"outputs/{stem}.jsonl")
    return table, own, overrides


def whole_numbers(key, words, least):
    """The values of `--key` as a list of `int`."""
    if not words or not all(word.isdecimal() and int(word) >= least for word in words):
        raise ValueError(f"--{key} {' '.join(words)} should be whole numbers from {least} on.")
    return [int(word) for word in words]


def run_table(table, own, overrides):
    """Run what is not there yet.

    Returns:
        `dict` from (setting, row, seed) to the errors of the runs that failed; `all seeds` where none could start.
    """
    cells = make_cells(table, own["settings"], own["rows"], overrides)
    inapplicable, wrong = check_cells(cells, FORCED)
    for (setting, row), reason in {**inapplicable, **wrong}.items():
        if row == table.reference:  # then it is no matter of the row
            raise ValueError(f"{setting}, {row}: {reason}")
    known = read_inapplicable(own["output"])
    own["output"].parent.mkdir(parents=True, exist_ok=True)
    for (setting, row), reason in inapplicable.items():
        print(f"{setting}, {row}: left out, {reason}")
        if known.get((setting, row)) != reason:
            append(own["output"], {"setting": setting, "row": row, "inapplicable": reason})
    for (setting, row), error in wrong.items():
        print(f"{setting}, {row}: FAILED, {error}")
    jobs = {
        (*cell, seed): {**config, "seed": seed}
        for seed in own["seeds"]
        for cell, config in cells.items()
        if cell not in inapplicable and cell not in wrong
    }
    failed = sweep(jobs, own["jobs"], own["output"])
    failures = {(setting, row, f"seed {seed}"): error for (setting, row, seed), error in failed.items()}
    return {**{(*cell, "all seeds"): error for cell, error in wrong.items()}, **failures}


def read_inapplicable(output):
    """Why cells were left out (`dict` by (setting, row))."""
    lines = read_lines(output)
    return {(line["setting"], line["row"]): line["inapplicable"] for line in lines if "inapplicable" in line}


def read_failures(output, records):
    """Errors of the runs that failed and were not repeated since (`dict` by (setting, row, seed))."""
    failed = {(r["setting"], r["row"], r["seed"]): r["error"] for r in read_lines(output) if "error" in r}
    return {(*key[:2], f"seed {key[2]}"): error for key, error in failed.items() if key not in records}


def write_report(table, output, failures=()):
    """Print the table of what `output` holds, and write it beside it."""
    records = read_records(output)
    if table.reference is None:
        text = report.format_settings(list(records.values()), table.settings, table.rows)
    else:
        failures = {**read_failures(output, records), **dict(failures)}
        parts = [
            report.format_report(table, setting, records, read_inapplicable(output), failures)
            for setting in table.settings
        ]
        text = "\n".join(parts)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {output.with_suffix('.md')}")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if not argv or {"-h", "--help"} & set(argv):
        others = sorted(file.stem for file in TABLES.glob("*.yaml") if not file.stem.startswith(("paper_", "figure_")))
        arguments.show_help(HELP.format(tables=", ".join(others)))
    table, own, overrides = parse(argv)
    failures = {} if own["report"] is not None else run_table(table, own, overrides)
    write_report(table, own["output"], failures)
    if failures:
        print(f"\n{len(failures)} failed:", file=sys.stderr)
        for (setting, row, seed), error in failures.items():
            print(f"  {setting}, {row}, {seed}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run(main)
