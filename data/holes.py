"""Holes: modalities that samples lack, found in raw data before anything of it is decoded.

None, NaN, empty cells and files that do not exist are holes, see `is_absent` of the types of input. They are an error
unless the setting `missing` is `absent`.
"""

import logging
import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_lfm.inputs_lfm import Text
from modeling_lfm.media_lfm import describe
from modeling_lfm.series_lfm import Vector
from modeling_lfm.tables_lfm import is_alone

MISSING = ("error", "absent")

logger = logging.getLogger(__name__)


def present_key(modality):
    """The column (`str`) that tells which prepared samples have a modality."""
    return f"{modality}_present"


def is_hole(kinds, modality, sample):
    """Whether a raw input of a modality is missing (`bool`).

    Args:
        kinds (`dict`): from all modalities to their [`InputKind`][modeling_lfm.inputs_lfm.InputKind], or its type.
        sample: see [`LfmProcessor`][modeling_lfm.processing_lfm.LfmProcessor].
    """
    kind = kinds[modality]
    if sample is None or (not is_alone(kind, kinds) and kind.is_absent(sample)):
        return True
    return not _is_of(kind, Text) and _is_lost(sample)


def _is_of(kind, cls):
    return issubclass(kind if isinstance(kind, type) else type(kind), cls)


def _is_lost(sample):
    """Whether a raw input names a file that is not there."""
    if isinstance(sample, dict):
        sample = sample.get("path") if sample.get("bytes") is None and "array" not in sample else None
    is_path = isinstance(sample, (str, os.PathLike)) and not str(sample).startswith("data:")
    return is_path and not os.path.exists(str(sample).replace("\0", "?"))


def find_holes(dataset, kinds, columns):
    """Which samples lack what.

    Args:
        dataset (`datasets.Dataset`): raw samples.
        kinds (`dict`): from modality to its type of input, see [`is_hole`].
        columns (`dict[str, str]`): from modality to its column.

    Returns:
        `np.ndarray` (M, N) bool, True where a modality is missing, in the order of `columns`.
    """
    holes = np.zeros((len(columns), len(dataset)), bool)
    names = list(dict.fromkeys(columns.values()))
    start = 0
    for table in dataset.select_columns(names).with_format("arrow").iter(1000):
        for place, (name, column) in enumerate(columns.items()):
            parts = [_holes_of(chunk, kinds, name) for chunk in table.column(column).chunks]  # as they lie in the file
            holes[place, start : start + len(table)] = np.concatenate(parts)
        start += len(table)
    return holes


def _holes_of(values, kinds, modality):
    """The same of an Arrow array, whose media in memory are not looked at."""
    if pa.types.is_struct(values.type) and values.type.get_field_index("bytes") >= 0:
        empty = pc.is_null(pc.struct_field(values, "bytes")).to_numpy(zero_copy_only=False)
        paths = pc.struct_field(values, "path").to_pylist()
        named = zip(empty, paths, strict=True)
        return [bare and (not path or is_hole(kinds, modality, {"bytes": None, "path": path})) for bare, path in named]
    cells = (pa.types.is_string, pa.types.is_large_string, pa.types.is_struct, pa.types.is_floating)
    if not (_is_of(kinds[modality], Vector) or any(is_kind(values.type) for is_kind in cells)):
        return pc.is_null(values).to_numpy(zero_copy_only=False)
    return [is_hole(kinds, modality, value) for value in values.to_pylist()]


def check_holes(raw, kinds, columns, missing):
    """Raise a `ValueError` where samples lack modalities and must not, or train has none at all of one.

    Args:
        raw (`datasets.DatasetDict` or `datasets.Dataset`), kinds, columns: as in [`find_holes`].
        missing (`str`): `"error"` or `"absent"`.

    Returns:
        `dict[str, np.ndarray]`: what [`find_holes`] finds in each split.

    Example:

        ```python
        >>> import datasets
        >>> from modeling_lfm import LfmProcessor
        >>> from modeling_lfm.data import check_holes
        >>> raw = datasets.Dataset.from_dict({"size": [[1.0, 2.0], None], "weight": [[1.0], [2.0]]})
        >>> kinds = LfmProcessor({"size": {"type": "vector"}, "weight": {"type": "vector"}}).kinds
        >>> check_holes(raw, kinds, {"size": "size", "weight": "weight"}, "absent")["the data"].tolist()
        [[False, True], [False, False]]

        ```
    """
    if missing not in MISSING:
        raise ValueError(f"missing={missing!r} must be one of {', '.join(MISSING)}.")
    splits = raw if isinstance(raw, dict) else {"the data": raw}
    found = {split: find_holes(part, kinds, columns) for split, part in splits.items()}
    wanting = [split for split, holes in found.items() if holes.any()]
    if missing == "error" and wanting:
        holes = found[wanting[0]]
        place = int(holes.any(1).argmax())
        column, number = list(columns.values())[place], int(holes[place].argmax())
        cell = splits[wanting[0]].select_columns([column]).with_format("arrow")[number].column(column)[0]
        raise ValueError(
            f"samples lack modalities: {count_holes(found, columns)}. The first is {wanting[0]} sample {number}, "
            f"column {column!r}: {_describe(cell.as_py())}. Set missing: absent (in Python missing='absent') to train "
            "and measure with what is there, or drop these samples."
        )
    for name, holes in zip(columns, found.get("train", np.zeros((len(columns), 1), bool)), strict=True):
        if holes.all():
            raise ValueError(f"no sample of train has the modality {name!r}; are its files there?")
    return found


def _describe(cell):
    return f"no file at {describe(cell)}" if _is_lost(cell) and describe(cell) else "it holds nothing"


def count_holes(found, names):
    """How many samples of each split lack which of the modalities `names` (`str`), of what [`check_holes`] returns."""
    texts = []
    for split, holes in found.items():
        counts = [f"{name} {row.sum():,}" for name, row in zip(names, holes, strict=True) if row.any()]
        texts += [f"{split}: {', '.join(counts)} of {holes.shape[1]:,}"] if counts else []
    return "; ".join(texts) or "none"


def leave_out_empty(dataset, holes, split):
    """The samples of a data set (`datasets.Dataset`) that have a modality, by its `holes`, with a warning of others."""
    empty = holes.all(0)
    if not empty.any():
        return dataset
    if empty.all():
        raise ValueError(f"no sample of {split} has any modality; are the files there?")
    logger.warning(f"{empty.sum():,} of {len(empty):,} samples of {split} have no modality at all and are left out.")
    return dataset.select(np.flatnonzero(~empty))
