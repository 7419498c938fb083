"""Runs of train.py that are killed (-9) when files appear, move and go, and then resumed as README says.

`python -m tests.scripts.kill_runs CONFIG FOLDER KILLS METHOD ...` kills each method's run so often, at moments spread
over all of the uninterrupted one, and prints a JSON object: for each kill its moment, and what was wrong afterwards.
Every run is a fork of this process, which has imported everything and computed nothing.
"""

import contextlib
import gc
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import safetensors.torch
import torch
import transformers.modeling_utils

from modeling_lfm.scripts import train
from modeling_lfm.scripts.common import training  # noqa: F401  imported here and not anew in each fork
from modeling_lfm.trainer import LfmTrainer  # noqa: F401

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MOVES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


class Moments:
    """Counts what happens to files in a folder, and kills its process at the moment `last`; where that is odd, the file
    is half written."""

    def __init__(self, folder, last=None):
        self.folder, self.last, self.seen = os.path.realpath(folder), last, []
        sys.addaudithook(self.watch)
        torch.save = self.cut("torch.save", torch.save, lambda args: args[1])
        transformers.modeling_utils.safe_save_file = self.cut(
            "safetensors", safetensors.torch.save_file, lambda args: args[1]
        )

    def watch(self, event, args):
        if event == "open":
            path, mode, flags = args
            if not (any(letter in mode for letter in "wax+") if isinstance(mode, str) else flags & WRITES):
                return
        elif event in MOVES:
            path = args[0]
        else:
            return
        ours = isinstance(path, (str, os.PathLike)) and os.path.realpath(path).startswith(self.folder)
        if ours and not str(path).endswith(".py"):  # most of the files, and all alike
            self.reach(f"{event} {os.path.basename(path)}", path if event == "open" else None)

    def cut(self, name, save, find):
        def write(*args, **kwargs):
            path = find(args)
            save(*args, **kwargs)
            if isinstance(path, (str, os.PathLike)) and os.path.realpath(path).startswith(self.folder):
                self.reach(f"{name} {os.path.basename(path)}", path, os.path.getsize(path) // 2)

        return write

    def reach(self, moment, path=None, size=3):
        self.seen.append(moment)
        if len(self.seen) == self.last:
            if path is not None and self.last % 2:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
                os.write(descriptor, b"{ }")
                os.truncate(path, size)
            os.kill(os.getpid(), signal.SIGKILL)


def fork(function, log):
    """The status with which a child ends that calls `function`; what it prints goes to the file `log`."""
    child = os.fork()
    if not child:
        try:
            with open(log, "a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                function()
            os._exit(0)
        except BaseException:
            Path(log).write_text(traceback.format_exc())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(config, folder, method, last=None, resume=False, count=None):
    torch.set_num_threads(1)
    words = [config, "--output_dir", str(folder), "--method", method, "--seed", "3"]
    words += ["--resume_from_checkpoint", "true"] if resume else []
    moments = None if resume else Moments(folder, last)
    train.main(words)
    if count is not None:
        count.write_text(json.dumps(moments.seen))


def read_end(folder):
    """The bytes of a run's model, and the loss of its training."""
    results = json.loads((folder / "train_results.json").read_text())
    return (folder / "model.safetensors").read_bytes(), (folder / "config.json").read_text(), results["train_loss"]


def kill_one(config, base, method, last, whole):
    """What is wrong (`str`) after a run was killed at its moment `last` and resumed, or None."""
    folder, log = base / f"killed-{last}", base / f"log-{last}"
    status = fork(lambda: run(config, folder, method, last), log)
    if status != -signal.SIGKILL:
        return f"not killed but {status}: {log.read_text()[-2000:]}"
    if fork(lambda: run(config, folder, method, resume=(folder / "lfm_run.json").exists()), log):
        return log.read_text()[-2000:]
    ends = zip(("model", "config", "train_loss"), read_end(folder), whole, strict=True)
    names = [name for name, found, expected in ends if found != expected]
    left = [name for name in ("_unfinished", "_run.lock") if (folder / name).exists()]
    return " ".join(names + left) or None


def main(config, folder, kills, *methods):
    told = {}
    gc.freeze()  # or each fork looks through, and copies, all that was imported
    for method in methods:
        base = Path(folder) / method
        base.mkdir(parents=True)
        if fork(lambda: run(config, base / "whole", method, count=base / "count"), base / "log"):  # noqa: B023
            raise RuntimeError((base / "log").read_text())
        seen, whole = json.loads((base / "count").read_text()), read_end(base / "whole")
        for number in range(int(kills)):
            last = 1 + int((number + 0.5) * len(seen) / int(kills))
            wrong = kill_one(config, base, method, last, whole)
            told[f"{method} {last}/{len(seen)} {seen[last - 1]}"] = wrong
            print(method, last, seen[last - 1], wrong, file=sys.stderr, flush=True)
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
