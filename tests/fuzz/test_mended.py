"""Kinds of faults that the suite has found: one case of each."""

import numpy as np
import pytest
import soundfile
import yaml

from modeling_lfm import LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.data import load_benchmark
from modeling_lfm.data.table import load_table
from modeling_lfm.scripts.common.settings import read_config
from modeling_lfm.scripts.common.training import parse_arguments
from modeling_lfm.trainer import LfmTrainingArguments

from ..data.media import write_video
from ..scripts.conftest import ROOT
from .checkpoints import make_text_model
from .media import process
from .numbers import EDITS, HEAD, LINES
from .numbers import process as process_numbers
from .odd import make_odd


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": float("nan")},
        {"learning_rate": -1},
        {"learning_rate": []},
        {"weight_decay": "nan"},
        {"num_train_epochs": float("nan")},
        {"per_device_train_batch_size": 0},
        {"gradient_accumulation_steps": -1},
        {"data_seed": 10**12},
        {"logging_strategy": -0.5},
        {"eval_strategy": []},
        {"method": []},
        {"max_eval_samples": 0},
        {"metrics": [1]},
        {"benchmark": ""},
        {"num_proc": 0},
        {"data_dir": "y" * 300},
        {"resume_from_checkpoint": "a/" + "é" * 128 + "/b"},
        {"benchmark_options": {"train_file": "y" * 300}},
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_setting(tmp_path, settings):
    file = tmp_path / "a.yaml"
    base = yaml.safe_load((ROOT / "scripts" / "configs" / "demo.yaml").read_text())
    file.write_text(yaml.safe_dump({**base, "use_cpu": True, **settings}))
    with pytest.raises(ValueError, match=next(iter(settings))):
        parse_arguments([str(file), "--output_dir", str(tmp_path)])


@pytest.mark.parametrize("text", ["a: !!bool 3", "a: !!timestamp x", "a: !!int y", "a: &a [*a]"])
def test_yaml_whose_tags_do_not_fit_is_no_yaml(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"a\.yaml"):
        read_config(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    "options", [{"image_noise": []}, {"image_noise": float("nan")}, {"seed": 1.5}, {"seed": None}, {"seed": -1}]
)
def test_options_of_a_benchmark_have_types(options):
    with pytest.raises(ValueError, match=f"benchmark_options.{next(iter(options))}"):
        load_benchmark("demo", split="test", **options)


def test_settings_of_a_method_are_numbers(tmp_path):
    with pytest.raises(ValueError, match="alpha"):
        LfmTrainingArguments(str(tmp_path), method={"name": "ogm", "alpha": float("nan")}, use_cpu=True)


@pytest.mark.parametrize("value", [-1, "yes", 0, None])
def test_a_switch_of_a_modality_is_true_or_false(value):
    with pytest.raises(ValueError, match=r"'audio'.*in_model"):
        LfmProcessor({"audio": {"type": "spectrogram", "in_model": value}})


@pytest.mark.parametrize("rate", ["x", 0, -8000, float("nan"), 10**12])
def test_the_sampling_rate_of_an_array_is_a_number(rate):
    with pytest.raises(ValueError, match="sampling_rate"):
        process("audio", {"array": np.ones(9000), "sampling_rate": rate})


@pytest.mark.parametrize(("first", "last"), [("a", 2), (1.5, 2), (None, "x"), (float("nan"), 3)])
def test_the_frames_of_a_cut_are_whole_numbers(tmp_path, first, last):
    path = write_video(tmp_path / "a.avi", frames=8, sound=None)
    with pytest.raises(ValueError, match=r"a\.avi.*first_frame"):
        process("video", {"bytes": None, "path": str(path), "first_frame": first, "last_frame": last})


@pytest.mark.parametrize(
    "name", ["a column twice", "the label twice", "all rows longer", "a pipe", "a folder for a file", "a path with NUL"]
)
def test_a_table_that_would_be_read_otherwise_than_it_is_meant(name, tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(b"")
    make_odd(tmp_path / "pipe.png", "pipe")
    (tmp_path / "a.png").mkdir()
    head, lines = EDITS[name][0](HEAD, LINES)
    (tmp_path / "a.csv").write_text("\n".join([head, *lines]))
    with pytest.raises(ValueError, match=r"a\.csv.*(label|age)|a\.csv.*[Ll]ength|'photo'.*png"):
        load_table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("modality", "value"),
    [("vector", [1e308] * 60), ("row", {"age": 1e308, "fare": 1, "sex": "f"}), ("sequence", [[1e308] * 3])],
)
def test_numbers_that_the_model_cannot_hold(modality, value):
    with pytest.raises(ValueError, match=r"1e\+308"):
        process_numbers(modality, value)


def test_flac_whose_beginning_is_missing(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(0).normal(size=32000) / 9, 8000)
    content = (tmp_path / "a.flac").read_bytes()
    for cut in range(500, 6000, 500):
        (tmp_path / "a.flac").write_bytes(content[cut:])
        with pytest.raises(ValueError, match=r"a\.flac"):
            process("audio", str(tmp_path / "a.flac"))


def test_a_wav_file_that_was_cut(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(size=16000) / 9, 8000)
    content = (tmp_path / "a.wav").read_bytes()
    process("audio", content[:4] + b"\xff\xff\xff\xff" + content[8:])  # as programs write it that do not know the end
    (tmp_path / "a.wav").write_bytes(content[:6000])
    with pytest.raises(ValueError, match=r"a\.wav is cut short"):
        process("audio", str(tmp_path / "a.wav"))


def test_a_pipe_among_the_shards_of_a_model(tmp_path):
    shard = max(make_text_model(tmp_path / "model").glob("*.safetensors"))
    make_odd(shard, "pipe")
    with pytest.raises(ValueError, match=shard.name):
        LfmForMultimodalClassification.from_pretrained(tmp_path / "model")
