"""Several processes: what two of them do in the time of one, and what global negatives cost."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from modeling_lfm.scripts.benchmark_suite import Row, Spread

# InfoNCE gathers features; the other loss does not, and computes about the same.
LOSSES = ("js", "infonce")


def measure(bench):
    """See `benchmark_suite`."""
    found = {number: launch(bench, number) for number in (1, 2)}
    bench.details["samples_per_second"] = found
    for loss in LOSSES:
        pairs = zip(found[2][loss], found[1][loss], strict=True)
        row = Spread.of(100 * two / (2 * one) for two, one in pairs)
        yield row.row(
            f"two processes, one core each, over twice one process: L_MM {loss}",
            unit="%",
            note="DistributedDataParallel, batch 32 a process" if loss == "js" else "negatives of both processes",
        )
    yield Row("collective calls of InfoNCE a step, forward", found[2]["gathers"], unit="(calls)", note=found[2]["note"])


def launch(bench, number):
    """What the program below prints in so many processes (`dict`)."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "accelerate.commands.launch", "--num_cpu_threads_per_process=1"]
        if bench.suite == "cpu":
            # With --cpu accelerate would start one process; so it starts all, and the run itself stays on the CPU.
            command += ["--multi_gpu", "--main_process_port=0"] if number > 1 else ["--cpu"]
        elif number > 1:
            command += ["--multi_gpu", "--main_process_port=0"]
        command += [f"--num_processes={number}", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
        command += ["-m", "modeling_lfm.scripts.benchmark_processes", folder, bench.suite, str(int(bench.quick))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return json.loads((Path(folder) / "found.json").read_text())


def work(folder, suite, quick):
    """In each process: samples a second of training by loss, several repeats; written by the first."""
    from transformers import TrainerCallback

    from modeling_lfm import LfmConfig, LfmForMultimodalClassification
    from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
    from modeling_lfm.trainer.callbacks import LfmPrinterCallback

    steps, batch = (2, 4) if quick else (12, 32)
    tower = {"tower": "timm", "name": "resnet18", "in_chans": 1, "model_args": {"channels": [16, 32, 64, 128]}}
    generator = torch.Generator().manual_seed(0)
    data = [
        {
            "a_values": torch.randn(1, 64, 64, generator=generator),
            "b_values": torch.randn(1, 64, 64, generator=generator),
            "labels": torch.tensor(i % 10),
        }
        for i in range(batch * 4)
    ]

    class Stopwatch(TrainerCallback):
        """Seconds of the steps after the second."""

        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                self.start = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            self.seconds = time.perf_counter() - self.start if state.global_step > 2 else None

    found = {loss: [] for loss in LOSSES}
    for _ in range(1 if quick else 3):
        for loss in LOSSES:
            torch.manual_seed(0)
            watch = Stopwatch()
            trainer = LfmTrainer(
                model=LfmForMultimodalClassification(
                    LfmConfig({"a": tower, "b": tower}, hidden_size=128, num_labels=10)
                ),
                args=LfmTrainingArguments(
                    folder,
                    method={"name": "lfm", "alpha": "constant", "alpha_value": 0.5, "matching_loss": loss},
                    max_steps=steps + 2,
                    per_device_train_batch_size=batch,
                    logging_strategy="no",
                    save_strategy="no",
                    disable_tqdm=True,
                    use_cpu=suite == "cpu",
                ),
                train_dataset=data,
                callbacks=[watch],
            )
            trainer.pop_callback(LfmPrinterCallback)
            trainer.train()
            found[loss].append(steps * batch * trainer.args.world_size / watch.seconds)
    found |= count_gathers(trainer)
    if trainer.args.process_index == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))


def count_gathers(trainer):
    """How many collective calls the forward pass of InfoNCE makes, and with how many numbers (`dict`)."""
    from torch import distributed as dist

    from modeling_lfm.trainer.objectives import info_nce

    if trainer.args.world_size == 1:
        return {"gathers": 0, "note": ""}
    calls, gather = [], dist.all_gather
    dist.all_gather = lambda parts, tensor, **kwargs: (calls.append(tensor.numel()), gather(parts, tensor, **kwargs))
    try:
        info_nce([torch.randn(32, 128), torch.randn(32, 128)], gather=True)
    finally:
        dist.all_gather = gather
    return {"gathers": len(calls), "note": f"of {', '.join(map(str, calls))} numbers"}


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], sys.argv[3] == "1")
