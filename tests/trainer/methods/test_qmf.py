"""QMF: confidences, the history of each sample's losses, and the ranking loss."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeling_lfm.trainer.methods import make_method
from modeling_lfm.trainer.methods.qmf import rank_loss

from ..toy import method_towers, toy_model, toy_trainer
from .steps import ONE_STEP, stack

SETTINGS = {**ONE_STEP, "learning_rate": 1e-3, "in_order": True}


def towers(number):
    return method_towers("qmf", normalised=False, number=number)


class History:
    """The losses of each sample added up, as a list; scaled by those that were seen."""

    def __init__(self, size):
        self.sums, self.seen = [0.0] * size, set()

    def add(self, ids, losses):
        for index, loss in zip(ids, losses, strict=True):
            self.sums[index] += loss
        self.seen |= set(ids)

    def scaled(self, index):
        known = [self.sums[k] for k in self.seen]
        return (self.sums[index] - min(known)) / (max(known) - min(known))


def ranking(confidence, past):
    """As in the released code, with torch's ranking loss."""
    past = torch.tensor(past)
    target, margin = (past - past.roll(-1)).sign(), (past - past.roll(-1)).abs()
    divisor = torch.where(target == 0, torch.ones_like(target), target)
    return nn.MarginRankingLoss(margin=0.0)(confidence, confidence.roll(-1) + margin / divisor, -target)


def objective(model, samples, ids, histories, weight):
    """Loss of the samples `ids`, and its ranking part."""
    batch = stack([samples[index] for index in ids])
    labels = batch.pop("labels")
    features = model.lfm(**batch).features
    logits = [head(z) for head, z in zip(model.fusion.heads, features, strict=True)]
    confidences = [f.exp().sum(1).log() / 10 for f in logits]
    fused = sum(f * c.detach().unsqueeze(1) for f, c in zip(logits, confidences, strict=True))
    total, ranks = F.cross_entropy(fused, labels), 0
    for f, confidence, history in zip(logits, confidences, histories, strict=True):
        errors = F.cross_entropy(f, labels, reduction="none")
        history.add(ids, errors.tolist())
        ranks = ranks + ranking(confidence, [history.scaled(index) for index in ids])
        total = total + errors.mean()
    return total + weight * ranks, ranks


@pytest.mark.parametrize(("number", "size", "weight"), [(2, 8, 20.0), (3, 8, 10.0), (2, 20, 20.0)])
def test_steps_with_a_history(number, size, weight, tmp_path):
    """Three epochs; of 20 samples some are not seen yet in the first steps."""
    method = {"name": "qmf", "rank_weight": weight}
    settings = {**SETTINGS, "num_train_epochs": 3, "size": size}
    trainer = toy_trainer(tmp_path, towers(number), method=method, **settings)
    with torch.no_grad():  # untrained, all samples look alike: make them differ in confidence
        for head in trainer.model.fusion.heads:
            head.weight.mul_(30)
    model, samples = copy.deepcopy(trainer.model).train(), trainer.train_dataset.dataset
    histories, losses, ranks = [History(size) for _ in range(number)], [], []
    for _ in range(3):
        for start in range(0, size, 8):
            ids = list(range(start, min(start + 8, size)))
            loss, rank = objective(model, samples, ids, histories, weight)
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(1e-3 * parameter.grad)
            losses.append(loss.item())
            ranks.append(rank.item())
    assert max(ranks) > 0.05
    trainer.train()
    for (name, one), other in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    entries = [entry for entry in trainer.state.log_history if "loss_rank" in entry]
    assert [entry["loss"] for entry in entries] == pytest.approx(losses, rel=1e-3)
    assert [entry["loss_rank"] for entry in entries] == pytest.approx(ranks, rel=1e-3, abs=1e-4)
    expected = torch.tensor([history.sums for history in histories])
    torch.testing.assert_close(trainer.method.history, expected, rtol=1e-3, atol=1e-4)
    assert trainer.method.seen.all()


def test_no_gradient_flows_through_confidences_of_the_fusion():
    model = toy_model(towers(2), fusion="qmf")
    features = tuple(torch.randn(5, 16) for _ in range(2))
    logits, modality_logits = model.fusion(features)
    weights = [f.detach().exp().sum(1, keepdim=True).log() / 10 for f in modality_logits]
    torch.testing.assert_close(logits, sum(w * f for w, f in zip(weights, modality_logits, strict=True)))
    gradients = torch.autograd.grad(logits[:, 0].sum(), modality_logits)
    for gradient, weight in zip(gradients, weights, strict=True):
        torch.testing.assert_close(gradient[:, :1], weight)
        assert not gradient[:, 1:].any()
    huge = model.fusion(tuple((1e4 * z).bfloat16().float() for z in features))[0]
    assert huge.isfinite().all()


def test_ranking_lowers_the_confidence_of_the_sample_with_the_higher_loss():
    confidences = torch.tensor([[0.9, 0.1, 0.5, 0.7]], requires_grad=True)
    rank_loss(confidences, torch.tensor([[0.5, 0.2, 0.2, 0.2]])).backward()
    assert confidences.grad.tolist() == [[0.25, -0.25, 0.0, 0.0]]  # the others are equal, or closer than the margin


def test_a_sample_counts_once_in_an_optimizer_step(tmp_path):
    trainer = toy_trainer(tmp_path, towers(2), method="qmf", **SETTINGS)
    method = trainer.method
    method.on_train_begin()
    method.on_step_begin(0)
    ids, errors = torch.tensor([1, 4]), torch.tensor([[1.0, 3.0], [2.0, 8.0]])
    for _ in range(3):  # batches
        assert method.remember(ids, errors).tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert method.history[:, ids].tolist() == errors.tolist()
    method.on_step_begin(1)
    method.remember(ids, errors)
    assert method.history[:, ids].tolist() == (2 * errors).tolist()
    assert method.seen.nonzero().flatten().tolist() == [1, 4]


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"method\.rank_weight=-1\.0 must not be negative"):
        make_method({"name": "qmf", "rank_weight": -1})
