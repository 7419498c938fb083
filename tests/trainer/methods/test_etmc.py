"""ETMC: the loss of each view, the annealing of the divergence, and precision."""

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import beta
from torch.distributions import Dirichlet, kl_divergence
from torch.nn import functional as F

from modeling_lfm.modeling_lfm import LfmOutput
from modeling_lfm.trainer.methods import make_method
from modeling_lfm.trainer.methods.etmc import evidential_loss

from ..toy import method_towers, toy_trainer
from .steps import ONE_STEP, assert_one_step, twin


def towers(number):
    return method_towers("etmc", normalised=False, number=number)


def reference(alpha, labels, annealing):
    """The loss of one view, sample by sample, in float64."""
    losses = []
    for sample, y in zip(alpha.double(), labels.tolist(), strict=True):
        wrong = torch.stack([torch.ones_like(a) if k == y else a for k, a in enumerate(sample)])
        expected = torch.digamma(sample.sum()) - torch.digamma(sample[y])
        losses.append(expected + annealing * kl_divergence(Dirichlet(wrong), Dirichlet(torch.ones_like(wrong))))
    return torch.stack(losses).mean()


def all_alphas(model, batch):
    """alpha of the modalities, the pseudo view, and the fused prediction by Dempster's rule."""
    features, fusion = model.lfm(**batch).features, model.fusion
    logits = [head(z) for head, z in zip(fusion.heads, features, strict=True)]
    logits.append(fusion.pseudo_head(torch.cat(features, 1)))
    alphas = [F.softplus(f).double() + 1 for f in logits]
    fused = alphas[0]
    for other in alphas[1:]:
        (b1, u1), (b2, u2) = (((a - 1) / a.sum(1, True), 4 / a.sum(1, True)) for a in (fused, other))
        rest = 1 - ((1 - u1) * (1 - u2) - (b1 * b2).sum(1, True))  # 1 - C
        fused = (b1 * b2 + b1 * u2 + b2 * u1) / rest * 4 / (u1 * u2 / rest) + 1
    return [*alphas, fused]


def test_expected_cross_entropy_is_the_integral():
    """Of -log p_y over p_y ~ Beta(alpha_y, S - alpha_y)."""
    alpha = torch.tensor([[2.5, 1.0, 4.0]], dtype=torch.float64)
    for y in range(3):
        density = beta(alpha[0, y].item(), alpha.sum().item() - alpha[0, y].item())
        integral, _ = quad(lambda p, density=density: -torch.tensor(p).log().item() * density.pdf(p), 1e-12, 1)
        assert evidential_loss(alpha, torch.tensor([y]), 0.0).item() == pytest.approx(integral, rel=1e-4)


def test_divergence_is_that_of_torch():
    torch.manual_seed(0)
    alpha, labels = 1 + 20 * torch.rand(7, 5, dtype=torch.float64).square(), torch.arange(7) % 5
    plain = evidential_loss(alpha, labels, 0.0)
    for annealing in (0.3, 1.0):
        found = evidential_loss(alpha, labels, annealing)
        assert found.item() == pytest.approx(reference(alpha, labels, annealing).item(), rel=1e-9)
        assert found > plain
    sure = torch.ones(7, 5).scatter(1, labels.unsqueeze(1), 50.0)
    torch.testing.assert_close(evidential_loss(sure, labels, 1.0), evidential_loss(sure, labels, 0.0))


@pytest.mark.parametrize("number", [2, 3])
def test_two_steps_in_two_epochs(number, tmp_path):
    """The first epoch has no divergence, the second half of it."""
    method = {"name": "etmc", "annealing_epochs": 2.0}
    trainer = toy_trainer(tmp_path, towers(number), method=method, **{**ONE_STEP, "num_train_epochs": 2})
    model, batch = twin(trainer)
    labels, expected = batch.pop("labels"), []
    for annealing in (0.0, 0.5):
        losses = [reference(alpha, labels, annealing) for alpha in all_alphas(model, batch)]
        expected.append([loss.item() for loss in losses])
        if annealing:
            break
        sum(losses).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.1 * parameter.grad)
        model.zero_grad()
    sum(losses).backward()
    trainer.train()
    assert_one_step(trainer.model, model)
    views = [*trainer.model.config.modality_names, "pseudo_view", "fused"]
    for entry, losses in zip(trainer.state.log_history, expected, strict=False):
        assert [entry[f"loss_{view}"] for view in views] == pytest.approx(losses, rel=1e-4)
        assert entry["loss"] == pytest.approx(sum(losses), rel=1e-4)


def test_annealing_ends_at_one(tmp_path):
    trainer = toy_trainer(tmp_path, towers(2), method={"name": "etmc", "annealing_epochs": 2.0}, **ONE_STEP)
    model, batch = twin(trainer)
    labels, losses = batch.pop("labels"), []
    for epoch in (2.0, 3.0, 50.0):
        trainer.state.epoch = epoch
        losses.append(trainer.method.losses(model(**batch), labels, batch)["loss"].item())
    expected = sum(reference(alpha, labels, 1.0) for alpha in all_alphas(model, batch)).item()
    assert losses == pytest.approx([expected] * 3, rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_large_evidence(scale, tmp_path):
    """Right to five digits, though lgamma alone is of the order of 1e7 and more, and with finite gradients."""
    trainer = toy_trainer(tmp_path, towers(2), method="etmc", **ONE_STEP)
    trainer.state.epoch = 20.0
    torch.manual_seed(0)
    features = tuple(torch.randn(6, 16) for _ in range(2))
    modality_logits = tuple((scale * torch.randn(6, 4)).requires_grad_() for _ in range(2))
    logits = (scale * torch.rand(6, 4)).log1p().requires_grad_()
    labels = torch.arange(6) % 4
    losses = trainer.method.losses(LfmOutput(None, logits, modality_logits, features), labels, {})
    assert losses["loss"].dtype == torch.float32
    for name, alpha in (("audio", F.softplus(modality_logits[0].double()) + 1), ("fused", logits.double().exp())):
        assert losses[f"loss_{name}"].item() == pytest.approx(reference(alpha, labels, 1.0).item(), rel=1e-5)
    losses["loss"].backward()
    assert all(tensor.grad.isfinite().all() for tensor in (logits, *modality_logits))


def test_it_learns_to_be_sure_and_evaluates_expected_probabilities(tmp_path):
    trainer = toy_trainer(tmp_path, towers(2), method="etmc", num_train_epochs=6, learning_rate=4e-3)

    def uncertainty():
        return trainer.predict(trainer.train_dataset).predictions[0]

    before = 4 / torch.tensor(uncertainty()).exp().sum(1)
    trainer.train()
    after = torch.tensor(uncertainty()).exp()
    assert (4 / after.sum(1)).mean() < 0.8 * before.mean()
    labels = torch.stack([sample["labels"] for sample in trainer.train_dataset])
    expected = -(after / after.sum(1, keepdim=True))[torch.arange(64), labels].log().mean()
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"method\.annealing_epochs=0\.0 must be positive"):
        make_method({"name": "etmc", "annealing_epochs": 0})
