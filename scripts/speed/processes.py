"""What two processes do in the time of one."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.rows import Row, Setup

LOSSES = ("js", "infonce")  # the second gathers the features of all processes; they compute about the same


def start(*words, **environment):
    """Run Python with these words, and wait."""
    command, environment = [sys.executable, *words], {**os.environ, **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


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
