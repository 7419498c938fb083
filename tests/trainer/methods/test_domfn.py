"""DOMFN: who is fused, the loss of each sample, and what evaluation returns."""

import pytest
import torch
from torch.nn import functional as F

from modeling_lfm import LfmForMultimodalClassification
from modeling_lfm.trainer.methods import make_method

from ..toy import method_towers, toy_model, toy_trainer
from .steps import ONE_STEP, assert_one_step, twin


def towers(number):
    return method_towers("domfn", normalised=False, number=number)


def reference(model, batch, labels, tau, eta=0.5, gamma=0.8):
    """The mean loss, and how many samples are fused, one sample after the other as in the released code."""
    features, fusion = model.lfm(**batch).features, model.fusion
    hidden, last = fusion.fused_head[0], fusion.fused_head[2]
    total, fused = 0, 0
    for i, y in enumerate(labels):
        alone = [torch.sigmoid(head.weight @ z[i] + head.bias) for head, z in zip(fusion.heads, features, strict=True)]
        joint = torch.relu(hidden.weight @ torch.cat([z[i] for z in features]) + hidden.bias)
        joint = torch.sigmoid(last.weight @ joint + last.bias)
        errors = [F.cross_entropy(q, y) for q in alone]
        mean = sum(alone) / len(alone)
        penalties = [((q - mean) ** 2).max() for q in alone]
        total = total + sum(errors)
        if all(penalty / tau < gamma for penalty in penalties):
            fused += 1
            total = total + F.cross_entropy(joint, y)
            total = total + sum(0.5 * e * e - eta * p for e, p in zip(errors, penalties, strict=True))
    return total / len(labels), fused


@pytest.mark.parametrize(("number", "tau", "eta"), [(2, 0.07, 0.5), (3, 0.13, 2.0)])
def test_one_step(number, tau, eta, tmp_path):
    """Some samples are fused, others are not."""
    method = {"name": "domfn", "tau": tau, "eta": eta}
    trainer = toy_trainer(tmp_path, towers(number), method=method, **ONE_STEP)
    with torch.no_grad():
        for head in trainer.model.fusion.heads:
            head.weight.mul_(3)  # or the modalities of an untrained model would agree on every sample
    model, batch = twin(trainer)
    labels = batch.pop("labels")
    loss, fused = reference(model, batch, labels, tau, eta)
    assert 0 < fused < 8
    loss.backward()
    trainer.train()
    assert_one_step(trainer.model, model)
    entry = trainer.state.log_history[0]
    assert entry["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert entry["fused_share"] == fused / 8


@pytest.mark.parametrize("number", [2, 3])
def test_where_no_sample_is_fused_modalities_learn_alone(number, tmp_path):
    trainer = toy_trainer(tmp_path, towers(number), method={"name": "domfn", "tau": 1e-9}, **ONE_STEP)
    model, batch = twin(trainer)
    labels = batch.pop("labels")
    features = model.lfm(**batch).features
    sum(
        F.cross_entropy(head(z).sigmoid(), labels) for head, z in zip(model.fusion.heads, features, strict=True)
    ).backward()
    trainer.train()
    assert_one_step(trainer.model, model)
    for one, other in zip(
        trainer.model.fusion.fused_head.parameters(), model.fusion.fused_head.parameters(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("epochs", "steps"), [(0.0, 0), (0.5, 1), (1.0, 2), (1.5, 3)])
def test_pretraining(epochs, steps, tmp_path):
    """Epochs of two steps; sum_m CE_m is the whole loss of those before fusion."""
    method = {"name": "domfn", "pretraining_epochs": epochs}
    trainer = toy_trainer(tmp_path, towers(2), method=method, **{**ONE_STEP, "size": 16, "num_train_epochs": 2})
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "fused_share" in entry]
    assert [entry["fused_share"] for entry in entries] == [0.0] * steps + [1.0] * (4 - steps)
    for entry in entries[:steps]:
        assert entry["loss"] == pytest.approx(entry["loss_audio"] + entry["loss_text"], rel=1e-5)


@pytest.mark.parametrize(("number", "tau"), [(2, 0.15), (3, 0.3)])
def test_evaluation_routes_each_sample(number, tau):
    torch.manual_seed(3)
    model = toy_model(towers(number), fusion="domfn", fusion_args={"tau": tau, "gamma": 0.7}).eval()
    fusion = model.fusion
    features = tuple(6 * torch.randn(40, 16) for _ in range(number))
    logits, alone = fusion(features)
    routes = []
    for i in range(40):
        own = [torch.sigmoid(head(z[i])) for head, z in zip(fusion.heads, features, strict=True)]
        for one, other in zip(alone, own, strict=True):
            torch.testing.assert_close(one[i], other)
        mean = sum(own) / number
        if all(((q - mean) ** 2).max() / tau < 0.7 for q in own):
            routes.append(number)
            expected = fusion.fused_head(torch.cat([z[i] for z in features])).sigmoid()
        else:
            routes.append(max(range(number), key=lambda m: own[m].max()))
            expected = own[routes[-1]]
        torch.testing.assert_close(logits[i], expected)
    assert set(routes) == set(range(number + 1))
    fused = fusion.train()(features)[0]
    torch.testing.assert_close(fused, fusion.fused_head(torch.cat(features, 1)).sigmoid())


def test_two_modalities_cannot_differ_by_more_than_a_quarter():
    """Hence with the published gamma and tau every sample is fused."""
    fusion = toy_model(towers(2), fusion="domfn").fusion
    alone = torch.stack((torch.eye(4), 1 - torch.eye(4)))
    assert fusion.penalties(alone).tolist() == [[0.25] * 4] * 2
    assert fusion.fuses(fusion.penalties(alone)).all()


def test_gamma_and_tau_travel_with_the_model(tmp_path):
    method = {"name": "domfn", "tau": 0.043, "gamma": 0.7}
    trainer = toy_trainer(tmp_path, towers(2), method=method, **ONE_STEP)
    trainer.save_model(tmp_path / "saved")
    fusion = LfmForMultimodalClassification.from_pretrained(tmp_path / "saved").fusion
    assert (fusion.gamma, fusion.tau) == (0.7, 0.043)
    with pytest.raises(ValueError, match=r"method\.tau=0\.5 differs from the model's: .* has 0\.043"):
        make_method({"name": "domfn", "gamma": 0.7}).check(trainer.model.config)


def test_precision():
    model = toy_model(towers(2), fusion="domfn").bfloat16()
    logits, alone = model.fusion(tuple(torch.randn(3, 16).bfloat16() for _ in range(2)))
    assert {logits.dtype, *(q.dtype for q in alone)} == {torch.float32}


@pytest.mark.parametrize(("key", "value"), [("gamma", 0.0), ("tau", -1.0), ("eta", -0.5), ("pretraining_epochs", -1.0)])
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=rf"method\.{key}={value} must"):
        make_method({"name": "domfn", key: value})
