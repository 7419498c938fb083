"""Run a table of experiments and print it as Markdown.

usage: python scripts/reproduce.py --table 1 --benchmark av_mnist [--data_dir DIR] [--seeds 0 1 2] [--rows NAME ...]
                                   [--jobs 2] [--output DIR] [--report] [--key value ...]
       python scripts/reproduce.py TABLE [--settings NAME ...] [the same]
       python scripts/reproduce.py --panel [--data_dir DIR] [the same]

Tables of the LFM paper, on a data set of yours:
  1, 2       every method: unimodal, fusions, rivals, LFM
  3          ablation: matching loss and moving alpha on and off
  4          strategies for alpha
  5          CLIP towers (their weights come from the Hub, or from folders: --modalities.image.name FOLDER ...)
  figure_1   label fitting: label smoothing 0, 0.3 and 1
Others: a YAML file with `rows` and either `benchmarks`, or `base` and `settings` (see scripts/configs/tables/), or the
name of one that comes along: {tables}.

With --panel every data set of a table (`panel`, or a copy with sets of yours) is run, from its folder in --data_dir,
and methods are compared over all. To these and the settings below, any of train.py can be added, for all runs.

examples:
  python scripts/reproduce.py --table 1 --benchmark av_mnist --data_dir DIR --jobs 2
  python scripts/reproduce.py av_mnist --data_dir DIR --settings "S1 Adam"
  python scripts/reproduce.py --table 1 --benchmark table --data_dir DIR --folds 5 --benchmark_options.train_file a.csv

All rows have the same towers, budget and optimizer, and train on the same samples; where authors publish settings of
their method for the data set, these are taken (scripts/configs/published_settings.yaml). A run is evaluated on
validation data after each epoch and keeps the best, by `metric_for_best_model` of the configuration; then it reads the
test split once. Whatever is wrong with a row, the data or the folder is told before anything is trained, and what makes
no sense on a data set, such as a third modality of two, is left out. A run that fails does not stop the others; the
program then ends with status 1, and the next call tries it again. With --search 0.33 1 3 each row is trained at so many
times its learning rate with the first seed, then with all seeds at that which was best on validation data.

With --folds a table of yours is cross-validated: each fold is tested on once a seed, the next one chooses the epoch;
--benchmark_options.group_column person keeps the rows of a person in one fold.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from transformers.hf_argparser import HfArg

from modeling_lfm.scripts.common.console import run
from modeling_lfm.scripts.common.executor import ExecutorArguments
from modeling_lfm.scripts.common.settings import read_arguments
from modeling_lfm.scripts.experiments.check import check_cells, check_output
from modeling_lfm.scripts.experiments.report import write_report
from modeling_lfm.scripts.experiments.run import FORCED, make_jobs, sweep, write_record
from modeling_lfm.scripts.experiments.search import search_rates
from modeling_lfm.scripts.experiments.tables import TABLES, find_table, list_benchmarks, make_cells, read_table
from modeling_lfm.scripts.experiments.tables import split_into_folds as split


@dataclass(kw_only=True)
class ReproduceArguments(ExecutorArguments):
    """Settings of `reproduce.py`: which runs of which table are made, and where results are kept."""

    table: str | None = HfArg(default=None, help="Which table.")
    panel: bool = HfArg(default=False, help="Run every data set of the table (`panel`), and compare over them.")
    benchmark: str | None = HfArg(default=None, help="A configuration of train.py, for a table with `benchmarks`.")
    seeds: list[int] = HfArg(default_factory=lambda: [0, 1, 2], help="One run a seed.")
    rows: list[str] = HfArg(default_factory=list, help="Only those; all if not given.")
    settings: list[str] = HfArg(default_factory=list, help="Only those; all if not given.")
    folds: int | None = HfArg(default=None, help="Of --benchmark table: a run a fold and seed.")
    search: list[float] = HfArg(default_factory=list, help="Factors of the learning rate; see above.")
    jobs: int = HfArg(default=1, help="Runs at the same time, each on its own share of the cores, on one CUDA device.")
    output: str = HfArg(
        default="outputs/results",
        help="Folder of results, OUTPUT/TABLE/BENCHMARK: table.md and a JSON file a run, kept while settings stay.",
    )
    report: bool = HfArg(default=False, help="Print the table of what is there, run nothing.")

    def __post_init__(self):
        super().__post_init__()
        if min(self.seeds) < 0 or self.jobs < 1:
            raise ValueError(f"seeds {self.seeds} and jobs={self.jobs} should be whole numbers from 0 and 1 on.")
        if self.search and (self.part is not None or min(self.search) <= 0):
            raise ValueError(f"search {self.search} should be positive numbers, and needs every run: without --part.")
        self.table = self.table or ("panel" if self.panel else None)
        if self.table is None:
            raise ValueError("which table? --table NAME, or --panel.")


def parse_arguments(argv):
    """A command line: `(table, own, overrides)` of each sweep, its [`ReproduceArguments`] and settings of train.py."""

    def take_table(words, overrides):
        return {"table": words.pop(0)} if words and "table" not in overrides else {}

    tables = sorted(file.stem for file in TABLES.glob("*.yaml") if not file.stem.startswith(("paper_", "figure_")))
    text, overrides = __doc__.replace("{tables}", ", ".join(tables)), {}
    own = read_arguments(argv, text, ReproduceArguments, start=take_table, rest=overrides)
    names = list_benchmarks(own.table) if own.panel else [own.benchmark]
    return [complete(replace(own, benchmark=name), overrides) for name in names]


def complete(own, overrides):
    """One sweep of [`parse_arguments`]."""
    table = read_table(str(find_table(own.table)), own.benchmark)
    data = own.benchmark or next(iter(table.settings.values()))["benchmark"]
    table = table if own.folds is None else split(table, own.folds)
    for kind in ("settings", "rows"):
        known, given = getattr(table, kind), getattr(own, kind)
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"unknown {kind} {unknown}; the table has {', '.join(known)}.")
        setattr(own, kind, given or list(known))
    own.output = Path(own.output, table.name, Path(data).stem)
    if own.panel and "data_dir" in overrides:
        folder = Path(*overrides["data_dir"], table.settings[own.benchmark].get("data_dir", own.benchmark))
        overrides = {**overrides, "data_dir": [str(folder)]}
    return table, own, overrides


def run_table(table, own, overrides):
    """Run what is not there yet; the errors of the runs that failed (`dict` by (setting, row, seed))."""
    cells = make_cells(table, own.settings, own.rows, overrides)
    check_output(own.output, 0, own.jobs)
    inapplicable, largest = check_cells(cells, FORCED)
    check_output(own.output, largest, own.jobs)
    for (setting, row), reason in inapplicable.items():
        if row == table.reference:  # then it is no matter of the row
            raise ValueError(f"{setting}, {row}: {reason}")
        print(f"{setting}, {row}: left out, {reason}")
        write_record(own.output, setting, row, None, inapplicable=reason)
    cells = {cell: config for cell, config in cells.items() if cell not in inapplicable}
    cells, failures = search_rates(cells, own)
    jobs = make_jobs(cells, own.seeds, own.folds, own.output)
    keys = list(jobs)[own.pieces]
    return failures | sweep({key: jobs[key] for key in keys}, own.make_executor(own.jobs), own.output)


def main(argv=None):
    sweeps, failures = parse_arguments(argv), {}
    for table, own, overrides in sweeps:
        failures |= {} if own.report else run_table(table, own, overrides)
        if own.part is None:
            write_report(table, own.output)
    if own.panel and own.part is None:
        from modeling_lfm.scripts.experiments.panel import collect, write_panel  # it takes a while to import

        print(write_panel([line for table, own, _ in sweeps for line in collect(table, own.output)], own.output.parent))
    if failures:
        print(f"\n{len(failures)} failed:", file=sys.stderr)
        for (setting, row, seed), error in failures.items():
            print(f"  {setting}, {row}, seed {seed}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run(main)
