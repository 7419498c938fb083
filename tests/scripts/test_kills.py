"""Runs that are killed while files appear are resumed as README says, bit for bit."""

import json
import os

import pytest
import yaml

from . import kill_runs
from .conftest import TWO_PICTURES
from .forks import start

# LFM_KILLS=40 kills so many runs, over all four methods; a machine that does nothing else takes five minutes.
KILLS = int(os.environ.get("LFM_KILLS", 0))
EACH = KILLS // 4
METHODS = {"lfm": EACH, "mla": EACH, "agm": EACH, "mslr": EACH} if KILLS else {"lfm": 2}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks of one process")
@pytest.mark.parametrize("method", METHODS)
def test_killed_runs_end_as_the_uninterrupted_one(method, tiny_config, tmp_path):
    settings = yaml.safe_load(tiny_config.read_text())
    settings |= {"max_train_samples": 48, "max_eval_samples": 16, "save_total_limit": 1, **TWO_PICTURES}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    words = [str(tmp_path / "tiny.yaml"), str(tmp_path / "runs"), str(METHODS[method]), method]
    process = start(tmp_path / "log", kill_runs.main, *words)
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    told = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    print(*told, sep="\n")
    assert len(told) == METHODS[method]
    assert {moment: wrong for moment, wrong in told.items() if wrong} == {}
