"""Weight (CMML): three losses on attention-weighted predictions."""

import pytest
import torch
from torch.nn import functional as F

from modeling_lfm.modeling_lfm import LfmOutput
from modeling_lfm.trainer.methods import make_method

from ..toy import method_towers, toy_trainer
from .steps import ONE_STEP, assert_one_step, twin


@pytest.mark.parametrize("number", [2, 3])
def test_one_step_is_sgd_on_its_loss(number, tmp_path):
    towers = method_towers("weight", normalised=False, number=number)
    trainer = toy_trainer(tmp_path, towers, method={"name": "weight", "diversity": 0.5}, **ONE_STEP)
    model, batch = twin(trainer)
    labels = batch.pop("labels")
    features = model.lfm(**batch).features
    logits, scores = [], []
    for feature, head in zip(features, model.fusion.heads, strict=True):
        logits.append(head(feature))
        scores.append(model.fusion.attention(feature))
    attention = torch.cat(scores, 1).exp()
    attention = attention / attention.sum(1, keepdim=True)
    fused = sum(attention[:, m : m + 1] * logits[m] for m in range(number))
    loss, cosines = 2 * F.cross_entropy(fused, labels), []
    for m in range(number):
        loss = loss + F.cross_entropy(logits[m], labels)
        for j in range(m):
            p, q = logits[m].softmax(1), logits[j].softmax(1)
            cosines.append(((p * q).sum(1) / (p.norm(dim=1) * q.norm(dim=1))).mean())
    loss = loss + 0.5 * sum(cosines) / len(cosines)
    loss.backward()
    trainer.train()
    assert_one_step(trainer.model, model)
    entry = trainer.state.log_history[0]
    assert entry["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert entry["cosine"] == pytest.approx((sum(cosines) / len(cosines)).item(), rel=1e-5)


def test_multi_label_predictions_are_sigmoids(tmp_path):
    trainer = toy_trainer(tmp_path, method_towers("weight"), method="weight")
    trainer.model.config.problem_type = "multi_label_classification"
    one, other = torch.randn(6, 4), torch.randn(6, 4)
    labels = torch.randint(0, 2, (6, 4)).float()
    outputs = LfmOutput(logits=one + other, modality_logits=(one, other))
    found = trainer.method.losses(outputs, labels, {})["loss"]
    bce = F.binary_cross_entropy_with_logits
    cosine = F.cosine_similarity(one.sigmoid(), other.sigmoid()).mean()
    expected = bce(one, labels) + bce(other, labels) + 2 * bce(one + other, labels) + 0.01 * cosine
    torch.testing.assert_close(found, expected)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"method.diversity=-1.0 must not be negative"):
        make_method({"name": "weight", "diversity": -1})
    with pytest.raises(ValueError, match=r"method.fused=0.0 must be positive"):
        make_method({"name": "weight", "fused": 0})
