"""OGM-GE: who dominates, by how much its gradients shrink, and the noise."""

import math

import pytest
import torch
from torch.nn import functional as F

from modeling_lfm.trainer.methods import make_method

from ..toy import SMOOTH, shallow_resnet, toy_trainer
from .steps import ONE_STEP, assert_one_step, twin

NORM = {"norm_layer": "groupnorm1", "zero_init_last": False}
CONVOLUTIONS = {"audio": shallow_resnet(1, **NORM), "flow": shallow_resnet(2, **NORM)}
THREE = {**CONVOLUTIONS, "vit": shallow_resnet(3, **NORM)}


def make_trainer(folder, towers=CONVOLUTIONS, alpha=0.8, noise=False, fusion=None, **kwargs):
    settings = {key: kwargs.pop(key) for key in ("first_epoch", "last_epoch", "all_parameters") if key in kwargs}
    method = {"name": "ogm", "alpha": alpha, "noise": noise, **settings}
    return toy_trainer(folder, towers, method=method, **{**ONE_STEP, **kwargs})


def reference(trainer, alpha=0.8):
    """The model with the gradients of CE(F), and each modality's k, from the paper's formula."""
    model, batch = twin(trainer)
    labels = batch.pop("labels")
    features = model.lfm(**batch).features
    weight, bias = model.fusion.head.weight, model.fusion.head.bias
    F.cross_entropy(torch.cat(features, 1) @ weight.T + bias, labels).backward()
    scores, width = [], features[0].shape[1]
    for place, feature in enumerate(features):
        alone = feature @ weight[:, place * width : (place + 1) * width].T + bias / len(features)
        scores.append(sum(alone[i].softmax(0)[labels[i]].item() for i in range(len(labels))))
    factors = {}
    for name, score in zip(model.config.modality_names, scores, strict=True):
        rho = score / ((sum(scores) - score) / (len(scores) - 1))
        factors[name] = 1 - math.tanh(alpha * rho) if rho > 1 else 1.0
    return model, factors


def by_parameter(model, factors, chosen):
    return {
        p: factor for name, factor in factors.items() for p in model.lfm.towers[name].parameters() if chosen(p.dim())
    }


@pytest.mark.parametrize("towers", [CONVOLUTIONS, THREE])
def test_only_dominant_convolutions_shrink(towers, tmp_path):
    trainer = make_trainer(tmp_path, towers)
    model, factors = reference(trainer)
    assert min(factors.values()) < 0.5 < max(factors.values()) == 1.0
    trainer.train()
    assert_one_step(trainer.model, model, by_parameter(model, factors, lambda dim: dim == 4))


def test_all_matrices_of_transformers_shrink(tmp_path):
    trainer = make_trainer(tmp_path, SMOOTH)
    model, factors = reference(trainer)
    assert sorted(factors.values())[0] < 0.5
    trainer.train()
    chosen = by_parameter(model, factors, lambda dim: dim > 1)
    for name, factor in factors.items():
        chosen[model.lfm.projections[name].weight] = factor
    assert_one_step(trainer.model, model, chosen)


def test_noise_has_the_deviation_of_the_gradient_before_modulation(tmp_path):
    """alpha 5 leaves 0.0001 of the dominant gradient, and all of its noise; both encoders get noise."""
    trainer = make_trainer(tmp_path, alpha=5.0, noise=True)
    model, factors = reference(trainer, alpha=5.0)
    trainer.train()
    seen = {"audio": [], "flow": []}
    for (name, one), other in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        modality = name.split(".")[2]
        modulated = name.startswith("lfm.towers") and other.dim() == 4
        noise = (other - 0.1 * (factors[modality] if modulated else 1.0) * other.grad - one) / 0.1
        if not modulated:
            assert noise.abs().max() < 1e-5, name
        elif other.numel() > 500:
            seen[modality].append((noise.std() / other.grad.std(), noise.mean() / noise.std(), noise.flatten()[:500]))
    assert min(len(found) for found in seen.values()) > 0
    found = [entry for entries in seen.values() for entry in entries]
    for deviation, mean, _ in found:
        assert deviation.item() == pytest.approx(1, abs=0.1)
        assert abs(mean) < 0.15
    correlations = torch.corrcoef(torch.stack([noise for *_, noise in found])) - torch.eye(len(found))
    assert correlations.abs().max() < 0.2


def test_noise_differs_from_step_to_step(tmp_path):
    noise = []
    for first in (1, 2):  # noise in the first and only step; in the second of two
        weights = []
        for noisy in (True, False):
            trainer = make_trainer(tmp_path, alpha=0.0, noise=noisy, first_epoch=first, num_train_epochs=first)
            trainer.train()
            weights.append(next(p for p in trainer.model.lfm.towers["audio"].parameters() if p.dim() == 4).flatten())
        noise.append(weights[0] - weights[1])
    assert abs(torch.corrcoef(torch.stack(noise))[0, 1]) < 0.6


def test_scores_add_up_over_an_accumulation(tmp_path):
    """4 x 2 samples give the k of the 8, not that of the last 2."""
    trainer = make_trainer(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    model, factors = reference(trainer)
    trainer.train()
    assert trainer.state.global_step == 1
    assert_one_step(trainer.model, model, by_parameter(model, factors, lambda dim: dim == 4))
    assert trainer.method.scores is None


@pytest.mark.parametrize("epochs", [{"first_epoch": 2}, {"last_epoch": 0}])
def test_outside_of_its_epochs_gradients_are_plain(epochs, tmp_path):
    trainer = make_trainer(tmp_path, noise=True, **epochs)
    model, _ = reference(trainer)
    trainer.train()
    assert_one_step(trainer.model, model)


def test_published_epochs_and_wrong_settings():
    settings = make_method("ogm").settings
    assert (settings.first_epoch, settings.last_epoch) == (1, 51)  # 0 <= epoch <= 50, counted from 0
    with pytest.raises(ValueError, match=r"method\.alpha=-0\.1"):
        make_method({"name": "ogm", "alpha": -0.1})
