"""AGM: Shapley shares of the logits, the factors of their gradients, and blanked inputs."""

import math
from itertools import combinations, permutations

import pytest
import torch
from torch.nn import functional as F

from modeling_lfm.trainer.methods import make_method
from modeling_lfm.trainer.methods._modalities import blank_inputs

from ..toy import SMOOTH, shallow_resnet, toy_trainer
from .steps import ONE_STEP, twin

NORMALISED = {
    "audio": shallow_resnet(1),
    "flow": shallow_resnet(2),
}  # a layer that differs between training and evaluation
TOWERS = {2: NORMALISED, 3: {"audio": shallow_resnet(1), **SMOOTH}}


def by_hand(batch, gone):
    """The batch without the modalities `gone`."""
    batch = {key: value.clone() for key, value in batch.items()}
    for key, value in batch.items():
        if key.split("_")[0] in gone:
            value.zero_()
            if key.endswith("mask"):
                value[:, 0] = 1
    return batch


def reference_step(model, batch, labels, means, alpha, cap):
    """Loss, kappas and scores; the gradients of a step are in `model`. Shapley values as means over orders."""
    names = model.config.modality_names
    logits = {(): 0, names: model(**batch).logits}
    model.eval()
    for size in range(1, len(names)):
        for kept in combinations(names, size):
            logits[kept] = model(**by_hand(batch, set(names) - set(kept))).logits
    model.train()
    shares = dict.fromkeys(names, 0)
    for order in permutations(names):
        for place, name in enumerate(order):
            before, after = order[:place], order[: place + 1]
            gain = logits[tuple(sorted(after, key=names.index))] - logits[tuple(sorted(before, key=names.index))]
            shares[name] = shares[name] + gain / math.factorial(len(names))
    scores = {name: F.cross_entropy(share, labels).item() for name, share in shares.items()}
    kappas = {}
    for name, share in shares.items():
        tau, r = (
            math.exp(len(names) / (len(names) - 1) * (sum(s.values()) / len(names) - s[name])) for s in (means, scores)
        )
        kappas[name] = math.exp(alpha * min(tau - r, cap))
        share.register_hook(lambda gradient, kappa=kappas[name]: gradient * kappa)
    loss = F.cross_entropy(sum(shares.values()), labels)
    loss.backward()
    return loss.item(), kappas, scores


@pytest.mark.parametrize(("number", "cap"), [(2, 10), (3, 7)])
def test_steps_with_modulated_gradients(number, cap, tmp_path):
    settings = {**ONE_STEP, "num_train_epochs": 3, "learning_rate": 0.05}
    trainer = toy_trainer(tmp_path, TOWERS[number], method={"name": "agm", "alpha": 1.5}, **settings)
    trainer.model.fusion.head.weight.data[:, :16] *= 5  # audio speaks up
    model, batch = twin(trainer)
    labels, means, found = batch.pop("labels"), dict.fromkeys(model.config.modality_names, 0), []
    for step in range(3):
        loss, kappas, scores = reference_step(model, batch, labels, means, 1.5, cap)
        means = {name: (step * means[name] + score) / (step + 1) for name, score in scores.items()}
        found.append((loss, kappas))
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.data -= 0.05 * parameter.grad
                parameter.grad = None
    trainer.train()
    for entry, (loss, kappas) in zip(trainer.state.log_history, found, strict=False):
        assert entry["loss"] == pytest.approx(loss, rel=1e-4)
        assert [entry[f"kappa_{name}"] for name in kappas] == pytest.approx(list(kappas.values()), rel=2e-4)
    assert max(abs(kappa - 1) for _, kappas in found[1:] for kappa in kappas.values()) > 0.01
    for (name, one), other in zip(trainer.model.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_the_modality_that_leads_more_than_usual_slows_down():
    method = make_method("agm")
    method.mean_scores = torch.zeros(2)
    expected = [math.exp(1 - math.e), math.exp(1 - 1 / math.e)]
    assert method.coefficients(torch.tensor([1.0, 2.0])).tolist() == pytest.approx(expected, rel=1e-5)
    method.mean_scores = torch.tensor([1.0, 2.0])
    assert method.coefficients(torch.tensor([1.5, 2.5])).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(("loudness", "clip_above", "clipped"), [(1, 1.0, False), (400, 1.0, True), (400, None, False)])
def test_large_gradients_of_the_head_are_clipped_as_the_authors_do(loudness, clip_above, clipped, tmp_path):
    trainer = toy_trainer(tmp_path, NORMALISED, method={"name": "agm", "clip_above": clip_above}, **ONE_STEP)
    trainer.model.lfm.projections["audio"].weight.data *= loudness
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
    trainer.train()
    step = torch.cat([p.detach().flatten() for p in trainer.model.parameters()]) - before
    assert (step.norm() <= 0.1 * 1.0001) == clipped or loudness == 1
    if clipped:
        assert step.norm() == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize(("cap", "means", "bound"), [(None, [0, 9], 10), (None, [0, 9, 9], 7), (0.5, [0, 9], 0.5)])
def test_coefficients_are_capped(cap, means, bound):
    method = make_method({"name": "agm", "cap": cap, "alpha": 2.0})
    method.mean_scores = torch.tensor(means, dtype=torch.float32)
    assert method.coefficients(torch.ones(len(means)))[0].item() == pytest.approx(math.exp(2 * bound), rel=1e-4)


def test_means_count_optimizer_steps(tmp_path):
    """4 x 2 samples make one step, whose score is that of the 8."""
    settings = {**ONE_STEP, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    trainer = toy_trainer(tmp_path, SMOOTH, method="agm", **settings)
    model, batch = twin(trainer)
    *_, scores = reference_step(model, batch, batch.pop("labels"), dict.fromkeys(SMOOTH, 0), 1, 10)
    trainer.train()
    assert trainer.method.steps == trainer.state.global_step == 1
    assert trainer.method.mean_scores.tolist() == pytest.approx(list(scores.values()), rel=1e-4)


def test_training_mode_comes_back_and_frozen_towers_stay(tmp_path):
    towers = {"audio": {**shallow_resnet(1), "frozen": True}, "flow": shallow_resnet(2)}
    trainer = toy_trainer(tmp_path, towers, method="agm", **ONE_STEP)
    before = {key: value.clone() for key, value in trainer.model.lfm.towers["audio"].state_dict().items()}
    trainer.train()
    assert trainer.model.training
    assert trainer.model.lfm.towers["flow"].training
    assert not trainer.model.lfm.towers["audio"].training
    assert all(torch.equal(before[k], v) for k, v in trainer.model.lfm.towers["audio"].state_dict().items())


def test_blanked_inputs():
    ids, image = torch.full((2, 3), 7), torch.ones(2, 3, 4, 4)
    inputs = {"text_input_ids": ids, "text_2_values": image, "vit_values": image}
    blanked = blank_inputs(inputs, ["text", "vit"])
    assert blanked["text_input_ids"].tolist() == [[0, 0, 0]] * 2
    assert blanked["text_attention_mask"].tolist() == [[1, 0, 0]] * 2
    assert not blanked["vit_values"].any()
    assert blanked["text_2_values"] is image
    assert "text_attention_mask" not in inputs
    assert ids.eq(7).all()
    mask = torch.ones(2, 3, dtype=torch.int64)
    blanked = blank_inputs({**inputs, "text_attention_mask": mask}, ["text"])
    assert blanked["text_attention_mask"].tolist() == [[1, 0, 0]] * 2
    assert mask.all()


def test_wrong_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match="agm cannot train with gradient_checkpointing"):
        toy_trainer(tmp_path, NORMALISED, method="agm", gradient_checkpointing=True)
    with pytest.raises(ValueError, match=r"method\.alpha=-1"):
        make_method({"name": "agm", "alpha": -1})
    with pytest.raises(ValueError, match=r"method\.cap=0"):
        make_method({"name": "agm", "cap": 0})
