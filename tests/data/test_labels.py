"""Labels as people have them: class numbers, names, and several a sample."""

import datasets
import pytest

from modeling_lfm.data import label_names
from modeling_lfm.data.labels import LabelEncoder

CLASSES = datasets.ClassLabel(names=["dog", "cat"])


def make(values, feature=None):
    features = None if feature is None else datasets.Features({"label": feature})
    return datasets.Dataset.from_dict({"label": values}, features=features)


def encode(dataset, names):
    encoder = LabelEncoder(dataset, "label", names)
    return [encoder(row, index) for index, row in enumerate(dataset["label"])], encoder.feature


@pytest.mark.parametrize(
    ("values", "feature", "names", "expected"),
    [
        ([1, 0], CLASSES, ["dog", "cat"], [1, 0]),
        (["b", "a", "b"], None, ["a", "b"], [1, 0, 1]),
        ([0, 3, 1], None, ["0", "1", "2", "3"], [0, 3, 1]),
        ([[1], [0, 1], []], datasets.List(CLASSES), ["dog", "cat"], [[0, 1], [1, 1], [0, 0]]),
        ([["x"], ["z", "y"], []], None, ["x", "y", "z"], [[1, 0, 0], [0, 1, 1], [0, 0, 0]]),
        ([[2], [0, 1]], None, ["0", "1", "2"], [[0, 0, 1], [1, 1, 0]]),
        ([[1, 1, 0], [0, 0, 1]], None, ["0", "1", "2"], [[1, 1, 0], [0, 0, 1]]),
        ([[1.0, 0.0], [0.5, 1.0]], None, ["0", "1"], [[1, 0], [0.5, 1]]),
        ([[True, False], [True, True]], None, ["0", "1"], [[1, 0], [1, 1]]),
    ],
)
def test_labels(values, feature, names, expected):
    dataset = make(values, feature)
    assert label_names(dataset) == names
    found, stored = encode(dataset, names)
    assert found == expected
    if isinstance(expected[0], list):
        assert stored == datasets.List(datasets.Value("float32"), length=len(names))
    else:
        assert stored.names == names


def test_splits_share_their_classes():
    splits = datasets.DatasetDict({"train": make(["b", "c"]), "test": make(["a", "c"])})
    names = label_names(splits)
    assert names == ["a", "b", "c"]
    assert encode(splits["test"], names)[0] == [0, 2]


def test_class_names_in_another_order():
    assert encode(make([1, 0], CLASSES), ["cat", "dog"])[0] == [0, 1]


@pytest.mark.parametrize(
    ("values", "feature", "message"),
    [
        (["a", None], None, "missing values"),
        ([0.5, 1.5], None, "must hold strings, integers"),
        ([-1, 2], None, "must hold strings, integers"),
        ([[1.0, 0.0], [1.0]], None, "different lengths: 1, 2"),
        ([["a"], None], None, "sample 1: .* missing value"),
    ],
)
def test_wrong_columns(values, feature, message):
    with pytest.raises(ValueError, match=message):
        label_names(make(values, feature))


@pytest.mark.parametrize(
    ("values", "feature", "names", "message"),
    [
        (["a", "x"], None, ["a", "b"], r"sample 1: the label 'x' is not one of the 2 classes \['a', 'b'\]"),
        ([0, 2], None, ["a", "b"], "sample 1: the label 2"),
        ([0, -1], CLASSES, CLASSES.names, "sample 1: the label -1"),
        ([0, None], CLASSES, CLASSES.names, "sample 1: the label None"),
        ([0, 1], CLASSES, ["dog", "bird"], "sample 1: the label 'cat'"),
        ([["a"], ["x"]], None, ["a", "b"], "sample 1: the label 'x'"),
        ([[0, 1, 1], [1, 0, 0]], None, ["a", "b"], "sample 0: labels must be 2 numbers"),
        ([[0.0, 1.0], [0.0, 7.0]], None, ["a", "b"], "sample 1: labels must be 2 numbers from 0 to 1"),
        ([[0], None], datasets.List(CLASSES), CLASSES.names, "sample 1 has no labels"),
    ],
)
def test_wrong_labels(values, feature, names, message):
    with pytest.raises(ValueError, match=message):
        encode(make(values, feature), names)


def test_missing_column():
    with pytest.raises(ValueError, match="no column 'target'; it has label"):
        label_names(make([0]), "target")
