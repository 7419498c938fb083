"""`table`: your own csv, tsv, jsonl or Parquet files, for every program; see `data/table.py`."""

from dataclasses import dataclass, field
from functools import cached_property

import datasets

from ..benchmark import Benchmark, BenchmarkConfig
from ..columns import show_plan, spell_out
from ..labels import label_names
from ..table import load_table


@dataclass
class TableConfig(BenchmarkConfig):
    """Options of `table`; files are named relative to `data_dir`."""

    train_file: str | None = field(default=None, metadata={"help": "The table to train on, or all of it."})
    validation_file: str | None = field(default=None, metadata={"help": "Drawn from train_file if not given."})
    test_file: str | None = field(default=None, metadata={"help": "Drawn from train_file if there is no split at all."})
    label_column: str = field(default="label", metadata={"help": "Column of the labels."})
    label_separator: str | None = field(default=None, metadata={"help": "Between several labels in a cell."})
    group_column: str | None = field(default=None, metadata={"help": "No value of it is in two drawn splits."})
    folds: int | None = field(default=None, metadata={"help": "Draw so many folds of train_file, and no tenths."})
    fold: int = field(default=0, metadata={"help": "That of the folds to test on; the next is that to validate on."})
    table_columns: dict | None = field(default=None, metadata={"help": "Modality to columns; inferred if not given."})

    def __post_init__(self):
        super().__post_init__()
        self.table_columns = spell_out(self.table_columns)


class Table(Benchmark):
    """Rows of tables; what the columns hold is told from their cells where `table_columns` does not say."""

    BUILDER_CONFIG_CLASS = TableConfig
    summary = "A table of one's own."

    @cached_property
    def read(self):
        """Splits (`datasets.DatasetDict`) and what their columns are (`dict[str, Column]`)."""
        options = self.config
        if options.data_dir is None or options.train_file is None:
            raise ValueError(
                "the benchmark 'table' needs data_dir, the folder of your files, and benchmark_options.train_file."
            )
        hint = "benchmark_options name the tables in data_dir."
        names = {"train": options.train_file, "validation": options.validation_file, "test": options.test_file}
        return load_table(
            **{split: self.file(name, hint) for split, name in names.items() if name is not None},
            **{"label": options.label_column, "group": options.group_column, "columns": options.table_columns},
            **{key: getattr(options, key) for key in ("label_separator", "seed", "folds", "fold")},
        )

    def _info(self):
        splits, plan = self.read
        label = datasets.ClassLabel(names=label_names(splits))
        features = splits["train"].features.copy()
        features["label"] = datasets.List(label) if isinstance(splits["train"][0]["label"], list) else label
        return datasets.DatasetInfo(description=show_plan(plan), features=features)

    def plan(self):
        return dict(self.read[0])

    def example(self, entry):
        return entry
