"""Samples that lack modalities in the programs and in `fit`: an error by default, absent where that is asked for."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from modeling_lfm import Predictor, fit
from modeling_lfm.scripts import analyze, prepare_data, train
from modeling_lfm.scripts import eval as eval_program
from modeling_lfm.scripts.common.own_data import complete
from tests.data.media import image_bytes

TOWER = {"tower": "timm", "name": "resnet10t", "model_args": {"channels": [4] * 4, "stem_width": 4}}
WORDS = ["the cat sat down", "a dog ran off", "no bird sings here", "fish swim in the sea"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a table: of 60 rows a third has no photo (some name files that are not there), a third no words."""
    folder, rng = tmp_path_factory.mktemp("mine"), np.random.default_rng(0)
    for number in range(60):
        if number % 6:
            (folder / f"{number}.png").write_bytes(image_bytes(rng.integers(0, 256, (8, 8), dtype=np.uint8)))
    frame = pd.DataFrame(
        {
            "photo": [f"{number}.png" if number % 6 != 3 else None for number in range(60)],
            "words": [f"{WORDS[number % 4]} {number}" if number % 3 != 1 else float("nan") for number in range(60)],
            "size": rng.normal(size=60),
            "label": ["yes" if number % 2 else "no" for number in range(60)],
            "split": ["train"] * 36 + ["validation"] * 12 + ["test"] * 12,
        }
    )
    frame.to_csv(folder / "all.csv", index=False)
    return folder


def words_of(folder, *more):
    options = ["table", "--data_dir", str(folder), "--benchmark_options.train_file", "all.csv", "--use_cpu"]
    options += ["--num_train_epochs", "1", "--hidden_size", "16", "--modalities.photo", json.dumps(TOWER)]
    return [*options, "--processor.photo.size", "[8, 8]", *more]


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    line = words_of(folder, "--output_dir", str(out), "--missing", "absent", "--do_predict")
    trainer, metrics = train.train(*train.parse_arguments(line))
    return trainer, metrics, out


def test_an_error_by_default_and_a_method_that_refuses_before_data_is_prepared(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_lfm.scripts.common.runs.prepare", lambda *args: pytest.fail("data is prepared"))
    message = r"train: photo 12, words 12 of 36; .*sample 0, column 'photo': no file at .*0\.png"
    with pytest.raises(ValueError, match=message):
        train.main(words_of(folder, "--output_dir", str(tmp_path / "a")))
    line = words_of(folder, "--output_dir", str(tmp_path / "a"), "--missing", "absent", "--method", "pmr")
    with pytest.raises(ValueError, match="method pmr takes no samples that lack a modality"):
        train.main(line)
    with pytest.raises(ValueError, match="missing='yes'"):
        train.main(words_of(folder, "--missing", "yes"))


def test_training_and_evaluation_count_what_is_there(trained, folder, tmp_path, capsys):
    trainer, metrics, out = trained
    assert metrics["test_photo_samples"] == metrics["test_words_samples"] == 8
    assert "test_table_samples" not in metrics
    assert json.loads((out / "test_results.json").read_text())["test_words_samples"] == 8
    assert "8 samples" in (out / "README.md").read_text()
    print(train.summarise(metrics, trainer.model.config.modality_names, "test"))
    assert "of 8 samples" in capsys.readouterr().out
    report = tmp_path / "report.json"
    eval_program.main(["--checkpoint", str(out), "--data_dir", str(folder), "--output", str(report), "--use_cpu"])
    found = json.loads(report.read_text())
    assert found["photo_samples"] == 8
    assert found["samples"] == 12
    assert found["accuracy"] == pytest.approx(metrics["test_accuracy"])
    with pytest.raises(ValueError, match=r"photo 4, words 4 of 12"):
        eval_program.main(["--checkpoint", str(out), "--data_dir", str(folder), "--missing", "error"])


def test_one_modality_alone_is_trained_on_those_that_have_it(folder, tmp_path):
    line = words_of(folder, "--output_dir", str(tmp_path / "a"), "--missing", "absent", "--method", "unimodal_1")
    trainer, _ = train.train(*train.parse_arguments([*line, "--processor.photo.augment", "true"]))
    assert len(trainer.train_dataset) == 24  # drawn anew in each epoch
    assert list(trainer.model.config.modalities) == ["photo"]


def test_figures_are_of_whole_samples(trained, folder, tmp_path, capsys):
    _, _, out = trained
    line = ["--checkpoint", str(out), "--data_dir", str(folder), "--output", str(tmp_path), "--use_cpu"]
    analyze.main([*line, "--figures", "agreement", "contributions"])
    assert "figures are of the 4 of 12 samples that have every modality" in capsys.readouterr().out
    assert list(tmp_path.glob("contributions*.json"))


def test_shards_train_to_the_same_weights(trained, folder, tmp_path):
    """Also where the columns are told in another way than they are stored."""
    trainer, metrics, _ = trained
    prepared = ["--benchmark", "table", "--data_dir", str(folder), "--benchmark_options.train_file", "all.csv"]
    prepared += ["--output", str(tmp_path / "prepared"), "--num_proc", "1", "--processor.photo.size", "[8, 8]"]
    with pytest.raises(ValueError, match="train: photo 12, words 12 of 36"):
        prepare_data.main(prepared)
    prepare_data.main([*prepared, "--missing", "absent"])
    columns = "{photo: photo, words: {column: words}, table: [size]}"
    line = words_of(tmp_path / "prepared", "--benchmark_options.table_columns", columns)
    line += ["--output_dir", str(tmp_path / "out"), "--do_predict"]
    again, found = train.train(*train.parse_arguments(line))
    assert found["test_loss"] == metrics["test_loss"]
    for one, other in zip(again.model.parameters(), trainer.model.parameters(), strict=True):
        assert one.equal(other)
    rows = pd.read_csv(folder / "all.csv").assign(photo=str(folder / "1.png"))
    assert set(Predictor.load(tmp_path / "out").predict(rows)) <= {"yes", "no"}
    with pytest.raises(ValueError, match="method agm takes no samples"):
        train.main([*line[:-1], "--output_dir", str(tmp_path / "other"), "--method", "agm"])


def test_fit_on_a_frame_with_holes(folder, tmp_path, capsys):
    frame = pd.read_csv(folder / "all.csv")
    frame["photo"] = [str(folder / name) if isinstance(name, str) else None for name in frame.photo]
    settings = {"num_train_epochs": 1, "hidden_size": 16, "use_cpu": True, "modalities": {"photo": TOWER}}
    predictor = fit(frame, output_dir=tmp_path / "run", processor={"photo": {"size": [8, 8]}}, **settings)
    assert "missing: absent, as samples lack modalities (train: photo 12, words 12 of 36;" in capsys.readouterr().out
    told = yaml.safe_load((tmp_path / "run" / "fit.yaml").read_text())
    assert told["missing"] == "absent"
    assert predictor.metrics["eval_photo_samples"] == 8
    whole = frame[frame.photo.map(lambda path: not isinstance(path, str) or path in map(str, folder.iterdir()))]
    assert len(predictor.predict(whole)) == len(whole) == 50
    answer = next(iter(predictor.answers(frame[1:2])))
    assert set(answer["modalities"]) == {"photo", "table"}
    frame.dropna()[["words", "size", "label"]].to_csv(tmp_path / "whole.csv", index=False)
    given = {"benchmark": "table", "data_dir": str(tmp_path), "benchmark_options": {"train_file": "whole.csv"}}
    assert complete({**given, "output_dir": str(tmp_path / "other"), "missing": None})["missing"] == "error"
