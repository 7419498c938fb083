"""Plain fusion baselines: concatenation, with smoothed labels too, and the sum."""

import pytest
import torch

from ..toy import SMOOTH, only, toy_data, toy_trainer
from .steps import ONE_STEP, assert_one_step, twin


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
def test_one_step_with_smoothed_labels(smoothing, tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH, method="concat", label_smoothing_factor=smoothing, **ONE_STEP)
    model, batch = twin(trainer)
    labels = batch.pop("labels")
    features = torch.cat(model.lfm(**batch).features, dim=1)
    logits = features @ model.fusion.head.weight.T + model.fusion.head.bias
    targets = torch.full((8, 4), smoothing / 4)
    targets[torch.arange(8), labels] += 1 - smoothing
    loss = -(targets * logits.log_softmax(1)).sum(1).mean()
    loss.backward()
    trainer.train()
    assert_one_step(trainer.model, model)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_uniform_targets_teach_nothing(tmp_path):
    """With smoothing 1 the labels do not matter at all."""
    weights = []
    for shift in (0, 1):
        trainer = toy_trainer(tmp_path, SMOOTH, method="concat", label_smoothing_factor=1.0, **ONE_STEP)
        for sample in trainer.train_dataset:
            sample["labels"] = (sample["labels"] + shift) % 4
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(*(w.values() for w in weights), strict=True))


def test_one_step_of_the_sum(tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH, method="sum", **ONE_STEP)
    model, batch = twin(trainer)
    labels = batch.pop("labels")
    logits = 0
    for feature, head in zip(model.lfm(**batch).features, model.fusion.heads, strict=True):
        logits = logits + feature @ head.weight.T + head.bias
    loss = (logits.logsumexp(1) - logits[torch.arange(8), labels]).mean()
    loss.backward()
    trainer.train()
    assert_one_step(trainer.model, model)


@pytest.mark.parametrize("name", ["concat", "sum"])
def test_one_modality_trains(name, tmp_path):
    trainer = toy_trainer(tmp_path, {"text": SMOOTH["text"]}, method=name, size=16, num_train_epochs=2)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_smoothed_targets_leave_evaluation_alone(tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH, method="concat", label_smoothing_factor=0.5, **ONE_STEP)
    data = only(toy_data(8, seed=3), SMOOTH)
    model, _ = twin(trainer)
    batch = {key: torch.stack([s[key] for s in data]) for key in data[0]}
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(model.eval()(**batch).logits, batch["labels"]).item()
    assert trainer.evaluate(data)["eval_loss"] == pytest.approx(expected, rel=1e-5)
