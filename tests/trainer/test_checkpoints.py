"""One run at a time in a folder, checkpoints that are whole, and what differs or is missing when a run is resumed."""

import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import time

import psutil
import pytest
import torch

from modeling_lfm.trainer import checkpoints
from modeling_lfm.trainer.checkpoints import LOCK, MANIFEST, UNFINISHED, list_checkpoints, only_run, read_manifest

from .toy import SMOOTH, toy_trainer

SETTINGS = {"method": "concat", "size": 24, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}


def make(folder, **settings):
    return toy_trainer(folder, SMOOTH, **SETTINGS | settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of six steps, logged at each epoch: its trainer, its output, and its folder."""
    folder = tmp_path_factory.mktemp("finished")
    trainer = make(folder, logging_strategy="epoch")
    output = trainer.train()
    trainer.save_model()
    return trainer, output, folder


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of its folder."""
    return shutil.copytree(finished[2], tmp_path / "run")


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


# -- one run at a time -----------------------------------------------------------------------------------------


def lock_of(process, **changes):
    told = {"pid": process.pid, "host": platform.node(), "started": process.create_time(), "since": "2026-01-02 03:04"}
    return json.dumps(told | changes)


@pytest.fixture
def other():
    """Another process that is running."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def test_a_second_run_in_the_folder_is_refused_and_the_first_is_named(tmp_path, other):
    trainer = make(tmp_path)
    for lock in (lock_of(other), lock_of(other, host="elsewhere", pid=1)):
        (tmp_path / LOCK).write_text(lock)
        for write in (trainer.train, trainer.save_model):
            with pytest.raises(BlockingIOError, match=f"{json.loads(lock)['pid']}.*since 2026-01-02 03:04") as caught:
                write()
            assert json.loads(lock)["host"] in str(caught.value)
        assert (tmp_path / LOCK).read_text() == lock
    assert not list_checkpoints(tmp_path)
    with only_run(tmp_path, main=False):  # only the main process of a run looks
        pass


def test_a_lock_that_a_killed_run_left_is_taken_over(tmp_path, other):
    reused, half = lock_of(other, started=other.create_time() - 100), lock_of(other)[:10]
    dead = lock_of(other)
    other.kill()
    while other.status() != psutil.STATUS_ZOMBIE:  # which it stays, since nobody waits for it
        time.sleep(0.01)
    for lock in (dead, reused, half, ""):
        (tmp_path / LOCK).write_text(lock)
        with only_run(tmp_path), only_run(str(tmp_path)):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        assert not list(tmp_path.iterdir())


def test_of_runs_started_together_one_holds_the_folder(tmp_path, other):
    """Also where all of them find a lock that a killed run left."""
    context = multiprocessing.get_context("fork")
    for lock in ("", lock_of(other, started=0)):
        (tmp_path / LOCK).write_text(lock)
        told, end, start = context.Queue(), context.Event(), context.Barrier(4)
        runs = [context.Process(target=hold, args=(tmp_path, told, end, start)) for _ in range(4)]
        for run in runs:
            run.start()
        answers = [told.get(timeout=60) for _ in runs]
        end.set()
        for run in runs:
            run.join()
        first = [pid for pid, refusal in answers if refusal is None]
        assert len(first) == 1
        assert all(f"process {first[0]} on" in refusal for _, refusal in answers if refusal)
        assert not list(tmp_path.iterdir())


def hold(folder, told, end, start):
    start.wait()
    try:
        with only_run(folder):
            told.put((os.getpid(), None))
            end.wait()
    except BlockingIOError as error:
        told.put((os.getpid(), str(error)))


# -- whole or not there ----------------------------------------------------------------------------------------


def test_a_checkpoint_holds_its_files_and_settings(finished):
    folder = finished[2]
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-6", "checkpoint-4", "checkpoint-2"]
    manifest = read_manifest(folder / "checkpoint-4")
    there = {path.name for path in (folder / "checkpoint-4").iterdir()}
    assert set(manifest["files"]) == there - {MANIFEST} >= {"method.pt", "optimizer.pt", "scheduler.pt"}
    expected = {"method.name": "concat", "learning_rate": 2e-3, "seed": 1, "train_samples": 24, "processes": 1}
    assert manifest["settings"].items() >= expected.items()
    assert not {UNFINISHED, LOCK} & {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["method.pt", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
def test_what_is_missing_or_damaged_is_named(name, copied):
    file = copied / "checkpoint-4" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        make(copied).train(str(file.parent))
    file.unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        make(copied, resume_changed=True).train(str(file.parent))


def test_the_latest_whole_one_is_taken(finished, copied, caplog):
    (copied / "checkpoint-6" / MANIFEST).unlink()
    (copied / "checkpoint-4" / "optimizer.pt").write_bytes(b"")
    (copied / UNFINISHED / "checkpoint-8").mkdir(parents=True)
    resumed = make(copied, logging_strategy="epoch")
    output = resumed.train(resume_from_checkpoint=True)
    assert all(part in caplog.text for part in (MANIFEST, "optimizer.pt", "passed over"))
    assert torch.equal(weights(resumed), weights(finished[0]))
    assert output.training_loss == output.metrics["train_loss"] == finished[1].training_loss
    logged = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (resumed, finished[0])]
    assert logged[0] == logged[1]  # also that of the epoch in whose middle it was resumed
    assert read_manifest(copied / "checkpoint-6")  # written anew


def test_train_loss_of_a_run_that_had_ended(finished, copied):
    assert make(copied, logging_strategy="epoch").train(True).training_loss == finished[1].training_loss > 0


def test_other_settings_are_named(copied):
    changes = {"learning_rate": 0.5, "seed": 77, "per_device_train_batch_size": 4}
    with pytest.raises(ValueError, match="resume_changed") as caught:
        make(copied, **changes).train(resume_from_checkpoint=True)
    for told in ("learning_rate was 0.002 and is 0.5", "seed was 1 and is 77", "batch_size was 8 and is 4"):
        assert told in str(caught.value)
    with pytest.raises(ValueError, match="train_samples was 24 and is 16"):
        make(copied, size=16).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="optim was"):  # its state fits no other, whatever is asked
        make(copied, optim="sgd", resume_changed=True).train(resume_from_checkpoint=True)


def test_settings_that_may_change_are_those_of_the_run_that_goes_on(copied):
    changed = make(copied, num_train_epochs=3, learning_rate=0.5, resume_changed=True, logging_steps=1)
    changed.train(resume_from_checkpoint=True)
    rates = {entry["step"]: entry["learning_rate"] for entry in changed.state.log_history if "learning_rate" in entry}
    assert changed.state.global_step == 9
    assert rates[9] == pytest.approx(0.5 / 9 * 1)
    assert read_manifest(copied / "checkpoint-8")["settings"]["learning_rate"] == 0.5


def test_a_checkpoint_of_an_older_version_says_so(copied):
    for path in list_checkpoints(copied):
        (path / MANIFEST).unlink()
    with pytest.raises(ValueError, match=f"no {MANIFEST}.*--resume_changed"):
        make(copied).train(str(copied / "checkpoint-4"))
    with pytest.raises(FileNotFoundError, match="whole"):
        make(copied).train(resume_from_checkpoint=True)
    make(copied, resume_changed=True).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_the_model_alone_is_none_to_resume_from(tmp_path):
    make(tmp_path, save_only_model=True).train()
    with pytest.raises(ValueError, match="save_only_model"):
        make(tmp_path).train(str(tmp_path / "checkpoint-4"))


def test_rotation_keeps_the_best_and_the_last(tmp_path):
    for number, step in enumerate((30, 10, 4, 8)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        os.utime(tmp_path / f"checkpoint-{step}", (number, number))
    checkpoints.rotate(tmp_path, 3, str(tmp_path / "checkpoint-30"))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-30", "checkpoint-8", "checkpoint-4"]
    checkpoints.rotate(tmp_path, 1, str(tmp_path / "checkpoint-30"))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-30", "checkpoint-8"]


def test_a_model_replaces_another_whole(tmp_path):
    new, folder = tmp_path / "new", tmp_path / "run"
    for path, names in ((new, ("config.json", "model.safetensors")), (folder, ("config.json", "model-00001-of-00002"))):
        path.mkdir()
        for name in names:
            (path / (name + ".safetensors" * name.startswith("model-"))).write_text(path.name)
    checkpoints.install_model(new, folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "config.json": "new",
        "model.safetensors": "new",
    }


# -- a full disk -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(finished, small_disk):
    size = sum(file.stat().st_size for file in (finished[2] / "checkpoint-4").iterdir())
    room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    for part in range(1, 11) if "LFM_KILLS" in os.environ else (3, 8):  # full at another file each time
        rest = size + size * part // 11  # room for the first checkpoint, and for a part of the second
        (small_disk / "ballast").write_bytes(bytes(room - rest))
        run = small_disk / "run"
        with pytest.raises(OSError, match="no space left") as caught:
            make(run, logging_strategy="epoch").train()
        assert str(run) in str(caught.value)
        assert [path.name for path in list_checkpoints(run)] == ["checkpoint-2"]
        assert not {UNFINISHED, LOCK} & {path.name for path in run.iterdir()}
        (small_disk / "ballast").unlink()
        resumed = make(run, logging_strategy="epoch", save_total_limit=1)
        resumed.train(resume_from_checkpoint=True)
        assert torch.equal(weights(resumed), weights(finished[0]))
        shutil.rmtree(run)


# -- a run that had stopped ------------------------------------------------------------------------------------


STOPPING = {
    "patience": {"learning_rate": 0.0, "early_stopping_patience": 2, "num_train_epochs": 6, "save_strategy": "epoch"},
    "max_steps": {"max_steps": 4, "num_train_epochs": 1, "save_steps": 2, "eval_strategy": "no"},
}
STOPPING["patience"] |= {"eval_strategy": "epoch", "metric_for_best_model": "accuracy", "load_best_model_at_end": True}


@pytest.mark.parametrize("reason", STOPPING)
def test_a_resumed_run_stops_where_the_uninterrupted_one_did(reason, tmp_path):
    """Also from the last checkpoint, where a run that is killed before it saves its model has nothing left to do."""
    whole = make(tmp_path, **STOPPING[reason])
    whole.train()
    if reason == "patience":  # the first epoch is best, and two more do not improve on it
        assert whole.state.epoch == 3
        assert whole.state.best_model_checkpoint.endswith("checkpoint-3")
    for checkpoint in list_checkpoints(tmp_path)[:2]:
        copy = shutil.copytree(checkpoint, tmp_path / f"copy-{checkpoint.name}" / checkpoint.name)
        resumed = make(tmp_path, **STOPPING[reason])
        resumed.train(str(copy))
        assert resumed.state.global_step == whole.state.global_step
        assert torch.equal(weights(resumed), weights(whole))
        assert resumed.state.log_history[-1]["train_loss"] == whole.state.log_history[-1]["train_loss"]
        assert resumed.args.num_train_epochs == whole.args.num_train_epochs


def test_towers_whose_weights_had_other_names_in_older_releases_go_on_too(tmp_path):
    """A ViT of transformers, whose checkpoints are renamed when they are loaded by `from_pretrained`."""
    vit = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vit |= {"intermediate_size": 16, "image_size": 32, "patch_size": 16}
    towers = {"vit": {"tower": "transformers", "config": vit}, "text": SMOOTH["text"]}
    settings = {"size": 16, "num_train_epochs": 2, "method": "concat"}
    whole, resumed = (toy_trainer(tmp_path, towers, **settings, save_strategy=kind) for kind in ("epoch", "no"))
    whole.train()
    for parameter in resumed.model.parameters():
        parameter.data.zero_()  # nothing of it may be left
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
