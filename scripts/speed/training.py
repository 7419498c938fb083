"""Speed of training: the trainer against bare loops, number formats, and a step of every method."""

import copy
import tempfile

import torch
from torch import nn

from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.rows import Row, ratios
from modeling_lfm.trainer.methods import list_methods


def overhead(setup):
    """What LfmTrainer costs beside the model's own arithmetic."""
    towers, shapes = models.pair(setup, 96)
    texts = {"image": towers["image"], "text": models.text(*setup.pick((16, 1), (384, 6)))}
    lengths = {"image": shapes["image"], "text": setup.pick(8, 32, 128)}
    size = setup.pick((4, 2), (32, 6), (32, 100))  # samples a batch, steps
    yield against_bare_loop(setup, "ResNet18 + ResNet18", towers, shapes, *size, least=0.97)
    yield against_bare_loop(setup, "ResNet18 + BERT", texts, lengths, *size, least=0.97)
    demo = models.demo_pair()
    yield against_bare_loop(setup, "demo model", *demo, *setup.pick((4, 2), (64, 168)), least=0.85)


def against_bare_loop(setup, name, towers, shapes, batch_size, steps, least):
    """A `Row`: LfmTrainer with method concat, and a bare loop that ends with the same weights."""
    model, samples = models.make_model(towers), models.make_samples(shapes, 2 * batch_size)
    rival = copy.deepcopy(model).to(setup.device)
    # In groups as transformers makes them, so that sums are taken in the same order.
    groups = [{"params": [p for p in rival.parameters() if (p.dim() > 1) == matrices]} for matrices in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.0, fused=True)

    def loop():
        rival.train()
        for batch in models.batches(setup, samples, batch_size, steps):
            rival(**batch).loss.backward()
            nn.utils.clip_grad_norm_(rival.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    with tempfile.TemporaryDirectory() as folder:
        trainer = models.make_trainer(setup, folder, model, samples, batch_size, max_steps=steps)
        trainer.train(), loop()
        pairs = zip(model.state_dict().values(), rival.state_dict().values(), strict=True)
        exact = setup.device == "cpu"  # some of CUDA's kernels add in any order
        right = all(torch.equal(a, b) if exact else torch.allclose(a, b, atol=1e-2) for a, b in pairs)
        times = setup.take_turns({"trainer": trainer.train, "loop": loop})
    note = f"same weights {'to the bit' if exact else 'to 0.01'}; {steps} steps of {batch_size} samples"
    return Row(f"bare loop, {name}", ratios(times["loop"], times["trainer"]), least=least, right=right, note=note)


# Training arguments, and how far the first losses may be from those of fp32, relative to them.
BF16, LAST = {"bf16": True}, {"channels_last": True}
VARIANTS = {
    "fp32": ({}, 0.0),
    "bf16": (BF16, 2e-2),
    "channels_last": (LAST, 1e-3),
    "bf16, channels_last": (BF16 | LAST, 2e-2),
    "optimizer not fused": ({"optim": "adamw_torch"}, 1e-3),
    "torch_compile": ({"torch_compile": True}, 1e-3),
}


def throughput(setup):
    """Samples a second of training in fp32; then by number format, memory format, compiler and optimizer, over that."""
    towers, shapes = models.pair(setup, 64)
    batch_size = setup.pick(2, 16, 256)
    samples, steps, losses = models.make_samples(shapes, batch_size), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in setup.pick(["fp32", "bf16"], VARIANTS):
            settings = {**VARIANTS[name][0], "max_steps": 1, "learning_rate": 1e-4}
            trainer = models.make_trainer(setup, folder, models.make_model(towers), samples, batch_size, **settings)
            steps[name] = models.make_step(trainer)
            losses[name] = [steps[name]().item() for _ in range(4)]
        times = setup.take_turns(steps)
    yield Row(f"fp32, batch {batch_size}", [batch_size / seconds for seconds in times["fp32"]], "samples/s")
    for name in list(steps)[1:]:
        off = max(abs(one / other - 1) for one, other in zip(losses[name], losses["fp32"], strict=True))
        tolerance = VARIANTS[name][1]
        note = f"losses of 4 steps equal to {100 * tolerance:g} %"
        yield Row(f"{name}, over fp32", ratios(times["fp32"], times[name]), right=off <= tolerance, note=note)


# Stages of half an epoch, so that two steps see both of them.
SHORT_STAGES = {"reconboost": {"modality_epochs": 0.5, "joint_epochs": 0.5}}


def methods(setup):
    """What a step of every method costs over one of concatenation."""
    towers, shapes = models.pair(setup, 128)
    specs = [spec for spec in list_methods() if spec.name not in ("concat", "unimodal_3")]
    with tempfile.TemporaryDirectory() as folder:
        concat, _ = two_steps(setup, "concat", towers, shapes, folder)
        for spec in setup.pick(specs[::5], specs):
            steps, trainer = two_steps(setup, spec.name, towers, shapes, folder)
            times = setup.take_turns({"concat": concat, spec.name: steps})
            finite = all(parameter.isfinite().all().item() for parameter in trainer.model.parameters())
            found, note = (
                ratios(times[spec.name], times["concat"]),
                f"weights stay finite; more passes: {spec.extra_passes}",
            )
            yield Row(f"{spec.title} (`{spec.name}`)", found, right=finite, note=note)


def two_steps(setup, method, towers, shapes, folder):
    """A function that takes a step of a method in each half of an epoch, and its trainer."""
    method = {"name": method, **SHORT_STAGES.get(method, {})}
    model, batch_size = models.make_model(towers, method), setup.pick(4, 16)
    samples = models.make_samples({name: shapes[name] for name in model.config.modality_names}, 2 * batch_size)
    trainer = models.make_trainer(setup, folder, model, samples, batch_size, method, samples, max_steps=1)
    step = models.make_step(trainer)

    def steps():
        for trainer.state.epoch in (0.1, 0.6):
            step()

    return steps, trainer
