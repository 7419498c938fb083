"""Samples that lack modalities: what counts as missing, the error by default, what is stored and batched of them."""

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

from modeling_lfm import LfmProcessor
from modeling_lfm.data import LfmDataCollator, cache_features, check_holes, load_prepared, prepare_dataset
from modeling_lfm.data.holes import find_holes
from modeling_lfm.data.shards import Preparation
from modeling_lfm.inputs_lfm import KINDS
from modeling_lfm.trainer.holes import find_present

from ..modeling.towers import make_tokenizer, resnet
from ..trainer.toy import NORMALISED, toy_model
from .test_preparation import AUDIO, IMAGE, MEDIA, TEXT, make_raw

PARTS = {"audio": AUDIO, "image": IMAGE, "text": TEXT}
COLUMNS = {"audio": "sound", "image": "picture", "text": "caption"}


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return LfmProcessor(PARTS, tokenizer=make_tokenizer(tmp_path_factory.mktemp("words")))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Six samples: 1 and 4 without audio (1 names a file that is not there), 2 and 4 without text, 5 without all."""
    whole = make_raw(6)
    sound, picture, caption = (whole[column][:] for column in COLUMNS.values())
    sound[1] = {"bytes": None, "path": str(tmp_path_factory.mktemp("media") / "gone.wav")}
    sound[4] = sound[5] = picture[5] = {"bytes": None, "path": None}
    caption[2] = caption[4] = caption[5] = None
    features = whole.features
    return make_raw(
        6,
        sound=(sound, dict(MEDIA)),
        picture=(picture, dict(MEDIA)),
        caption=(caption, features["caption"]),
    )


@pytest.mark.parametrize(
    ("kind", "absent", "there"),
    [
        ("image", [None, float("nan"), " ", pd.NA, pd.NaT, {"bytes": None, "path": ""}], ["a", b"x", {"path": "a"}]),
        ("spectrogram", [{"bytes": None, "path": None}], [{"array": np.zeros(3), "path": None}, np.full(3, np.nan)]),
        ("text", [None, np.float32("nan")], ["", "word"]),
        ("vector", [[None, None], np.full(2, np.nan), {"a": None, "b": np.nan}], [[1, np.nan], "a.npy", []]),
        ("tabular", [{"a": None, "b": ""}, None], [{"a": None, "b": 0}, {}]),
        ("sequence", [None, ""], [[[np.nan]], "a.npy"]),
    ],
)  # fmt: skip
def test_what_is_absent(kind, absent, there):
    assert all(KINDS[kind].is_absent(sample) for sample in absent)
    assert not any(KINDS[kind].is_absent(sample) for sample in there)


def test_an_error_counts_what_is_missing(raw, processor):
    expected = np.array([[0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 1, 1]], bool)
    np.testing.assert_array_equal(find_holes(raw, processor.kinds, COLUMNS), expected)
    splits = datasets.DatasetDict({"train": raw, "test": raw.select([0, 3])})
    message = r"train: audio 3, image 1, text 3 of 6\. The first is train sample 1, column 'sound': .*gone\.wav.*absent"
    with pytest.raises(ValueError, match=message):
        prepare_dataset(splits, processor, COLUMNS, label_column="kind")
    with pytest.raises(ValueError, match="'no' must be one of error, absent"):
        check_holes(raw, processor.kinds, COLUMNS, "no")
    none = datasets.DatasetDict({"train": raw.select([2, 4])})
    with pytest.raises(ValueError, match="no sample of train has the modality 'text'"):
        check_holes(none, processor.kinds, COLUMNS, "absent")


def test_what_is_stored_and_batched(raw, processor, caplog):
    prepared = prepare_dataset(raw, processor, COLUMNS, label_column="kind", missing="absent")
    assert "1 of 6 samples of the data have no modality at all" in caplog.text
    assert len(prepared) == 5
    marks = [[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 0]]
    assert find_present(prepared, PARTS).tolist() == np.array(marks, bool).tolist()
    assert prepared[1]["audio_values"] is prepared[2]["text_input_ids"] is None
    whole = prepare_dataset(make_raw(6), processor, COLUMNS, label_column="kind")
    assert torch.equal(prepared[2]["audio_values"], whole[2]["audio_values"])
    collate = LfmDataCollator(processor)
    batch = collate([prepared[number] for number in range(5)])
    for name, row in zip(PARTS, marks, strict=True):
        assert batch[f"{name}_present"].tolist() == np.array(row, bool).tolist()
    for name in ("audio_values", "text_input_ids"):
        one, other = collate([prepared[0], prepared[3]])[name], collate([whole[0], whole[3]])[name]
        assert torch.equal(one, other)
    alone = collate([prepared[4]])
    assert alone["audio_values"].shape == batch["audio_values"][:1].shape
    assert not alone["audio_present"].any()
    assert not alone["audio_values"].any()
    assert alone["text_attention_mask"].sum() == 2  # [CLS] [SEP]
    assert processor(audio=None, image=[np.zeros((9, 9, 3), np.uint8)]).keys() == {"image_values"}


def test_a_single_modality_reads_empty_cells():
    rows = [{"a": 1.0, "b": None}, {"a": None, "b": None}, {"a": 3.0, "b": 2.0}]
    raw = datasets.Dataset.from_dict({"t": rows, "label": [0, 1, 0]})
    alone = LfmProcessor({"t": {"type": "tabular"}})
    prepared = prepare_dataset(datasets.DatasetDict({"train": raw}), alone)["train"]
    assert len(prepared) == 3
    vectors = datasets.DatasetDict({"train": raw.add_column("v", [[1.0], [None], [5.0]])})
    alone = LfmProcessor({"v": {"type": "vector"}})
    assert len(prepare_dataset(vectors, alone, missing="absent")["train"]) == 2
    assert alone.kinds["v"].mean == [3.0]
    both = LfmProcessor({"t": {"type": "tabular"}, "v": {"type": "vector"}})
    raw = raw.add_column("v", [[1.0], [2.0], [float("nan")]])
    with pytest.raises(ValueError, match=r"train: t 1, v 1 of 3"):
        prepare_dataset(datasets.DatasetDict({"train": raw}), both)
    prepared = prepare_dataset(datasets.DatasetDict({"train": raw}), both, missing="absent")["train"]
    assert both.kinds["v"].mean == [1.5]  # of what is there
    assert find_present(prepared, ("t", "v")).tolist() == [[True, False, True], [True, True, False]]


def test_shards_hold_the_same(raw, processor, tmp_path):
    splits = datasets.DatasetDict({"train": raw.remove_columns("unused").rename_column("kind", "label")})
    task = Preparation(tmp_path / "out", "table", {}, splits, None, processor, COLUMNS, 4, "absent")
    task.begin()
    list(task.write())
    left_out = [entry for told in task.manifest["shards"].values() for entry in told["left_out"]]
    assert left_out == [["sample 5", "it has no modality"]]
    read = load_prepared(tmp_path / "out", processor, cache_dir=str(tmp_path))["train"]
    expected = prepare_dataset(splits["train"], processor, COLUMNS, missing="absent")
    assert len(read) == 5
    for one, other in zip(read, expected, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_vectors_of_frozen_towers_keep_the_holes(raw, processor):
    prepared = prepare_dataset(raw, processor, COLUMNS, label_column="kind", missing="absent")
    towers = {
        "audio": resnet(1),
        "image": {**resnet(3), "frozen": True},
        "text": {**NORMALISED["text"], "frozen": True},
    }
    model = toy_model(towers, num_labels=2, fusion="sum").eval()
    cached, collate = cache_features(model, prepared, processor), LfmDataCollator(processor)
    one, other = (collate([data[number] for number in range(5)]) for data in (prepared, cached))
    assert "text_vector" in other
    assert torch.equal(one["text_present"], other["text_present"])
    with torch.no_grad():
        expected, found = model(**one), model(**other)
    torch.testing.assert_close(found.logits, expected.logits)
    assert torch.equal(found.present, expected.present)
