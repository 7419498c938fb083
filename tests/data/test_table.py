"""A user's own tables: what is told of their columns, how they are split, what is wrong with them."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest

from modeling_lfm.data import check_benchmark, load_benchmark
from modeling_lfm.data.table import infer_columns, load_table
from modeling_lfm.scripts import eval as eval_program
from modeling_lfm.scripts import predict, train
from tests.data.media import image_bytes, tone, wav_bytes

WORDS = ["the cat sat down", "a dog ran off", "no bird sings here", "fish swim in the sea"]


def make_frame(folder, rows=40):
    """A DataFrame with a column of each kind, and its files in `folder`."""
    rng = np.random.default_rng(0)
    (folder / "media").mkdir(parents=True, exist_ok=True)
    for number in range(rows):
        (folder / "media" / f"{number}.png").write_bytes(image_bytes(rng.integers(0, 256, (8, 8), dtype=np.uint8)))
        (folder / "media" / f"{number}.wav").write_bytes(wav_bytes(tone(200 + number)))
    return pd.DataFrame(
        {
            "id": range(rows),
            "photo": [f"media/{number}.png" for number in range(rows)],
            "voice": [f"media/{number}.wav" if number % 5 else None for number in range(rows)],
            "title": [WORDS[number % 4] for number in range(rows)],
            "age": [number if number % 7 else float("nan") for number in range(rows)],
            "fare": rng.normal(size=rows),
            "sex": ["f" if number % 3 else "m" for number in range(rows)],
            "constant": 1,
            "person": [f"p{number % 10}" for number in range(rows)],
            "label": ["yes" if number % 2 else "no" for number in range(rows)],
        }
    )


def write(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_columns_of_a_file_are_told(tmp_path, ending):
    path = write(make_frame(tmp_path), tmp_path / f"table{ending}")
    splits, plan = load_table(path, group="person")
    assert {name: column.type for name, column in plan.items()} == {
        "photo": "image",
        "voice": "spectrogram",
        "title": "text",
        "table": "tabular",
    }
    assert plan["table"].settings == {"numeric": ["age", "fare"], "categorical": ["sex"]}
    assert splits["train"].column_names == ["photo", "voice", "title", "table", "label"]
    rows = [row for split in splits.values() for row in split]
    assert len(rows) == 40
    assert sum(row["voice"] is None for row in rows) == 8
    assert sum(row["table"]["age"] is None for row in rows) == 6
    assert all(row["photo"].startswith(str(tmp_path.resolve())) for row in rows)
    assert {row["label"] for row in rows} == {"yes", "no"}


def test_groups_are_never_on_both_sides(tmp_path):
    frame = make_frame(tmp_path).assign(photo=lambda f: [str(tmp_path / p) for p in f.photo]).drop(columns="voice")
    splits, _ = load_table(frame, group="person", columns={"photo": "photo", "who": {"column": "sex"}})
    persons = dict(zip((str(tmp_path.resolve() / "media" / f"{n}.png") for n in range(40)), frame.person, strict=True))
    sides = [{persons[row["photo"]] for row in split} for split in splits.values()]
    assert len(sides) == 3
    assert sum(map(len, sides)) == 10


def test_splits_are_stratified_seeded_or_told(tmp_path):
    frame = make_frame(tmp_path, 100)[["fare", "sex", "label"]]
    splits, _ = load_table(frame)
    assert {split: len(part) for split, part in splits.items()} == {"train": 81, "validation": 9, "test": 10}
    assert sum(label == "yes" for label in splits["test"]["label"]) == 5
    again, _ = load_table(datasets.Dataset.from_pandas(frame))
    other, _ = load_table(frame, seed=1)
    assert again["test"].to_dict() == splits["test"].to_dict() != other["test"].to_dict()
    told = frame.assign(split=["train"] * 60 + ["dev"] * 20 + ["test"] * 20)
    splits, plan = load_table(told)
    assert {split: len(part) for split, part in splits.items()} == {"train": 60, "validation": 20, "test": 20}
    assert list(plan) == ["table"]
    splits, _ = load_table(told.assign(split=["train"] * 60 + ["test"] * 40))
    assert {split: len(part) for split, part in splits.items()} == {"train": 54, "validation": 6, "test": 40}
    splits, _ = load_table(frame[:60], validation=frame[60:])
    assert {split: len(part) for split, part in splits.items()} == {"train": 60, "validation": 40}


@pytest.mark.parametrize("group", [None, "person"])
def test_each_row_is_tested_in_one_fold_and_validated_in_another(tmp_path, group):
    frame = make_frame(tmp_path, 60).assign(label=["yes" if n % 3 else "no" for n in range(60)])
    frame = frame[["fare", "person", "label"]].assign(place=[float(n) for n in range(60)])
    columns = {"place": {"column": "place", "type": "tabular"}}
    seen = {"validation": [], "test": []}
    for fold in range(5):
        splits, _ = load_table(frame, group=group, columns=columns, folds=5, fold=fold, seed=2)
        rows = {split: {int(cell["place"]) for cell in part["place"]} for split, part in splits.items()}
        assert sorted(set.union(*rows.values())) == list(range(60))
        assert sum(map(len, rows.values())) == 60
        if group is None:
            assert [sum(place % 3 > 0 for place in rows[split]) for split in rows] == [24, 8, 8]
        else:
            people = [set(frame.person[list(places)]) for places in rows.values()]
            assert sum(map(len, people)) == len(set.union(*people)) == 10
        for split, found in seen.items():
            found.append(rows[split])
    assert sorted(place for part in seen["test"] for place in part) == list(range(60))
    assert seen["validation"] == seen["test"][1:] + seen["test"][:1]
    other, _ = load_table(frame, group=group, columns=columns, folds=5, seed=3)
    assert {int(cell["place"]) for cell in other["test"]["place"]} != seen["test"][0]


def test_folds_that_cannot_be_are_named():
    frame = pd.DataFrame({"a": np.arange(6.0), "who": list("uuuvvv"), "label": list("xyxyxy")})
    for change, message in (
        ({"folds": 2}, "folds=2 must be 3"),
        ({"folds": 3, "fold": 3}, "fold=3"),
        ({"folds": 7}, "number of samples, 6"),
        ({"folds": 3, "group": "who"}, "number of groups, 2"),
        ({"folds": 3, "test": frame}, "one table"),
    ):
        with pytest.raises(ValueError, match=message):
            load_table(frame, **change)
    with pytest.raises(ValueError, match="'split'"):
        load_table(frame.assign(split="train"), folds=3)


def test_columns_are_named_by_the_user():
    frame = pd.DataFrame({**{f"a{n}": np.arange(5.0) for n in range(3)}, "t": list("vwxyz"), "label": [0, 1, 0, 1, 0]})
    columns = {"acoustic": {"columns": ["a*"], "type": "vector"}, "words": {"column": "t", "type": "text"}}
    splits, plan = load_table(frame, validation=frame, test=frame, columns=columns)
    assert plan["acoustic"].columns == ["a0", "a1", "a2"]
    assert splits["train"][3]["acoustic"] == [3.0, 3.0, 3.0]
    assert splits["train"][3]["words"] == "y"
    for wrong, message in (({"x": "b*"}, "b"), ({"x": {"columns": ["a0", "a1"], "type": "image"}}, "one column")):
        with pytest.raises(ValueError, match=message):
            load_table(frame, columns=wrong)


def test_a_column_of_numbers_is_a_vector_of_one_and_no_sequence():
    frame = pd.DataFrame({"a": [1, None, 3, 4] * 3, "label": ["x", "y"] * 6})
    told = {"v": {"columns": ["a"], "type": "vector"}}
    parts, _ = load_table(frame, frame, frame, columns=told)
    assert parts["train"]["v"][:3] == [[1.0], None, [3.0]]
    with pytest.raises(ValueError, match="column 'a' holds numbers"):
        load_table(frame, frame, frame, columns={"v": {"columns": ["a"], "type": "sequence"}})


def test_lists_and_several_labels():
    frame = pd.DataFrame({"v": [[1.0, 2.0], [3.0, 4.0]] * 10, "s": [[[1], [2]], [[3]]] * 10, "tags": ["a|b", "b"] * 10})
    splits, plan = load_table(frame, validation=frame, label="tags", label_separator="|")
    assert {name: column.type for name, column in plan.items()} == {"v": "vector", "s": "sequence"}
    assert splits["train"][0] == {"v": [1.0, 2.0], "s": [[1], [2]], "label": ["a", "b"]}


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("[1, 2.5]", [1.0, 2.5]),
        ("[1. 2.\n nan]", [1.0, 2.0, float("nan")]),
        ("[-1.5 1e-3]", [-1.5, 0.001]),
        ("[np.float64(1.5), np.float64(-2.0)]", [1.5, -2.0]),
        ("[[1. 2.]\n [3. 4.]]", [[1.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_lists_that_a_csv_holds_as_text_are_read(tmp_path, cell, value):
    frame = pd.DataFrame({"v": [cell, None, *[cell] * 38], "label": ["a", "b"] * 20})
    splits, plan = load_table(write(frame, tmp_path / "a.csv"), validation=frame, test=frame)
    assert plan["v"].type == ("sequence" if isinstance(value[0], list) else "vector")
    np.testing.assert_equal([splits[name][0]["v"] for name in splits], [value] * 3)
    assert splits["train"][1]["v"] is None


def test_labels_and_arrays_of_a_frame_survive_a_csv(tmp_path):
    rng = np.random.default_rng(0)
    tags = [["a", "b"], ["b"], []] * 20
    frame = pd.DataFrame({"v": [rng.normal(size=3) for _ in tags], "n": [list(rng.integers(0, 9, 2)) for _ in tags]})
    frame = frame.assign(title=[f"[{number}] cat [sat]" for number in range(60)], tags=tags)
    splits, plan = load_table(write(frame, tmp_path / "a.csv"), validation=frame, test=frame, label="tags")
    assert {name: column.type for name, column in plan.items()} == {"v": "vector", "n": "vector", "title": "text"}
    assert splits["train"]["label"][:] == tags == splits["test"]["label"][:]
    np.testing.assert_allclose(splits["train"]["v"][:], splits["test"]["v"][:], atol=1e-7)  # as numpy prints them
    assert splits["train"]["n"][:] == splits["test"]["n"][:]
    frame["v"] = [rng.normal(size=2000) for _ in tags]
    with pytest.raises(ValueError, match=r"a\.csv, column 'v', row 1: .*tolist"):
        load_table(write(frame, tmp_path / "a.csv"), label="tags")


def test_a_column_that_may_tell_whose_a_row_is_is_named(tmp_path, caplog):
    frame = pd.DataFrame({"video_id": list("uvwxyz") * 10, "fare": np.arange(60.0), "label": ["a", "b"] * 30})
    load_table(frame)
    assert "'video_id' is learned from" in caplog.text
    assert "--benchmark_options.group_column video_id" in caplog.text
    caplog.clear()
    load_table(frame.rename(columns={"video_id": "videogame"}))
    load_table(frame, group="video_id")
    assert not caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"x,label\n1\xff,2\n", "UTF-8"),
        ("a.csv", b'x,label\n"1,2\n', "a.csv"),
        ("a.csv", b"", "a.csv"),
        ("a.csv", b"x,label\n", "no rows"),
        ("a.csv", b"x,y\n1,2\n", "label"),
        ("a.csv", b"x,label\n1,\n2,b\n", "row 1"),
        ("a.csv", b"label\na\nb\n", "columns"),
        ("a.jsonl", b"{]\n", r"a\.jsonl"),
        ("a.parquet", b"PAR1", r"a\.parquet"),
        ("a.xls", b"x", r"\.csv"),
        ("a.csv", b"x,split,label\n1,train,a\n2,hold,b\n", "hold"),
    ],
)
def test_wrong_tables_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_table(path, validation=None if b"split" in content else path)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_table(tmp_path / "nowhere.csv")


def test_real_tables(data_dir):
    folder = data_dir / "mosi"
    labels = pd.read_csv(folder / "labels.csv")
    assert set(infer_columns(labels, {"label", "split"}))
    rows = [json.loads(line) for line in (data_dir / "propaganda_memes" / "val.jsonl").read_text().splitlines()]
    frame = pd.DataFrame(rows)
    assert "text" in {column.type for column in infer_columns(frame, {"labels"}).values()}


def test_a_table_is_a_benchmark_like_any_other(tmp_path):
    frame = make_frame(tmp_path, rows=60).drop(columns="person")
    write(frame, tmp_path / "all.csv")
    options = {"train_file": "all.csv", "seed": 3}
    raw = load_benchmark("table", data_dir=tmp_path, **options)
    assert raw["train"].column_names == ["photo", "voice", "title", "table", "label"]
    assert raw["train"].features["label"].names == ["no", "yes"]
    assert sum(map(len, raw.values())) == check_benchmark("table", data_dir=tmp_path, **options).found == 60
    one = load_benchmark("table", data_dir=tmp_path, split="test", **options)
    assert one.to_dict() == raw["test"].to_dict()
    write(frame.assign(fare=frame.fare + 10), tmp_path / "all.csv")
    assert load_benchmark("table", data_dir=tmp_path, **options)["train"][0]["table"]["fare"] > 5
    for wrong, message in (
        ({}, "train_file"),
        ({"train_file": "other.csv"}, "other"),
        ({"train_fil": "x"}, "train_fil"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_benchmark("table", data_dir=tmp_path, **wrong)


CONFIG = """
benchmark: table
modalities:
  photo: {tower: timm, name: resnet10t, in_chans: 1, model_args: {channels: [8, 8, 8, 8], stem_width: 8}}
  table: {tower: mlp, hidden_sizes: [16]}
  imu: {tower: sequence, width: 16, num_layers: 1}
processor:
  photo: {type: image, size: [16, 16], num_channels: 1}
  table: {type: tabular}
  imu: {type: sequence}
hidden_size: 16
num_train_epochs: 2
eval_strategy: epoch
save_strategy: epoch
"""


def test_a_table_trains_evaluates_and_predicts_by_the_programs(tmp_path, capsys):
    frame = make_frame(tmp_path, rows=60).drop(columns=["person", "voice", "title"])
    rng = np.random.default_rng(0)
    for number in range(60):
        np.save(tmp_path / "media" / f"{number}.npy", rng.normal(size=(5 + number % 7, 3)))
    write(frame.assign(imu=[f"media/{n}.npy" for n in range(60)]), tmp_path / "all.csv")
    (tmp_path / "mine.yaml").write_text(CONFIG)
    options = ["--data_dir", tmp_path, "--benchmark_options.train_file", "all.csv"]
    words = [tmp_path / "mine.yaml", *options, "--output_dir", tmp_path / "out", "--do_predict", "true"]
    train.main([str(word) for word in words])
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert {"test_accuracy", "test_table_accuracy", "test_imu_accuracy"} <= set(results)
    capsys.readouterr()
    checkpoint = ["--checkpoint", str(tmp_path / "out")]
    eval_program.main([*checkpoint, "--data_dir", str(tmp_path), "--split", "test"])
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == pytest.approx(results["test_accuracy"])
    predict.main([*checkpoint, "--input", f"photo={tmp_path}/media/1.png", f"imu={tmp_path}/media/1.npy"])
    assert json.loads(capsys.readouterr().out)["label"] in ("yes", "no")
    row = '{"age": 3, "fare": null, "sex": "f"}'
    predict.main([*checkpoint, "--input", f"table={row}"])
    assert set(json.loads(capsys.readouterr().out)["modalities"]) == {"table"}


def test_an_empty_cell_of_several_labels_has_none():
    table = pd.DataFrame({"age": range(6), "label": ["a|b", None, "b", "", float("nan"), "a"], "split": ["train"] * 6})
    splits, _ = load_table(table.assign(split=["train"] * 3 + ["validation"] * 3), label_separator="|")
    assert [row["label"] for split in ("train", "validation") for row in splits[split]] == [
        *(["a", "b"], [], ["b"]),
        *([], [], ["a"]),
    ]
    with pytest.raises(ValueError, match="no 'label' in 3 rows"):
        load_table(table.drop(columns="split"))
