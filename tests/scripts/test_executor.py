"""Where pieces of work run: local processes that may die, parts, and a Ray cluster that loses a machine."""

import json
import multiprocessing.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import BrokenExecutor
from contextlib import closing

import psutil
import pytest

from modeling_lfm.scripts import prepare_data, reproduce
from modeling_lfm.scripts.common import settings
from modeling_lfm.scripts.common.executor import ExecutorArguments, Local
from modeling_lfm.scripts.common.settings import load_plugins

from .conftest import ROOT, TWO_PICTURES
from .test_reproduce import SMALL

WORDS = ["--benchmark", "demo", "--samples_per_shard"]
MACHINE = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}  # of a Ray cluster
SWEEP = f"""
base: demo
settings: {{small: {json.dumps(SMALL | {"num_train_epochs": 1})}}}
rows:
  Concat: {{method: concat}}
  OGM: {{method: ogm}}
  LFM: {{method: {{name: lfm, alpha: heuristic}}}}
  LFM, every step: {{method: {{name: lfm, alpha: learned, alpha_every: 1}}}}
"""


def work(context, piece):
    """What a piece of these tests does, in another process."""
    if piece == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if piece == "fail":
        raise KeyError(context)
    if piece == "tidy":
        multiprocessing.util.Finalize(None, (context / "tidy").touch, exitpriority=1)
    if piece == "hang":
        (context / "pid").write_text(str(os.getpid()))
        time.sleep(3600)
    return piece, os.getenv("CUDA_VISIBLE_DEVICES"), os.getpid()


def test_a_piece_that_dies_or_fails_costs_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(settings, "PLUGINS", [])
    (tmp_path / "my_parts_of_processes.py").write_text(f"open({str(tmp_path / 'seen')!r}, 'a').write('x')\n")
    load_plugins([tmp_path / "my_parts_of_processes.py"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    found = dict(Local(2).run(work, "context", ["a", "die", "fail", "b"]))
    assert isinstance(found.pop("die"), BrokenExecutor)
    assert found.pop("fail").args == ("context",)
    assert [found[piece][0] for piece in "ab"] == ["a", "b"]
    assert {device for _, device, _ in found.values()} <= {"2", "5"}
    assert len((tmp_path / "seen").read_text()) >= 3, "here, and in each process"


def test_what_keeps_a_process_from_its_work_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "PLUGINS", [str(tmp_path / "gone.py")])
    ((_, error),) = Local(1).run(work, "context", ["a"])
    assert "gone.py: no such file" in str(error)


def test_processes_that_are_done_tidy_up(tmp_path):
    """Or a program would end with a warning that semaphores, such as those of progress bars, have leaked."""
    assert [piece for piece, _ in Local(2).run(work, tmp_path, ["tidy", "a"])]
    assert (tmp_path / "tidy").exists()


def test_what_is_at_work_ends_when_it_is_not_waited_for(tmp_path):
    with closing(Local(2).run(work, tmp_path, ["hang", "a"])) as outcomes:
        assert next(outcomes)[1][0] == "a"
        while not (tmp_path / "pid").exists() or not (pid := (tmp_path / "pid").read_text()):
            time.sleep(0.01)
        process = psutil.Process(int(pid))
    assert psutil.wait_procs([process], timeout=300)[1] == []


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3"])
def test_parts_that_are_none(part):
    with pytest.raises(ValueError, match=f"part='{part}' should be i/n"):
        ExecutorArguments(part=part)
    with pytest.raises(ValueError, match="executor='slurm' should be local or ray"):
        ExecutorArguments(executor="slurm")


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_parts_make_the_same_folder(tmp_path):
    one, parts = tmp_path / "one", tmp_path / "parts"
    words = [word for key, value in TWO_PICTURES.items() for word in (f"--{key}", json.dumps(value))]
    words += [*WORDS, "400"]
    prepare_data.main([*words, "--output", str(one), "--num_proc", "1"])
    for part in ("2/2", "1/2"):
        prepare_data.main([*words, "--output", str(parts), "--num_proc", "1", "--part", part])
    written = {file: file.stat().st_mtime_ns for file in parts.glob("data/*")}
    assert len(written) == 5
    prepare_data.main([*words, "--output", str(parts)])
    assert contents(parts) == contents(one)
    assert {file: file.stat().st_mtime_ns for file in written} == written


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster of two machines on this one."""
    ray = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed (pip install ray)")
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a short path, which sockets need
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder}.items():
        monkeypatch.setenv(name, value)
    started = ray.Cluster(initialize_head=True, head_node_args=MACHINE)
    try:
        started.add_node(**MACHINE)
        yield started
    finally:
        started.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def run_and_lose_a_machine(cluster, program, words, enough):
    """Run a program on the cluster, which loses its second machine once there is `enough`."""
    command = [sys.executable, str(ROOT / "scripts" / program), *words, "--executor", "ray"]
    with subprocess.Popen([*command, "--address", cluster.address], stdout=subprocess.PIPE) as process:
        while not enough():
            assert process.poll() is None
            time.sleep(0.01)
        (second,) = cluster.worker_nodes
        cluster.remove_node(second, allow_graceful=False)
        process.communicate()
    assert process.returncode == 0


def test_a_cluster_that_loses_a_machine_writes_the_same_bytes(cluster, tmp_path):
    one, spread = tmp_path / "one", tmp_path / "spread"
    prepare_data.main([*WORDS, "100", "--output", str(one), "--num_proc", "1"])
    words = [*WORDS, "100", "--output", str(spread)]
    run_and_lose_a_machine(cluster, "prepare_data.py", words, lambda: list(spread.glob("data/*.parquet")))
    assert contents(spread) == contents(one)


def test_a_sweep_on_a_cluster_that_loses_a_machine_finds_the_same(cluster, tmp_path):
    """Twelve runs, of one thread each, as a task of Ray has."""
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    words = [str(tmp_path / "sweep.yaml"), "--seeds", "0", "1", "2", "--output"]
    reproduce.main([*words, str(tmp_path / "one"), "--jobs", str(os.cpu_count())])
    spread = tmp_path / "spread" / "sweep" / "demo"
    words = [*words, str(tmp_path / "spread")]
    run_and_lose_a_machine(cluster, "reproduce.py", words, lambda: len(list(spread.glob("*.json"))) >= 5)
    found, expected = read_runs(spread), read_runs(tmp_path / "one" / "sweep" / "demo")
    assert len(expected) == 12
    assert found == expected


def read_runs(folder):
    """What the runs of a folder found, by file, but for how long they took."""
    return {file.name: {**json.loads(file.read_text()), "seconds": None} for file in folder.glob("*.json")}
