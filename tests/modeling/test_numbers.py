"""Vectors, rows of tables and series: reading, statistics, towers, saving and loading."""

import io

import numpy as np
import pytest
import torch

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.numbers_lfm import Moments, read_numbers

RNG = np.random.default_rng(0)
SERIES = [RNG.normal(3, 2, (length, 4)) for length in (5, 9, 1, 30)]
ROWS = [
    {"age": 30, "fare": "7.5", "sex": "f", "deck": 3.0},
    {"age": None, "fare": 10, "sex": "m", "deck": 3},
    {"age": 50.0, "fare": 12.5, "sex": float("nan"), "deck": 1},
    {"age": float("nan"), "fare": 10, "sex": "f", "deck": None},
]
TABLE = {"type": "tabular", "numeric": ["age", "fare"], "categorical": ["sex", "deck"]}


def save_npz(array):
    file = io.BytesIO()
    np.savez(file, first=array, second=array[:1])
    return file.getvalue()


def save_mat(array):
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, {"d_iner": array})
    return file.getvalue()


def save_npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def save_csv(array, mark=",", head=""):
    return (head + "\n".join(mark.join(map(repr, map(float, row))) for row in array) + "\n").encode()


@pytest.mark.parametrize(
    ("form", "key"),
    [
        (lambda a: a, None),
        (lambda a: torch.tensor(a), None),
        (lambda a: a.tolist(), None),
        (save_npy, None),
        (save_npz, "first"),
        (save_mat, None),
        (save_csv, None),
        (lambda a: save_csv(a, "\t", "w\tx\ty\tz\n"), None),
        (lambda a: save_csv(a, " "), None),
        (lambda a: b"\xef\xbb\xbf" + save_csv(a, ";", "w;x;y;z\n"), None),
    ],
)
def test_forms_of_numbers(tmp_path, form, key):
    content = form(SERIES[1])
    assert np.array_equal(read_numbers(content, key), SERIES[1])
    if isinstance(content, bytes):
        (tmp_path / "a.bin").write_bytes(content)
        for value in (tmp_path / "a.bin", {"bytes": content, "path": "elsewhere"}):
            assert np.array_equal(read_numbers(value, key), SERIES[1])


@pytest.mark.parametrize(
    "content",
    [
        b"1,2\n3\n",
        b"a,b\nc,d\n",
        b"",
        b"\xff\xfe1",
        save_npy(np.array([{"a": 1}], dtype=object), allow_pickle=True),
        save_npy(SERIES[0])[:80],
        save_npz(SERIES[0]),  # two arrays and no key
        save_npz(SERIES[0])[:60],
        save_mat(SERIES[0])[:200],
        b"MATLAB 7.3 MAT-file",
    ],
)
def test_numbers_that_cannot_be_read_are_named(content):
    with pytest.raises(ValueError, match=r"bad\.file"):
        read_numbers({"bytes": content, "path": "bad.file"})


def test_moments_are_those_of_all_rows():
    rows = RNG.normal(1e6, 1, (100, 3))
    rows[:, 2] = 7
    moments = Moments()
    for part in np.split(rows, [1, 40, 41]):
        moments.add(part)
    assert np.allclose(moments.mean, rows.mean(0), rtol=1e-14)
    assert np.allclose(moments.std[:2], rows.std(0)[:2], rtol=1e-9)
    assert moments.std[2] == 1  # nothing to divide by


def test_vectors_are_standardised_by_the_training_data(tmp_path):
    train = RNG.normal(5, 3, (50, 4))
    processor = LfmProcessor({"f": {"type": "vector"}})
    with pytest.raises(ValueError, match="fit"):
        processor.complete_towers({"f": {"tower": "mlp"}})
    processor.fit({"f": [*train, None]})
    values = processor(f=list(train))["f_values"]
    assert values.shape == (50, 4)
    assert torch.allclose(values, torch.tensor((train - train.mean(0)) / train.std(0)).float(), atol=1e-5)
    processor.save_pretrained(tmp_path)
    again = LfmProcessor.from_pretrained(tmp_path)
    assert torch.equal(again(f=list(train))["f_values"], values)
    named = processor(f={"a": 1, "b": "2", "c": 3.0, "d": 4})["f_values"]
    assert torch.equal(named, processor(f=np.arange(1.0, 5))["f_values"])
    for wrong, message in (([1.0, 2.0], "4"), ([1, 2, np.nan, 4], "number 2"), ({"a": "x"}, "'a'")):
        with pytest.raises(ValueError, match=message):
            processor(f=[np.array(wrong) if isinstance(wrong, list) else wrong])


def test_tables_are_read_with_their_holes(tmp_path):
    processor = LfmProcessor({"row": TABLE}).fit({"row": ROWS})
    batch = processor(row=ROWS)
    age, fare = np.array([30, np.nan, 50, np.nan]), np.array([7.5, 10, 12.5, 10])
    expected = np.stack([np.nan_to_num((age - 40) / 10), (fare - 10) / fare.std(), np.isnan(age)], axis=1)
    assert torch.allclose(batch["row_values"], torch.tensor(expected).float(), atol=1e-6)
    assert batch["row_categories"].tolist() == [[1, 2], [2, 2], [0, 1], [1, 0]]  # names are sorted; 0 is empty
    unseen = processor(row={"age": 1, "fare": 2, "sex": "x", "deck": 9, "more": 1})
    assert unseen["row_categories"].tolist() == [[0, 0]]
    towers = {"row": {"tower": "mlp"}}
    processor.complete_towers(towers)
    assert towers["row"]["in_features"] == 3
    assert towers["row"]["cardinalities"] == [3, 3]
    processor.save_pretrained(tmp_path)
    assert torch.equal(LfmProcessor.from_pretrained(tmp_path)(row=ROWS)["row_values"], batch["row_values"])


def test_columns_of_a_table_are_told_apart():
    processor = LfmProcessor({"row": {"type": "tabular"}}).fit({"row": [{**row, "yes": True} for row in ROWS]})
    assert processor.kinds["row"].numeric == ["age", "fare", "deck"]
    assert processor.kinds["row"].categorical == ["sex", "yes"]


@pytest.mark.parametrize(
    ("settings", "row", "message"),
    [
        (TABLE, {"age": 1}, "fare"),
        (TABLE, {**ROWS[0], "age": "old"}, "age"),
        (TABLE, {**ROWS[0], "fare": float("inf")}, "fare"),
        (TABLE, [1, 2], "mapping"),
        ({**TABLE, "numeric": ["age", "sex"]}, ROWS[0], "sex"),
        ({**TABLE, "numeric": ["age", "height"]}, ROWS[0], "height"),
    ],
)
def test_wrong_rows_are_named(settings, row, message):
    with pytest.raises(ValueError, match=message):
        LfmProcessor({"row": settings}).fit({"row": ROWS})(row=[row])


def test_series_are_padded_and_masked():
    processor = LfmProcessor({"imu": {"type": "sequence"}}).fit({"imu": SERIES})
    batch = processor(imu=SERIES)
    steps = np.concatenate(SERIES)
    assert batch["imu_values"].shape == (4, 30, 4)
    assert batch["imu_attention_mask"].sum(1).tolist() == [5, 9, 1, 30]
    assert torch.allclose(batch["imu_values"][1, :9], torch.tensor((SERIES[1] - steps.mean(0)) / steps.std(0)).float())
    assert batch["imu_values"][1, 9:].abs().max() == 0


def test_settings_of_series():
    series = np.arange(24.0).reshape(2, 3, 4)  # joints, coordinates, time
    kind = {"type": "sequence", "time_axis": -1, "standardize": False}
    values = LfmProcessor({"s": kind}).fit({"s": [series]})(s=series)["s_values"][0]
    assert torch.equal(values, torch.tensor(series).permute(2, 0, 1).reshape(4, 6).float())
    cut = LfmProcessor({"s": {**kind, "max_length": 2, "stride": 2}}).fit({"s": [series]})(s=series)["s_values"][0]
    assert torch.equal(cut, values[[0, 2]])
    line = np.linspace(0, 1, 11)
    longer = LfmProcessor({"s": {"type": "sequence", "length": 21, "standardize": False}}).fit({"s": [line]})
    assert torch.allclose(longer(s=line)["s_values"][0, :, 0], torch.linspace(0, 1, 21))
    holes = np.array([[0.0, np.nan], [np.nan, np.nan], [2.0, np.nan]])
    with pytest.raises(ValueError, match="step 0, feature 1"):
        LfmProcessor({"s": {"type": "sequence"}}).fit({"s": [holes]})
    filled = LfmProcessor({"s": {"type": "sequence", "gaps": "interpolate", "standardize": False}}).fit({"s": [holes]})
    assert filled(s=[holes])["s_values"][0].tolist() == [[0, 0], [1, 0], [2, 0]]
    with pytest.raises(ValueError, match="time_axis"):
        LfmProcessor({"s": {"type": "sequence", "time_axis": 3}}).fit({"s": [series]})
    with pytest.raises(ValueError, match="features a step"):
        LfmProcessor({"s": {"type": "sequence"}}).fit({"s": SERIES})(s=np.zeros((3, 5)))


def towers_of(processor, **towers):
    processor.complete_towers(towers)
    return towers


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_what_the_mask_hides_changes_nothing(encoder):
    processor = LfmProcessor({"imu": {"type": "sequence"}}).fit({"imu": SERIES})
    spec = {"tower": "sequence", "encoder": encoder, "width": 16, "num_layers": 1}
    torch.manual_seed(0)
    model = LfmForMultimodalClassification(
        LfmConfig(towers_of(processor, imu=spec), hidden_size=8, num_labels=3)
    ).eval()
    together = model(**processor(imu=SERIES)).logits
    for series, logits in zip(SERIES, together, strict=True):
        assert torch.allclose(model(**processor(imu=series)).logits[0], logits, atol=1e-5)
    batch = processor(imu=SERIES)
    batch["imu_values"][1, 9:] = 100.0
    assert torch.allclose(model(**batch).logits, together, atol=1e-5)
    moved = processor(imu=[series[::-1].copy() for series in SERIES])
    assert not torch.allclose(model(**moved).logits[0], together[0], atol=1e-4)  # order counts


def test_a_model_of_all_three_is_saved_and_loaded(tmp_path):
    kinds = {"imu": {"type": "sequence"}, "row": TABLE, "vec": {"type": "vector"}}
    vectors = list(RNG.normal(size=(4, 6)))
    processor = LfmProcessor(kinds).fit({"imu": SERIES, "row": ROWS, "vec": vectors})
    small = {"imu": {"tower": "sequence", "width": 16}, "row": {"tower": "mlp"}, "vec": {"tower": "mlp"}}
    config = LfmConfig(towers_of(processor, **small), hidden_size=8, num_labels=3)
    model = LfmForMultimodalClassification(config).eval()
    batch = processor(imu=SERIES, row=ROWS, vec=vectors)
    expected = model(**batch).logits
    model.save_pretrained(tmp_path)
    again = LfmForMultimodalClassification.from_pretrained(tmp_path)
    assert torch.allclose(again(**batch).logits, expected, atol=1e-6)
    absent = processor(imu=SERIES, row=[None, *ROWS[1:]], vec=vectors)
    assert absent["row_present"].tolist() == [False, True, True, True]
    assert torch.allclose(again(**absent).logits[1:], expected[1:], atol=1e-6)
    loss = model.train()(**batch, labels=torch.tensor([0, 1, 2, 0])).loss
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_towers_say_what_they_need():
    for spec, message in (
        ({"tower": "mlp"}, "in_features"),
        ({"tower": "sequence"}, "in_features"),
        ({"tower": "sequence", "in_features": 3, "encoder": "lstm"}, "encoder"),
        ({"tower": "sequence", "in_features": 3, "width": 9}, "width"),
        ({"tower": "mlp", "in_features": 3, "hidden_sizes": [0]}, "hidden_sizes"),
    ):
        with pytest.raises(ValueError, match=message):
            LfmForMultimodalClassification(LfmConfig({"x": spec}, num_labels=2))


def test_real_series_and_vectors(data_dir):
    file = data_dir / "utd_mhad" / "inertial" / "a1_s1_t1_inertial.mat"
    skeleton = data_dir / "utd_mhad" / "skeleton" / "a1_s1_t1_skeleton.mat"
    processor = LfmProcessor({"imu": {"type": "sequence"}, "pose": {"type": "sequence", "time_axis": -1}})
    processor.fit({"imu": [str(file)], "pose": [str(skeleton)]})
    batch = processor(imu=str(file), pose=str(skeleton))
    assert batch["imu_values"].shape[2] == 6
    assert batch["pose_values"].shape[2] == 60
    assert abs(float(batch["imu_values"].mean())) < 1e-4
