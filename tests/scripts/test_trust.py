"""What is wrong with files and settings is one sentence that names them; what does not fit, before the first step."""

import errno
import json
import shutil

import datasets
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.scripts import eval as eval_program
from modeling_lfm.scripts import predict as predict_program
from modeling_lfm.scripts import train as train_program
from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common.console import run, write_json
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.checkpoints import naming_full_disk
from modeling_lfm.trainer.fitting import check_parts

from .test_six_benchmarks import NARROW, tokenizer  # noqa: F401


def fails(main, argv, capsys):
    """What `run` prints for `argv`."""
    with pytest.raises(SystemExit) as stop:
        run(lambda: main([str(word) for word in argv]))
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return next(line for line in told.splitlines() if line.startswith("error: "))


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("model.safetensors", None, "model.safetensors"),
        ("model.safetensors", "a folder", "model.safetensors"),
        ("config.json", b"[1]", "config.json"),
        ("config.json", b"{", "config.json"),
        ("processor_config.json", b"\xff", "processor_config.json"),
        ("lfm_run.json", b"[]", "lfm_run.json"),
        ("lfm_run.json", b'{"benchmark": 3}', "benchmark"),
        ("lfm_run.json", b'{"benchmark": "demo", "columns": []}', "columns"),
    ],
)
def test_damaged_files_of_a_run_are_named(trained, tmp_path, capsys, name, content, named):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    whole = (folder / name).read_bytes()
    if content == "a folder":
        (folder / name).unlink()
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert named in fails(eval_program.main, ["--checkpoint", folder, "--max_samples", "4", "--use_cpu"], capsys)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(trained, tmp_path, capsys, value):
    folder = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = load_file(folder / "model.safetensors")
    weights["lfm.projections.image.bias"][0] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    line = fails(eval_program.main, ["--checkpoint", folder, "--max_samples", "4", "--use_cpu"], capsys)
    assert str(folder) in line
    assert "lfm.projections.image.bias" in line


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--metric_for_best_model", "acuracy"], "did you mean 'accuracy'"),
        (["--modalities.audio.model_args.chanels", "[8]"], "'audio'.*chanels"),
        (["--modalities.audio.frontend", "true"], "'audio'.*frontend"),
        (["--modalities.audio.in_chans", "3"], "'audio'.*in_chans"),
        (["--max_train_samples", "33", "--holdout", "0"], "dataloader_drop_last"),
    ],
)
def test_what_does_not_fit_is_told_before_the_first_step(tiny_config, tmp_path, capsys, words, named):
    line = fails(train_program.main, [tiny_config, "--output_dir", tmp_path / "run", *words], capsys)
    assert all(part in line for part in named.split(".*"))


@pytest.mark.parametrize("main", [eval_program.main, predict_program.main])
def test_a_processor_of_another_model_is_told(main, trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    settings = json.loads((folder / "processor_config.json").read_text())
    del settings["modalities"]["image"]["num_channels"]
    (folder / "processor_config.json").write_text(json.dumps(settings))
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    words = ["--image", tmp_path / "a.png"] if main is predict_program.main else ["--max_samples", "4", "--use_cpu"]
    line = fails(main, ["--checkpoint", folder, *words], capsys)
    assert "image" in line
    assert "processor" in line


def test_sound_that_is_too_loud_for_its_numbers_is_named(trained, tmp_path, capsys):
    soundfile.write(tmp_path / "loud.wav", np.array([3e38, -3e38] * 4000, np.float32), 8000, subtype="FLOAT")
    assert "loud.wav" in fails(
        predict_program.main, ["--checkpoint", trained, "--audio", tmp_path / "loud.wav"], capsys
    )


@pytest.mark.parametrize("main", [eval_program.main, predict_program.main])
def test_where_a_result_cannot_be_written_is_told_first(main, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "load_run", lambda *args: pytest.fail("a model is read"))
    (tmp_path / "file").write_text("")
    for output in (tmp_path, tmp_path / "file" / "below.json"):
        assert f"output={output}" in fails(main, ["--checkpoint", trained, "--output", output], capsys)


def test_errors_of_any_kind_are_a_sentence(capsys, monkeypatch):
    def main(argv):
        return {}["missing"]

    assert "KeyError: 'missing'" in fails(main, [], capsys)
    monkeypatch.setenv("LFM_DEBUG", "1")
    with pytest.raises(KeyError):
        run(lambda: main([]))


def test_a_full_disk_is_named(tmp_path):
    for error in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left on device")):
        with pytest.raises(OSError, match="make room") as caught, naming_full_disk(tmp_path):
            raise error
        assert str(tmp_path) in str(caught.value)
        assert caught.value.errno == errno.ENOSPC
    with pytest.raises(KeyError), naming_full_disk(tmp_path):
        raise KeyError("a")


def test_json_is_valid_where_a_number_is_none(tmp_path, capsys):
    write_json({"a": [float("nan"), 1.5], "b": {"c": float("inf")}}, tmp_path / "a.json")
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": {"c": None}}
    assert "NaN" not in (tmp_path / "a.json").read_text()


def test_a_run_that_diverges_writes_json_that_every_reader_takes(tiny_config, tmp_path):
    words = ("--method", "concat", "--learning_rate", "1e6", "--max_train_samples", "32", "--num_train_epochs", "1")
    train_program.main([str(tiny_config), "--output_dir", str(tmp_path), *words])
    files = list(tmp_path.rglob("*.json"))
    assert {"trainer_state.json", "all_results.json", "manifest.json"} <= {file.name for file in files}
    found = [json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(f"{file}: {word}")) for file in files]  # noqa: B023
    assert any(entry.get("grad_norm", 0) is None for told in found for entry in told.get("log_history", ()))


def test_numbers_that_are_none_while_training_are_a_sentence(capsys):
    def main(argv):
        raise FloatingPointError("the hypergradient is not finite.")

    assert "learning_rate" in fails(main, [], capsys)


@pytest.mark.parametrize("words", [["--checkpoint"], ["--checkpoint", ""], ["--checkpoint", "run", "--data_dir", ""]])
def test_a_path_that_is_empty_is_none(words, capsys):
    assert words[-2 if words[-1] == "" else -1][2:] in fails(eval_program.main, words, capsys)


def test_a_long_value_is_told_in_part(capsys):
    def main(argv):
        raise ValueError(f"hidden_size={'y' * 5000} is not a number; mend run.yaml")

    line = fails(main, [], capsys)
    assert "hidden_size=" in line
    assert line.endswith("mend run.yaml")
    assert len(line) < 1000


@pytest.fixture
def text_trainer(tokenizer, tmp_path):  # noqa: F811
    """A function that makes a trainer of a text model, of two samples and two classes."""

    def make(max_length=8, vocab_size=10, labels=(0, 1), num_labels=2, added=(), **args):
        words = AutoTokenizer.from_pretrained(tokenizer)
        words.add_tokens(list(added))
        nested = {"model_type": "bert", **NARROW, "vocab_size": vocab_size, "max_position_embeddings": 16}
        config = LfmConfig(modalities={"t": {"tower": "transformers", "config": nested}}, num_labels=num_labels)
        processor = LfmProcessor(modalities={"t": {"type": "text", "max_length": max_length}}, tokenizer=words)
        samples = [{"t_input_ids": [3, 4], "labels": label} for label in labels]
        settings = LfmTrainingArguments(output_dir=str(tmp_path), use_cpu=True, method="concat", **args)
        model = LfmForMultimodalClassification(config)
        return LfmTrainer(model, settings, samples, processing_class=processor)

    return make


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_length": 17}, "'t'.*17.*16 positions.*processor.t.max_length"),
        ({"added": ["<new>"]}, "'t'.*11 tokens.*10"),
        ({"labels": (0, 2)}, "0 to 2.*2 classes"),
    ],
)
def test_tokens_and_classes_that_do_not_fit(text_trainer, changes, named):
    trainer = text_trainer()
    check_parts(trainer)
    trainer.processor = trainer.processor.tokenizer  # which a user may give in its place
    check_parts(trainer)
    with pytest.raises(ValueError, match=named):
        check_parts(text_trainer(**changes))


IMAGE = {"tower": "timm", "name": "test_resnet", "in_chans": 1}
NUMBERS = {"tower": "mlp", "in_features": 4}
CLASSES = torch.arange(9) % 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"numbers": {**NUMBERS, "in_features": 5}},
            r"'numbers'.*\(2, 4\) \(float32\).*mlp, in_features=5.*modalities",
        ),
        ({"image": {**IMAGE, "in_chans": 3}}, r"'image'.*\(2, 1, 8, 8\).*test_resnet, in_chans=3.*processor\.image"),
        ({"image": {"tower": "mlp", "in_features": 8}}, r"'image'.*it makes \(2, 1, 8, 128\).*not a vector a sample"),
        ({"numbers": IMAGE}, r"'numbers'.*\(B, C, H, W\).*got \(2, 4\)\. Change"),
        ({"per_device_train_batch_size": 1}, "batches of one sample .*per_device_train_batch_size"),
        ({"per_device_train_batch_size": 4}, "9 training samples in batches of 4 .*dataloader_drop_last"),
        ({"labels": CLASSES * 3}, "labels are from 0 to 3, .*2 classes"),
        ({"labels": CLASSES.float()}, "labels are of type float32, .*2 classes"),
        ({"labels": torch.eye(9)}, r"labels are of shape \(9, 9\), .*2 classes"),
        ({"labels": ["cat", "dog", "cat"] * 3}, "labels such as 'cat' are no numbers.*prepare_dataset"),
        ({"labels": CLASSES * 0, "num_labels": 1}, "labels are of one class, 'LABEL_0'"),
        ({"eval_labels": CLASSES * 3}, "eval_dataset: labels are from 0 to 3"),
    ],
)
def test_what_does_not_fit_is_told_by_the_trainer_before_the_first_step(changes, named, tmp_path):
    settings = {
        "image": IMAGE,
        "numbers": NUMBERS,
        "labels": CLASSES,
        "eval_labels": CLASSES,
        "num_labels": 2,
        **changes,
    }
    towers = {name: settings.pop(name) for name in ("image", "numbers")}
    train, validation = (
        [{"image_values": torch.zeros(1, 8, 8), "numbers_values": torch.zeros(4), "labels": label} for label in labels]
        for labels in (settings.pop("labels"), settings.pop("eval_labels"))
    )
    config = LfmConfig(towers, hidden_size=8)
    config.id2label = {number: f"LABEL_{number}" for number in range(settings.pop("num_labels"))}
    args = LfmTrainingArguments(str(tmp_path), use_cpu=True, method="concat", **settings)
    trainer = LfmTrainer(config, args, train, validation)
    with pytest.raises(ValueError, match=named):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_collator_of_the_user_may_make_classes_of_words_and_more_than_tensors(tmp_path):
    def collate(samples):
        return torch.utils.data.default_collate([{**one, "labels": len(one["labels"]) - 2} for one in samples])

    class Naming(LfmTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            return super().compute_loss(model, {k: v for k, v in inputs.items() if k != "who"}, *args, **kwargs)

    samples = [{"numbers_values": torch.zeros(4), "labels": word, "who": "me"} for word in ("no", "yes") * 4]
    args = LfmTrainingArguments(str(tmp_path), use_cpu=True, method="concat", num_train_epochs=1)
    config = LfmConfig({"numbers": NUMBERS}, hidden_size=8)
    trainer = Naming(config, args, samples, data_collator=collate)
    assert trainer.train().global_step == 1


def test_an_evaluation_names_the_modality_that_does_not_fit(tmp_path):
    config = LfmConfig({"image": IMAGE, "numbers": NUMBERS}, hidden_size=8)
    trainer = LfmTrainer(LfmForMultimodalClassification(config), LfmTrainingArguments(str(tmp_path), use_cpu=True))
    sample = {"image_values": torch.zeros(1, 8, 8), "numbers_values": torch.zeros(4), "labels": 1}
    assert trainer.evaluate([sample] * 2)["eval_gap"] in (0, 1)
    for measure in (trainer.evaluate, trainer.predict):
        with pytest.raises(ValueError, match=r"'numbers'.*in_features=4"):
            measure([{**sample, "numbers_values": torch.zeros(3)}] * 2)


def test_a_set_without_samples_is_left_to_the_evaluation(tmp_path):
    sample = {"numbers_values": torch.zeros(4), "labels": 1}
    empty = datasets.Dataset.from_list([{"numbers_values": [0.0] * 4, "labels": 1}]).select([])
    config, args = LfmConfig({"numbers": NUMBERS}), LfmTrainingArguments(str(tmp_path), use_cpu=True, method="concat")
    trainer = LfmTrainer(config, args, [sample] * 4, empty)
    check_parts(trainer)
    with pytest.raises(ValueError, match="labels are from 7 to 7"):  # which it finds in a set that has samples
        check_parts(LfmTrainer(config, args, [sample] * 4, [{**sample, "labels": 7}]))
    assert trainer.eval_dataset is empty


def test_samples_that_are_no_dicts_are_told(tmp_path):
    args = LfmTrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="a dict with the key 'labels', not a tuple"):
        LfmTrainer(LfmConfig({"a": NUMBERS}), args, torch.utils.data.TensorDataset(torch.zeros(20, 4), torch.zeros(20)))


def test_a_picture_that_a_vit_does_not_take_and_statistics_that_stay(tmp_path):
    rng = np.random.default_rng(0)

    def make(tower, size, number, **model_args):
        spec = {"tower": "timm", "name": tower, "model_args": model_args}
        config = LfmConfig(modalities={"a": spec}, num_labels=2, hidden_size=8)
        samples = [
            {"a_values": rng.normal(size=(3, size, size)).astype("float32"), "labels": n % 2} for n in range(number)
        ]
        args = LfmTrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, method="concat", per_device_train_batch_size=2
        )
        processor = LfmProcessor(modalities={"a": {"type": "image", "size": [size, size]}})
        return LfmTrainer(LfmForMultimodalClassification(config), args, samples, processing_class=processor)

    with pytest.raises(ValueError, match=r"'a'.*test_vit.*size"):
        check_parts(make("test_vit", 32, 4, dynamic_img_size=False))
    trainer = make("test_resnet", 64, 3)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    state = torch.get_rng_state()
    check_parts(trainer)
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
