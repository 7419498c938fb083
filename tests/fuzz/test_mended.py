"""Kinds of faults that the suite has found: one case of each."""

import numpy as np
import pytest
import yaml

from modeling_lfm.data import load_benchmark
from modeling_lfm.scripts.common.settings import read_config
from modeling_lfm.scripts.common.training import parse_arguments
from modeling_lfm.trainer import LfmTrainingArguments

from ..data.media import write_video
from ..scripts.conftest import ROOT
from .media import process


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
        {"num_proc": 0},
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


@pytest.mark.parametrize("rate", ["x", 0, -8000, float("nan"), 10**12])
def test_the_sampling_rate_of_an_array_is_a_number(rate):
    with pytest.raises(ValueError, match="sampling_rate"):
        process("audio", {"array": np.ones(9000), "sampling_rate": rate})


@pytest.mark.parametrize(("first", "last"), [("a", 2), (1.5, 2), (None, "x"), (float("nan"), 3)])
def test_the_frames_of_a_cut_are_whole_numbers(tmp_path, first, last):
    path = write_video(tmp_path / "a.avi", frames=8, sound=None)
    with pytest.raises(ValueError, match=r"a\.avi.*first_frame"):
        process("video", {"bytes": None, "path": str(path), "first_frame": first, "last_frame": last})
