"""Parameters spread over two processes by FSDP2, and a learned alpha: the same as in one process."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from modeling_lfm import LfmForMultimodalClassification

from .test_trainer import ROOT
from .toy import SMOOTH, toy_trainer

SETTINGS = {"size": 80, "holdout": 16, "num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.02}
METHODS = {
    "central": {"name": "lfm", "alpha": "learned", "alpha_product": "central_difference"},
    "double": {"name": "lfm", "alpha": "learned"},
}
REFUSED = {
    "lookahead": ({"name": "lfm", "alpha": "lookahead"}, "choose alpha=learned"),
    "all": ({"name": "lfm", "alpha_parameters": "all"}, "alpha_parameters=head"),
    "ogm": ({"name": "ogm", "alpha": 0.8}, "method ogm needs the whole model in each process"),
}


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """Folder and results of one launch of two processes that trains all cases."""
    folder = tmp_path_factory.mktemp("fsdp")
    cases = {name: (method, SETTINGS) for name, method in METHODS.items()}
    cases |= {name: (method, {"size": 32}) for name, (method, _) in REFUSED.items()}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_cpu_threads_per_process=1"]
    command += ["--multi_gpu", "--main_process_port=0", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"]
    command += ["-m", "tests.trainer.fsdp_run", str(folder), json.dumps(cases)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, *(torch.load(folder / f"result-{rank}.pt", weights_only=True) for rank in (0, 1))


@pytest.mark.parametrize("name", METHODS)
def test_a_learned_alpha_and_weights_equal_those_of_one_process(name, spread, tmp_path):
    folder, first, second = spread
    one = toy_trainer(tmp_path, SMOOTH, method=METHODS[name], per_device_train_batch_size=16, **SETTINGS)
    one.train()
    alphas = [entry["alpha"] for entry in one.state.log_history if "loss_cls" in entry]
    assert first[name]["sharded"]
    assert first[name]["alphas"] == second[name]["alphas"]
    assert len(set(alphas)) == 2
    np.testing.assert_allclose(first[name]["alphas"], alphas, rtol=1e-3)
    losses, expected = (
        [e["loss"] for e in log if "loss" in e] for log in (first[name]["losses"], one.state.log_history)
    )
    assert losses == pytest.approx(expected, rel=1e-3)
    saved = LfmForMultimodalClassification.from_pretrained(folder / name / "saved").state_dict()
    for key, value in one.model.state_dict().items():
        torch.testing.assert_close(saved[key], value, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_whole_parameters_is_refused_at_the_start(name, spread):
    for results in spread[1:]:
        assert REFUSED[name][1] in results[name]["error"]
