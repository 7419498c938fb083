"""Labels of any data set, one a sample or several, to what a classifier reads."""

from functools import partial

import datasets


def label_names(dataset, column="label"):
    """Names of the classes.

    Args:
        dataset (`datasets.Dataset` or `datasets.DatasetDict`): with several splits, the classes of all of them.
        column (`str`): its labels: `ClassLabel`, strings or integers from 0, one a sample or (multi-label) a list of
            them, or a list with one 0 or 1 a class.

    Returns:
        `list[str]`: of a `ClassLabel` its names, of strings the sorted ones, otherwise the numbers.

    Raises:
        ValueError: no such column, missing values, or values of other kinds.
    """
    parts = list(dataset.values()) if isinstance(dataset, dict) else [dataset]
    for part in parts:
        if column not in part.column_names:
            raise ValueError(f"the data set has no column {column!r}; it has {', '.join(part.column_names)}.")
    feature = parts[0].features[column]
    inner = getattr(feature, "feature", feature)
    if isinstance(inner, datasets.ClassLabel):
        return list(inner.names)
    rows = [row for part in parts for row in part[column]]
    if inner is not feature:
        if is_vectors(rows, column):
            return [str(number) for number in range(len(rows[0]))]
        rows = [value for row in rows for value in row]
    values = set(rows)
    if None in values:
        raise ValueError(f"the label column {column!r} has missing values; drop those samples.")
    if values and all(isinstance(value, str) for value in values):
        return sorted(values)
    if values and all(isinstance(value, int) for value in values) and min(values) >= 0:
        return [str(number) for number in range(max(values) + 1)]
    raise ValueError(
        f"the label column {column!r} must hold strings, integers from 0, or lists of them; it is {feature}, "
        f"for example {next(iter(values), None)!r}."
    )


def is_vectors(rows, column):
    """Whether lists of labels are vectors with one 0 or 1 a class, rather than lists of the classes that apply."""
    for number, row in enumerate(rows):
        if row is None or None in row:
            raise ValueError(f"sample {number}: the label column {column!r} has a missing value; drop the sample.")
    sizes = {len(row) for row in rows}
    if any(isinstance(value, float) for row in rows for value in row):
        if len(sizes) > 1:
            raise ValueError(f"the vectors in the label column {column!r} have different lengths: {sorted(sizes)}.")
        return True
    # Lists of integers: as lists of classes, equal ones would appear twice in a row, so they are vectors.
    return len(sizes) == 1 and min(sizes) > 1 and all(value in (0, 1) for row in rows for value in row)


def label_encoder(dataset, column, names):
    """What turns a raw label into the stored one.

    Args:
        dataset (`datasets.Dataset`), column (`str`)
        names (`list[str]`): the classes, in their order.

    Returns:
        A function of (raw label, index of the sample), and the `datasets` feature of what it returns: a `ClassLabel`,
        or for multi-label problems a float32 vector. It raises a `ValueError` for a label that is not one of `names`.
    """
    feature = dataset.features[column]
    inner = getattr(feature, "feature", feature)
    known = {name: number for number, name in enumerate(names)}
    own_names = inner.names if isinstance(inner, datasets.ClassLabel) else None
    to_number = partial(_to_number, known=known, own_names=own_names)
    if inner is feature:
        return to_number, datasets.ClassLabel(names=list(names))
    vector = datasets.List(datasets.Value("float32"), length=len(names))
    if own_names is None and is_vectors(list(dataset[column]), column):
        return partial(_check_vector, width=len(names)), vector
    return partial(_to_vector, to_number=to_number, width=len(names)), vector


def _to_number(label, index, known, own_names):
    if own_names is not None and label in range(len(own_names)):
        label = own_names[label]
    number = known.get(label, label) if isinstance(label, str) else label
    if not isinstance(number, int) or not 0 <= number < len(known):
        raise ValueError(f"sample {index}: the label {label!r} is not one of the {len(known)} classes {list(known)}.")
    return number


def _to_vector(labels, index, to_number, width):
    if labels is None:
        raise ValueError(f"sample {index} has no labels; give an empty list, or drop the sample.")
    vector = [0.0] * width
    for label in labels:
        vector[to_number(label, index)] = 1.0
    return vector


def _check_vector(labels, index, width):
    if len(labels) != width or not all(0 <= value <= 1 for value in labels):
        raise ValueError(f"sample {index}: labels must be {width} numbers from 0 to 1, got {labels}.")
    return [float(value) for value in labels]
