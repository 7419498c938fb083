"""analyze.py as a user calls it: figures, numbers and page of a run on the demo, and what is wrong with its input."""

import contextlib
import io
import json
import shutil

import pytest
import torch
import yaml
from PIL import Image

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.data.benchmarks.demo import WORDS
from modeling_lfm.scripts import analyze, train
from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.experiments.run import write_record
from modeling_lfm.trainer.analysis import make_initial
from tests.scripts.conftest import ROOT, TOWER

QUICK = ["--max_samples", "3", "--use_cpu"]
LOG = [
    {"loss": 2.0, "loss_cls": 1.5, "loss_mm": 0.1, "alpha": 0.95, "epoch": 1.0},
    {"hypergradient": 0.5, "hypergradient_cosine": 0.2, "alpha": 0.8, "epoch": 1.0},
    {"loss": 0.5, "loss_cls": 0.4, "loss_mm": 0.02, "alpha": 0.8, "epoch": 2.0},
]


def save_model(folder, seed, modalities=("audio", "image")):
    """A model of the demo data set that was not trained, and its processor."""
    settings = yaml.safe_load((ROOT / "scripts" / "configs" / "demo.yaml").read_text())
    torch.manual_seed(seed)
    config = LfmConfig(dict.fromkeys(modalities, TOWER), hidden_size=16, id2label=dict(enumerate(WORDS)))
    LfmForMultimodalClassification.from_towers(config).save_pretrained(folder)
    LfmProcessor({name: settings["processor"][name] for name in modalities}).save_pretrained(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a run leaves: a model, one of its first epoch, the log and the record."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    for number, (path, epoch) in enumerate([(folder, 2.0), (folder / "checkpoint-15", 1.0)]):
        save_model(path, number)
        (path / "trainer_state.json").write_text(json.dumps({"epoch": epoch, "log_history": LOG}))
    record = {"benchmark": "demo", "benchmark_options": {}, "columns": {}}
    record["run"] = {"training": {"seed": 3}, "pretrained": {}}
    (folder / "lfm_run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    """The program's folder and its output, for a checkpoint of the run and its model."""
    pytest.importorskip("captum")
    folder = tmp_path_factory.mktemp("analysis")
    results = folder / "figure_1"
    rows = {"one-hot labels": 0.9, "label smoothing 0.3": 0.8, "uniform labels": 0.3}
    test = {"audio_accuracy": 0.5, "image_accuracy": 0.4, "gap": 0.1}
    results.mkdir()
    for row, value in rows.items():
        write_record(results, "demo", row, 0, test={"accuracy": value, **test})
    words = ["--checkpoints", run / "checkpoint-15", f"last={run}", "--output", folder / "out", *QUICK]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        analyze.main([str(word) for word in [*words, "--label_fitting", results]])
    return folder / "out", output.getvalue()


def test_every_figure_is_written_as_png_and_numbers(page):
    folder, output = page
    figures = ["agreement", "alpha", "calibration", "contributions", "label_fitting", "modality_gap"]
    pictures = [*figures, "maps_audio", "maps_image"]
    assert sorted(path.stem for path in folder.glob("*.png")) == sorted(pictures)
    assert sorted(path.stem for path in folder.glob("*.json")) == sorted([*figures, "maps"])
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert 400 <= image.width <= 1100
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count("<img") == len(pictures)
    assert str(folder.parent) not in text, "no path of this machine"
    assert "left out" not in output
    assert "Where the model looks  (maps_audio.png" in output


def test_models_are_called_after_their_folders_or_by_the_names_given(page):
    folder, _ = page
    gap = json.loads((folder / "modality_gap.json").read_text())
    assert list(gap) == ["before training", "checkpoint-15", "last"]
    contributions = json.loads((folder / "contributions.json").read_text())
    assert list(contributions) == ["checkpoint-15", "last"]
    sample = contributions["last"]["per_sample"][0]
    assert sample["audio"] + sample["image"] == pytest.approx(sample["prediction"] - sample["baseline"], abs=1e-5)
    alpha = json.loads((folder / "alpha.json").read_text())
    assert list(alpha["runs"]) == ["run"], "a checkpoint of a run counts once"
    assert json.loads((folder / "agreement.json").read_text())["last"]["samples"] == 3


def test_a_run_that_was_trained_is_read_back(trained, tmp_path):
    first = sorted(trained.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[0]
    analyze.main(["--checkpoints", f"start={first}", "--output", str(tmp_path), "--figures", "alpha"])
    ((name, curve),) = json.loads((tmp_path / "alpha.json").read_text())["runs"].items()
    assert name == trained.name, "a checkpoint stands for its run"
    log = json.loads((trained / "trainer_state.json").read_text())["log_history"]
    alphas = [entry["alpha"] for entry in log if "loss" in entry]
    assert list(curve["alpha"].values()) == pytest.approx(alphas, abs=1e-6)


def remember(folder, **training):
    record = {"benchmark": "demo", "run": {"training": training, "pretrained": {}}}
    (folder / "lfm_run.json").write_text(json.dumps(record))


def start_of(models, folders):
    return make_initial(models, {name: runs.recall(folder).get("run", {}) for name, folder in folders.items()})


def test_the_model_before_training_is_the_one_that_train_makes(tiny_config, tmp_path):
    words = [str(tiny_config), "--output_dir", str(tmp_path), "--seed", "11", "--max_train_samples", "32"]
    trainer, _ = train.set_up(*train.parse_arguments(words))
    remember(tmp_path, seed=11)
    initial = start_of({"a": trainer.model}, {"a": str(tmp_path)})
    assert not initial.training
    pairs = zip(initial.parameters(), trainer.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_what_runs_remember_tells_the_start(run, tmp_path):
    folders = {}
    for name, seed in (("one", 4), ("other", 5)):
        folders[name] = shutil.copytree(run, tmp_path / name, ignore=shutil.ignore_patterns("checkpoint-*"))
        remember(folders[name], seed=seed)
    models, _ = runs.load_runs(folders)
    with pytest.raises(ValueError, match="the same weights"):
        start_of(models, folders)
    remember(folders["other"], seed=4)
    start_of(models, folders)
    remember(folders["one"])
    with pytest.raises(ValueError, match="seed"):
        start_of({"one": models["one"]}, {"one": folders["one"]})


def fail(*words):
    """The error of the program, which ends before any data is read."""
    with pytest.raises((ValueError, OSError)) as caught:
        analyze.main([str(word) for word in words])
    return str(caught.value)


def test_wrong_settings_are_told(run, tmp_path):
    assert "'checkpoint' is missing" in fail("--split", "test")
    assert "shap: unknown; choose of alpha" in fail("--checkpoint", run, "--figures", "shap")
    assert "split='dev' is unknown" in fail("--checkpoint", run, "--split", "dev")
    assert "no model (no config.json)" in fail("--checkpoint", tmp_path)
    assert "two folders are called 'run'" in fail("--checkpoints", run, f"run={run}/.")
    assert "no trainer_state.json" in fail("--checkpoint", run, "--runs", f"a={tmp_path}")
    for words in (("--label_fitting", tmp_path / "results"), ("--figures", "label_fitting")):
        assert "label_fitting: no results of the rows one-hot labels" in fail("--checkpoint", run, *words)
    assert "unknown setting 'checkpiont'; did you mean 'checkpoint'" in fail("--checkpiont", run)


def test_incomplete_checkpoints_are_told(run, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(run / name, bare)
    assert "holds no processor (no processor_config.json)" in fail("--checkpoint", bare)
    shutil.copy(run / "processor_config.json", bare)
    assert "does not remember its data set; give --benchmark" in fail("--checkpoint", bare)
    assert "nothing_like_it" in fail("--checkpoint", bare, "--benchmark", "nothing_like_it", *QUICK)
    log = "alpha: no alpha in the logs of no run"
    assert log in fail("--checkpoint", bare, "--benchmark", "demo", "--figures", "alpha")


def test_models_that_differ_are_not_compared(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("checkpoint-*"))
    config = json.loads((other / "config.json").read_text())
    config["id2label"]["0"], config["label2id"] = "nought", {}
    (other / "config.json").write_text(json.dumps(config))
    assert "other and run do not go together: their classes differ" in fail("--checkpoints", other, run)


def test_a_model_of_one_modality_has_what_one_can_show(tmp_path, capsys, monkeypatch):
    pytest.importorskip("captum")
    save_model(tmp_path / "single", 0, ["image"])
    monkeypatch.chdir(tmp_path)
    words = ["--checkpoint", "single", "--benchmark", "demo", "--max_samples", 3, "--use_cpu"]
    analyze.main([str(word) for word in words])
    output = capsys.readouterr().out
    assert "left out: contributions: a model of one modality" in output
    assert {path.stem for path in (tmp_path / "outputs/analysis").glob("*.png")} == {"maps_image", "calibration"}
    page = (tmp_path / "outputs/analysis/report.html").read_text()
    assert "Left out" in page


def test_help_names_every_figure(capsys):
    with pytest.raises(SystemExit):
        analyze.main(["--help"])
    printed = capsys.readouterr().out
    for name in ("alpha", "label_fitting", "modality_gap", "maps", "contributions", "agreement", "calibration"):
        assert f"  {name} " in printed
    assert "--label_fitting" in printed
