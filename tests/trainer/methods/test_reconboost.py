"""ReconBoost: stages of one modality and of all, their losses, and optimizers that start afresh."""

import copy

import pytest
import torch
from torch.nn import functional as F

from modeling_lfm import LfmForMultimodalClassification
from modeling_lfm.trainer.methods import make_method

from ..toy import method_towers, toy_model, toy_trainer
from .steps import EpochWatcher, stack

SETTINGS = {
    "size": 16,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "in_order": True,
}
TOWERS = {number: method_towers("reconboost", normalised=False, number=number) for number in (2, 3)}
METHOD = {
    "name": "reconboost",
    "modality_epochs": 1.0,
    "joint_epochs": 0.5,
    "weight1": 4.0,
    "weight2": 3.0,
    "alpha": 2.0,
}


def momentum_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01)


def logits_of(model, name, batch):
    inputs = [value for key, value in batch.items() if key.split("_")[0] == name]
    feature = model.lfm.projections[name](model.lfm.towers[name](*inputs))
    first, _, last = model.fusion.head
    return (feature @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias


def reference(model, samples, stages):
    """Stages of two steps alone and one together, in place; returns the losses."""
    names, step, losses = model.config.modality_names, 0, []
    for stage in range(stages):
        m, before = names[stage % len(names)], names[(stage - 1) % len(names)]
        encoder = [*model.lfm.towers[m].parameters(), *model.lfm.projections[m].parameters()]
        for parameters, steps in (([*encoder, *model.fusion.head.parameters()], 2), (list(model.parameters()), 1)):
            optimizer = momentum_sgd(parameters)
            for _ in range(steps):
                batch = stack(samples[:8] if step % 2 == 0 else samples[8:])
                labels, step = batch.pop("labels"), step + 1
                f = {name: logits_of(model, name, batch) for name in names}
                if steps == 1:
                    loss = F.cross_entropy(model.fusion.boost_rate * sum(f.values()), labels)
                else:
                    y = F.one_hot(labels, 4)
                    q = (model.fusion.boost_rate * sum(f[j] for j in names if j != m)).softmax(1).detach()
                    log_p = f[m].log_softmax(1)
                    loss = (-4 * y * log_p + 3 * y * q * log_p).mean()
                    if stage > 0:
                        loss = loss + 2 * ((f[m].softmax(1) - f[before].softmax(1).detach()) ** 2).mean()
                model.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("number", "stages", "size"), [(2, 3, 8), (3, 4, 4)])
def test_stages(number, stages, size, tmp_path):
    """Through all modalities and back to the first, with momentum and weight decay that would betray old moments."""
    settings = {**SETTINGS, "per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
    trainer = toy_trainer(tmp_path, TOWERS[number], method=METHOD, num_train_epochs=1.5 * stages, **settings)
    model = copy.deepcopy(trainer.model).train()
    losses = reference(model, trainer.train_dataset, stages)
    trainer.optimizer = momentum_sgd(trainer.model.parameters())
    trainer.train()
    for (name, one), other in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
    log = trainer.state.log_history[:-1]
    assert [entry["loss"] for entry in log] == pytest.approx(losses, rel=1e-4)
    assert [entry["stage"] for entry in log] == [stage for stage in range(stages) for _ in range(3)]
    assert [entry["joint"] for entry in log] == [0, 0, 1] * stages


@pytest.mark.parametrize("bf16", [False, True])
def test_alone_means_encoder_and_head_only(bf16, tmp_path):
    method = {"name": "reconboost", "modality_epochs": 1.0, "joint_epochs": 0.0}
    trainer = toy_trainer(tmp_path, TOWERS[3], method=method, num_train_epochs=3, bf16=bf16, **SETTINGS)
    watcher, states = EpochWatcher(trainer, lambda: None), [copy.deepcopy(trainer.model.state_dict())]
    trainer.train()
    states += watcher.weights
    for before, after, name in zip(states, states[1:], TOWERS[3], strict=False):
        moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
        assert f"lfm.projections.{name}.weight" in moved
        assert {"fusion.head.0.weight", "fusion.head.2.weight", "fusion.head.2.bias"} <= moved
        assert all(f".{name}." in key or key.startswith("fusion.head") for key in moved)


def test_published_stages_take_eight_epochs(tmp_path):
    trainer = toy_trainer(tmp_path, TOWERS[2], method="reconboost")
    found = []
    for epoch in (0, 3.99, 4, 7.99, 8, 12, 16.0):
        trainer.state.epoch = epoch
        found.append(trainer.method.current_phase())
    assert found == [(0, False), (0, False), (0, True), (0, True), (1, False), (1, True), (2, False)]


def test_boundaries_survive_rounding(tmp_path):
    method = {"name": "reconboost", "modality_epochs": 0.3, "joint_epochs": 0.3}
    trainer = toy_trainer(tmp_path, TOWERS[2], method=method)
    found = []
    for step in range(0, 60, 3):
        trainer.state.epoch = step // 10 + (step % 10) / 10
        found.append(trainer.method.current_phase())
    assert found == [(stage, joint) for stage in range(10) for joint in (False, True)]


def test_the_fusion_predicts_after_saving(tmp_path):
    model = toy_model(TOWERS[3], fusion="reconboost", fusion_args={"width": 24})
    assert model.fusion.boost_rate.item() == 1
    assert model.fusion.head[0].weight.shape == (24, 16)
    model.fusion.boost_rate.data += 0.5
    model.save_pretrained(tmp_path)
    loaded = LfmForMultimodalClassification.from_pretrained(tmp_path)
    features = tuple(torch.randn(5, 16) for _ in range(3))
    logits, modality_logits = loaded.fusion(features)
    torch.testing.assert_close(logits, 1.5 * sum(modality_logits))
    torch.testing.assert_close(logits, model.fusion(features)[0], rtol=0, atol=0)


def test_wrong_settings_are_named():
    for key, value in (("modality_epochs", 0.0), ("joint_epochs", -1.0), ("alpha", -0.5), ("weight2", -1.0)):
        with pytest.raises(ValueError, match=rf"method\.{key}={value}"):
            make_method({"name": "reconboost", key: value})
    with pytest.raises(ValueError, match=r"reconboost trains models of fusion reconboost, not sum"):
        make_method("reconboost").check(toy_model(TOWERS[2], fusion="sum").config)
