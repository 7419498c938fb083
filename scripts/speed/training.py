"""Speed of training: the trainer against bare loops, number formats, and a step of every method."""

import copy
import math
import tempfile
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.rows import Row, ratios
from modeling_lfm.trainer.methods import list_methods

BARE = "bare loop"
SGD = {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 1e-2, "weight_decay": 1e-4, "max_grad_norm": 0.0}


def overhead(setup):
    """What LfmTrainer costs beside the model's own arithmetic."""
    towers, shapes = models.pair(setup, 96)
    texts = {"image": towers["image"], "text": models.text(setup.pick(models.TINY_BERT, models.MINILM))}
    lengths = {"image": shapes["image"], "text": setup.pick(8, 32, 128)}
    short = {"batch_size": setup.pick(4, 32), "steps": setup.pick(2, 6, 100)}
    yield against_bare_loop(setup, "ResNet18 + ResNet18", towers, shapes, least=0.97, **short)
    yield against_bare_loop(setup, "ResNet18 + BERT", texts, lengths, least=0.97, **short)
    batch = {"batch_size": setup.pick(4, 64), "steps": setup.pick(2, 168)}
    yield against_bare_loop(setup, "demo model", *models.demo_pair(), least=0.85, **batch)
    for anomaly in (False, True):
        yield against_released_step(setup, towers, shapes, anomaly, **short)


def against_bare_loop(setup, name, towers, shapes, least, batch_size, steps):
    """A `Row`: LfmTrainer with method concat, and a bare loop that ends with the same weights."""
    model = models.make_model(towers)
    rival = copy.deepcopy(model).to(setup.device)
    samples = models.make_samples(shapes, 2 * batch_size)
    matrices = [parameter for parameter in rival.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in rival.parameters() if parameter.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors}], lr=1e-3, weight_decay=0.0, fused=True)

    def loop():
        rival.train()
        for batch in batches(setup, samples, batch_size, steps):
            rival(**batch).loss.backward()
            nn.utils.clip_grad_norm_(rival.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    with tempfile.TemporaryDirectory() as folder:
        trainer = models.make_trainer(setup, folder, model, samples, "concat", batch_size, max_steps=steps)
        trainer.train(), loop()
        pairs = zip(model.state_dict().values(), rival.state_dict().values(), strict=True)
        exact = setup.device == "cpu"  # some of CUDA's kernels add in any order
        right = all(torch.equal(a, b) if exact else torch.allclose(a, b, atol=1e-2) for a, b in pairs)
        times = setup.take_turns({"trainer": trainer.train, BARE: loop})
    return Row(
        f"{BARE}, {name}",
        ratios(times[BARE], times["trainer"]),
        least=least,
        right=right,
        check="same weights to the bit" if exact else "same weights to 0.01",
        note=f"{steps} steps of {batch_size} samples, " + ", ".join(f"{key} {value}" for key, value in shapes.items()),
    )


def batches(setup, samples, batch_size, steps):
    """So many batches of the samples on the device, epoch by epoch."""
    loader = DataLoader(samples, batch_size, pin_memory=setup.device == "cuda")
    for _ in range(steps // len(loader)):
        for batch in loader:
            yield {name: tensor.to(setup.device, non_blocking=True) for name, tensor in batch.items()}


class ReleasedModel(nn.Module):
    """Two towers, and a head on their joined vectors that is split for the modalities' own predictions.

    From the description of the paper's released training, with the towers, projections and head of an LFM `model`, so
    that both compute the same.
    """

    def __init__(self, model):
        super().__init__()
        self.names = model.config.modality_names
        self.towers, self.projections, self.head = model.lfm.towers, model.lfm.projections, model.fusion.head

    def forward(self, batch):
        values = ((name, batch[f"{name}_values"]) for name in self.names)
        one, other = (self.projections[name](self.towers[name](value)) for name, value in values)
        weight, bias = self.head.weight, self.head.bias
        (left, right), half = weight.chunk(2, dim=1), bias / 2
        return (
            F.linear(torch.cat((one, other), 1), weight, bias),
            F.linear(one, left, half),
            F.linear(other, right, half),
        )


def released_step(model, optimizer, batch, alpha):
    """The paper's released training step, written afresh; returns L_CLS, A and L.

    L = (1 - alpha) CE(F) + alpha A, and the alignment A half the sum of the divergences of each softmaxed prediction
    and their mean, the mean first; three losses are read as numbers each step.
    """
    optimizer.zero_grad()
    fused, one, other = model(batch)
    p, q = one.softmax(-1), other.softmax(-1)
    alignment = sum(F.kl_div(side.log(), (p + q) / 2, reduction="batchmean") for side in (p, q)) / 2
    loss_cls = F.cross_entropy(fused, batch["labels"])
    loss = (1 - alpha) * loss_cls + alpha * alignment
    loss.backward()
    optimizer.step()
    return tuple(part.item() for part in (loss_cls, alignment, loss))


def against_released_step(setup, towers, shapes, anomaly, batch_size, steps):
    """A `Row`: LfmTrainer with LFM's heuristic alpha, and the released step, with or without anomaly detection."""
    model = models.make_model(towers, "lfm")
    rival = ReleasedModel(copy.deepcopy(model)).to(setup.device)
    samples = models.make_samples(shapes, 2 * batch_size)
    optimizer, losses = torch.optim.SGD(rival.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-4), []

    def loop():
        rival.train()
        with torch.autograd.set_detect_anomaly(anomaly):
            for number, batch in enumerate(batches(setup, samples, batch_size, steps)):
                losses.append(released_step(rival, optimizer, batch, 1 - math.exp(-1 / (1 + number // 2)))[0])

    with torch.no_grad():
        batch = next(batches(setup, samples, batch_size, 2))
        output = model.to(setup.device)(**{key: value for key, value in batch.items() if key != "labels"})
        pairs = zip((output.logits, *output.modality_logits), rival(batch), strict=True)
        same = all(torch.allclose(one, other, atol=1e-4) for one, other in pairs)
    method = {"name": "lfm", "alpha": "heuristic", "total": "convex"}
    with tempfile.TemporaryDirectory() as folder:
        trainer = models.make_trainer(setup, folder, model, samples, method, batch_size, max_steps=steps, **SGD)
        times = setup.take_turns({"trainer": trainer.train, BARE: loop}, rounds=2 if anomaly else 5)
    return Row(
        f"released step, anomaly detection {'on, as released' if anomaly else 'off'}",
        ratios(times[BARE], times["trainer"]),
        least=None if anomaly else 1.0,
        right=same and losses[-1] < losses[0],
        check="same predictions before training; its loss falls",
    )


# Training arguments, and how far the first losses may be from the plain ones', relative to them.
PLAIN, BF16, LAST, COMPILED = "fp32", {"bf16": True}, {"channels_last": True}, {"torch_compile": True}
VARIANTS = {
    PLAIN: ({}, 0.0),
    "bf16": (BF16, 2e-2),
    "channels_last": (LAST, 1e-3),
    "bf16, channels_last": (BF16 | LAST, 2e-2),
    "optimizer not fused": ({"optim": "adamw_torch"}, 1e-3),
    "torch_compile": (COMPILED, 1e-3),
    "bf16, channels_last, torch_compile": (BF16 | LAST | COMPILED, 2e-2),
}


def throughput(setup):
    """Samples a second of training by number format, memory format, compiler and optimizer."""
    towers, shapes = models.pair(setup, 64, {"audio": (1, 257, 299), "image": (3, 3, 224, 224)})
    small = {"image": models.resnet(1, **models.TINY_ARGS), "text": models.text(models.TINY_BERT)}
    eager = [name for name in VARIANTS if "compile" not in name]  # to compile ResNet18 takes a CPU two minutes
    chosen = setup.pick([PLAIN, "bf16", "torch_compile"], list(VARIANTS))
    batch = setup.pick(2, 16, 256)
    name = f"ResNet18 + ResNet18, batch {batch}"
    yield from formats(setup, name, towers, shapes, batch, setup.pick([PLAIN, "channels_last"], eager, list(VARIANTS)))
    batch = setup.pick(2, 32)
    name = f"ResNet18 of 8 to 16 channels + BERT of one layer, batch {batch}"
    yield from formats(setup, name, small, {"image": (1, 32, 32), "text": 16}, batch, chosen)


def formats(setup, name, towers, shapes, batch_size, chosen):
    """A `Row` for each of the `chosen` variants: the plain one in samples a second, the others relative to it."""
    samples, steps, losses = models.make_samples(shapes, batch_size), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for variant in chosen:
            settings = dict(VARIANTS[variant][0])
            if setup.quick and "torch_compile" in settings:
                settings["torch_compile_backend"] = "aot_eager"  # no compiler, but the same way
            settings |= {"max_steps": 1, "learning_rate": 1e-4}
            model = models.make_model(towers)
            trainer = models.make_trainer(setup, folder, model, samples, "concat", batch_size, **settings)
            trainer.train()
            steps[variant] = models.make_step(trainer)
            losses[variant] = [steps[variant]().item() for _ in range(4)]
        times = setup.take_turns(steps)
    speeds = {variant: [batch_size / seconds for seconds in found] for variant, found in times.items()}
    yield Row(f"{name}: {PLAIN}", speeds[PLAIN], "samples/s")
    for variant in chosen[1:]:
        tolerance = VARIANTS[variant][1]
        pairs = zip(losses[variant], losses[PLAIN], strict=True)
        yield Row(
            f"{name}: {variant}, over {PLAIN}",
            ratios(times[PLAIN], times[variant]),
            right=all(abs(one - other) <= tolerance * abs(other) for one, other in pairs),
            check=f"losses of 4 steps equal to {100 * tolerance:g} %",
        )


# A stage a step, in turns: `state.epoch` in each.
STAGES = {"reconboost": ({"modality_epochs": 0.5, "joint_epochs": 0.5}, (0.1, 0.6))}
HALF = {"channels": [32, 64, 128, 256]}  # half as wide as ResNet18, on larger pictures: arithmetic as at 128 x 128


def methods(setup):
    """What a step of every method costs over one of concatenation, against the passes that its formula needs."""
    towers, shapes = models.pair(setup, 128)
    if setup.device == "cpu" and not setup.quick:
        towers = {"audio": models.resnet(1, **HALF), "image": models.resnet(3, **HALF)}
    specs = [spec for spec in list_methods() if spec.name not in ("concat", "unimodal_3")]
    if setup.quick:
        specs = [spec for spec in specs if spec.name in ("lfm", "ogm", "reconboost", "unimodal_2")]
    rows, excesses = [], {}
    with tempfile.TemporaryDirectory() as folder:
        concat, trainer = steps_of(setup, "concat", towers, shapes, folder)
        parts = parts_of_a_step(setup, concat, trainer)
        for spec in specs:
            step, trainer = steps_of(setup, spec.name, towers, shapes, folder)
            times = setup.take_turns({"concat": concat, spec.name: step})
            stages = len(STAGES.get(spec.name, ((), (None,)))[1])
            forward, backward = spec.passes(len(towers))
            expected = forward * parts["forward"] + backward * parts["backward"] + min(1, backward) * parts["rest"]
            found = [ratio / stages for ratio in ratios(times[spec.name], times["concat"])]
            rows.append(
                Row(
                    f"{spec.title} (`{spec.name}`)",
                    found,
                    right=all(parameter.isfinite().all().item() for parameter in trainer.model.parameters()),
                    check="weights stay finite",
                    note=f"passes {forward:g} forwards, {backward:g} backwards: {expected:.2f} expected",
                )
            )
            excesses[spec.name] = 100 * (rows[-1].measured / expected - 1)
    worst = max(excesses, key=excesses.get)
    note = "a step of concat is " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in parts.items())
    yield Row(f"most above its passes, of {len(excesses)} methods: {worst}", [excesses[worst]], "%", most=10, note=note)
    yield from rows


def steps_of(setup, method, towers, shapes, folder):
    """A function that takes one step of each stage of a method, and its trainer."""
    settings, stages = STAGES.get(method, ({}, (None,)))
    settings, batch_size = {"name": method, **settings}, setup.pick(4, 16)
    model = models.make_model(towers, settings)
    samples = models.make_samples({name: shapes[name] for name in model.config.modality_names}, 2 * batch_size)
    trainer = models.make_trainer(setup, folder, model, samples, settings, batch_size, holdout=samples, max_steps=1)
    trainer.train()
    step = models.make_step(trainer)

    def steps():
        for stage in stages:
            trainer.state.epoch = trainer.state.epoch if stage is None else stage
            step()

    return steps, trainer


def parts_of_a_step(setup, step, trainer):
    """Shares of a step of concatenation (`dict`, sum 1): `forward`, `backward`, and the `rest`, as of the optimizer."""
    batch = next(models.make_batches(trainer.train_dataset, trainer.args.train_batch_size))
    batch = {name: tensor.to(setup.device) for name, tensor in batch.items()}
    trainer.model.train()
    functions = {
        "forward": lambda: trainer.model(**batch).loss,
        "backward": lambda: trainer.model(**batch).loss.backward(),
        "rest": step,
    }
    times = setup.take_turns(functions, rounds=10)
    medians = [0.0, *(sorted(times[name])[len(times[name]) // 2] for name in functions)]
    return {
        name: max(more - less, 0) / medians[-1] for name, (less, more) in zip(functions, pairwise(medians), strict=True)
    }
