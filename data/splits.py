"""How a table is split where nobody did: by its column `split`, into tenths, or into the folds of cross-validation."""

import warnings

import numpy as np
import pandas as pd

from modeling_lfm.registry_lfm import list_some

from .benchmark import SPLITS, stratified_split


def draw_folds(labels, folds, seed, groups=None):
    """The fold of each sample, drawn by scikit-learn's `StratifiedKFold`, with groups by `StratifiedGroupKFold`.

    Where no class has a sample for each fold, or a sample has several labels, labels are not regarded.

    Args:
        labels (array_like of shape (N,), or (N, K) with K labels a sample)
        folds (`int`): how many. seed (`int`): of the draw.
        groups (array_like of shape (N,), *optional*): samples of one value are in the same fold.

    Returns:
        `np.ndarray` of shape (N,), int64: from 0 to `folds` - 1, each of them for some sample.

    Raises:
        ValueError: fewer than two folds, or too few samples or groups for them.

    Example:

        ```python
        >>> from modeling_lfm.data.splits import draw_folds
        >>> found = draw_folds(["a", "b"] * 4, 2, seed=0, groups=[0, 0, 1, 1, 2, 2, 3, 3])
        >>> bool((found[::2] == found[1::2]).all()), int(found.sum())
        (True, 4)

        ```
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    labels = np.asarray(labels)
    groups = None if groups is None else pd.factorize(np.asarray(groups))[0]  # numbered as they come
    number = len(labels) if groups is None else int(groups.max()) + 1
    if not 2 <= folds <= number:
        what = "samples" if groups is None else "groups"
        raise ValueError(f"folds={folds} must lie between 2 and the number of {what}, {number}.")
    if labels.ndim > 1 or np.unique(labels, return_counts=True)[1].max() < folds:
        labels = np.zeros(len(labels), np.int64)
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    found = np.empty(len(labels), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with few samples
        parts = splitter(folds, shuffle=True, random_state=seed).split(labels, labels, groups)
        for fold, (_, part) in enumerate(parts):
            found[part] = fold
    return found


def split_frames(frames, label, group=None, seed=0, folds=None, fold=0):
    """Splits of tables.

    Args:
        frames (`dict[str, pandas.DataFrame]`): by split, `train` at least.
        label, group, seed, folds, fold: see [`load_table`][modeling_lfm.data.table.load_table].

    Returns:
        `dict[str, pandas.DataFrame]`

    Raises:
        ValueError: too few rows or groups, a column `split` of other words, folds of what is split already.
    """
    frame = frames["train"]
    if folds is not None:
        if len(frames) > 1 or "split" in frame:
            raise ValueError("folds are drawn of one table, train, without a column 'split'; leave the others out.")
        if folds < 3 or not 0 <= fold < folds:
            raise ValueError(f"folds={folds} must be 3 or more, one to test, one to validate; fold={fold} below.")
        found = draw_folds(_classes(frame, label), folds, seed, None if group is None else frame[group].astype(str))
        places = {"test": found == fold, "validation": found == (fold + 1) % folds}
        places = {"train": ~(places["test"] | places["validation"]), **places}
        return {split: frame[places[split]].reset_index(drop=True) for split in SPLITS}
    frames = _split_as_told(frame) if len(frames) == 1 and "split" in frame else dict(frames)
    if "test" not in frames and "validation" not in frames:
        frames["train"], frames["test"] = _draw(frames["train"], 0.1, label, group, seed)
    if "validation" not in frames:
        frames["train"], frames["validation"] = _draw(frames["train"], 0.1, label, group, seed + 1)
    return {split: frames[split] for split in SPLITS if split in frames}


def _split_as_told(frame):
    names = {"val": "validation", "valid": "validation", "dev": "validation"}
    told = frame["split"].map(lambda cell: names.get(str(cell).strip().lower(), str(cell).strip().lower()))
    unknown = sorted(set(told) - set(SPLITS))
    if unknown or "train" not in set(told):
        raise ValueError(
            f"the column 'split' holds {list_some(sorted(set(told)))}; it should hold {', '.join(SPLITS)}."
        )
    return {split: frame[told == split].reset_index(drop=True) for split in SPLITS if (told == split).any()}


def _classes(frame, label):
    """A number for each row (N,), the same where labels are."""
    labels = [cell if np.ndim(cell) == 0 else str(sorted(cell)) for cell in frame[label]]
    return np.unique(np.array(labels, dtype=str), return_inverse=True)[1]


def _draw(frame, share, label, group, seed):
    """The rest and the part of a table that is drawn, by group where there are groups, else stratified by label."""
    count = max(1, round(share * len(frame)))
    if len(frame) < 3:
        raise ValueError(f"the table {frame.attrs['name']} has {len(frame)} rows, too few to draw splits from.")
    if group is None:
        rest, part = stratified_split(_classes(frame, label), count, seed)
    else:
        from sklearn.model_selection import GroupShuffleSplit

        if frame[group].nunique() < 3:
            raise ValueError(f"the column {group!r} has {frame[group].nunique()} groups, too few to draw splits from.")
        draw = GroupShuffleSplit(1, test_size=share, random_state=seed)
        rest, part = next(draw.split(frame, groups=frame[group].astype(str)))
    rest, part = frame.iloc[np.sort(rest)], frame.iloc[np.sort(part)]
    return rest.reset_index(drop=True), part.reset_index(drop=True)
