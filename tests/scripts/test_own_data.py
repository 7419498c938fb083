"""Tables of one's own: what is proposed, `fit`, and predictions for every row."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from modeling_lfm import Predictor, fit
from modeling_lfm.scripts import eval as evaluate
from modeling_lfm.scripts import predict, train
from modeling_lfm.scripts.common.own_data import complete
from tests.data.test_table import make_frame

TINY = {
    "num_train_epochs": 1,
    "hidden_size": 16,
    "modalities": {
        name: {"tower": "timm", "name": "resnet10t", "model_args": {"channels": [4] * 4}, **chans}
        for name, chans in {"photo": {}, "voice": {"in_chans": 1}}.items()
    },
    "processor": {"photo": {"size": [8, 8]}},
}


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    frame = make_frame(folder, rows=60).drop(columns="voice")
    media = {"photo": [str(folder / name) for name in frame.photo]}
    return frame.assign(**media, voice=[name.replace(".png", ".wav") for name in media["photo"]])


@pytest.fixture(scope="module")
def fitted(frame, tmp_path_factory):
    return fit(frame, group_column="person", output_dir=tmp_path_factory.mktemp("fit") / "run", use_cpu=True, **TINY)


def test_every_column_is_read_and_predicted(fitted, frame):
    assert {name: kind["type"] for name, kind in fitted.processor.modalities.items()} == {
        "photo": "image",
        "title": "text",
        "voice": "spectrogram",
        "table": "tabular",
    }
    assert 0 < fitted.processor.modalities["voice"]["duration"] < 3  # that of the recordings
    assert fitted.model.config.modalities["photo"]["model_args"] == {"channels": [4] * 4}  # as it was given
    assert set(fitted.predict(frame)) <= {"yes", "no"}
    scores = fitted.predict_proba(frame)
    assert list(scores) == ["no", "yes"]
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-6)
    assert len(fitted.metrics) > 10


@pytest.mark.parametrize(("rows", "given", "size"), [(60, None, 8), (600, None, 16), (1100, None, 32), (60, "20", 20)])
def test_few_rows_are_read_in_small_batches(tmp_path, rows, given, size):
    """10 steps an epoch leave towers half-trained in the epochs of the preset."""
    pd.DataFrame({"a": np.arange(rows) / rows, "label": ["x", "y"] * (rows // 2)}).to_csv(tmp_path / "all.csv")
    options = {"train_file": "all.csv", "validation_file": "all.csv", "test_file": "all.csv"}
    told = {"benchmark": "table", "data_dir": str(tmp_path), "benchmark_options": options}
    told |= {} if given is None else {"per_device_train_batch_size": given}
    found = complete({**told, "output_dir": str(tmp_path / "out")})
    assert int(found["per_device_train_batch_size"]) == size
    assert found["dataloader_drop_last"]
    assert found["method"] == "concat", "of vectors alone; panel.md"
    assert complete({**told, "method": "sum", "output_dir": str(tmp_path / "out")})["method"] == "sum"
    assert complete({**told, "fusion": "sum", "output_dir": str(tmp_path / "out")})["method"] == "lfm", "concat cannot"
    told["modalities"] = {"table": {"tower": "sequence"}}
    assert complete({**told, "output_dir": str(tmp_path / "out")})["method"] == "lfm"


def test_a_fitted_model_is_known_to_the_programs(fitted, frame, tmp_path, capsys):
    folder = fitted.trainer.args.output_dir
    frame.assign(photo=[*frame.photo[:2], "gone.png", *frame.photo[3:]]).to_csv(tmp_path / "new.csv", index=False)
    line = ["--checkpoint", folder, "--input_file", str(tmp_path / "new.csv"), "--output", str(tmp_path / "y.jsonl")]
    predict.main([*line, "--top_k", "1", "--batch_size", "7", "--embeddings", str(tmp_path / "v.npz")])
    told = capsys.readouterr().out
    assert "row 2: " in told
    assert "60 rows, 1 of them" in told
    vectors = dict(np.load(tmp_path / "v.npz"))
    whole = (tmp_path / "y.jsonl").read_text()
    rows = [json.loads(text) for text in whole.splitlines()]
    assert not any("features" in row for row in rows)
    assert [row["row"] for row in rows] == list(range(60))
    assert "gone.png" in rows[2]["error"]
    assert [row["label"] for row in rows if "label" in row] == [
        label for number, label in enumerate(fitted.predict(frame)) if number != 2
    ]
    with pytest.raises(ValueError, match=r"y\.jsonl"):
        predict.main(line)
    (tmp_path / "notes.txt").write_text("mine\nwithout an end")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        predict.main([*line[:-1], str(tmp_path / "notes.txt"), "--resume"])
    assert (tmp_path / "notes.txt").read_text() == "mine\nwithout an end"  # as it was
    cut = "".join(whole.splitlines(keepends=True)[:5]) + '{"row": 5, "lab'
    (tmp_path / "y.jsonl").write_text(cut)
    again = ["--top_k", "1", "--batch_size", "7", "--resume"]
    predict.main([*line, *again, "--embeddings", str(tmp_path / "again.npz")])
    for name, values in np.load(tmp_path / "again.npz").items():
        np.testing.assert_allclose(values, vectors[name], atol=1e-5)  # of all rows
    again = [json.loads(text) for text in (tmp_path / "y.jsonl").read_text().splitlines()]
    assert [(row["row"], row.get("label")) for row in again] == [(row["row"], row.get("label")) for row in rows]


def test_vectors_are_the_features_of_the_rows_that_can_be_read(fitted, frame):
    table = frame.head(5).assign(photo=[frame.photo[0], "gone.png", None, frame.photo[3], frame.photo[4]])
    found, width = fitted.embed(table), fitted.model.config.hidden_size
    assert list(found) == ["rows", *fitted.model.config.modality_names, "fused"]
    assert found["rows"].tolist() == [0, 2, 3, 4]
    assert found["fused"].shape == (4, width * len(fitted.model.config.modality_names))
    sample = fitted.rows(table)[3]
    with torch.no_grad():
        features = fitted.model(**fitted.processor(**sample)).features
    for name, feature in zip(fitted.model.config.modality_names, features, strict=True):
        np.testing.assert_allclose(found[name][2], feature[0].numpy(), rtol=1e-4, atol=1e-5)
    assert np.isnan(found["photo"][1]).all()
    assert not found["fused"][1, :width].any()
    np.testing.assert_allclose(np.linalg.norm(found["fused"], axis=1), 1, rtol=1e-5)
    cosines = [torch.cosine_similarity(feature[0], feature[0], dim=0) for feature in features]
    assert sum(cosines) / len(cosines) == pytest.approx(float(found["fused"][2] @ found["fused"][2]), rel=1e-4)
    found = fitted.embed(table.assign(photo="gone.png", title=None))
    assert found["rows"].shape == (0,)
    assert found["photo"].shape == (0, width)


def test_the_predictor_is_loaded_and_needs_no_labels(fitted, frame):
    loaded = Predictor.load(fitted.trainer.args.output_dir)
    rows = frame.drop(columns=["label", "title"]).head(4)  # a modality that is not there is absent
    assert loaded.predict(rows) == fitted.predict(rows)
    with pytest.raises(ValueError, match="fare"):
        loaded.predict(rows.drop(columns="fare"))
    with pytest.raises(ValueError, match="photo"):
        loaded.predict(rows[["id"]])


def test_a_table_with_labels_is_evaluated_as_by_the_program(fitted, frame, tmp_path, capsys):
    folder = Path(fitted.trainer.args.output_dir)
    table = frame.head(20).assign(photo=[None, *frame.photo[1:20]])
    found = fitted.evaluate(table)
    assert found["accuracy"] == np.mean([*map(str.__eq__, fitted.predict(table), table.label)])
    assert (found["samples"], found["photo_samples"]) == (20, 19)
    shutil.copy(folder / "tables" / "train.parquet", tmp_path)
    table.to_parquet(tmp_path / "new.parquet")
    words = ["--checkpoint", str(folder), "--data_dir", str(tmp_path), "--missing", "absent", "--use_cpu"]
    capsys.readouterr()
    evaluate.main([*words, "--benchmark_options.test_file", "new.parquet"])
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == found.keys()
    assert all(told[key] == pytest.approx(value, abs=1e-6) for key, value in found.items())
    loaded = Predictor.load(folder)
    assert loaded.evaluate(table.rename(columns={"label": "y"}), label="y") == pytest.approx(found)
    assert loaded.evaluate(table.drop(columns=["photo", "title"]))["photo_samples"] == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda table: table.drop(columns="label"), "has no column 'label'"),
        (
            lambda table: table.assign(label=["perhaps", *table.label[1:]]),
            r"labels .*\(perhaps\); it has no, yes",
        ),
        (lambda table: table.assign(label=[None, *table.label[1:]]), "no 'label' in 1 rows"),
        (lambda table: table.assign(label=[["no"]] * len(table)), "the model gives one label a row"),
        (lambda table: table[["label"]], "none of the columns that the model reads"),
    ],
)
def test_labels_that_a_model_cannot_be_held_against_are_told(fitted, frame, change, named):
    with pytest.raises(ValueError, match=named):
        fitted.evaluate(change(frame.head(4)))


def test_folders_are_given_one_by_one():
    with pytest.raises(ValueError, match=r"\['a', 'b'\]; give several one by one"):
        Predictor.load(["a", "b"])


def test_the_settings_that_fit_tells_do_the_same(fitted, tmp_path):
    told = f"{fitted.trainer.args.output_dir}/fit.yaml"
    trainer, metrics = train.train(*train.parse_arguments([told, "--output_dir", str(tmp_path / "again")]))
    assert metrics["eval_loss"] == fitted.metrics["eval_loss"]
    assert trainer.model.config.modalities == fitted.model.config.modalities


def test_train_alone_proposes_and_several_labels_are_several(frame, tmp_path, capsys):
    several = frame.assign(label=["a|b" if number % 2 else "b" if number % 3 else "c" for number in range(60)])
    several.drop(columns=["title", "photo", "voice"]).to_csv(tmp_path / "all.csv", index=False)
    options = ["--benchmark_options.train_file", "all.csv", "--benchmark_options.label_separator", "|"]
    where = ["--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "run"), "--use_cpu"]
    train.main(["table", *options, *where, "--num_train_epochs", "1"])
    assert capsys.readouterr().out.count("table: tabular, from age, fare, sex, person\n") == 1
    predictor = Predictor.load(tmp_path / "run")
    assert predictor.model.config.is_multi_label
    assert predictor.model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert all(isinstance(labels, list) for labels in predictor.predict(several))
    answer = next(iter(predictor.answers(several, threshold=0.0)))
    assert sorted(answer["labels"]) == ["a", "b", "c"]


def test_unknown_preset_and_earlier_run_are_refused(fitted, frame, tmp_path):
    for wrong, message in (
        ({"time_limit": "10"}, "time_limit='10' should be of type float"),
        ({"train": None}, "train="),
    ):
        with pytest.raises(ValueError, match=message):
            fit(**{"train": frame, "output_dir": tmp_path / "new", **wrong})
    assert not (tmp_path / "new").exists()
    for key in ("modalities", "processor"):
        with pytest.raises(ValueError, match=f"{key} names 'tabel'.*; did you mean 'table'"):
            fit(frame, output_dir=tmp_path / "typo", **{key: {"tabel": {}}})
    with pytest.raises(ValueError, match="preset='slow'"):
        complete({"benchmark": "table", "preset": "slow"})
    folder = fitted.trainer.args.output_dir
    with pytest.raises(ValueError, match=str(folder)):
        fit(frame, output_dir=folder)
    assert yaml.safe_load(Path(folder, "fit.yaml").read_text())["benchmark"] == "table"


def test_fit_on_a_frame_of_arrays_whose_columns_are_numbers(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({0: ["x", "y"] * 12, 1: rng.normal(size=24), 2: [rng.normal(size=(3, 2)) for _ in range(24)]})
    quick = {"output_dir": tmp_path / "run", "num_train_epochs": 1, "use_cpu": True, "hidden_size": 8}
    predictor = fit(frame, label=0, **quick)
    assert predictor.model.config.modality_names == ("column_2", "table")
    assert predictor.predict(frame) == predictor.predict(frame.rename(columns=str).drop(columns="0"))
    with pytest.raises(ValueError, match=r"cannot hold .*column 1 .*complex128.* mend or drop it"):
        fit(frame.assign(**{"1": 1j}).drop(columns=1), label=0, **{**quick, "output_dir": tmp_path / "other"})
    with pytest.raises(ValueError, match=r"columns names \['views'\].* is told by table_columns"):
        fit(frame, label=0, columns={"views": "1"}, **{**quick, "output_dir": tmp_path / "third"})


def test_time_limit_stops_training(frame, tmp_path):
    table = pd.concat([frame[["age", "fare", "label"]]] * 4, ignore_index=True)
    given = {"method": "concat", "num_train_epochs": 50, "use_cpu": True}
    predictor = fit(table, time_limit=0, output_dir=tmp_path / "run", **given)
    assert predictor.trainer.state.global_step == 1
    assert predictor.predict(table)


def test_fit_keeps_a_linear_probe_unless_what_is_trained_is_clearly_ahead(tmp_path, capsys):
    """Of numbers whose sum matters, and of some whose product does; its folder is that of a run of train.py."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(300, 2)), columns=["u", "v"]).assign(kind=["x", "y", None] * 100)
    quick = {"time_limit": 60, "num_train_epochs": 10, "use_cpu": True, "learning_rate": 1e-2, "hidden_size": 16}
    quick |= {"modalities": {"table": {"hidden_sizes": [32]}}}
    for name, answer, probed in (("sum", frame.u + frame.v, True), ("product", frame.u * frame.v, False)):
        table, folder = frame.assign(label=np.where(answer > 0, "above", "below")), tmp_path / name
        predictor = fit(table, output_dir=folder, **quick)
        told = capsys.readouterr().out
        assert f"so the {'probe' if probed else 'latter'} is kept" in told
        assert predictor.metrics["eval_accuracy"] > 0.85
        assert bool(yaml.safe_load((folder / "fit.yaml").read_text()).get("linear_probe")) == probed
        assert bool(list(folder.glob("checkpoint-*"))) != probed
        assert ("A linear probe on" in (folder / "README.md").read_text()) == probed
        assert Predictor.load(folder).predict(table) == predictor.predict(table)
        assert predictor.evaluate(table)["samples"] == 300
    train.main([str(tmp_path / "sum" / "fit.yaml"), "--output_dir", str(tmp_path / "again")])
    pd.testing.assert_frame_equal(
        Predictor.load(tmp_path / "again").predict_proba(frame), Predictor.load(tmp_path / "sum").predict_proba(frame)
    )
    capsys.readouterr()
    fit(frame.assign(label=np.where(frame.u > 0, "a", "b")), output_dir=tmp_path / "own", method="concat", **quick)
    assert "linear probe" not in capsys.readouterr().out
