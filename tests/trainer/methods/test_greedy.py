"""Greedy: conditional learning speeds, and the gates that are held."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import TrainerCallback

from modeling_lfm import LfmConfig
from modeling_lfm.trainer.methods import make_method

from ..toy import method_towers, toy_trainer
from .steps import stack

NAMES = ("audio", "vit")
TOWERS = method_towers("greedy", normalised=False)
SGD = {
    "optim": "sgd",
    "learning_rate": 0.05,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "in_order": True,
    "size": 16,
}


def part(name):
    """Which branches a parameter belongs to: ("main" or "bypass", places)."""
    if ".exchange." in name:
        return "bypass", [m for m, modality in enumerate(NAMES) if f".excite.{modality}." in name] or [0, 1]
    if "fusion.heads." in name:
        return "main", [int(name.split("fusion.heads.")[1][0])]
    return "main", [m for m, modality in enumerate(NAMES) if f".{modality}." in name]


def reference(model, samples, steps, epsilon, window, first_epoch, steps_per_epoch=2):
    """SGD with the gates held as the method says; d and who is held (-1: nobody) after each step."""
    sums = {"main": [0.0, 0.0], "bypass": [0.0, 0.0]}
    gates = {(stage, name): [] for stage in model.lfm.exchange.blocks for name in NAMES}
    held, left, difference, history = -1, 0, 0.0, []
    for step in range(steps):
        batch = stack(samples[8 * (step % 2) : 8 * (step % 2) + 8])
        labels = batch.pop("labels")
        vectors = gated(model, batch, gates, held)
        loss = 0
        for m, name in enumerate(NAMES):
            loss = loss + F.cross_entropy(model.fusion.heads[m](model.lfm.projections[name](vectors[m])), labels)
        model.zero_grad()
        loss.backward()
        if held >= 0:
            left -= 1
            held = held if left else -1
        else:
            squares = {(kind, m): [0.0, 0.0] for kind in sums for m in (0, 1)}
            for name, parameter in model.named_parameters():
                kind, places = part(name)
                for m in places:
                    squares[kind, m][0] += (parameter.grad**2).sum().item()
                    squares[kind, m][1] += (parameter.detach() ** 2).sum().item()
            for (kind, m), (gradient, weight) in squares.items():
                sums[kind][m] += gradient / weight
            quotients = [math.log10(sums["bypass"][m] / sums["main"][m]) for m in (0, 1)]
            difference = quotients[0] - quotients[1]
            if step // steps_per_epoch + 1 >= first_epoch and abs(difference) > epsilon:
                held, left = (0 if difference > 0 else 1), window
        history.append((difference, held))
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.data -= 0.05 * parameter.grad
    return history


def gated(model, batch, gates, held):
    """The towers' vectors; notes each gate's mean over the batch, and uses the mean of the former for who is held."""
    maps = {}
    for name in NAMES:
        net = model.lfm.towers[name].encoder
        maps[name] = net.layer1(net.maxpool(net.act1(net.bn1(net.conv1(batch[f"{name}_values"])))))
    for stage, block in model.lfm.exchange.blocks.items():
        for name in NAMES:
            maps[name] = getattr(model.lfm.towers[name].encoder, stage)(maps[name])
        shared = F.relu(block.squeeze(torch.cat([maps[name].mean((2, 3)) for name in NAMES], 1)))
        for m, name in enumerate(NAMES):
            gate = 2 * torch.sigmoid(block.excite[name](shared))
            former = list(gates[stage, name])
            gates[stage, name].append(gate.detach().mean(0))
            if m == held:
                gate = (sum(former) / len(former)).expand(len(gate), -1)
            maps[name] = maps[name] * gate[:, :, None, None]
    return [maps[name].mean((2, 3)) for name in NAMES]


class Watcher(TrainerCallback):
    """Keeps d and who is held after each step."""

    def __init__(self, trainer):
        self.method, self.history = trainer.method, []
        trainer.add_callback(self)

    def on_step_end(self, args, state, control, **kwargs):
        logs = self.method.logs()
        self.history.append((logs["speed_difference"], logs["held"]))


@pytest.mark.parametrize(("size", "epsilon", "first_epoch"), [(8, 0.0, 2), (8, 10.0, 1), (4, 0.0, 1)])
def test_steps_against_the_formula(size, epsilon, first_epoch, tmp_path):
    """With 4 samples a batch, two batches make up a step."""
    settings = {"name": "greedy", "epsilon": epsilon, "window": 3, "first_epoch": first_epoch}
    batches = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
    trainer = toy_trainer(tmp_path, TOWERS, method=settings, num_train_epochs=5, **batches, **SGD)
    model = copy.deepcopy(trainer.model).train()
    expected = reference(model, trainer.train_dataset, 10, epsilon, 3, first_epoch)
    watcher = Watcher(trainer)
    trainer.train()
    assert [held for _, held in watcher.history] == [held for _, held in expected]
    assert [d for d, _ in watcher.history] == pytest.approx([d for d, _ in expected], rel=1e-3, abs=1e-5)
    for (name, one), other in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    held = [held >= 0 for _, held in expected]
    assert not any(held) if epsilon else sum(held) >= 6  # the case is what it is meant to be


def test_gates_are_held_in_training_only(tmp_path):
    """Evaluation between steps sees the gates themselves, and nothing is held when the run has ended."""
    settings = {"name": "greedy", "epsilon": 0.0, "first_epoch": 1}
    trainer = toy_trainer(tmp_path, TOWERS, method=settings, num_train_epochs=1, **SGD)
    trainer.train()
    blocks = trainer.model.lfm.exchange.blocks.values()
    assert all(block.held == {} for block in blocks)
    block, batch = next(iter(blocks)), {name: torch.randn(3, 8) for name in NAMES}
    free = block.train()(batch)["audio"]
    block.held = {"audio": torch.full((8,), 0.25)}
    assert torch.equal(block(batch)["audio"], torch.full((3, 8), 0.25))
    assert torch.equal(block.eval()(batch)["audio"], free)


def test_multi_label_problems(tmp_path):
    trainer = toy_trainer(tmp_path, TOWERS, method="greedy")
    trainer.model.config.problem_type = "multi_label_classification"
    inputs = stack(trainer.train_dataset[:6])
    labels = F.one_hot(inputs.pop("labels"), 4).float()
    outputs = trainer.model(**inputs)
    expected = sum(F.binary_cross_entropy_with_logits(logits, labels) for logits in outputs.modality_logits)
    torch.testing.assert_close(trainer.method.losses(outputs, labels, inputs)["loss"], expected)


def test_two_modalities_only():
    three = method_towers("greedy", number=3)
    config = LfmConfig(**make_method("greedy").config_settings(three), num_labels=4)
    with pytest.raises(ValueError, match="method greedy takes exactly 2 modalities"):
        make_method("greedy").check(config)


def test_wrong_settings_are_named():
    for settings, message in (
        ({"epsilon": -0.1}, r"method.epsilon=-0.1 must not be negative"),
        ({"window": 0}, r"method.window=0 must be at least 1"),
        ({"first_epoch": 0}, r"method.first_epoch=0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make_method({"name": "greedy", **settings})
