"""Rows of tables: the type of input `tabular`, and what the cells of a table hold."""

import math
from dataclasses import dataclass
from numbers import Number
from typing import ClassVar

import numpy as np
import torch

from .inputs_lfm import KINDS, InputKind, stack_rows
from .numbers_lfm import LARGEST
from .registry_lfm import list_some

MAX_CATEGORIES = 10_000  # of a column; more are identities, not categories


@KINDS.register("tabular")
@dataclass
class Tabular(InputKind):
    """A row of a table; `encode` gives (columns,) float32, and `stack` what the tower reads.

    Numbers are standardised; an empty one stands at the mean and is marked in a number of its own, where any was empty
    in training. A category is a number from 1; 0 is one that training did not see, or an empty cell.

    What it reads: a mapping from column to cell. Empty cells are None, NaN or "".

    Args:
        numeric (`list[str]`), categorical (`list[str]`): its columns; [`LfmProcessor.fit`] tells them apart by the
            types of their cells if neither is given.
        categories (`dict[str, list[str]]`, *optional*), mean, std (`dict[str, float]`, *optional*), holes
            (`list[str]`, *optional*): of training; what `fit` finds. `holes` are numeric columns with empty cells.
    """

    numeric: list | None = None
    categorical: list | None = None
    categories: dict | None = None
    mean: dict | None = None
    std: dict | None = None
    holes: list | None = None
    read_only: ClassVar = ("mean", "std", "holes")

    def __post_init__(self):
        twice = set(self.numeric or ()) & set(self.categorical or ())
        if twice:
            raise ValueError(f"columns {sorted(twice)} are both numeric and categorical")
        for column, value in {**(self.mean or {}), **(self.std or {})}.items():
            if not isinstance(value, Number) or not math.isfinite(value):
                raise ValueError(f"mean and std of column {column!r} must be finite, got {value!r}")

    @classmethod
    def is_absent(cls, sample):
        """A row whose cells are all empty is absent, too."""
        if isinstance(sample, dict):
            return bool(sample) and all(is_empty(cell) for cell in sample.values())
        return super().is_absent(sample)

    @property
    def parts(self):
        return ("values", "categories") if self.categorical else ("values",)

    @property
    def columns(self):
        return [*(self.numeric or ()), *(self.categorical or ())]

    @property
    def is_fitted(self):
        return self.categories is not None and self.mean is not None

    @property
    def shape(self):
        return (len(self.columns),)

    @property
    def tower_keys(self):
        """What the tower has to know (`dict`): how many numbers, and how many values each category has."""
        sizes = [len(self.categories[column]) + 1 for column in self.categorical]
        return {"in_features": len(self.numeric) + len(self.holes), "cardinalities": sizes}

    def fit(self, samples):
        """Tell numbers from categories, and find their statistics, in raw training samples (mappings)."""
        table = {}
        for sample in samples:
            for column, cell in self._check(sample).items():
                table.setdefault(column, []).append(None if is_empty(cell) else cell)
        if self.numeric is None and self.categorical is None:
            self.numeric = [column for column, cells in table.items() if all_numbers(cells)]
            self.categorical = [column for column in table if column not in self.numeric]
        self.numeric, self.categorical = list(self.numeric or ()), list(self.categorical or ())
        missing = [column for column in self.columns if column not in table]
        if missing:
            raise ValueError(f"the samples have no columns {list_some(missing)}; they have {list_some(table)}")
        self.mean, self.std, self.holes, self.categories = {}, {}, [], {}
        for column in self.numeric:
            there = np.array([to_number(cell, column) for cell in table[column] if cell is not None], np.float64)
            self.holes += [column] if len(there) < len(table[column]) else []
            self.mean[column] = float(there.mean()) if len(there) else 0.0
            self.std[column] = (float(there.std()) if len(there) else 0.0) or 1.0
        for column in self.categorical:
            names = sorted({category(cell) for cell in table[column] if cell is not None})
            if len(names) > MAX_CATEGORIES:
                raise ValueError(f"column {column!r} has {len(names):,} categories; leave it out, or name it numeric")
            self.categories[column] = names

    @staticmethod
    def _check(sample):
        if not isinstance(sample, dict):
            raise ValueError(f"a row of a table is a mapping from column to cell, got {type(sample).__name__}")
        return sample

    def encode(self, sample, sampling_rate=None):
        sample = self._check(sample)
        missing = [column for column in self.columns if column not in sample]
        if missing:
            raise ValueError(f"the row has no columns {list_some(missing)}; give None for an empty cell")
        numbers = [math.nan if is_empty(sample[c]) else to_number(sample[c], c) for c in self.numeric]
        known = []
        for column in self.categorical:
            names, cell = self.categories[column], sample[column]
            name = None if is_empty(cell) else category(cell)
            known.append(names.index(name) + 1 if name in names else 0)
        return np.array([*numbers, *known], np.float32)

    def stack(self, rows):
        """`values` (B, numbers and marks) float32 and, if there are any, `categories` (B, C) int64, as a `dict`."""
        rows, count = stack_rows(rows), len(self.numeric)
        mean, std = (torch.tensor([part[c] for c in self.numeric]).float() for part in (self.mean, self.std))
        numbers, known = rows[:, :count], rows[:, count:]
        empty = numbers.isnan()
        marks = empty[:, [self.numeric.index(column) for column in self.holes]].float()
        values = torch.cat([torch.where(empty, 0.0, (numbers - mean) / std), marks], dim=1)
        return {"values": values, **({"categories": known.long()} if self.categorical else {})}


def is_alone(kind, kinds):
    """Whether `kind` (a type of input, or an object of it) is a row of a table, and all that there is of `kinds`."""
    return len(kinds) == 1 and issubclass(kind if isinstance(kind, type) else type(kind), Tabular)


# -- cells ---------------------------------------------------------------------------------------------------------


def is_empty(cell):
    """Whether a cell of a table holds nothing: None, NaN, NaT, pandas' NA or ""."""
    if cell is None or isinstance(cell, str):
        return cell is None or not cell.strip()
    unlike = cell != cell
    return type(unlike).__name__ == "NAType" or bool(unlike)  # NA is like nothing, nor unlike it


def to_number(cell, column):
    """A cell as a number (`float`).

    Raises:
        ValueError: it is none; the message names the column.
    """
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"column {column!r} holds {cell!r}, which is no number; mend the row, or name the column categorical"
        ) from error
    if abs(number) > LARGEST:
        raise ValueError(f"column {column!r} holds {cell!r}; mend the row")
    return number


def all_numbers(cells):
    """Whether the cells that are there are numbers (or their texts), and not all of them true or false."""
    there = [cell for cell in cells if cell is not None]
    if not there or all(isinstance(cell, (bool, np.bool_)) for cell in there):
        return False
    try:
        return not any(math.isnan(float(cell)) for cell in there)  # an infinite one is told where it is read
    except (TypeError, ValueError):
        return False


def category(cell):
    """The name of a category (`str`): 3 and 3.0 are one, as an empty cell in a column makes numbers floats."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell).strip()
