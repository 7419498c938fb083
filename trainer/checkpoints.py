"""One run at a time in a folder, checkpoints that are whole or not there, and what must be the same to go on from one.

A checkpoint is written under `_unfinished` and gets its name when all of it is on the disk, with `manifest.json`: its
files with sizes and checksums, and the settings of the run. The names with `_` are never sent to the Hub.
"""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import psutil
import torch

from .adapters import describe_bases
from .cards.record import BOOKKEEPING, describe_environment, to_json
from .sharding import describe_sharding
from .staging import WEIGHT_NAMES

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK, UNFINISHED, MANIFEST, METHOD_STATE = "_run.lock", "_unfinished", "manifest.json", "method.pt"
VERSION = 1
FIXED = ("optim", "method.name", "sharding")  # what a checkpoint holds of them fits no other
# Of a configuration.
UNIMPORTANT = ("architectures", "auto_map", "calibration", "dtype", "problem_type", "transformers_version")
_NAME = re.compile(r"checkpoint-(\d+)")
_held = {}  # from a locked folder to the process that holds it: a child that was forked holds nothing


# -- one run at a time -----------------------------------------------------------------------------------------


@contextmanager
def only_run(folder, main=True):
    """Hold `folder`, which is made, against runs in other processes; in this one it may be held already.

    A lock that a killed run of this machine left is taken over.

    Of a run's processes only the `main` one holds it.

    Raises:
        BlockingIOError: another run writes there; the message tells which.
    """
    key = os.path.realpath(folder)
    if not main or _held.get(key) == os.getpid():
        yield
        return
    lock = Path(folder) / LOCK
    lock.parent.mkdir(parents=True, exist_ok=True)
    _acquire(lock)
    _held[key] = os.getpid()
    try:
        yield
    finally:
        del _held[key]
        if (_read_lock(lock) or {}).get("pid") == os.getpid():
            lock.unlink()


def _acquire(lock):
    me = {"pid": os.getpid(), "host": platform.node(), "started": psutil.Process().create_time()}
    me["since"] = time.strftime("%Y-%m-%d %H:%M:%S")
    with taking_turns(lock.parent):
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            holder = _read_lock(lock)
            if _is_running(holder):
                raise BlockingIOError(
                    f"another run writes to {lock.parent}: process {holder['pid']} on {holder['host']}, since "
                    f"{holder['since']}. Wait for it, stop it, or choose another folder (output_dir). If there is no "
                    f"such run any more, remove {lock}."
                ) from None
            descriptor = os.open(lock, os.O_WRONLY | os.O_TRUNC)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(me, file)


@contextmanager
def taking_turns(folder):
    """Runs look and write one after the other, so that a lock is never read half-written nor taken twice. The folder
    itself is what they lock, as nothing may be left behind; file systems that cannot do that get no turns."""
    descriptor = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if fcntl:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if fcntl:
            os.close(descriptor)  # which unlocks


def _read_lock(lock):
    """What a lock holds (`dict`), or None of one that is gone or that nobody finished writing."""
    for _ in range(5):
        try:
            holder = json.loads(lock.read_text(encoding="utf-8"))
            if {"pid", "host", "started", "since"} <= holder.keys():
                return holder
        except FileNotFoundError:
            return None
        except (ValueError, AttributeError):
            pass
        time.sleep(0.05)
    return None


def _is_running(holder):
    if holder is None or holder["host"] != platform.node():  # of another machine nothing can be known
        return holder is not None
    try:
        process = psutil.Process(holder["pid"])
        same = abs(process.create_time() - holder["started"]) < 2  # else the number was given to another one
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def check_shared(trainer):
    """Raise a `ValueError` in every process of a run that writes checkpoints where one of them does not see the folder
    of the main one, which holds it: it would miss the best epoch, and a resumed run its random state."""
    args = trainer.args
    if args.world_size == 1 or args.save_strategy == "no":
        return
    trainer.accelerator.wait_for_everyone()
    seen = torch.tensor(float(Path(args.output_dir, LOCK).is_file()), device=args.device)
    if trainer.reduce(seen, "sum") < args.world_size:
        raise ValueError(
            f"output_dir={args.output_dir} is not one folder to all {args.world_size} processes: name one that their "
            "machines share, or write no checkpoints (save_strategy: no, load_best_model_at_end: false)."
        )


@contextmanager
def naming_full_disk(folder):
    """An error inside that a full disk caused becomes an `OSError` that names `folder`, to which was written."""
    try:
        yield
    except Exception as error:
        told = "no space left" in str(error).lower()  # as safetensors and pyarrow wrap it; torch says nothing of it
        full = Path(folder).is_dir() and shutil.disk_usage(folder).free < 2**16
        if told or full or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            text = f"no space left on the disk of {folder}: make room, then start again (a run that was training goes "
            raise OSError(errno.ENOSPC, text + "on with --resume_from_checkpoint true).") from error
        raise


# -- writing ---------------------------------------------------------------------------------------------------


@contextmanager
def unfinished(folder, main=True):
    """A folder in `folder` (its path, `str`) for what is being written; what is left of it at the end goes. Of a full
    disk [`naming_full_disk`] tells."""
    staging = os.path.join(folder, UNFINISHED)
    try:
        with naming_full_disk(folder):
            yield staging
    finally:
        if main:
            shutil.rmtree(staging, ignore_errors=True)


def finish_checkpoint(unfinished, checkpoint, settings):
    """Write the manifest of a checkpoint that is all there, with the `settings` of [`describe_settings`], see it onto
    the disk, and give its folder (`str`) its name."""
    unfinished, checkpoint = Path(unfinished), Path(checkpoint)
    files = {name: describe_file(unfinished / name) for name in _list_files(unfinished)}
    manifest = {"version": VERSION, "files": files, "settings": settings}
    manifest["environment"] = describe_environment()  # told, never compared
    (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for name in _list_files(unfinished):
        _sync(unfinished / name)
    _sync(unfinished)
    if checkpoint.is_dir():  # damaged, or the run was resumed from an earlier one, which is still there
        shutil.rmtree(checkpoint)
    os.rename(unfinished, checkpoint)
    _sync(checkpoint.parent)


def write_state(state, folder):
    """Write a `TrainerState` as trainer_state.json; of a run that diverged, too, it is JSON that every reader takes."""
    Path(folder, "trainer_state.json").write_text(to_json(asdict(state)), encoding="utf-8")


def install_model(unfinished, folder):
    """Put a model that is all in one folder into another, in place of the one there.

    Its `config.json`, without which there is no model, goes first and comes last: a mixture of two is never loaded.
    """
    unfinished, folder = Path(unfinished), Path(folder)
    names = sorted(_list_files(unfinished), key=lambda name: name == "config.json")
    for name in names:
        _sync(unfinished / name)
    (folder / "config.json").unlink(missing_ok=True)
    for old in folder.iterdir():
        if WEIGHT_NAMES.fullmatch(old.name) and old.name not in names:
            old.unlink()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(unfinished / name, folder / name)
    _sync(folder)


def rotate(folder, limit, best=None):
    """Delete the checkpoints of `folder` that were written first, down to `limit` (`int` or None); never `best`
    (`str`, *optional*), nor the last one."""
    if not limit or limit < 0:
        return
    found = sorted(list_checkpoints(folder), key=lambda path: (path.stat().st_mtime_ns, _step(path)))
    kept = [path for path in found if path.name == Path(best or "").name or path == found[-1]]
    others = [path for path in found if path not in kept]
    for path in others[: max(0, len(found) - max(limit, len(kept)))]:
        shutil.rmtree(path, ignore_errors=True)


def list_checkpoints(folder):
    """The checkpoints of a run (`list[Path]`), the latest first."""
    found = [path for path in Path(folder).glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=_step, reverse=True)


def _step(path):
    return int(_NAME.fullmatch(path.name)[1])


def describe_file(file):
    """Size in bytes and SHA-256 of a file (`dict`)."""
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return {"size": file.stat().st_size, "sha256": digest.hexdigest()}


def _list_files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _sync(path):
    """What was written to a file or a folder is on the disk, where the system knows how to do that."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- going on --------------------------------------------------------------------------------------------------


def describe_settings(trainer):
    """What must be the same for a resumed run to equal an uninterrupted one.

    Returns:
        `dict`, by dotted names, ready for JSON: the training arguments but for bookkeeping, `method` and `model` with
        all their settings, the number of `processes` and of `train_samples`.
    """
    given = trainer.args.to_dict()
    settings = {key: value for key, value in given.items() if not key.startswith(BOOKKEEPING)}
    model = json.loads(trainer.model.config.to_json_string(use_diff=False))
    settings["model"] = {key: value for key, value in model.items() if key not in UNIMPORTANT}
    settings["method"] = {"name": trainer.method.spec.name, **asdict(trainer.method.settings)}
    samples = len(trainer.train_dataset) if hasattr(trainer.train_dataset, "__len__") else None  # of a stream
    settings |= {"processes": trainer.args.world_size, "train_samples": samples}
    settings["lora_base"] = describe_bases(trainer.model)
    settings["sharding"] = describe_sharding(trainer)
    return _flatten(json.loads(json.dumps(settings, default=str)))


def _flatten(mapping, start=""):
    flat = {}
    for key, value in mapping.items():
        flat |= _flatten(value, f"{start}{key}.") if isinstance(value, dict) else {start + key: value}
    return flat


def read_manifest(checkpoint, changed=False):
    """The manifest (`dict`) of a checkpoint, whose files are as it says; with `changed` one without (None) will do, and
    so will one without a state of the optimizer.

    Raises:
        ValueError: a file is missing or was changed, or there is no manifest; the message names it.
    """
    checkpoint = Path(checkpoint)
    if not (checkpoint / MANIFEST).is_file():
        if changed:
            return None
        raise ValueError(
            f"{checkpoint} has no {MANIFEST}: it was written by an older version, or is not whole. --resume_changed "
            "true goes on from it unchecked."
        )
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files, _ = manifest["files"].items(), manifest["settings"].items()
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in files}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{checkpoint / MANIFEST} is damaged ({type(error).__name__}: {error}).") from error
    for name, (size, digest) in expected.items():
        file = checkpoint / name
        if not file.is_file():
            raise ValueError(f"{file} is missing, which belongs to the checkpoint.")
        if file.stat().st_size != size or describe_file(file)["sha256"] != digest:
            raise ValueError(f"{file} is damaged: it is not the file that was saved.")
    if METHOD_STATE not in expected and not changed:
        raise ValueError(
            f"{checkpoint} holds the model alone (save_only_model), not the states of optimizer and method: a run that "
            "goes on from it is another one, for which --resume_changed true asks."
        )
    return manifest


def find_last_whole(folder, changed=False):
    """The latest checkpoint of a run that is whole (`str`, or None), and why later ones are not (`list[str]`)."""
    passed = []
    for checkpoint in list_checkpoints(folder):
        try:
            read_manifest(checkpoint, changed)
            return str(checkpoint), passed
        except ValueError as error:
            passed.append(str(error))
    return None, passed


def check_resume(checkpoint, settings, changed=False):
    """Raise a `ValueError` where a run with the `settings` of [`describe_settings`] cannot go on from a checkpoint, see
    [`read_manifest`]; `changed` (`bool`): other settings will do, but for those in `FIXED`."""
    manifest = read_manifest(checkpoint, changed)
    old = {} if manifest is None else manifest["settings"]
    keys = [key for key in dict.fromkeys([*old, *settings]) if old and old.get(key) != settings.get(key)]
    # What another version does not know yet, or no more, counts only where it is set.
    keys = [key for key in keys if old.get(key) or settings.get(key) or (key in old and key in settings)]
    if changed:
        keys = [key for key in keys if key in FIXED]
    if keys:
        told = "; ".join(f"{key} was {old.get(key)!r} and is {settings.get(key)!r}" for key in keys)
        remedy = "" if changed else ", or set --resume_changed true to go on with the new ones"
        raise ValueError(f"{checkpoint} is of a run with other settings: {told}. Give the old ones{remedy}.")


@contextmanager
def staying_ended(trainer, checkpoint):
    """Inside, no epoch is left to a run that had ended at `checkpoint` (`str`, or None), and only its model was not
    saved: transformers would train another step after `max_steps`, and another epoch without patience."""
    args, file = trainer.args, Path(checkpoint or "", "trainer_state.json")
    given, saved = (args.num_train_epochs, args.max_steps), {}
    if checkpoint and file.is_file():
        state = json.loads(file.read_text(encoding="utf-8"))
        patience = state["stateful_callbacks"].get("LfmEarlyStoppingCallback", {}).get("attributes", {})
        tried = patience.get("early_stopping_patience_counter", 0)
        no_patience = args.early_stopping_patience is not None and tried >= args.early_stopping_patience
        if no_patience or 0 < args.max_steps <= state["global_step"]:
            args.num_train_epochs, args.max_steps = 0, -1
            saved = {key: state[key] for key in ("num_train_epochs", "max_steps")}
    try:
        yield
    finally:
        args.num_train_epochs, args.max_steps = given
        for key, value in saved.items():
            setattr(trainer.state, key, value)


def apply_settings(groups, optimizer, scheduler):
    """Let an optimizer and a scheduler that were loaded go on with other settings, those that the groups (`list[dict]`)
    had before, at the same point of the schedule."""
    for group, given in zip(optimizer.param_groups, groups, strict=True):
        old, new = (settings.get("initial_lr", settings["lr"]) for settings in (group, given))
        group.update({**given, "lr": group["lr"] * new / old if old else new, "initial_lr": new})
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
