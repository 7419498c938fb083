"""Sweeps: each run once, in workers that may die; killed ones go on, failures are told and tried again."""

import json
import multiprocessing
import re
import threading
import time

import numpy as np
import pandas as pd
import psutil
import pytest

from modeling_lfm.scripts import reproduce
from modeling_lfm.scripts.common.settings import read_config
from modeling_lfm.scripts.experiments import check
from modeling_lfm.scripts.experiments import run as sweep
from modeling_lfm.scripts.experiments.tables import merge

from .conftest import ROOT, TWO_PICTURES
from .forks import find_forks, run_program, start

SMALL = {
    "max_train_samples": 32,
    "max_eval_samples": 20,
    "max_test_samples": 20,
    "num_train_epochs": 2,
    "use_cpu": True,
    **TWO_PICTURES,
}
SETTINGS = f"""
base: demo
settings:
  small: {json.dumps(SMALL)}
rows:
  image only: {{method: {{alpha: constant}}, only: [image]}}
  JS, learned: {{method: {{alpha: learned}}, holdout: 0}}
"""
BENCHMARKS = f"""
title: Mine
reference: Concat
common: {json.dumps(SMALL)}
benchmarks: {{demo: {{}}}}
rows:
  broken: {{method: concat, max_test_samples: 0}}
  Concat: {{method: concat}}
  OGM: {{method: ogm}}
  JS, learned: {{method: {{alpha: learned}}, holdout: 0}}
  Unimodal-3: {{method: unimodal_3}}
"""


def read(folder):
    """The records of a folder by row."""
    return {record["row"]: record for record in sweep.read_all(folder)}


def wait_for(condition, explain=str, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, explain()
        time.sleep(0.01)


def test_the_best_epoch_by_validation_is_the_one_that_is_tested(tmp_path, monkeypatch):
    changes = {**SMALL, "num_train_epochs": 3, "method": "concat", "metric_for_best_model": "loss"}
    # One step an epoch: nothing is learned in the first, and too big steps ruin the model in the others.
    changes |= {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2, "learning_rate": 1.0, "seed": 0}
    config = merge(read_config("demo"), changes)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    best, worst = (sweep.run_one(1, {**config, "greater_is_better": worse}) for worse in (False, True))
    assert best["best_epoch"] == 1 < worst["best_epoch"]
    assert best["validation"]["loss"] < 3 < worst["validation"]["loss"]
    assert best["test"]["loss"] < 3 < worst["test"]["loss"]
    assert list(tmp_path.iterdir()) == [], "checkpoints are removed"
    assert sweep.run_one(1, {**config, "method": "auto"})["logs"] == {"weight_fused": 1, "weight_unimodal": 0}


def test_members_of_a_row_are_evaluated_as_one():
    """At most the mean of their losses, as the logarithm is concave; a trial trains the first alone."""
    config = merge(read_config("demo"), {**SMALL, "num_train_epochs": 1, "method": "concat", "seed": 3})
    seeds = 3, 3 + sweep.MEMBER
    one, other = (sweep.run_one(1, {**config, "seed": seed})["test"]["loss"] for seed in seeds)
    both = sweep.run_one(1, {**config, "members": 2})["test"]["loss"]
    assert both not in (one, other)
    assert both <= (one + other) / 2
    trial = sweep.run_one(1, {**config, "members": 2, "trial": True})
    assert trial["best_metric"] == sweep.run_one(1, config)["best_metric"]
    with pytest.raises(ValueError, match="members=0 of a row"):
        check.check_cell({**config, "members": 0})


def test_a_killed_sweep_goes_on_and_failures_do_not_stop_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.yaml").write_text(BENCHMARKS)
    (tmp_path / "tmp").mkdir()
    folder, command = tmp_path / "runs" / "table" / "demo", ["table.yaml", "--benchmark", "demo", "--seeds", "0"]
    command += ["--output", "runs"]

    # Killed in the middle: the worker ends too, and leaves no checkpoints behind.
    words, before = [*command, "--num_train_epochs", "3"], find_forks()
    program = ROOT / "scripts" / "reproduce.py"
    process = start(tmp_path / "log", run_program, program, *words, cwd=tmp_path, TMPDIR=str(tmp_path / "tmp"))
    wait_for((folder / "OGM_demo_seed0.json").is_file, (tmp_path / "log").read_text)
    workers = find_forks()
    process.kill()
    process.join()
    assert len(workers - before) > 1
    assert psutil.wait_procs(workers - before, timeout=300)[1] == []
    assert list((tmp_path / "tmp").glob("lfm-*")) == []
    (folder / "JS,-learned_demo_seed0.json").unlink(missing_ok=True)  # where it was faster than the kill
    killed = read(folder)
    assert set(killed) == {"Unimodal-3", "broken", "Concat", "OGM"}
    assert "max_test_samples=0" in killed["broken"]["error"]
    times = {row: (folder / f"{row}_demo_seed0.json").stat().st_mtime_ns for row in ("Concat", "OGM")}

    # It goes on: what is there is not run again, what failed is, and what is configured otherwise.
    killer = threading.Thread(target=kill_first_worker)
    killer.start()
    with pytest.raises(SystemExit) as stop:
        reproduce.main([*command, "--rows", "broken", "Concat", "JS, learned", "--num_train_epochs", "3"])
    killer.join()
    assert stop.value.code == 1
    assert {row: (folder / f"{row}_demo_seed0.json").stat().st_mtime_ns for row in times} == times
    records = read(folder)
    assert "a process ended" in records["broken"]["error"]
    learned = records["JS, learned"]
    names = {f"{n}{m}" for n in ("", "audio_", "image_") for m in (*sweep.METRICS, "loss")}
    assert set(learned["test"]) >= names - {f"{n}_{m}" for n in ("audio", "image") for m in ("gap", "loss")}
    assert learned["alpha"][0] == 0.95
    assert len(learned["alpha"]) == 3 == learned["steps"]
    assert (learned["method"]["name"], learned["method"]["alpha_rule"]) == ("lfm", "cosine")
    assert learned["seconds"] > 0
    printed = capsys.readouterr()
    assert "[2/2] demo, JS, learned, seed 0: test accuracy" in printed.out
    assert "1 failed:\n  demo, broken, seed 0: a process ended" in printed.err
    report = (folder / "table.md").read_text()
    for row in ("broken<sup>1</sup> | - ", "Concat | ", "OGM | ", "JS, learned | ", "Unimodal-3<sup>2</sup> | - "):
        assert f"| {row}" in report
    reproduce.main([*command, "--report"])
    assert (folder / "table.md").read_text() == report

    # Nothing is left to do.
    capsys.readouterr()
    reproduce.main([*command, "--rows", "Concat", "JS, learned", "--num_train_epochs", "3"])
    printed = capsys.readouterr().out
    assert "[1/" not in printed
    assert (folder / "table.md").read_text() in printed


def kill_first_worker():
    wait_for(multiprocessing.active_children)
    multiprocessing.active_children()[0].kill()


def test_a_run_is_repeated_when_its_configuration_changes_in_what_matters():
    config = {"method": {"name": "ogm", "alpha": 0.8}, "learning_rate": 1e-3, "seed": 0, "data_dir": "here"}
    same = {"learning_rate": 1e-3, "data_dir": "there", "seed": 1, "method": {"alpha": 0.8, "name": "ogm"}}
    assert sweep.digest(config) == sweep.digest(same)
    assert sweep.digest(config) != sweep.digest({**config, "learning_rate": 1e-4})
    assert sweep.digest(config) != sweep.digest({**config, "method": {"name": "ogm", "alpha": 0.7}})


def test_a_table_of_ones_own_is_cross_validated(tmp_path, capsys, monkeypatch):
    """Each row of it is tested once a seed, with its whole group; what is there already is not run again."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(60, 4)), columns=["a0", "a1", "b0", "b1"])
    rows = rows.assign(label=["yes" if n % 2 else "no" for n in range(60)], person=[f"p{n % 10}" for n in range(60)])
    rows.to_csv("all.csv", index=False)
    views = {name: {"columns": [f"{name}*"], "type": "vector"} for name in ("a", "b")}
    line = ["--table", "1", "--benchmark", "table", "--data_dir", ".", "--benchmark_options.train_file", "all.csv"]
    line += ["--benchmark_options.group_column", "person", "--benchmark_options.table_columns", json.dumps(views)]
    line += ["--output", "runs", "--seeds", "3", "--rows", "Concat", "Unimodal-2"]
    reproduce.main([*line, "--folds", "3", "--num_train_epochs", "1", "--hidden_size", "8", "--use_cpu", "true"])
    folder = tmp_path / "runs" / "paper_1" / "table"
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    assert [(record["row"], record["setting"], record["seed"]) for record in records] == [
        (row, f"table, fold {fold}", 3) for row in ("Concat", "Unimodal-2") for fold in range(3)
    ]
    report = (folder / "table.md").read_text()
    assert "3 folds that each of the seeds 3 draws" in report
    assert "(by accuracy)" in report
    assert "| a / b |" in report
    mean = np.mean([record["test"]["accuracy"] for record in records if record["row"] == "Concat"])
    assert re.search(rf"\| Concat \| \**{100 * mean:.1f}", report)
    capsys.readouterr()
    reproduce.main([*line, "--folds", "3", "--report"])
    assert report in capsys.readouterr().out
    with pytest.raises(ValueError, match="folds are drawn of a table of your own"):
        reproduce.main(["--table", "1", "--benchmark", "demo", "--folds", "3"])
    config = {"benchmark": "table", "data_dir": ".", "benchmark_options": {"train_file": "all.csv"}}
    before = sweep.digest(config)
    assert sweep.digest(dict(config)) == before
    rows[:50].to_csv("all.csv", index=False)
    assert sweep.digest(config) != before


def test_a_record_is_there_whole_or_not_at_all_and_has_no_nan(tmp_path):
    sweep.write_record(tmp_path, "S1 Adam", "JS, 0.5", 0, test={"accuracy": 0.5, "loss": float("nan")}, config="x")
    sweep.write_record(tmp_path, "S1 Adam", "UMT", 0, error="no")
    sweep.write_record(tmp_path, "S1 Adam", "three", None, inapplicable="of two")
    (tmp_path / "later_s_seed0.part").write_text('{"setting":')  # as if killed while it wrote
    assert sorted(file.name for file in tmp_path.glob("*.json")) == [
        "JS,-0.5_S1-Adam_seed0.json",
        "UMT_S1-Adam_seed0.json",
        "three_S1-Adam.json",
    ]
    assert "NaN" not in (tmp_path / "JS,-0.5_S1-Adam_seed0.json").read_text()
    assert sweep.read_records(tmp_path)["S1 Adam", "JS, 0.5", 0]["test"] == {"accuracy": 0.5, "loss": None}
    assert len(sweep.read_records(tmp_path)) == 1
    (tmp_path / "mine.json").write_text("[]")
    with pytest.raises(ValueError, match=r"mine\.json"):
        sweep.read_all(tmp_path)


def test_what_the_table_lacks_is_named(tmp_path):
    (tmp_path / "table.yaml").write_text(SETTINGS)
    with pytest.raises(ValueError, match=r"unknown rows \['concat'\]; the table has image only, JS, learned"):
        reproduce.main([str(tmp_path / "table.yaml"), "--rows", "concat"])
    with pytest.raises(ValueError, match="jobs=0"):
        reproduce.main(["--table", "1", "--benchmark", "demo", "--jobs", "0"])
    with pytest.raises(ValueError, match=r"seeds='one' should be of type int"):
        reproduce.main(["--table", "1", "--benchmark", "demo", "--seeds", "one"])
    with pytest.raises(ValueError, match="which table"):
        reproduce.main(["--benchmark", "demo"])
    with pytest.raises(ValueError, match=r"benchmark=.*str"):
        reproduce.main(["--table", "1", "--benchmark", "demo", "av_mnist"])
    with pytest.raises(FileNotFoundError):
        reproduce.main(["no_such_table"])
