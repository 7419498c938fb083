"""MMPareto: which weights the two gradients of an encoder get, their lengths, and what stays as it was."""

import pytest
import torch
from torch.nn import functional as F

from modeling_lfm.trainer.methods import make_method
from modeling_lfm.trainer.methods.mmpareto import fused_weight

from ..toy import SMOOTH, method_towers, shallow_resnet, toy_model, toy_trainer
from .steps import ONE_STEP, assert_one_step, stack, twin

TOWERS = {number: method_towers("mmpareto", normalised=False, number=number) for number in (2, 3)}


def make_trainer(folder, number=2, method=None, **kwargs):
    """A trainer whose first modality's unimodal head wants the opposite of the fused one; the others agree with it."""
    method = {"name": "mmpareto", **(method or {})}
    trainer = toy_trainer(folder, TOWERS[number], method=method, **{**ONE_STEP, **kwargs})
    model = trainer.model
    weight = model.fusion.head.weight.data.mul_(0.2)  # predictions are nearly uniform, whatever the sign
    for place, head in enumerate(model.unimodal_heads.values()):
        head.weight.data.copy_(weight[:, 16 * place : 16 * (place + 1)] * (-2 if place == 0 else 2))
    return trainer


def gradients_of(model, loss, parameters):
    model.zero_grad()
    loss.backward(retain_graph=True)
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


def least_norm_weight(one, other):
    """The lowest point of the parabola w -> ||w one + (1 - w) other||^2, from three of its points."""
    low, middle, high = (
        sum(((w * a + (1 - w) * b).double() ** 2).sum().item() for a, b in zip(one, other, strict=True))
        for w in (0.0, 0.5, 1.0)
    )
    curvature = 2 * (low - 2 * middle + high)
    return (low - high) / (2 * curvature) + 0.5


def reference(model, batch, magnification=1.5):
    """The model with MMPareto's gradients; returns the losses, and what was decided for each modality."""
    labels = batch.pop("labels")
    features = model.lfm(**batch).features
    losses = {"fused": F.cross_entropy(model.fusion(features)[0], labels)}
    for (name, head), feature in zip(model.unimodal_heads.items(), features, strict=True):
        losses[name] = F.cross_entropy(head(feature), labels)
    combined, decisions = {}, {}
    for name in model.config.modality_names:
        encoder = [*model.lfm.towers[name].parameters(), *model.lfm.projections[name].parameters()]
        one, other, whole = (
            gradients_of(model, loss, encoder) for loss in (losses["fused"], losses[name], sum(losses.values()))
        )
        flat = [torch.cat([gradient.flatten() for gradient in part]) for part in (one, other)]
        agree = F.cosine_similarity(*flat, dim=0) > 0
        weight = 0.5 if agree else least_norm_weight(one, other)
        decisions[name] = weight, 0
        for parameter, a, b, c in zip(encoder, one, other, whole, strict=True):
            h = 2 * weight * a + 2 * (1 - weight) * b
            if h.norm() > 0 and c.norm() > h.norm() * (1 + 1e-4):
                h = h * c.norm() / h.norm()
                decisions[name] = weight, decisions[name][1] + 1
            combined[parameter] = magnification * h
    model.zero_grad()
    sum(losses.values()).backward()
    for parameter, gradient in combined.items():
        if parameter.grad is not None:
            parameter.grad = gradient
    return losses, decisions


@pytest.mark.parametrize(("number", "size"), [(2, 8), (3, 8), (2, 2)])
def test_one_step_of_combined_gradients(number, size, tmp_path):
    """With 2 samples a batch, four batches make up a step: their gradients are combined once."""
    accumulation = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
    trainer = make_trainer(tmp_path, number, **accumulation)
    model, batch = twin(trainer)
    losses, decisions = reference(model, batch)
    (weight, stretched), *others = decisions.values()
    assert 0.51 < weight < 0.99
    assert stretched > 3
    assert [weight for weight, _ in others] == [0.5] * (number - 1)
    trainer.train()
    assert_one_step(trainer.model, model)
    entry = trainer.state.log_history[0]
    assert entry["loss"] == pytest.approx(sum(losses.values()).item(), rel=1e-4)
    for name, loss in losses.items():
        assert entry[f"loss_{name}"] == pytest.approx(loss.item(), rel=1e-4)
    assert trainer.method.fused == {}


def test_magnification_is_of_encoders_only(tmp_path):
    trainer = make_trainer(tmp_path, method={"magnification": 3.0})
    model, batch = twin(trainer)
    reference(model, batch, magnification=3.0)
    trainer.train()
    assert_one_step(trainer.model, model)


def test_weights_of_known_gradients():
    def weight(one, other):
        return fused_weight([torch.tensor(one)], [torch.tensor(other)]).item()

    assert weight([1.0, 0.0], [1.0, 5.0]) == 0.5
    assert weight([1.0, 0.0], [-1.0, 0.0]) == pytest.approx(0.5)
    assert weight([1.0, 0.0], [-3.0, 0.0]) == pytest.approx(0.75)
    assert weight([1.0, 0.0], [0.0, 1.0]) == pytest.approx(0.5)
    assert weight([1.0, 0.0], [-1e-9, 0.0]) == pytest.approx(1e-9)
    assert weight([-1e-9, 0.0], [1.0, 0.0]) == pytest.approx(1)
    assert weight([1.0, 0.0], [0.0, 0.0]) == pytest.approx(0.001)
    assert weight([0.0, 0.0], [1.0, 0.0]) == pytest.approx(0.999)


@pytest.mark.parametrize("ratio", [30, 3000])
def test_under_conflict_the_combination_opposes_neither_loss(ratio):
    """However much longer one gradient is; with a weight of at least 0.001 many would oppose the shorter one."""
    opposed = 0
    for seed in range(60):
        long, short = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        long, short = ratio * long / long.norm(), short / short.norm()
        if long @ short > 0:
            long = -long
        for one, other in ((long, short), (short, long)):
            weight = fused_weight([one.float()], [other.float()]).double()
            combined = weight * one + (1 - weight) * other
            assert F.cosine_similarity(combined, long, dim=0) > -1e-3
            assert F.cosine_similarity(combined, short, dim=0) > -1e-3
        opposed += bool((0.001 * long + 0.999 * short) @ short < -1e-5)
    assert (opposed > 20) == (ratio == 3000)


def test_gradients_that_cancel_stay_zero(tmp_path):
    """g and -3 g, whose combination of least norm has no direction to stretch."""
    trainer = make_trainer(tmp_path)
    model, method = trainer.model, trainer.method
    for name in TOWERS[2]:
        for parameter in model.encoder_parameters(name):
            method.fused[parameter] = torch.ones_like(parameter)
            method.unimodal[name][parameter] = -3 * torch.ones_like(parameter)
            parameter.grad = -2 * torch.ones_like(parameter)
    method.on_gradients()
    assert not any(p.grad.any() for name in TOWERS[2] for p in model.encoder_parameters(name))


def test_parts_without_gradients_are_left_alone(tmp_path):
    """A frozen tower, and a head that does not depend on its encoder: nothing there is infinite or no number."""
    towers = {"audio": {**shallow_resnet(1), "frozen": True}, "text": SMOOTH["text"]}
    trainer = toy_trainer(tmp_path, towers, method="mmpareto", **ONE_STEP)
    trainer.model.unimodal_heads["text"].weight.data.zero_()
    trainer.model.fusion.head.weight.data.zero_()
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    encoders = [key for key in after if key.startswith(("lfm.towers", "lfm.projections.text"))]
    assert all(torch.equal(before[key], after[key]) for key in encoders)
    assert not torch.equal(before["fusion.head.weight"], after["fusion.head.weight"])


def test_multi_label_problems(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model.config.problem_type = "multi_label_classification"
    trainer.method.check(trainer.model.config)
    for sample in trainer.train_dataset:
        sample["labels"] = F.one_hot(sample["labels"], 4).float()
    trainer.train()
    batch = stack(trainer.train_dataset)
    assert batch["labels"].shape == (8, 4)
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"method\.magnification=0"):
        make_method({"name": "mmpareto", "magnification": 0})
    with pytest.raises(ValueError, match=r"mmpareto needs LfmConfig\(unimodal_heads=True\)"):
        make_method("mmpareto").check(toy_model(SMOOTH).config)
