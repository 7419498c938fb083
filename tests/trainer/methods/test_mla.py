"""MLA: turns at a shared head, the projection of its gradient, and the weights by entropy."""

import copy

import pytest
import torch
from torch.nn import functional as F

from modeling_lfm import LfmForMultimodalClassification
from modeling_lfm.trainer.methods import make_method

from ..toy import SMOOTH, method_towers, shallow_resnet, toy_model, toy_trainer
from .steps import ONE_STEP, stack

SGD = {
    "size": 16,
    "num_train_epochs": 2,
    "optim": "sgd",
    "learning_rate": 0.05,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "in_order": True,
}
TOWERS = {number: method_towers("mla", normalised=False, number=number) for number in (2, 3)}


def reference(model, samples, modify=True):
    """Two epochs of two steps of 8 samples, in place; returns the losses of each step."""
    head, projection, calls, losses = model.fusion.head, torch.eye(16), 0, []
    for step in range(4):
        batch = stack(samples[:8] if step % 2 == 0 else samples[8:])
        labels, total = batch.pop("labels"), []
        for name in model.config.modality_names:
            feature = model.lfm.projections[name](model.lfm.towers[name](*inputs_of(batch, name)))
            loss = F.cross_entropy(feature @ head.weight.T + head.bias, labels)
            model.zero_grad()
            loss.backward()
            calls += 1
            if calls > 1 and modify:
                r = feature.detach().mean(0, keepdim=True)
                k = projection @ r.T
                damping = 0.1 ** (1 + (step % 2) / 2)
                projection = projection - (k @ k.T) / (damping + (r @ k).item())
                projection = projection / (projection**2).sum().sqrt()
                head.weight.grad = head.weight.grad @ projection.T
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.data -= 0.05 * parameter.grad
            total.append(loss.item())
        losses.append(total)
    return losses


def inputs_of(batch, name):
    return [value for key, value in batch.items() if key.split("_")[0] == name]


@pytest.mark.parametrize(("number", "size"), [(3, 8), (2, 2)])
def test_turns_with_a_projected_gradient(number, size, tmp_path):
    """With 2 samples a batch, four batches make up a step: their gradients and their mean feature."""
    settings = {**SGD, "per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
    trainer = toy_trainer(tmp_path, TOWERS[number], method="mla", **settings)
    model = copy.deepcopy(trainer.model).train()
    losses = reference(model, trainer.train_dataset)
    trainer.train()
    assert trainer.state.global_step == 4
    assert trainer.method.steps == 4 * number
    for (name, one), other in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    for entry, expected in zip(trainer.state.log_history, losses, strict=False):
        found = [entry[f"loss_{name}"] for name in model.config.modality_names]
        assert found == pytest.approx(expected, rel=1e-4)
        assert entry["loss"] == pytest.approx(sum(expected), rel=1e-4)


def test_without_the_projection_as_the_released_code(tmp_path):
    weights = []
    for modify in (True, False):
        trainer = toy_trainer(tmp_path, TOWERS[2], method={"name": "mla", "modify_gradient": modify}, **SGD)
        model = copy.deepcopy(trainer.model).train()
        reference(model, trainer.train_dataset, modify)
        trainer.train()
        for one, other in zip(trainer.model.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
        weights.append(trainer.model.fusion.head.weight.detach())
    assert (weights[0] - weights[1]).abs().max() > 1e-3


def test_the_gradient_stays_away_from_the_features_before(tmp_path):
    """After an update P maps the mean feature to almost nothing, beside what it does to other directions."""
    trainer = toy_trainer(tmp_path, TOWERS[2], method="mla", **SGD)
    method = trainer.method
    method.on_train_begin()
    trainer.model.fusion.head.weight.grad = torch.eye(4, 16)
    for _ in range(2):
        method.mean_feature = 5 * torch.eye(16)[0]
        method.on_gradients()
    gradient = trainer.model.fusion.head.weight.grad
    assert abs(gradient[0, 0]) < 0.01 * gradient[1, 1]
    assert method.projection.norm().item() == pytest.approx(1)


def test_weights_follow_the_entropy_of_each_sample():
    model = toy_model(TOWERS[3], fusion="mla", num_labels=5)
    features = tuple(scale * torch.randn(6, 16) for scale in (1, 5, 20))
    logits, modality_logits = model.fusion(features)
    for i in range(6):
        entropies = [torch.distributions.Categorical(logits=part[i]).entropy() for part in modality_logits]
        raw = [torch.exp(max(entropies) - entropy) for entropy in entropies]
        expected = sum(weight / sum(raw) * part[i] for weight, part in zip(raw, modality_logits, strict=True))
        torch.testing.assert_close(logits[i], expected, rtol=1e-4, atol=1e-5)
    assert model.fusion.head.weight.shape == (5, 16)
    huge = model.fusion(tuple(feature.bfloat16().float() * 1e4 for feature in features))[0]
    assert huge.isfinite().all()


def test_fixed_weights_travel_with_the_model(tmp_path):
    method = {"name": "mla", "weights": [0.35, 0.25, 0.4]}
    trainer = toy_trainer(tmp_path, TOWERS[3], method=method, **{**SGD, "num_train_epochs": 1})
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    loaded = LfmForMultimodalClassification.from_pretrained(tmp_path / "saved")
    batch = stack(trainer.train_dataset)
    batch.pop("labels")
    with torch.no_grad():
        output, again = trainer.model.eval()(**batch), loaded(**batch)
    audio, text, vit = output.modality_logits
    torch.testing.assert_close(output.logits, 0.35 * audio + 0.25 * text + 0.4 * vit)
    assert torch.equal(output.logits, again.logits)


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"weights=\[0\.5, 0\.5\] .* audio, text, vit"):
        toy_trainer(tmp_path, TOWERS[3], method={"name": "mla", "weights": [0.5, 0.5]})
    with pytest.raises(ValueError, match=r"mla trains models of fusion mla, not concat"):
        make_method("mla").check(toy_model(SMOOTH).config)
    with pytest.raises(ValueError, match=r"method\.weights=\[0\.3, 0\.7\] .* fusion_args, None"):
        make_method({"name": "mla", "weights": [0.3, 0.7]}).check(toy_model(SMOOTH, fusion="mla").config)
    for weights in ([], [0.0, 0.0], [1.5, -0.5]):
        with pytest.raises(ValueError, match=r"method\.weights"):
            make_method({"name": "mla", "weights": weights})


def test_a_frozen_tower_is_no_hindrance(tmp_path):
    towers = {"audio": {**shallow_resnet(1), "frozen": True}, "text": SMOOTH["text"]}
    trainer = toy_trainer(tmp_path, towers, method="mla", **SGD)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    moved = {key for key, value in trainer.model.state_dict().items() if not torch.equal(value, before[key])}
    assert not any(key.startswith("lfm.towers.audio") for key in moved)
    assert "lfm.projections.audio.weight" in moved


@pytest.mark.parametrize(("max_grad_norm", "moves"), [(0.0, True), (1e-6, False)])
def test_steps_within_a_batch_are_clipped_as_the_others(max_grad_norm, moves, tmp_path):
    settings = {**ONE_STEP, "max_grad_norm": max_grad_norm}
    trainer = toy_trainer(tmp_path, SMOOTH, method="mla", **settings)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    moved = max((one - other).abs().max().item() for one, other in zip(trainer.model.parameters(), before, strict=True))
    assert (moved > 1e-5) == moves
