"""The programs, end to end: train, look at what was written, resume, evaluate, predict, in processes of their own."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from accelerate.commands import launch
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline

from modeling_lfm import LfmForMultimodalClassification, LfmProcessor, Predictor
from modeling_lfm.data import load_benchmark
from modeling_lfm.data.sources import SOURCES
from modeling_lfm.scripts import eval as eval_program
from modeling_lfm.scripts import predict as predict_program
from modeling_lfm.scripts import push_to_hub as card_program
from modeling_lfm.scripts import quickstart as quickstart_program
from modeling_lfm.scripts import train as train_program
from modeling_lfm.scripts.common import runs
from modeling_lfm.trainer import LfmDataCollator
from modeling_lfm.trainer.methods import METHODS, list_methods
from tests.trainer.cards import check_card

from .conftest import ROOT
from .servers import serving


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Files of one test sample: a wav, a png."""
    folder = tmp_path_factory.mktemp("sample")
    rng = np.random.default_rng(0)
    soundfile.write(folder / "a.wav", (0.1 * rng.normal(size=8000)).astype(np.float32), 8000)
    Image.fromarray(rng.integers(0, 255, (28, 28), dtype=np.uint8)).save(folder / "b.png")
    return folder


def test_run_leaves_the_standard_files(trained):
    names = {path.name for path in trained.iterdir()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "all_results.json",
        "train_results.json",
        "eval_results.json",
        "test_results.json",
        "trainer_state.json",
        "lfm_run.json",
        "alpha.png",
        "accuracy.png",
        "gap.png",
        "README.md",
    }
    state, results = read(trained / "trainer_state.json"), read(trained / "all_results.json")
    assert next(entry["alpha"] for entry in state["log_history"] if "loss_cls" in entry) == pytest.approx(0.95)
    assert results["test_accuracy"] == read(trained / "test_results.json")["test_accuracy"]
    best = max(entry["eval_accuracy"] for entry in state["log_history"] if "eval_accuracy" in entry)
    assert results["eval_accuracy"] == state["best_metric"] == best


def test_run_tells_of_itself_in_a_card(trained, tmp_path, capsys):
    metadata, text = check_card(trained / "README.md"), (trained / "README.md").read_text(encoding="utf-8")
    results, record = read(trained / "test_results.json"), read(trained / "lfm_run.json")
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"] == {"type": "demo", "name": SOURCES["demo"].title, "split": "test"}
    assert result["metrics"][0]["value"] == round(results["test_accuracy"], 4)
    assert record["data"]["samples"] == {"train": 96, "validation": 40, "test": 40}
    assert record["data"]["majority"].keys() == {"train", "validation", "test"}
    assert "10 held out for the method, 40 to validate, 40 to test" in text
    assert record["run"]["training"]["seed"] == 3
    assert str(trained.parent) not in (trained / "lfm_run.json").read_text()
    settings = ["--license", "mit", "--repo_id", "me/demo", "--tags", "digits", "voices"]
    card_program.main(["--card_only", "--checkpoint", str(trained), "--output", str(tmp_path), *settings])
    assert f"model card: {tmp_path / 'README.md'}" in capsys.readouterr().out
    again = check_card(tmp_path / "README.md")
    assert again["license"] == "mit"
    assert again["tags"] == [*metadata["tags"], "digits", "voices"]
    assert 'model="me/demo"' in (tmp_path / "README.md").read_text()


def test_results_of_an_earlier_run_do_not_pass_for_those_of_a_new_one(tmp_path):
    for name in ("test_results.json", "all_results.json", "trainer_state.json", "alpha.png"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    runs.forget_results(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_share_of_the_most_frequent_class():
    labels = {"train": [0, 1, 1], "test": [1, 0, 0, 0]}
    counts = runs.count_samples({split: Dataset.from_dict({"labels": given}) for split, given in labels.items()})
    assert counts == {"samples": {"train": 3, "test": 4}, "majority": {"train": pytest.approx(2 / 3), "test": 0.25}}
    several = Dataset.from_dict({"labels": [[0, 1], [1, 1]]})
    assert runs.count_samples({"train": several}) == {"samples": {"train": 2}}


@pytest.fixture(scope="module")
def trained_here(tiny_config, tmp_path_factory):
    """The trainer of the same run, without the test split, still in the process that trained it."""
    argv = [str(tiny_config), "--output_dir", str(tmp_path_factory.mktemp("here")), "--seed", "3"]
    trainer, _ = train_program.train(*train_program.parse_arguments(argv))
    return trainer


def test_training_is_reproducible(trained, trained_here):
    here = Path(trained_here.args.output_dir)
    again, first = (load_file(folder / "model.safetensors") for folder in (here, trained))
    assert again.keys() == first.keys()
    assert all(torch.equal(again[key], first[key]) for key in first)
    assert not (here / "test_results.json").exists(), "the test split is touched only when asked"


def test_eval_repeats_the_test_metrics_and_builds_on_what_is_remembered(trained, tmp_path, capsys):
    output = tmp_path / "deep" / "metrics.json"
    words = ["--checkpoint", trained, "--split", "test", "--max_samples", 40, "--output", output, "--use_cpu"]
    eval_program.main(list(map(str, words)))
    metrics, expected = read(output), read(trained / "test_results.json")
    told = capsys.readouterr()
    assert json.loads(told.out) == metrics
    assert "Warning" not in told.err
    assert metrics["samples"] == 40
    for key in ("accuracy", "map", "f1", "gap", "audio_accuracy", "image_accuracy", "audio_map", "image_f1", "loss"):
        assert metrics[key] == pytest.approx(expected[f"test_{key}"], abs=1e-6), key
    for key in ("without_audio_accuracy", "without_image_map", "without_audio_f1"):
        assert metrics[key] == pytest.approx(expected[f"test_{key}"], abs=1e-6), key


def test_eval_leaves_modalities_out(trained, capsys):
    words = ["--checkpoint", str(trained), "--split", "test", "--max_samples", "40", "--use_cpu"]
    eval_program.main([*words, "--drop", "audio"])
    metrics, expected = json.loads(capsys.readouterr().out), read(trained / "test_results.json")
    for key in ("accuracy", "map", "f1"):
        assert metrics[key] == pytest.approx(expected[f"test_without_audio_{key}"], abs=1e-6)
    assert metrics["image_accuracy"] == pytest.approx(expected["test_image_accuracy"], abs=1e-6)
    assert metrics["dropped"] == ["audio"]
    assert not any(key.startswith("audio") for key in metrics)
    for drop, message in ((["sound"], "cannot leave out sound"), (["audio", "image"], "one of which has to stay")):
        with pytest.raises(ValueError, match=message):
            eval_program.main([*words, "--drop", *drop])


def test_predict_tells_what_the_trained_model_does(trained_here, sample, capsys, monkeypatch):
    monkeypatch.chdir(sample)
    predict_program.main(["--checkpoint", trained_here.args.output_dir, "--input", "audio=a.wav", "image=b.png"])
    report = json.loads(capsys.readouterr().out)
    model, processor = trained_here.model.eval(), LfmProcessor.from_pretrained(trained_here.args.output_dir)
    loaded = LfmForMultimodalClassification.from_pretrained(trained_here.args.output_dir).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())
    files = {"audio": [sample / "a.wav"], "image": [sample / "b.png"]}
    with torch.no_grad():
        output = model(**processor(**files, return_tensors="pt"))
    temperatures = model.config.calibration["temperatures"]
    for name, logits, part in (
        ("fused", output.logits, report),
        ("audio", output.modality_logits[0], report["modalities"]["audio"]),
        ("image", output.modality_logits[1], report["modalities"]["image"]),
    ):
        probabilities = (logits[0].double() / temperatures[name]).softmax(-1)
        found = {entry["label"]: entry["probability"] for entry in part["probabilities"]}
        # Not to the bit: where a weight lies in memory decides how the processor adds up.
        assert found == pytest.approx(
            {model.config.id2label[i]: p.item() for i, p in enumerate(probabilities)}, rel=1e-5
        )
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert part["label"] == model.config.id2label[int(probabilities.argmax())]


def test_several_models_are_evaluated_and_predict_as_one(trained, sample, tmp_path, capsys, caplog):
    """By the mean of their probabilities; what is told of one, such as its data set, is that of the first."""
    folders = [str(trained), *map(str, sorted(trained.glob("checkpoint-*")))]
    assert len(folders) == 3
    predictor, reports = Predictor.load(*folders), []
    for folder in ("", *folders):
        words = ["--checkpoint", *([folder] if folder else folders), "--audio", sample / "a.wav", "--top_k", 10]
        predict_program.main([*map(str, words), "--image", str(sample / "b.png"), "--calibrated", "false"])
        report = json.loads(capsys.readouterr().out)
        reports.append({entry["label"]: entry["probability"] for entry in report["probabilities"]})
    mean = {label: sum(report[label] for report in reports[1:]) / 3 for label in reports[0]}
    assert reports[0] == pytest.approx(mean, rel=1e-5)
    table = [{"audio": str(sample / "a.wav"), "image": str(sample / "b.png")}]
    assert predictor.predict_proba(pd.DataFrame(table)).iloc[0].to_dict() == pytest.approx(mean, rel=1e-5)

    eval_program.main(["--checkpoint", *folders, "--max_samples", "40", "--use_cpu"])
    metrics = json.loads(capsys.readouterr().out)
    args = runs.complete(eval_program.EvalArguments(checkpoint=folders, max_samples=40), folders[0])
    batch = LfmDataCollator(predictor.processor)(
        list(runs.load_split(args, predictor.model.config, predictor.processor))
    )
    labels = batch.pop("labels")
    with torch.no_grad():
        each = [LfmForMultimodalClassification.from_pretrained(folder)(**batch).logits for folder in folders]
    mean = sum(logits.softmax(-1) for logits in each) / 3
    assert metrics["loss"] == pytest.approx(-mean.log()[range(40), labels].mean().item(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx((mean.argmax(-1) == labels).float().mean().item())
    with pytest.raises(ValueError, match="checkpoint is empty"):
        runs.load_together([])
    other = shutil.copytree(trained, tmp_path / "other", ignore=shutil.ignore_patterns("checkpoint-*"))
    record = read(other / "lfm_run.json")
    (other / "lfm_run.json").write_text(json.dumps({**record, "benchmark_options": {"seed": 5}}))
    runs.complete(eval_program.EvalArguments(checkpoint=folders), *folders)
    assert "may know" not in caplog.text
    runs.complete(eval_program.EvalArguments(checkpoint=folders), folders[0], str(other))
    assert "other may know the samples of the split: it was trained with benchmark_options={'seed': 5}" in caplog.text


def test_predict_leaves_out_what_is_not_given(trained, sample, capsys):
    classifier = pipeline("multimodal-classification", model=str(trained))
    files = {"audio": str(sample / "a.wav"), "image": str(sample / "b.png")}
    for given in (["audio"], ["image"], ["audio", "image"]):
        words = [word for name in given for word in (f"--{name}", files[name])]
        predict_program.main(["--checkpoint", str(trained), *words, "--top_k", "3"])
        report = json.loads(capsys.readouterr().out)
        answer = classifier({name: files[name] for name in given}, top_k=3)
        assert list(report["modalities"]) == given
        pairs = [(report, answer), *((report["modalities"][name], answer["modalities"][name]) for name in given)]
        for found, expected in pairs:
            assert found["label"] == expected["label"]
            assert [(row["label"], row["probability"]) for row in found["probabilities"]] == [
                (row["label"], pytest.approx(row["score"], rel=1e-5)) for row in expected["scores"]
            ]


def test_predict_fetches_addresses(trained, sample, capsys, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    reports = []
    with serving(lambda method, path, body: (200, {}, (sample / path[1:]).read_bytes())) as url:
        for place in (sample, url):
            predict_program.main(
                ["--checkpoint", str(trained), "--audio", f"{place}/a.wav", "--image", f"{place}/b.png"]
            )
            reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == reports[1]


def test_one_modality_trains_evaluates_and_predicts(tiny_config, tmp_path, sample, capsys):
    argv = [str(tiny_config), "--output_dir", str(tmp_path), "--method", "unimodal_2"]
    train_program.main([*argv, "--num_train_epochs", "1", "--columns", "{audio: audio, image: image}"])
    eval_program.main(["--checkpoint", str(tmp_path), "--split", "validation", "--max_samples", "40"])
    metrics = json.loads(capsys.readouterr().out.split("\n{")[-1].join(["{", ""]))
    assert metrics["gap"] == 0
    assert metrics["accuracy"] == metrics["image_accuracy"]
    predict_program.main(["--checkpoint", str(tmp_path), "--input", f"image={sample / 'b.png'}", "--top_k", "2"])
    report = json.loads(capsys.readouterr().out)
    assert len(report["probabilities"]) == 2
    assert set(report["modalities"]) == {"image"}


def test_classes_of_another_data_set_are_refused(trained):
    model = LfmForMultimodalClassification.from_pretrained(trained)
    raw = load_benchmark("demo", split="test")
    runs.check_labels(model.config, raw, "demo")
    model.config.id2label = {i: f"other {i}" for i in range(model.config.num_labels)}
    with pytest.raises(ValueError, match="the model knows"):
        runs.check_labels(model.config, raw, "demo")


def fails(main, argv, capsys):
    """What `run` prints for `argv`: one line on stderr, and status 2."""
    from modeling_lfm.scripts.common.console import run

    with pytest.raises(SystemExit) as stop:
        run(lambda: main([str(word) for word in argv]))
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_bad_input_ends_the_program_with_one_sentence():
    command = [sys.executable, ROOT / "scripts" / "train.py", "nowhere.yaml"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert re.fullmatch(r"error: no configuration at nowhere\.yaml.*\n", result.stderr)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.yaml"], "no configuration at nowhere.yaml"),
        ([], "one CONFIG is expected"),
        (["CONFIG", "--lerning_rate", "1"], "unknown setting 'lerning_rate'; did you mean 'learning_rate'?"),
        (["CONFIG", "--benchmark", "imagenet"], "imagenet"),
        (["CONFIG", "--processor", "{audio: {type: spectrogram}}"], "processor has no entry for the modalities image"),
        (["CONFIG", "--modalities.audio.tower", "resnet"], "unknown tower 'resnet'"),
        (["CONFIG", "--modalities.audio.name", "resnet19"], "resnet19"),
        (["CONFIG", "--columns.sound", "audio"], "columns names ['sound']"),
        (["CONFIG", "--fusion", "magic"], "magic"),
        (["CONFIG", "--method", "ogm", "--fusion", "weight"], "ogm trains models of fusion concat or sum, not weight"),
        (["CONFIG", "--method", "magic"], "unknown method 'magic'"),
        (["CONFIG", "--alpha", "0.3"], "did you mean --method.alpha?"),
        (["CONFIG", "--fusion_args.ratio", "2"], "fusion_args"),
        (["CONFIG", "--resume_from_checkpoint", "true"], "no checkpoint to resume from"),
        (["CONFIG", "--resume_from_checkpoint", "/nowhere"], "/nowhere"),
        (["CONFIG", "--benchmark_options.no_such", "1"], "no_such"),
        (["CONFIG", "--max_train_samples", "0"], "max_train_samples=0"),
    ],
)
def test_bad_input_of_train(tiny_config, tmp_path, capsys, words, message):
    argv = [tiny_config if word == "CONFIG" else word for word in words]
    argv += ["--output_dir", tmp_path / "run"] if words else []
    assert message in fails(train_program.main, argv, capsys)


def test_a_wrong_model_is_told_before_data_is_prepared(tiny_config, tmp_path, capsys, monkeypatch):
    tower = ["--modalities.image.name", "test_vit", "--modalities.image.model_args", "{img_size: 16}"]
    monkeypatch.setattr("modeling_lfm.scripts.common.runs.prepare", lambda *args: pytest.fail("data is prepared"))
    argv = [tiny_config, "--method", "mmtm", *tower, "--output_dir", tmp_path / "run"]
    assert "modality 'image' (test_vit)" in fails(train_program.main, argv, capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", "/nowhere/run"], "no model at /nowhere/run"),
        (["--checkpoint", "EMPTY"], "holds no model"),
        (["--checkpoint", "RUN", "--split", "dev"], "choose train, validation or test"),
        (["--checkpoint", "RUN", "--benchmark", "imagenet"], "imagenet"),
        ([], "'checkpoint' is missing"),
        (["RUN"], "is not a setting"),
    ],
)
def test_bad_input_of_eval(trained, tmp_path, capsys, words, message):
    places = {"RUN": trained, "EMPTY": tmp_path}
    assert message in fails(eval_program.main, [places.get(word, word) for word in words], capsys)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["audio=a.wav", "image=nowhere.png"], "no file at"),
        ([], "input is empty"),
        (["image=file:///b.png"], "'file:///b.png' is not read"),
        (["audio=a.wav", "imag=b.png"], "unknown modality 'imag'; did you mean 'image'"),
        (["a.wav"], "should be MODALITY=VALUE"),
        (["audio=b.png", "image=b.png"], "b.png"),
        (["audio=a.wav", "image=a.wav"], "a.wav"),
    ],
)
def test_bad_input_of_predict(trained, sample, capsys, monkeypatch, pairs, message):
    monkeypatch.chdir(sample)
    assert message in fails(predict_program.main, ["--checkpoint", trained, "--input", *pairs], capsys)


def test_help_lists_every_training_setting(capsys):
    with pytest.raises(SystemExit) as stop:
        train_program.main(["--help_training"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "--learning_rate" in printed
    assert "--holdout" in printed


def test_the_list_of_methods_tells_what_each_is_and_its_settings(capsys):
    train_program.main(["--list_methods"])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 160
    blocks = printed.split("\n\n")
    for spec in list_methods():
        (block,) = [" ".join(block.split()) for block in blocks if block.split()[0] == spec.name]
        for part in (spec.label, spec.note, spec.venue, *(spec.fusions or ["any"]), spec.formula, spec.extra_passes):
            assert " ".join(part.split()) in block
        known = fields(METHODS[spec.name].Settings)
        assert all(f" {f.name}=" in block for f in known) if known else block.endswith("settings: none")


def test_quickstart_compares_three_runs_and_can_be_repeated(trained, tmp_path, capsys):
    for name in quickstart_program.RUNS:  # an earlier one
        shutil.copytree(trained, tmp_path / name)
    earlier = {path.name for path in trained.glob("checkpoint-*")}
    argv = ["--output_dir", str(tmp_path), "--num_train_epochs", "1", "--max_train_samples", "64"]
    argv += ["--max_eval_samples", "20", "--max_test_samples", "20", "--hidden_size", "8", "--use_cpu"]
    quickstart_program.main(argv)
    printed = capsys.readouterr().out
    results = read(tmp_path / "results.json")
    for name, alpha in (("concat", []), ("heuristic", ["0.63"]), ("learned", ["0.95"])):
        title = quickstart_program.TITLES[name]
        row, *alphas = [
            line.removeprefix(title).split() for line in printed.splitlines() if line.startswith(title + " ")
        ]
        fused, audio, image = (100 * results[name][f"test_{part}accuracy"] for part in ("", "audio_", "image_"))
        assert [float(value) for value in row[:3]] == pytest.approx([fused, audio, image], abs=0.051)
        assert float(row[-1]) == pytest.approx(abs(audio - image), abs=0.051)
        assert alphas == ([alpha] if alpha else [])
        assert (tmp_path / name / "model.safetensors").is_file()
        assert not earlier & {path.name for path in (tmp_path / name).iterdir()}
    assert (tmp_path / "alpha.png").is_file()
    assert (tmp_path / "accuracy.png").is_file()


def test_accelerate_on_cpu_that_starts_one_process_is_noted(capfd):
    """`accelerate launch --cpu --num_processes 2` starts one, without a word of its own."""
    words = ["--cpu", "--num_processes", "2", str(ROOT / "scripts" / "train.py"), "no_such_configuration"]
    with pytest.raises(subprocess.CalledProcessError):
        launch.launch_command(launch.launch_command_parser().parse_args(words))
    told = capfd.readouterr().err
    assert "note: accelerate started one process only" in told
    assert "error: no configuration at no_such_configuration" in told
