"""The names of the classes in a column of labels, one a sample or several, and labels to what is stored."""

import datasets

from modeling_lfm.registry_lfm import list_some


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

    Example:

        ```python
        >>> import datasets
        >>> from modeling_lfm.data import label_names
        >>> label_names(datasets.Dataset.from_dict({"label": ["dog", "cat", "dog"]}))
        ['cat', 'dog']

        ```
    """
    parts = list(dataset.values()) if isinstance(dataset, dict) else [dataset]
    for part in parts:
        if column not in part.column_names:
            raise ValueError(f"the data set has no column {column!r}; it has {list_some(part.column_names)}.")
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
            raise ValueError(
                f"the vectors in the label column {column!r} have different lengths: {list_some(sorted(sizes))}."
            )
        return True
    # Lists of integers: as lists of classes, equal ones would appear twice in a row, so they are vectors.
    return len(sizes) == 1 and min(sizes) > 1 and all(value in (0, 1) for row in rows for value in row)


class LabelEncoder:
    """Turns a raw label and the index of its sample (for messages) into the stored label.

    Args:
        dataset (`datasets.Dataset`), column (`str`): its raw labels. names (`list[str]`): the classes in their order.

    Attributes:
        feature: of what it returns, a `ClassLabel`, or for multi-label problems a float32 vector, a number a class.
    """

    def __init__(self, dataset, column, names):
        feature = dataset.features[column]
        inner = getattr(feature, "feature", feature)
        self.numbers = {name: number for number, name in enumerate(names)}
        self.own_names = inner.names if isinstance(inner, datasets.ClassLabel) else []
        self.several = inner is not feature
        self.are_vectors = self.several and not self.own_names and is_vectors(list(dataset[column]), column)
        vector = datasets.List(datasets.Value("float32"), length=len(names))
        self.feature = vector if self.several else datasets.ClassLabel(names=list(names))

    def __call__(self, label, index):
        if not self.several:
            return self._number(label, index)
        if label is None:
            raise ValueError(f"sample {index} has no labels; give an empty list, or drop the sample.")
        if not self.are_vectors:
            applying = {self._number(part, index) for part in label}
            return [float(number in applying) for number in self.numbers.values()]
        if len(label) != len(self.numbers) or not all(0 <= value <= 1 for value in label):
            raise ValueError(f"sample {index}: labels must be {len(self.numbers)} numbers from 0 to 1, got {label}.")
        return [float(value) for value in label]

    def _number(self, label, index):
        if label in range(len(self.own_names)):
            label = self.own_names[label]
        number = self.numbers.get(label) if isinstance(label, str) else label
        if not isinstance(number, int) or not 0 <= number < len(self.numbers):
            raise ValueError(
                f"sample {index}: the label {label!r} is not one of the {len(self.numbers)} classes "
                f"{list(self.numbers)}."
            )
        return number
