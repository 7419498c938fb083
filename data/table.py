"""A user's own data: a csv, tsv, jsonl or Parquet file, a DataFrame or a data set, and which modality each column is.

What columns hold is told from their cells: paths by their endings, texts, numbers, categories, lists of numbers.
Numbers and categories together are one modality, `table`.
"""

import ast
import csv
import json
import logging
import os
import re
import warnings
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pandas as pd

from modeling_lfm.registry_lfm import list_some, suggest
from modeling_lfm.tables_lfm import category, is_empty

from .columns import ENDINGS, column_names, full_path, infer_columns, name_columns, read_cells, to_dataset
from .splits import split_frames

logger = logging.getLogger(__name__)


def load_table(
    train,
    validation=None,
    test=None,
    label="label",
    group=None,
    columns=None,
    label_separator=None,
    seed=0,
    folds=None,
    fold=0,
):
    """Read a table and split it, where it is not.

    Args:
        train, validation, test: a file (csv, tsv, jsonl, Parquet), a `pandas.DataFrame` or a `datasets.Dataset`. Where
            only `train` is given, its column `split` tells the splits, if it has one (train, validation, test);
            otherwise a tenth each is drawn for validation and test, stratified by label. Where only `validation` is
            missing, also in the column, a tenth of `train` is drawn for it. Paths in a file are relative to its folder.
        label (`str`): column of the labels, where a frame names it by a number, too; lists are several labels a sample.
        group (`str`, *optional*): a column, such as the person or the video, none of whose values is in two of the
            splits that are drawn; it is no modality.
        columns (`dict`, *optional*): from modality to its column, to a list of columns (with `*`), or to a mapping with
            `column` or `columns`, `type` and settings of the type. Only these are read then; see [`infer_columns`].
        label_separator (`str`, *optional*): between several labels in a cell, such as `"|"`; an empty cell has none.
        seed (`int`): of what is drawn.
        folds, fold (`int`, *optional*): draw so many folds of `train`, which then is all there is: `fold`, from 0, is
            the test split, the next one (after the last, the first) the validation split.

    Returns:
        `datasets.DatasetDict` with a column a modality (a path, a text, a mapping of cells, a list of numbers; None
        where it is missing) and `label`; and `dict[str, Column]`.

    Raises:
        ValueError: a missing column, label or file, an unreadable table; the message names file and column.
        FileNotFoundError: no such table.
    """
    given = {"train": train, "validation": validation, "test": test}
    frames = {split: read_table(source) for split, source in given.items() if source is not None}
    label, group = str(label), None if group is None else str(group)
    for split, frame in frames.items():
        for name in (label, group):
            if name is not None and name not in frame:
                raise ValueError(f"the {split} table has no column {name!r}; {suggest(name, frame)}")
        if label_separator is None:  # else an empty cell holds no label, which a sample may have
            _check_labels(frame, label, split)
    whole, frames = frames["train"], split_frames(frames, label, group, seed, folds, fold)
    apart = {label, group, "split"}
    first = frames["train"] if folds is None else whole  # all folds have the same modalities
    plan = infer_columns(first, apart) if columns is None else name_columns(first, columns, apart)
    for split, frame in frames.items():
        missing = [name for column in plan.values() for name in column.columns if name not in frame]
        if missing:
            raise ValueError(f"the {split} table lacks the columns {list_some(missing)}; add them, empty if need be.")
    parts = {split: to_dataset(frame, plan, label, label_separator) for split, frame in frames.items()}
    return datasets.DatasetDict(parts), plan


# -- reading -------------------------------------------------------------------------------------------------------


def read_table(source, absolute=False):
    """A table as a `DataFrame`, whose attrs tell the `folder` to which its paths are relative.

    Args:
        source: as `train` of [`load_table`].
        absolute (`bool`): make paths of media absolute, so that the table can be kept elsewhere.
    """
    if isinstance(source, pd.DataFrame):
        frame, folder = _name_by_texts(source.reset_index(drop=True)), Path()
    elif isinstance(source, datasets.Dataset):
        frame, folder = _name_classes(source), Path()
    elif not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            f"a table is a pandas.DataFrame, a datasets.Dataset (give the splits of a DatasetDict one by one), or a "
            f"file; this is of type {type(source).__name__}."
        )
    else:
        path = Path(source).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no table at {path}.")
        frame, folder = _read_file(path), path.parent
    if frame.empty:
        raise ValueError(f"the table {describe(source)} holds no rows.")
    frame = frame.assign(**{name: _read_lists(frame[name], f"{describe(source)}, column {name!r}") for name in frame})
    frame.attrs = {"folder": str(folder), "name": describe(source)}
    endings = tuple(ending for kind in ENDINGS.values() for ending in kind)
    for column in frame.columns if absolute else ():
        cells = [cell for cell in frame[column] if isinstance(cell, str)]
        if cells and all(cell.lower().endswith(endings) for cell in cells):
            paths = [full_path(folder, cell) if isinstance(cell, str) else None for cell in frame[column]]
            frame = frame.assign(**{column: paths})
    return frame


def _name_classes(dataset):
    """A data set as a `DataFrame` with the names of classes in place of their numbers."""
    frame = dataset.to_pandas()
    for column, feature in dataset.features.items():
        several = getattr(feature, "feature", None)  # of a list
        if isinstance(feature, datasets.ClassLabel):
            known = [None if is_empty(cell) or cell < 0 else int(cell) for cell in frame[column]]
            frame[column] = [None if number is None else feature.int2str(number) for number in known]
        elif isinstance(several, datasets.ClassLabel):
            frame[column] = [None if cell is None else several.int2str(cell.tolist()) for cell in frame[column]]
    return frame


def _name_by_texts(frame):
    """A `DataFrame` whose columns have texts for names, also where they were numbers, or several words each."""
    parts = [name if isinstance(name, tuple) else (name,) for name in frame.columns]
    names = ["_".join(str(part) for part in name if part != "") for name in parts]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"the table has several columns {twice[0]!r}; rename or remove one.")
    return frame.set_axis(names, axis=1)


def read_rows(source, columns):
    """The raw inputs of each row of a table, for a model that was trained; `source` and `columns` as in [`load_table`].

    Returns:
        `list[dict]`: from modality to its raw input; a modality none of whose columns is there is absent.

    Raises:
        ValueError: no modality is there, or a part of one's columns only. FileNotFoundError: no such table.
    """
    frame = read_table(source)
    there = _find_there(frame, columns)
    cells = {name: read_cells(frame, part) for name, part in name_columns(frame, there, set()).items()}
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]


def read_labelled(source, columns, label="label", label_separator=None):
    """The rows of a table with labels (`datasets.Dataset`), for a model that was trained; arguments as in
    [`load_table`]. A modality none of whose columns is there is None in every row.

    Raises:
        ValueError: no labels, no modality is there, or a part of one's columns only. FileNotFoundError: no such table.
    """
    frame = read_table(source)
    if label not in frame:
        raise ValueError(f"the table {describe(source)} has no column {label!r}; {suggest(label, frame)}")
    if label_separator is None:
        _check_labels(frame, label, "given")
    there = _find_there(frame, columns)
    blank = {name: column_names(name, told) for name, told in columns.items() if name not in there}
    empty = frame.assign(**{column: None for names in blank.values() for column in names})
    return to_dataset(empty, name_columns(empty, columns, set()), label, label_separator)


def _find_there(frame, columns):
    """Those of `columns` (`dict`) that a table holds."""
    there = {name: told for name, told in columns.items() if _wanted(name, told, frame)}
    if not there:
        wanted = list_some(column for name, told in columns.items() for column in column_names(name, told))
        where = f"the table {frame.attrs['name']}"
        raise ValueError(f"{where} has none of the columns that the model reads: {wanted}.")
    return there


def _wanted(modality, told, frame):
    names = column_names(modality, told)
    missing = [name for name in names if "*" not in name and name not in frame]
    if missing and len(missing) < len(names):
        raise ValueError(
            f"modality {modality!r} needs the columns {list_some(missing)}, which the table lacks; where that is no "
            "mistake, add them, empty."
        )
    return not missing


def describe(source):
    """A name of a table for messages (`str`)."""
    return str(source) if isinstance(source, (str, Path)) else f"of type {type(source).__name__}"


def _read_file(path):
    readers = {
        ".csv": lambda: _read_csv(path, ","),
        ".tsv": lambda: _read_csv(path, "\t"),
        ".jsonl": lambda: pd.read_json(path, lines=True),
        ".json": lambda: pd.read_json(path),
        ".parquet": lambda: pd.read_parquet(path),
    }
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: a table is one of {', '.join(readers)}.")
    try:
        return readers[path.suffix.lower()]()
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} is not UTF-8 near line {line}; convert it: iconv -f latin1 -t utf-8 {path.name} > new.csv"
        ) from error
    except Exception as error:  # whatever a damaged file leads these readers to
        raise ValueError(f"{path} cannot be read as a table: {error}") from error


def _read_csv(path, separator):
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = Counter(next(csv.reader(file, delimiter=separator), []))
    other = next((sign for sign in ";\t|" if sign in next(iter(names), "")), None)
    if len(names) == 1 and other is not None:
        raise ValueError(
            f"its columns stand between {other!r}, not {separator!r}: write it anew, or give "
            f"pandas.read_csv(path, sep={other!r})."
        )
    twice = [name for name, count in names.items() if name and count > 1]
    if twice:  # pandas would call the second of two `label`s `label.1`, and it would be learned from
        raise ValueError(f"it has several columns {twice[0]!r}; rename or remove one.")
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header, whose cells would go
        return pd.read_csv(path, sep=separator, index_col=False)


def _read_lists(cells, where):
    """The lists that the cells of a column (`pandas.Series`) hold as text, such as "[0.5, 1]" or "['a', 'b']", as a csv
    keeps them; the column as it is where a cell that is not empty is none.
    """
    full = {n: cell for n, cell in enumerate(cells) if np.ndim(cell) or not is_empty(cell)}
    if not full or not all(
        isinstance(cell, str) and re.fullmatch(r"\s*\[.*\]\s*", cell, re.DOTALL) for cell in full.values()
    ):
        return cells
    read = {number: _read_list(cell) for number, cell in full.items()}
    lost = next((number for number, found in read.items() if found is None), None)
    if lost is None:
        return pd.Series([read.get(number) for number in range(len(cells))], index=cells.index, dtype=object)
    if re.search(r"\d\s*\.\.\.\s*[-\d]", full[lost]):
        raise ValueError(
            f"{where}, row {lost + 1}: a list was shortened to '...' when it was written; its numbers are lost. Write "
            "lists (array.tolist()), or Parquet."
        )
    return cells


def _read_list(cell):
    """A list (`list`) of JSON, Python or numpy; None for anything else."""
    numbers = re.sub(r"np\.\w+\(([^()]*)\)", r"\1", cell.strip())  # numpy: [np.float64(1.5)]
    numbers = re.sub(r"(\d)\.(?!\d)", r"\1.0", numbers)  # [1. 2.
    numbers = re.sub(r"(?<=[\w\]])\s+(?=[\[\w+-])", ",", numbers)  # 3. nan]
    numbers = re.sub(r"\bnan\b", "NaN", re.sub(r"\binf\b", "Infinity", numbers))
    for read, text in ((json.loads, cell), (ast.literal_eval, cell), (json.loads, numbers)):
        try:
            found = read(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, list):
            return found
    return None


def _check_labels(frame, label, split):
    cells = frame[label].tolist()
    rows = [number for number, cell in enumerate(cells) if np.ndim(cell) == 0 and is_empty(cell)]
    if rows:
        raise ValueError(
            f"the {split} table has no {label!r} in {len(rows)} rows, the first of them row {rows[0] + 1}; drop them."
        )
    if split != "train" or any(np.ndim(cell) for cell in cells):
        return
    classes = {category(cell) for cell in cells}
    if len(classes) == 1:
        raise ValueError(f"every row of the train table has the label {classes.pop()!r}: there is nothing to learn.")
    if len(cells) >= 10 and len(classes) > len(cells) / 2:
        raise ValueError(
            f"the label column {label!r} holds {len(classes):,} different values, such as {category(cells[0])!r}, in "
            f"{len(cells):,} rows: these are no classes. Name another column; numbers become classes by pandas.cut."
        )
