"""Several processes: what two of them do in the time of one, and what global negatives cost."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import distributed as dist
from transformers import TrainerCallback

from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.rows import Row, Setup

# InfoNCE gathers features; the other loss does not, and computes about the same.
LOSSES = {"js": "batch 32 a process", "infonce": "negatives of both processes"}


def processes(setup):
    """Two processes of one core each, against one."""
    if setup.device == "cuda" and torch.cuda.device_count() < 2:
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            one, two = train(setup, folder)[0], launch(setup, folder)
    finally:
        torch.set_num_threads(threads)
    for loss, note in LOSSES.items():
        pairs = zip(two["speeds"][loss], one[loss], strict=True)
        values = [100 * both / (2 * alone) for both, alone in pairs]
        yield Row(f"two processes, one core each, over twice one process: L_MM {loss}", values, "%", note=note)
    sizes = two["gathered"]
    note = f"of {', '.join(map(str, sizes))} numbers"
    yield Row("collective calls of InfoNCE's loss in a step", [float(len(sizes))], "calls", most=1, note=note)


def launch(setup, folder):
    """What [`work`] writes in two processes (`dict`)."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_cpu_threads_per_process=1"]
    # With --cpu accelerate would start one process; so it starts all, and the run itself stays on the CPU.
    command += ["--multi_gpu", "--main_process_port=0", "--num_processes=2", "--num_machines=1"]
    command += ["--mixed_precision=no", "--dynamo_backend=no"]
    command += ["-m", "modeling_lfm.scripts.speed.processes", folder, setup.device, str(int(setup.quick))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(Path(folder, "found.json").read_text())


def work(folder, device, quick):
    """In each of the processes: train, and count the calls; the first writes what was found."""
    speeds, trainer = train(Setup(device, quick == "1"), folder)
    found = {"speeds": speeds, "gathered": count_gathers(trainer)}
    if trainer.args.process_index == 0:
        Path(folder, "found.json").write_text(json.dumps(found))


class Stopwatch(TrainerCallback):
    """Seconds of the steps after the first `skip`; torch's `Timer` cannot look into a run of several processes."""

    def __init__(self, skip):
        self.skip = skip

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.skip:
            self.start = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self.start


def train(setup, folder):
    """Samples a second of all processes together, by loss (`dict`, a number a repeat), and the last trainer."""
    steps, batch, skip = setup.pick((1, 4, 1), (12, 32, 2))
    tower = models.resnet(1, channels=[16, 32, 64, 128])
    samples = models.make_samples({"a": (1, 64, 64), "b": (1, 64, 64)}, 4 * batch)
    found = {loss: [] for loss in LOSSES}
    for _ in range(setup.pick(1, 3)):
        for loss in LOSSES:
            method = {"name": "lfm", "alpha": "constant", "alpha_value": 0.5, "matching_loss": loss}
            settings = {"max_steps": steps + skip, "logging_strategy": "no"}
            model = models.make_model({"a": tower, "b": tower}, "lfm", hidden_size=128)
            trainer = models.make_trainer(setup, folder, model, samples, method, batch, **settings)
            watch = Stopwatch(skip)
            trainer.add_callback(watch)
            trainer.train()
            found[loss].append(steps * batch * trainer.args.world_size / watch.seconds)
    return found, trainer


def count_gathers(trainer):
    """How many numbers each collective call sends (`list[int]`) that the loss of a step makes."""
    batch = next(iter(trainer.get_train_dataloader()))
    calls, gather = [], dist.all_gather
    dist.all_gather = lambda parts, tensor, **kwargs: (calls.append(tensor.numel()), gather(parts, tensor, **kwargs))
    try:
        trainer.compute_loss(trainer.model, batch)
    finally:
        dist.all_gather = gather
    return calls


if __name__ == "__main__":
    work(*sys.argv[1:])
