"""A user's own tables: what is told of their columns, how they are split, what is wrong with them."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest

from modeling_lfm import LfmProcessor
from modeling_lfm.data import check_benchmark, load_benchmark
from modeling_lfm.data.columns import infer_columns, show_plan
from modeling_lfm.data.table import load_table, read_rows
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
        ("a.csv", b"x;label\n1;a\n2;b\n", r"stand between ';', not ','.*read_csv\(path, sep=';'\)"),
        ("a.tsv", b"x|label\n1|a\n2|b\n", r"stand between '\|', not '\\t'"),
    ],
)
def test_wrong_tables_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_table(path, validation=None if b"split" in content else path)


WIDE = pd.DataFrame({f"gene_{n}": np.arange(12.0) for n in range(300)} | {"label": ["a", "b"] * 6})


@pytest.mark.parametrize(
    ("frame", "settings", "message"),
    [
        (WIDE.assign(label=np.arange(12) + 0.5), {}, "12 different values, such as '0.5', in 12 rows.*pandas.cut"),
        (WIDE.assign(label="a"), {}, "every row of the train table has the label 'a'"),
        (WIDE.assign(split=[f"s{n}" for n in range(12)]), {}, "holds s0, s1, s10, .* and 4 more; it should hold train"),
        (WIDE, {"label": "lable"}, "no column 'lable'; did you mean 'label'"),
        (WIDE, {"group": "person"}, "no column 'person'; choose one of gene_0, .* and 261 more"),
        (WIDE, {"columns": {"genes": "protein_*"}}, r"no column protein_\*; choose one of gene_0, .* and 261 more"),
        (WIDE, {"columns": {"genes": {"column": "gene_*", "type": "text"}}}, "one column, not gene_0, .* and 292 more"),
        (pd.concat([WIDE, WIDE[["gene_7"]]], axis=1), {}, "several columns 'gene_7'"),
        (WIDE[["label"]].assign(x=1), {}, "none of the columns x can be read"),
        (WIDE.assign(x=[{"bytes": b"a"}] * 12), {}, "column 'x' holds cells of type dict.*table_columns.*prepare_data"),
        (WIDE.assign(x=b"a"), {}, "column 'x' holds cells of type bytes"),
        (WIDE, {"validation": WIDE[["gene_0", "label"]]}, "validation table lacks the columns gene_1, .* and 291 more"),
        (WIDE, {"test": WIDE.assign(gene_1="abc")}, "column 'gene_1' holds 'abc', which is no number"),
        ([{"x": 1}], {}, "a table is a pandas.DataFrame.*of type list"),
        (datasets.DatasetDict(), {}, "one by one.*of type DatasetDict"),
    ],
)
def test_wrong_frames_are_named_in_a_line(frame, settings, message):
    """However many columns and values they have."""
    with pytest.raises(ValueError, match=message) as told:
        load_table(frame, **settings)
    assert len(str(told.value)) < 500


def test_rows_that_lack_columns_are_told_in_a_line():
    columns = {"genes": {"columns": [f"gene_{n}" for n in range(300)]}}
    with pytest.raises(ValueError, match=r"needs the columns gene_1, .* and 291 more, which the table lacks.*add them"):
        read_rows(WIDE[["gene_0"]], columns)
    with pytest.raises(ValueError, match=r"none of the columns that the model reads: gene_0, .* and 292 more"):
        read_rows(WIDE[["label"]], columns)
    with pytest.raises(ValueError, match="column 'gene_0' holds 'abc', which is no number"):
        read_rows(WIDE.assign(gene_0="abc"), {"genes": {"columns": ["gene_0", "gene_1"], "numeric": ["gene_0"]}})


@pytest.mark.parametrize(
    ("names", "label", "found"),
    [
        ([0, 1, 2], 0, ["1", "2"]),
        (pd.MultiIndex.from_tuples([("y", ""), ("a", "u"), ("a", 3)]), "y", ["a_u", "a_3"]),
    ],
)
def test_names_of_columns_may_be_numbers_or_several_words(names, label, found):
    frame = pd.DataFrame(np.arange(36.0).reshape(12, 3), columns=names)
    frame[names[0]] = ["x", "z"] * 6
    splits, plan = load_table(frame, label=label)
    assert plan["table"].columns == found
    assert read_rows(frame, {"table": found}) == [
        {"table": dict(zip(found, row, strict=True))} for row in frame[names[1:]].values.tolist()
    ]
    assert set(splits["train"]["label"]) == {"x", "z"}


def test_cells_that_pandas_calls_na_are_empty():
    cells = {"n": pd.array([1, None, 3] * 4, "Int64"), "w": pd.array(["p", "q", None] * 4, "string")}
    frame = pd.DataFrame({**cells, "b": pd.array([None, True, False] * 4, "boolean"), "label": ["a", "b"] * 6})
    splits, plan = load_table(frame, validation=frame)
    assert plan["table"].settings == {"numeric": ["n"], "categorical": ["w", "b"]}
    rows = splits["train"]["table"]
    assert [rows[number] for number in range(3)] == [
        {"n": 1.0, "w": "p", "b": None},
        {"n": None, "w": "q", "b": "True"},
        {"n": 3.0, "w": None, "b": "False"},
    ]
    vectors, _ = load_table(frame, validation=frame, columns={"v": {"columns": ["n", "b"], "type": "vector"}})
    np.testing.assert_array_equal(vectors["train"]["v"][0], [1, np.nan])


@pytest.mark.parametrize(("labels", "found"), [([0, 1], ["no", "yes"]), ([[0, 1], [1]], [["no", "yes"], ["yes"]])])
def test_classes_of_a_data_set_keep_their_names(labels, found):
    kind = datasets.ClassLabel(names=["no", "yes"])
    features = {"x": datasets.Value("int64"), "label": kind if found == ["no", "yes"] else datasets.List(kind)}
    data = {"x": range(12), "label": labels * 6}
    data = datasets.Dataset.from_dict(data, features=datasets.Features(features))
    rows = {row["table"]["x"]: row["label"] for split in load_table(data)[0].values() for row in split}
    assert [rows[0], rows[1]] == found
    unlabelled = datasets.Dataset.from_dict({"x": [1, 2], "label": [1, -1]})
    with pytest.raises(ValueError, match="no 'label' in 1 rows, the first of them row 2"):
        load_table(unlabelled.cast_column("label", kind))


def test_an_infinite_number_is_no_word():
    frame = pd.DataFrame({"x": [*range(11), np.inf], "label": ["a", "b"] * 6})
    assert infer_columns(frame, {"label"})["table"].settings == {"numeric": ["x"], "categorical": []}
    with pytest.raises(ValueError, match="column 'x' holds inf; mend the row"):
        LfmProcessor({"table": {"type": "tabular"}}).fit({"table": [{"x": cell} for cell in frame.x]})


def test_groups_of_columns_that_begin_alike_are_told():
    names = [f"{begin}{n}" for begin in ("gene_", "mirna.", "p2_") for n in range(4)]
    frame = pd.DataFrame(np.arange(144.0).reshape(12, 12), columns=names)
    stars = '{"gene": "gene_*", "mirna": "mirna.*", "p2": "p2_*"}'
    told = show_plan(infer_columns(frame))
    assert told.endswith(f"\nnames of columns begin alike: table_columns={stars} makes each a modality")
    assert list(load_table(frame.assign(label=["a", "b"] * 6), columns=json.loads(stars))[1]) == ["gene", "mirna", "p2"]
    for other in (frame.iloc[:, :-1], frame.assign(age=1.5 * np.arange(12)), frame.iloc[:, :4]):
        assert "begin alike" not in show_plan(infer_columns(other))


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
