"""Several processes and start-up: what two processes do in the time of one, and how fast programs begin."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.rows import Row, Setup, ratios

FOLDER = Path(__file__).resolve().parents[1]
AUTO = "from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel"
LOSSES = ("js", "infonce")  # the second gathers the features of all processes; they compute about the same


def start(*words, **environment):
    """Run Python with these words, and wait."""
    command, environment = [sys.executable, *words], {**os.environ, **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def startup(setup):
    """Seconds of every program's --help, and of importing the package."""
    programs = sorted(file for file in FOLDER.glob("*.py") if "\ndef main(" in file.read_text(encoding="utf-8"))
    calls = {file.name: lambda file=file: start(file, "--help") for file in programs[: setup.pick(1, None)]}
    times = setup.take_turns(calls, rounds=2)
    slowest = max(calls, key=lambda name: min(times[name]))
    yield Row(f"{slowest} --help, the slowest of {len(calls)}", times[slowest], "s", most=1.5)
    calls = {"ours": lambda: start("-c", "import modeling_lfm"), "auto": lambda: start("-c", AUTO)}
    times = setup.take_turns(calls, rounds=3)
    note = f"{min(times['ours']):.2f} s and {min(times['auto']):.2f} s, with the interpreter's own start"
    values = ratios(times["ours"], times["auto"])
    yield Row("import modeling_lfm over transformers' Auto classes", values, most=1.1, note=note)


def processes(setup):
    """Two processes, a core or a device each, against one with as large batches."""
    if setup.device == "cuda" and torch.cuda.device_count() < 2:
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, 2):
            words = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
            words += ["-m", "modeling_lfm.scripts.speed.processes", folder, setup.device, str(int(setup.quick))]
            start(*words, OMP_NUM_THREADS="1")
            found.append(json.loads(Path(folder, "seconds.json").read_text()))
    for loss in LOSSES:
        values = [100 * one / two for one, two in zip(*(seconds[loss] for seconds in found), strict=True)]
        yield Row(f"two processes, a core each, over twice one process: L_MM {loss}", values, "%")


def work(folder, device, quick):
    """In each process: train with every loss; the first one writes the seconds, a number a round."""
    setup, seconds, trainers = Setup(device, quick == "1"), {loss: [] for loss in LOSSES}, {}
    batch, steps, rounds = setup.pick((4, 2, 1), (32, 12, 3))
    towers = dict.fromkeys("ab", models.resnet(1, channels=[16, 32, 64, 128]))
    samples = models.make_samples({"a": (1, 64, 64), "b": (1, 64, 64)}, 4 * batch)
    for loss in LOSSES:
        method = {"name": "lfm", "alpha": "constant", "alpha_value": 0.5, "matching_loss": loss}
        model = models.make_model(towers, "lfm", 128)
        trainers[loss] = models.make_trainer(setup, folder, model, samples, batch, method, max_steps=steps)
        trainers[loss].train()
    for _ in range(rounds):  # as often in every process, which torch's `Timer` cannot know
        for loss, trainer in trainers.items():
            begin = time.perf_counter()
            trainer.train()
            seconds[loss].append(time.perf_counter() - begin)
    if trainer.args.process_index == 0:
        Path(folder, "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    work(*sys.argv[1:])
