"""The temperature that keeps the class prior."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from modeling_lfm.trainer.methods import make_method
from modeling_lfm.trainer.prior import fit_weight, fold, log_prior

from .toy import SMOOTH, toy_model, toy_trainer

MULTI = "multi_label_classification"


def draw_problem(seed, shrunk):
    """Logits log pi + shrunk * e of 4,000 samples whose labels follow softmax(log pi + e), and log pi."""
    rng = np.random.default_rng(seed)
    prior = np.log([0.6, 0.3, 0.1])
    evidence = rng.normal(size=(4000, 3)) * 1.5
    chances = torch.from_numpy(prior + evidence).softmax(1).numpy()
    labels = np.array([rng.choice(3, p=p) for p in chances])
    return torch.from_numpy(prior + shrunk * evidence), torch.from_numpy(labels), torch.from_numpy(prior)


@pytest.mark.parametrize("shrunk", [0.25, 1.0, 2.0])
def test_evidence_gets_back_the_weight_that_it_lost(shrunk):
    """The true weight is 1 / shrunk, up to the noise of 4,000 labels; it minimises the cross-entropy."""
    logits, labels, prior = draw_problem(0, shrunk)
    weight = fit_weight(logits, labels, prior)
    assert weight == pytest.approx(1 / shrunk, rel=0.1)
    found = minimize_scalar(lambda w: F.cross_entropy(w * (logits - prior) + prior, labels).item(), (0.1, 10))
    assert weight == pytest.approx(found.x, rel=1e-4)


def test_several_labels_have_log_odds():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]])
    prior = log_prior(labels, 3, MULTI)
    assert prior.tolist() == pytest.approx([np.log(3), 0, np.log(0.125 / 0.875)])
    logits, labels = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(50, 3)
    labels[logits > 0.3] = 1
    labels[:9] = 1 - labels[:9]
    weight = fit_weight(logits, labels, prior, MULTI)
    loss = F.binary_cross_entropy_with_logits
    found = minimize_scalar(lambda w: loss(w * (logits - prior) + prior, labels.double()).item(), (0.1, 10))
    assert weight == pytest.approx(found.x, rel=1e-4)


def test_shares_of_the_classes():
    assert log_prior(np.array([0, 0, 0, 1]), 3).exp().tolist() == pytest.approx([0.75, 0.25, 0.125])


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_it_is_folded_into_the_head(fusion):
    model = toy_model(SMOOTH, fusion=fusion).eval()
    vectors = [torch.randn(5, tower.num_features) for tower in model.lfm.towers.values()]
    prior = torch.tensor([-0.5, -1.0, -2.0, -3.0])
    before = model.classify(vectors)
    fold(model.fusion, 2.5, prior)
    after = model.classify(vectors)
    torch.testing.assert_close(after.logits, 2.5 * (before.logits - prior) + prior)
    for one, other in zip(before.modality_logits, after.modality_logits, strict=True):
        torch.testing.assert_close(other, 2.5 * one - 1.5 / 2 * prior)


@pytest.mark.parametrize("alpha", ["learned", "linear"])
def test_a_run_ends_with_it(alpha, tmp_path):
    """The same run without it, whose head is then changed; and the fused prediction of equal classes is as it was."""
    runs = []
    for keep in (True, False):
        trainer = toy_trainer(
            tmp_path, SMOOTH, method={"alpha": alpha, "keep_prior": keep}, size=40, holdout=16, num_train_epochs=1
        )
        trainer.train()
        runs.append(trainer)
    kept, plain = runs
    weight = next(entry["prior_weight"] for entry in kept.state.log_history if "prior_weight" in entry)
    if alpha == "learned":  # which holds the same samples out
        fold(plain.model.fusion, weight, log_prior(np.array([s["labels"] for s in kept.train_dataset]), 4))
        for one, other in zip(kept.model.parameters(), plain.model.parameters(), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("method", "model", "words"),
    [
        ({"keep_prior": True, "matching_loss": "infonce"}, {}, "needs matching_loss=js"),
        ({"keep_prior": True}, {"fusion": "film"}, "needs fusion concat or sum, not film"),
    ],
)
def test_what_it_cannot_be_had_for_is_told(method, model, words):
    with pytest.raises(ValueError, match=words):
        make_method({"name": "lfm", **method}).check(toy_model(SMOOTH, **model).config)
