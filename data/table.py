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
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import datasets
import numpy as np
import pandas as pd

from modeling_lfm.numbers_lfm import FILES as SERIES_FILES
from modeling_lfm.registry_lfm import list_some, suggest
from modeling_lfm.tables_lfm import all_numbers, category, is_empty, to_number

from .splits import split_frames

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
    plan = infer_columns(first, apart) if columns is None else _name_columns(first, columns, apart)
    for split, frame in frames.items():
        missing = [name for column in plan.values() for name in column.columns if name not in frame]
        if missing:
            raise ValueError(f"the {split} table lacks the columns {list_some(missing)}; add them, empty if need be.")
    parts = {split: _to_dataset(frame, plan, label, label_separator) for split, frame in frames.items()}
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
            paths = [_full_path(folder, cell) if isinstance(cell, str) else None for cell in frame[column]]
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
    cells = {name: _cells(frame, part) for name, part in _name_columns(frame, there, set()).items()}
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
    blank = {name: _column_names(name, told) for name, told in columns.items() if name not in there}
    empty = frame.assign(**{column: None for names in blank.values() for column in names})
    return _to_dataset(empty, _name_columns(empty, columns, set()), label, label_separator)


def _find_there(frame, columns):
    """Those of `columns` (`dict`) that a table holds."""
    there = {name: told for name, told in columns.items() if _wanted(name, told, frame)}
    if not there:
        wanted = list_some(column for name, told in columns.items() for column in _column_names(name, told))
        where = f"the table {frame.attrs['name']}"
        raise ValueError(f"{where} has none of the columns that the model reads: {wanted}.")
    return there


def spell_out(columns):
    """`columns` of [`load_table`], each as a mapping with a list `columns`, however a user gives it."""
    if columns is None:
        return None
    settings = {name: dict(told) if isinstance(told, dict) else {} for name, told in columns.items()}
    rest = {name: {k: v for k, v in told.items() if k != "column"} for name, told in settings.items()}
    return {name: {**rest[name], "columns": _column_names(name, told)} for name, told in columns.items()}


def _column_names(modality, told):
    """The columns (`list[str]`) that a user gave for a modality."""
    names = told if not isinstance(told, dict) else told.get("columns") or told.get("column", modality)
    return [str(name) for name in ([names] if isinstance(names, (str, int)) else names)]


def _wanted(modality, told, frame):
    names = _column_names(modality, told)
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


# -- columns -------------------------------------------------------------------------------------------------------


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


def _name_columns(frame, columns, apart):
    """The plan of `columns` as a user gives them."""
    plan = {}
    for modality, told in columns.items():
        settings = dict(told) if isinstance(told, dict) else {}
        names = _column_names(modality, told)
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


def _to_dataset(frame, plan, label, separator):
    data = {name: _cells(frame, column) for name, column in plan.items()}
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


def _cells(frame, column):
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
        paths = [None if cell is None else _full_path(folder, cell) for cell in cells]
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


def _full_path(folder, cell):
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
