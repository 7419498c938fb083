"""Gradient-Blending: the weighted loss, and how the weights are estimated."""

import copy

import pytest
import torch
from torch.nn import functional as F

from modeling_lfm import LfmConfig
from modeling_lfm.trainer.methods import METHODS, make_method
from modeling_lfm.trainer.methods.g_blend import Branch, blend

from ..toy import method_towers, toy_trainer
from .steps import ONE_STEP, assert_one_step, stack, twin

TOWERS = method_towers("g_blend", normalised=False)
THREE = method_towers("g_blend", normalised=False, number=3)
FULL_BATCH = {**ONE_STEP, "size": 32, "holdout": 16, "per_device_train_batch_size": 16, "learning_rate": 0.2}


def branch_losses(model, batch):
    """CE_k of the unimodal heads, then of the fused prediction."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    features = model.lfm(**inputs).features
    logits = [z @ head.weight.T + head.bias for z, head in zip(features, model.unimodal_heads.values(), strict=True)]
    logits.append(torch.cat(features, 1) @ model.fusion.head.weight.T + model.fusion.head.bias)
    return [F.cross_entropy(part, batch["labels"]) for part in logits]


def weights_of(trainer):
    """w in each log entry."""
    return [
        [value for key, value in entry.items() if key.startswith("weight_")]
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


@pytest.mark.parametrize(("towers", "weights"), [(TOWERS, [0.014, 0.63, 0.356]), (THREE, [1, 0, 0.5, 2])])
def test_one_step_with_given_weights(towers, weights, tmp_path):
    trainer = toy_trainer(tmp_path, towers, method={"name": "g_blend", "weights": weights}, **ONE_STEP)
    model, batch = twin(trainer)
    losses = branch_losses(model, batch)
    sum(weight * loss for weight, loss in zip(weights, losses, strict=True)).backward()
    trainer.train()
    assert_one_step(trainer.model, model)
    entry = trainer.state.log_history[0]
    names = [*towers, "fused"]
    assert [entry[f"loss_{name}"] for name in names] == pytest.approx([loss.item() for loss in losses], rel=1e-5)
    assert [entry[f"weight_{name}"] for name in names] == weights
    assert trainer.holdout_dataset is None


@pytest.mark.parametrize(
    ("towers", "steps", "settings"),
    [(TOWERS, 3, {"num_train_epochs": 3}), (THREE, 2, {"method": {"name": "g_blend", "estimation_epochs": 2}})],
)
def test_estimate_against_branches_trained_by_hand(towers, steps, settings, tmp_path):
    """Full-batch gradient descent of each branch, as long as the training if not told; the paper's G and O then."""
    trainer = toy_trainer(tmp_path, towers, **{**FULL_BATCH, "method": "g_blend", **settings})
    start, batch = twin(trainer)
    held = stack(trainer.holdout_dataset)
    assert len(batch["labels"]) == len(held["labels"]) == 16
    expected, gaps = [], []
    for place in range(len(towers) + 1):
        model, losses = copy.deepcopy(start), []
        for step in range(steps + 1):
            loss = branch_losses(model, batch)[place]
            losses.append([branch_losses(model, held)[place].item(), loss.item()])
            if step < steps:
                parameters = list(model.parameters())
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        parameter.data -= 0.2 * gradient
        (held_before, trained_before), (held_after, trained_after) = losses[0], losses[-1]
        gain = held_before - held_after
        gap = (held_after - trained_after) - (held_before - trained_before)
        gaps.append(abs(gap))
        expected.append(max(gain, 0) / max(gap**2, 1e-4))
    assert sum(expected) > 0
    assert max(gaps) > 0.01
    trainer.train()
    assert trainer.method.weights == pytest.approx([raw / sum(expected) for raw in expected], rel=5e-3, abs=1e-4)


def test_weights_of_given_gains_and_gaps():
    gains, gaps = torch.tensor([0.5, 0.2, 0.4]), torch.tensor([0.5, -0.1, 0.2])
    assert blend(gains, gaps).tolist() == pytest.approx([2 / 32, 20 / 32, 10 / 32])


@pytest.mark.parametrize(
    ("gains", "gaps", "expected"),
    [
        ([0.1, 0.1, 0.3], [0.0, 0.001, 0.02], [1000 / 2750, 1000 / 2750, 750 / 2750]),  # |O| counts 0.01 at least
        ([-0.3, 0.1, 0.1], [0.1, 0.1, 0.2], [0, 0.8, 0.2]),  # a branch that got worse
        ([-0.3, -0.1, 0.0], [0.1, 0.1, 0.2], [1 / 3, 1 / 3, 1 / 3]),  # none got better
        ([float("nan"), float("-inf"), 0.1], [float("nan"), float("inf"), 0.2], [0, 0, 1]),  # diverged
    ],
)
def test_degenerate_estimates(gains, gaps, expected):
    assert blend(torch.tensor(gains), torch.tensor(gaps)).tolist() == pytest.approx(expected, rel=1e-5)


def test_online_estimates_each_super_epoch(tmp_path):
    method = {"name": "g_blend", "mode": "online", "super_epoch": 2, "estimation_epochs": 1}
    settings = {"size": 24, "holdout": 16, "num_train_epochs": 4, "learning_rate": 4e-3}
    trainer = toy_trainer(tmp_path, TOWERS, method=method, **settings)
    trainer.train()
    first, second, third, fourth = weights_of(trainer)
    assert first == second != third == fourth
    assert sum(first) == pytest.approx(1)
    assert sum(third) == pytest.approx(1)


def test_an_estimate_leaves_no_trace(tmp_path):
    """Training goes on as with these weights given, bit for bit."""
    settings = {"size": 32, "holdout": 16, "num_train_epochs": 2}
    trainer = toy_trainer(tmp_path, TOWERS, method={"name": "g_blend", "estimation_epochs": 1}, **settings)
    trainer.train()
    weights = weights_of(trainer)
    assert weights == [weights[0]] * 4
    given = toy_trainer(tmp_path, TOWERS, method={"name": "g_blend", "weights": weights[0]}, **settings)
    given.train_dataset = trainer.train_dataset
    given.train()
    for one, other in zip(trainer.model.state_dict().values(), given.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_branch_trains_nothing_else(place, tmp_path):
    trainer = toy_trainer(tmp_path, TOWERS, method="g_blend", size=24, holdout=8)
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    copied = trainer.train_apart(copy.deepcopy(trainer.model), Branch(place), 1)
    moved = {key for key, value in copied.named_parameters() if not torch.equal(value, before[key])}
    names = ("audio", "text")
    if place == 2:
        expected = {key for key in before if not key.startswith("unimodal_heads.")}
    else:
        parts = ("lfm.towers", "lfm.projections", "unimodal_heads")
        expected = {key for key in before if key.startswith(tuple(f"{part}.{names[place]}." for part in parts))}
    assert {key for key, value in copied.named_parameters() if value.requires_grad} == expected
    assert moved <= expected
    assert len(moved) > len(expected) / 2
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.named_parameters())
    assert Branch.spec.name not in METHODS


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"weights": [1, -1, 1]}, r"method\.weights=\[1, -1, 1\]"),
        ({"weights": [0, 0, 0]}, r"method\.weights=\[0, 0, 0\]"),
        ({"weights": []}, r"method\.weights=\[\]"),
        ({"weights": ["a", 1, 1]}, r"method\.weights="),
        ({"weights": [0.5, 0.5]}, r"must hold 3 numbers: audio, text, fused"),
        ({"mode": "sometimes"}, r"method\.mode='sometimes'"),
        ({"super_epoch": 0}, r"method\.super_epoch=0"),
        ({"estimation_epochs": -1}, r"method\.estimation_epochs=-1"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        make_method({"name": "g_blend", **setting}).check(LfmConfig(TOWERS, unimodal_heads=True))
