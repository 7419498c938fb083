"""What two processes do in the time of one."""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.rows import Row, Setup, ratios

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
LOSSES = ("js", "infonce")  # the second gathers the features of all processes; they compute about the same


def start(*words, **environment):
    """Run Python with these words, and wait."""
    command, environment = [sys.executable, *words], {**os.environ, **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def launch(setup, file, count=1, place=0):
    """Let `count` processes train together, the first on core `place` of a CPU and the next ones on those behind it:
    seconds (`dict` by loss and clock of a `list`, a number a round), written to a file."""
    words = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    words += ["-m", "modeling_lfm.scripts.speed.processes", str(place), str(file), setup.device, str(int(setup.quick))]
    start(*words, OMP_NUM_THREADS="1")
    return json.loads(file.read_text())


def processes(setup):
    """Two processes, a core or a device each, against one with as large batches; and two runs that share nothing."""
    if setup.device == "cuda" and torch.cuda.device_count() < 2:
        return
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1 if setup.quick else 2) as pool:
        one, two = launch(setup, Path(folder, "one")), launch(setup, Path(folder, "two"), 2)
        beside = []
        if setup.device == "cpu":
            beside = list(pool.map(lambda place: launch(setup, Path(folder, f"beside{place}"), 1, place), range(2)))
    for loss in LOSSES:
        pairs = {clock: (one[loss][clock], two[loss][clock]) for clock in CLOCKS}
        yield Row(f"two processes, a core each, over twice one process: L_MM {loss}", percent(*pairs["wall"]), "%")
        yield Row(f"processor time of one step of one, over that of both: L_MM {loss}", percent(*pairs["cpu"]), "%")
        if beside:
            longer = [max(pair) for pair in zip(*(seconds[loss]["wall"] for seconds in beside), strict=True)]
            values = percent(one[loss]["wall"], longer)
            yield Row(f"two runs that share nothing, a core each, over twice one: L_MM {loss}", values, "%")


def percent(ones, others):
    return [100 * value for value in ratios(ones, others)]


def work(file, device, quick):
    """In each process: train with every loss; the first one writes the seconds of both clocks, a number a round."""
    setup, trainers = Setup(device, quick == "1"), {}
    batch, steps, rounds = setup.pick((4, 2, 1), (32, 12, 3))
    towers = dict.fromkeys("ab", models.resnet(1, channels=[16, 32, 64, 128]))
    samples = models.make_samples({"a": (1, 64, 64), "b": (1, 64, 64)}, 4 * batch)
    seconds = {loss: {clock: [] for clock in CLOCKS} for loss in LOSSES}
    for loss in LOSSES:
        method = {"name": "lfm", "alpha": "constant", "alpha_value": 0.5, "matching_loss": loss}
        model = models.make_model(towers, "lfm", 128)
        trainers[loss] = models.make_trainer(setup, f"{file}.out", model, samples, batch, method, max_steps=steps)
        trainers[loss].train()
    for _ in range(rounds):  # as often in every process, which torch's `Timer` cannot know
        for loss, trainer in trainers.items():
            begins = {clock: read() for clock, read in CLOCKS.items()}
            trainer.train()
            for clock, read in CLOCKS.items():
                seconds[loss][clock].append(read() - begins[clock])
    if trainer.args.process_index == 0:
        Path(file).write_text(json.dumps(seconds))


if __name__ == "__main__":
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[(int(sys.argv[1]) + int(os.environ["LOCAL_RANK"])) % len(cores)]})
    work(*sys.argv[2:])
