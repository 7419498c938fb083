"""Samples a second of training by number format, memory format, compiler and optimizer; the time of a whole run."""

import io
import itertools
import json
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_lfm.scripts import train
from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.suite import Row, Spread

PLAIN, BF16, LAST = "fp32", {"bf16": True}, {"channels_last": True}
COMPILED = {"torch_compile": True}
# Training arguments, and how far losses may be from the plain ones', relative to them.
VARIANTS = {
    PLAIN: ({}, 0.0),
    "bf16": (BF16, 2e-2),
    "channels_last": (LAST, 1e-3),
    "bf16, channels_last": (BF16 | LAST, 2e-2),
    "optimizer not fused": ({"optim": "adamw_torch"}, 1e-3),
    "torch_compile": (COMPILED, 1e-3),
    "bf16, channels_last, torch_compile": (BF16 | LAST | COMPILED, 2e-2),
}
COMPARED = 4  # losses of the first steps
SURE = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # or each step would draw other numbers


@dataclass
class Setting:
    """What is trained: towers, shapes of their inputs (see `make_samples`), how often, and by which `VARIANTS`."""

    name: str
    towers: dict
    shapes: dict
    batch_size: int
    variants: tuple = tuple(VARIANTS)
    rounds: int = 5
    steps: int = 1


def settings(bench):
    """Those of the suite (`list[Setting]`)."""
    tiny, mini = models.resnet(1, model_args=models.TINY_ARGS), models.text({**models.TINY_BERT, **SURE})
    small = Setting("small", {"image": tiny, "text": mini}, {"image": (1, 32, 32), "text": 16}, 32)
    if bench.suite == "cpu":
        small = replace(small, name="ResNet18 of 8 to 16 channels + BERT of one layer, batch 32", steps=5)
        if bench.quick:
            return [replace(small, batch_size=2, variants=(PLAIN, *list(VARIANTS)[-3::2]), steps=1, rounds=1)]
        pair, shapes = {"audio": models.resnet(1), "image": models.resnet(3)}, {"audio": (1, 64, 64)}
        shapes["image"] = (3, 64, 64)
        eager = tuple(name for name in VARIANTS if "compile" not in name)  # to compile takes two minutes
        return [Setting("ResNet18 + ResNet18 (64 x 64), batch 16", pair, shapes, 16, eager), small]
    large = Setting(
        "ResNet18 + ResNet18 (257 x 299, three frames of 224 x 224), batch 256",
        {"audio": models.resnet(1), "image": models.resnet(3)},
        {"audio": (1, 257, 299), "image": (3, 3, 224, 224)},
        256,
        steps=4,
    )
    deep = Setting(
        "ResNet50 + BERT-base (224 x 224, 128 tokens), batch 64",
        {"image": models.resnet(3, "resnet50"), "text": models.text({**models.BERT_BASE, **SURE})},
        {"image": (3, 224, 224), "text": 128},
        64,
        steps=4,
    )
    return [replace(setting, batch_size=4, rounds=1, steps=1) if bench.quick else setting for setting in (large, deep)]


class Steps:
    """A trainer with some training arguments that takes steps on one batch, which lies on the device."""

    def __init__(self, bench, setting, arguments, samples, batch, folder):
        if bench.quick and "torch_compile" in arguments:
            arguments = {**arguments, "torch_compile_backend": "aot_eager"}  # no compiler, but the same way
        model, size = models.make_model(setting.towers), setting.batch_size
        self.count, self.losses = setting.steps, []
        self.trainer = models.make_trainer(
            bench, folder, model, samples, batch_size=size, max_steps=1, learning_rate=1e-4, **arguments
        )
        self.trainer.train()
        self.step = models.make_step(self.trainer, itertools.repeat(batch))

    def __call__(self):
        """So many steps as the setting says."""
        for _ in range(self.count):
            loss = self.step()
            if len(self.losses) < COMPARED:
                self.losses.append(loss)

    def agrees(self, other, tolerance):
        """Whether the losses of the first steps (`bool`) are those of `other`."""
        pairs = zip(self.losses, other.losses, strict=True)
        return all(abs(one.item() - two.item()) <= tolerance * abs(two.item()) for one, two in pairs)


def count_flops(step):
    """Floating-point operations (`int`) of the products and convolutions that `step` computes, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def measure_products(bench):
    """Floating-point operations a second of a large matrix product (`dict` by type: "fp32", "bf16")."""
    size, repeats = (256, 1) if bench.quick else (8192, 20) if bench.suite == "gpu" else (2048, 2)
    functions = {}
    for name, dtype in ((PLAIN, torch.float32), ("bf16", torch.bfloat16)):
        matrix = torch.randn(size, size, device=bench.device).to(dtype)
        functions[name] = lambda matrix=matrix: [matrix @ matrix for _ in range(repeats)]
    times = bench.alternate(functions, 1 if bench.quick else 5)
    return {name: repeats * 2 * size**3 / times.of(name).median for name in functions}


def measure_setting(bench, setting, products):
    """A `Row` for each variant: the plain one in samples a second, the others relative to it."""
    samples = models.make_samples(setting.shapes, setting.batch_size)
    batch = next(models.make_batches(samples, setting.batch_size))
    batch = {name: tensor.to(bench.device) for name, tensor in batch.items()}
    with tempfile.TemporaryDirectory() as folder:
        steps = {name: Steps(bench, setting, VARIANTS[name][0], samples, batch, folder) for name in setting.variants}
        times = bench.alternate(steps, setting.rounds, warm_up=1 + COMPARED // setting.steps)
        flops = count_flops(steps[PLAIN].step)
    count, best = setting.steps * setting.batch_size, max(products, key=products.get)
    speeds = {name: count / times.of(name).median for name in steps}
    shares = {name: speed / setting.batch_size * flops / products[best] for name, speed in speeds.items()}
    bench.details[setting.name] = {"samples_per_second": speeds, "share_of_products": shares, "flops_of_a_step": flops}
    for name, variant in steps.items():
        note = f"{100 * shares[name]:.0f} % of the machine's rate of {best} products"
        if name == PLAIN:
            speed = Spread.of(count / seconds for seconds in times.seconds[name])
            yield speed.row(f"{setting.name}: {name}", unit="samples/s", note=note)
            continue
        tolerance = VARIANTS[name][1]
        yield times.ratio(PLAIN, name).row(
            f"{setting.name}: {name}, over {PLAIN}",
            correct=variant.agrees(steps[PLAIN], tolerance),
            check=f"losses of {COMPARED} steps equal to {100 * tolerance:g} %",
            note=f"{speeds[name]:,.0f} samples/s, {note}",
        )


def train_whole(bench):
    """The row of a run of train.py, from reading the data to the saved model: on AV-MNIST if its folder is given."""
    name = "demo" if bench.data_dir is None else "av_mnist"
    with tempfile.TemporaryDirectory() as folder:
        words = [name, "--output_dir", f"{folder}/run", "--do_predict", "--disable_tqdm"]
        words += [] if bench.data_dir is None else ["--data_dir", str(bench.data_dir)]
        words += ["--use_cpu"] if bench.suite == "cpu" else []
        words += ["--num_train_epochs", "1", "--max_train_samples", "64"] if bench.quick else []
        with redirect_stdout(io.StringIO()):
            seconds = bench.time(lambda: train.main(words))
        results = json.loads(Path(folder, "run", "all_results.json").read_text())
    note = f"test accuracy {100 * results['test_accuracy']:.1f} %"
    return Row(f"train.py {name}, from reading the data to the saved model", seconds, unit="s", note=note)


def measure(bench):
    """See `benchmark_suite`."""
    products = measure_products(bench)
    bench.details["products_per_second"] = products
    for name, rate in products.items():
        yield Row(f"matrix products, {name}", rate / 1e12, unit="TFLOP/s")
    for setting in settings(bench):
        yield from measure_setting(bench, setting, products)
    yield train_whole(bench)
