"""Several processes: what two of them do in the time of one, and what global negatives cost."""

import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import distributed as dist
from transformers import TrainerCallback

from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.suite import Bench, Row, Spread

# InfoNCE gathers features; the other loss does not, and computes about the same.
LOSSES = ("js", "infonce")
CALLS = "collective calls of InfoNCE's loss in a step"


def measure(bench):
    """See `benchmark_suite`."""
    if bench.suite == "gpu" and torch.cuda.device_count() < 2:
        yield Row(CALLS, None, goal=CALLS, note="needs two GPUs")
        return
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        one, two = train(bench, folder), launch(bench, folder)
    bench.details["samples_per_second"] = {"1": one, "2": two["speeds"]}
    for loss in LOSSES:
        pairs = zip(two["speeds"][loss], one[loss], strict=True)
        row = Spread.of(100 * both / (2 * alone) for both, alone in pairs)
        yield row.row(
            f"two processes, one core each, over twice one process: L_MM {loss}",
            unit="%",
            note="DistributedDataParallel, batch 32 a process" if loss == "js" else "negatives of both processes",
        )
    sizes = two["gathered"]
    yield Row(CALLS, float(len(sizes)), goal=CALLS, note=f"of {', '.join(map(str, sizes))} numbers")


@contextmanager
def one_thread():
    """This process computes on one core inside, as each of two does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def launch(bench, folder):
    """What `work` writes in two processes (`dict`)."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_cpu_threads_per_process=1"]
    # With --cpu accelerate would start one process; so it starts all, and the run itself stays on the CPU.
    command += ["--multi_gpu", "--main_process_port=0", "--num_processes=2", "--num_machines=1"]
    command += ["--mixed_precision=no", "--dynamo_backend=no"]
    command += ["-m", "modeling_lfm.scripts.benchmark_processes", folder, bench.suite, str(int(bench.quick))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(Path(folder, "found.json").read_text())


def work(folder, suite, quick):
    """In each of the processes: train, and count the calls; the first writes what was found."""
    bench = Bench(suite, quick)
    trainers = []
    found = {"speeds": train(bench, folder, trainers), "gathered": count_gathers(trainers[-1])}
    if trainers[-1].args.process_index == 0:
        Path(folder, "found.json").write_text(json.dumps(found))


class Stopwatch(TrainerCallback):
    """Seconds of the steps after the first `skip`, by the clock on the wall: the cores of several processes count."""

    def __init__(self, bench, skip):
        self.bench, self.skip = Bench(bench.suite), skip

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.skip:
            self.start = self.bench.now()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds = self.bench.now() - self.start


def train(bench, folder, trainers=None):
    """Samples a second, of all processes together, by loss (`dict` of `list[float]`), several repeats.

    Args:
        trainers (`list`, *optional*): gets the trainers.
    """
    steps, batch, skip = (1, 4, 1) if bench.quick else (12, 32, 2)
    tower = models.resnet(1, model_args={"channels": [16, 32, 64, 128]})
    samples = models.make_samples({"a": (1, 64, 64), "b": (1, 64, 64)}, 4 * batch)
    found = {loss: [] for loss in LOSSES}
    for _ in range(1 if bench.quick else 3):
        for loss in LOSSES:
            watch = Stopwatch(bench, skip)
            trainer = models.make_trainer(
                bench,
                folder,
                models.make_model({"a": tower, "b": tower}, "lfm", hidden_size=128),
                samples,
                {"name": "lfm", "alpha": "constant", "alpha_value": 0.5, "matching_loss": loss},
                batch,
                max_steps=steps + skip,
                logging_strategy="no",
            )
            trainer.add_callback(watch)
            trainer.train()
            found[loss].append(steps * batch * trainer.args.world_size / watch.seconds)
            if trainers is not None:
                trainers.append(trainer)
    return found


def count_gathers(trainer):
    """How many numbers each collective call sends (`list[int]`) that the loss of a step makes."""
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    calls, gather = [], dist.all_gather
    dist.all_gather = lambda parts, tensor, **kwargs: (calls.append(tensor.numel()), gather(parts, tensor, **kwargs))
    try:
        trainer.compute_loss(trainer.model, batch)
    finally:
        dist.all_gather = gather
    return calls


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], sys.argv[3] == "1")
