"""One tiny run on the built-in data, trained as a user does, which the tests of the programs share."""

import os
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from .forks import run_program, start

ROOT = Path(__file__).resolve().parent.parent.parent
TOWER = {
    "tower": "timm",
    "name": "resnet18",
    "in_chans": 1,
    "model_args": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1], "stem_type": "deep", "stem_width": 8},
}
TINY = {
    "modalities": {"audio": TOWER, "image": TOWER},
    "hidden_size": 16,
    "max_train_samples": 96,
    "max_eval_samples": 40,
    "max_test_samples": 40,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 16,
    "save_total_limit": None,
    "use_cpu": True,
    "disable_tqdm": True,
}
# What reads sound takes each process seconds to import.
TWO_PICTURES = {
    "columns": {"audio": "image"},
    "processor": {key: {"type": "image", "size": [16, 16], "num_channels": 1} for key in ("audio", "image")},
}


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory):
    """The demo configuration with tiny towers and few samples (`Path` of a YAML file)."""
    settings = yaml.safe_load((ROOT / "scripts" / "configs" / "demo.yaml").read_text()) | TINY
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def trained(tiny_config, tmp_path_factory):
    """Folder of a finished run, trained in a process of its own from another working directory; read, but for copies.

    The processes of `pytest -n` share it.
    """
    base = tmp_path_factory.getbasetemp()
    elsewhere = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "elsewhere"
    with FileLock(f"{elsewhere}.lock"):
        if not (elsewhere / "printed").is_file():
            elsewhere.mkdir()
            words = ("--output_dir", "run", "--do_predict", "--seed", 3)
            program = ROOT / "scripts" / "train.py"
            process = start(elsewhere / "log", run_program, program, tiny_config, *words, cwd=elsewhere)
            process.join()
            assert process.exitcode == 0, (elsewhere / "log").read_text()
            (elsewhere / "log").rename(elsewhere / "printed")
    assert "model, metrics and plots: run" in (elsewhere / "printed").read_text()
    return elsewhere / "run"
