"""What the columns of a table are: which make a modality, of what type, and what their cells hold."""

import json
import logging
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import datasets
import numpy as np

from modeling_lfm.numbers_lfm import FILES as SERIES_FILES
from modeling_lfm.registry_lfm import list_some, suggest
from modeling_lfm.tables_lfm import all_numbers, category, is_empty, to_number

ENDINGS = {
    "image": (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
    "spectrogram": (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav"),
    "video": (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"),
    "sequence": SERIES_FILES,
}
TYPES = (*ENDINGS, "text", "vector", "tabular", "flow")
ROWS_LOOKED_AT = 1000
TEXT_WORDS = 3  # a column whose cells have as many words on average is text
IDENTITIES = ("id", "index", "key", "name", "uid", "unnamed: 0")  # columns that number the rows, if no two are alike
GROUPS = {"group", "subject", "person", "speaker", "patient", "participant", "user", "video", "session"}
TABLE = "table"  # the modality of all numbers and categories that nobody gave another one

logger = logging.getLogger(__name__)


@dataclass
class Column:
    """How a modality is read from a table: its type of input, and the columns that hold it."""

    type: str  # of the processor's types of input
    columns: list  # of the table; several for `tabular` and `vector`
    settings: dict = field(default_factory=dict)  # of the type, as in the processor


def spell_out(columns):
    """`columns` of [`load_table`], each as a mapping with a list `columns`, however a user gives it."""
    if columns is None:
        return None
    settings = {name: dict(told) if isinstance(told, dict) else {} for name, told in columns.items()}
    rest = {name: {k: v for k, v in told.items() if k != "column"} for name, told in settings.items()}
    return {name: {**rest[name], "columns": column_names(name, told)} for name, told in columns.items()}


def column_names(modality, told):
    """The columns (`list[str]`) that a user gave for a modality."""
    names = told if not isinstance(told, dict) else told.get("columns") or told.get("column", modality)
    return [str(name) for name in ([names] if isinstance(names, (str, int)) else names)]


def infer_columns(frame, apart=()):
    """What the columns of a table (`pandas.DataFrame`) are, but for those `apart` (`set[str]`), such as the label.

    Returns:
        `dict[str, Column]`: media, texts and lists of numbers are modalities of their own, under the names of their
        columns; numbers and categories are one, `table`. Names of rows (a number or a short word that is another one
        in each row) are left out.

    Raises:
        ValueError: no column is left.
    """
    plan, cells_of_table, numeric = {}, [], []
    for column in frame:
        if column in apart:
            continue
        cells = [cell for cell in frame[column].head(ROWS_LOOKED_AT) if np.ndim(cell) or not is_empty(cell)]
        kind = _infer_type(cells, len(frame), str(column))
        if kind in ("numeric", "categorical"):
            cells_of_table.append(column)
            numeric += [column] if kind == "numeric" else []
        elif kind is not None:
            plan[_name(column)] = Column(kind, [column])
    if cells_of_table:
        settings = {"numeric": numeric, "categorical": [c for c in cells_of_table if c not in numeric]}
        for column in [c for c in cells_of_table if GROUPS & set(re.split(r"[^a-z]+", str(c).lower()))]:
            logger.warning(
                "Column %r is learned from. If it tells whose a row is, set group_column "
                "(--benchmark_options.group_column %s): then no value of it is in two of the splits that are drawn.",
                *(column, column),
            )
        plan[TABLE] = Column("tabular", cells_of_table, settings)
    if not plan:
        left = list_some(column for column in frame if column not in apart)
        raise ValueError(f"none of the columns {left} can be read; name them in 'table_columns'.")
    return plan


def _infer_type(cells, rows, name):
    """`numeric`, `categorical`, a type of input, or None for a column that tells nothing."""
    if not cells:
        return None
    strange = next((cell for cell in cells if isinstance(cell, (dict, bytes, set))), None)
    if strange is not None:
        raise ValueError(
            f"column {name!r} holds cells of type {type(strange).__name__}: of pictures, sounds and clips a table has "
            "the paths. Write files of them, drop the column, name those to read in table_columns, or train on the "
            "data set by prepare_dataset."
        )
    if all(np.ndim(cell) for cell in cells):  # a list of lists, or of arrays, is a series
        return "sequence" if any(np.ndim(cell[0]) for cell in cells if len(cell)) else "vector"
    words = [str(cell).strip() for cell in cells]
    distinct = len(set(words))
    is_name = distinct == len(cells) and name.lower() in IDENTITIES
    if rows > 1 and (is_name or distinct == 1):
        return None
    for kind, endings in ENDINGS.items():
        if all(isinstance(cell, str) for cell in cells) and all(word.lower().endswith(endings) for word in words):
            return kind
    if all_numbers(cells):
        return "numeric"
    mean_words = sum(len(word.split()) for word in words) / len(words)
    return "text" if mean_words >= TEXT_WORDS or (distinct > 50 and distinct > 0.5 * len(cells)) else "categorical"


def _name(column):
    """A name of a modality from that of its column."""
    name = "".join(sign if sign.isalnum() and sign.isascii() else "_" for sign in str(column)).strip("_") or "column"
    return name if name[0].isalpha() else f"column_{name}"


def name_columns(frame, columns, apart):
    """The plan of `columns` as a user gives them."""
    plan = {}
    for modality, told in columns.items():
        settings = dict(told) if isinstance(told, dict) else {}
        names = column_names(modality, told)
        kind = settings.pop("type", None)
        settings = {key: value for key, value in settings.items() if key not in ("column", "columns")}
        matching = [[name] if name in frame else [c for c in frame if fnmatchcase(str(c), name)] for name in names]
        found = [column for part in matching for column in part if column not in apart]
        if not found:
            raise ValueError(
                f"modality {modality!r}: the table has no column {list_some(names)}; {suggest(names[0], frame)}"
            )
        if kind is None:
            guessed = infer_columns(frame[found])
            kind = "tabular" if len(guessed) > 1 else next(iter(guessed.values())).type
            settings = {**(guessed[TABLE].settings if TABLE in guessed else {}), **settings}
        if len(found) > 1 and kind not in ("tabular", "vector"):
            raise ValueError(f"modality {modality!r} of type {kind!r} reads one column, not {list_some(found)}.")
        plan[modality] = Column(kind, found, settings)
    return plan


def to_dataset(frame, plan, label, separator):
    """The rows of a `DataFrame` as a `datasets.Dataset`: a column a modality of the `plan` (`dict[str, Column]`), and
    `label`, names of classes (`str`, or a list), which a `separator` (`str`, *optional*) parts within a cell."""
    data = {name: read_cells(frame, column) for name, column in plan.items()}
    features = {name: _feature(column, data[name]) for name, column in plan.items()}
    labels = [cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in frame[label]]
    if separator == "":
        raise ValueError("label_separator is empty; give what stands between labels, such as '|'.")
    if separator is not None:
        cells = ["" if np.ndim(cell) == 0 and is_empty(cell) else str(cell) for cell in labels]
        labels = [[word.strip() for word in cell.split(separator) if word.strip()] for cell in cells]
    elif not any(isinstance(cell, list) for cell in labels):
        labels = [category(cell) for cell in labels]
    word, several = datasets.Value("string"), bool(labels) and isinstance(labels[0], list)
    labels = [[category(word) for word in cell] for cell in labels] if several else labels
    features = datasets.Features({**features, "label": datasets.List(word) if several else word})
    return datasets.Dataset.from_dict({**data, "label": labels}, features=features)


def _feature(column, cells):
    """The feature of `datasets`, the same for every split, whatever is missing in it."""
    if column.type == "tabular":
        numeric = set(column.settings.get("numeric") or ())
        return {str(name): datasets.Value("float64" if name in numeric else "string") for name in column.columns}
    if column.type == "vector":
        return datasets.List(datasets.Value("float64"))
    if column.type == "sequence" and not any(isinstance(cell, str) for cell in cells):
        return datasets.List(datasets.List(datasets.Value("float64")))
    return datasets.Value("string")


def read_cells(frame, column):
    """What the rows of a `DataFrame` hold for a modality (`list`), read as its [`Column`] says; None for nothing."""
    if column.type == "tabular":
        numeric = set(column.settings.get("numeric") or ())
        rows = frame[column.columns].itertuples(index=False)
        return [
            {name: _cell(cell, name, name in numeric) for name, cell in zip(column.columns, row, strict=True)}
            for row in rows
        ]
    if len(column.columns) > 1:  # a vector of several columns
        return frame[column.columns].astype(float).to_numpy().tolist()
    cells = [
        None if np.ndim(cell) == 0 and is_empty(cell) else cell.tolist() if isinstance(cell, np.ndarray) else cell
        for cell in frame[column.columns[0]]
    ]
    if column.type in ENDINGS and all(isinstance(cell, str) for cell in cells if cell is not None):
        folder = Path(frame.attrs["folder"])
        paths = [None if cell is None else full_path(folder, cell) for cell in cells]
        for cell, path in zip(cells, paths, strict=True):
            if path is None or os.path.isfile(path) or (column.type == "video" and os.path.isdir(path)):
                continue
            if os.path.exists(path) or "\0" in cell:  # what is not there may be a hole
                where = f"{frame.attrs['name']}, column {column.columns[0]!r}"
                raise ValueError(f"{where}: {cell!r} is no file, but a folder, a pipe, a device, or a name with NUL.")
        return paths
    if column.type == "sequence" and any(isinstance(cell, (int, float)) for cell in cells):
        where = f"{frame.attrs['name']}, column {column.columns[0]!r}"
        raise ValueError(f"{where} holds numbers, which are no sequences: read it as a vector or as tabular.")
    return [[cell] if isinstance(cell, (int, float)) else cell for cell in cells] if column.type == "vector" else cells


def _cell(cell, name, is_number):
    return None if is_empty(cell) else to_number(cell, name) if is_number else category(cell)


def full_path(folder, cell):
    """The path of a medium (`str`) that a cell names, relative to the `folder` of its table."""
    return os.path.realpath(folder / Path(cell.replace("\0", "?")).expanduser())  # no name holds NUL


def show_plan(plan):
    """What was inferred, a line a modality (`str`); and how one that may be several is taken apart."""
    lines = [f"{name}: {part.type}, from {list_some(part.columns)}" for name, part in plan.items()]
    stars = _find_groups(plan[TABLE].columns) if TABLE in plan else {}
    if stars:
        lines.append(f"names of columns begin alike: table_columns={json.dumps(stars)} makes each a modality")
    return "\n".join(lines)


def _find_groups(columns, least=4):
    """From what names of columns begin with to a pattern of them (`dict`): of two groups to eight, with so many columns
    each at `least`, to which all belong; else it is empty."""
    begins = [re.match(r"([A-Za-z][A-Za-z0-9]*)([_.:])", column) for column in columns]
    found = Counter((begin[1], begin[0] + "*") for begin in begins if begin)
    clear = all(begins) and 2 <= len(found) <= 8 and min(found.values()) >= least
    return dict(list(found)) if clear else {}
