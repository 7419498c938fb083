"""Training on samples that lack modalities: losses over what is there, whatever the batches; methods that refuse."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import EvalPrediction

from modeling_lfm.modeling_lfm import LfmOutput
from modeling_lfm.trainer.alpha.outer_loss import calibrated_cross_entropy, outer_loss
from modeling_lfm.trainer.methods import METHODS, list_methods
from modeling_lfm.trainer.metrics import compute_multimodal_metrics
from modeling_lfm.trainer.objectives import (
    MATCHING_LOSSES,
    info_nce,
    jensen_shannon,
    matching_loss,
    unimodal_cross_entropy,
)
from modeling_lfm.trainer.presence import Presence

from .toy import (
    NORMALISED,
    SMOOTH,
    assert_same_but_for_rounding,
    method_settings,
    method_towers,
    only,
    smallest_towers,
    toy_data,
    toy_model,
    toy_trainer,
    with_holes,
)

TAKERS = [spec.name for spec in list_methods() if spec.holes is not None and not spec.name.startswith("unimodal")]
REFUSERS = [spec.name for spec in list_methods() if spec.holes is None]
BATCH, CLASSES = 12, 4


def draw(number, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(BATCH, width, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(number)]


def draw_mask(number, seed=1):
    mask = torch.rand(number, BATCH, generator=torch.Generator().manual_seed(seed)) > 0.4
    mask[0] |= ~mask.any(0)
    return mask


def blank(tensors, mask):
    return tuple(t.masked_fill(~rows.unsqueeze(1), torch.nan) for t, rows in zip(tensors, mask, strict=True))


LABELS = torch.arange(BATCH) % CLASSES
LOSSES = {
    "js": (lambda parts, labels, presence: jensen_shannon(parts, presence=presence), 2),
    "infonce": (lambda parts, labels, presence: info_nce(parts, 0.3, presence=presence), 2),
    "unimodal": (lambda parts, labels, presence: unimodal_cross_entropy(parts, labels, presence=presence), 1),
}


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_that_of_the_samples_that_have_what_it_compares(name, number):
    """Value and gradient: the mean over pairs (or modalities), each of its own sub-batch."""
    loss, of = LOSSES[name]
    tensors, mask = draw(number, CLASSES), draw_mask(number)
    value = loss(blank(tensors, mask), LABELS, Presence(mask))
    found = torch.autograd.grad(value, tensors)
    groups = [(m,) for m in range(number)] if of == 1 else [(j, k) for j in range(number) for k in range(j)]
    parts = []
    for group in groups:
        rows = mask[list(group)].all(0)
        parts.append(loss([tensors[m][rows] for m in group], LABELS[rows], None))
    expected = sum(parts) / len(parts)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(found, torch.autograd.grad(expected, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    whole = loss(tensors, LABELS, Presence(torch.ones_like(mask)))
    torch.testing.assert_close(whole, loss(tensors, LABELS, None), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["js", "infonce"])
def test_no_pair_is_zero_with_gradients_and_pairs_that_are_nowhere_do_not_count(name):
    loss, _ = LOSSES[name]
    tensors, mask = draw(2, CLASSES), torch.tensor([[True] * 6 + [False] * 6, [False] * 6 + [True] * 6])
    value = loss(blank(tensors, mask), LABELS, Presence(mask))
    assert value == 0
    assert all(not gradient.any() for gradient in torch.autograd.grad(value, tensors))
    third = draw(3, CLASSES)
    mask = torch.cat([mask.any(0, keepdim=True), mask])
    expected = [loss([third[0][rows], third[m][rows]], None, None) for m, rows in ((1, mask[1]), (2, mask[2]))]
    torch.testing.assert_close(loss(blank(third, mask), LABELS, Presence(mask)), sum(expected) / 2)


@pytest.mark.parametrize("name", ["js", "unimodal"])
def test_parts_of_a_step_add_up_to_the_whole(name):
    """Batches of the same size, averaged, whatever of them has the holes."""
    loss, _ = LOSSES[name]
    tensors, mask = draw(3, CLASSES), draw_mask(3)
    totals = Presence.count(mask)
    parts = [slice(0, 4), slice(4, 8), slice(8, 12)]
    values = [
        loss(blank([t[part] for t in tensors], mask[:, part]), LABELS[part], Presence(mask[:, part], totals))
        for part in parts
    ]
    torch.testing.assert_close(sum(values) / 3, loss(blank(tensors, mask), LABELS, Presence(mask)))


def test_a_matching_loss_of_ones_own_says_that_it_takes_holes():
    tensors, mask = draw(2, CLASSES), draw_mask(2)
    outputs = LfmOutput(logits=tensors[0], modality_logits=tensors, features=tensors)
    MATCHING_LOSSES.register("plain", lambda outputs, labels, **settings: outputs.logits.sum())
    try:
        with pytest.raises(ValueError, match="'plain' takes no 'presence'"):
            matching_loss("plain", outputs, LABELS, presence=Presence(mask))
    finally:
        del MATCHING_LOSSES["plain"]


def test_the_outer_loss_calibrates_each_modality_on_its_samples():
    logits, *parts = draw(3, CLASSES)
    mask = draw_mask(2)
    value = outer_loss("calibrated", logits, blank(parts, mask), LABELS, present=mask)
    alone = [calibrated_cross_entropy(p[rows], LABELS[rows]) for p, rows in zip(parts, mask, strict=True)]
    expected = 0.5 * calibrated_cross_entropy(logits, LABELS) + 0.25 * sum(alone)
    torch.testing.assert_close(value, expected)


def test_towers_that_train_see_what_is_there_alone():
    """Batch normalisation too: outputs, gradients and running statistics are those of the sub-batch."""
    samples = with_holes(only(toy_data(8), NORMALISED), list(NORMALISED))
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    labels, rows = batch.pop("labels"), batch["audio_present"]
    assert 2 <= rows.sum() < 8
    for one in toy_model(NORMALISED, fusion="sum").modules():
        if isinstance(one, torch.nn.Dropout):
            one.p = 0.0
    model, other = (toy_model({"audio": NORMALISED["audio"], "vit": SMOOTH["vit"]}, fusion="sum") for _ in range(2))
    data = {key: value for key, value in batch.items() if key.split("_")[0] in ("audio", "vit")}
    data["vit_values"] = torch.stack([sample["vit_values"] for sample in toy_data(8)])
    output = model.train()(labels=labels, **data)
    alone = other.train().lfm.feature_of("audio", audio_values=batch["audio_values"][rows])
    torch.testing.assert_close(output.features[0][rows], alone)
    assert output.features[0][~rows].isnan().all()
    assert torch.equal(output.present[0], rows)
    output.features[0][rows].square().sum().backward()
    alone.square().sum().backward()
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        if "audio" in name:
            torch.testing.assert_close(one.grad, two.grad)
    for one, two in zip(model.lfm.towers["audio"].buffers(), other.lfm.towers["audio"].buffers(), strict=True):
        assert torch.equal(one, two)
    before = [buffer.clone() for buffer in model.buffers()]
    for there in (torch.zeros(8, dtype=torch.bool), torch.eye(8, dtype=torch.bool)[3]):  # none, and a lone one
        model.zero_grad()
        output = model(labels=labels, **{**data, "audio_present": there})
        assert output.loss.isfinite()
        output.loss.backward()
        gradients = [p.grad for p in model.lfm.towers["audio"].parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients) == bool(there.any())
        assert all(torch.equal(one, two) for one, two in zip(before, model.buffers(), strict=True))


# -- every method -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSERS)
def test_a_method_that_takes_no_holes_says_why(name, tmp_path):
    settings = {"size": 40, "holdout": 8, "num_train_epochs": 1}
    trainer = toy_trainer(tmp_path, method_towers(name), method=method_settings(name), holes=True, **settings)
    with pytest.raises(ValueError, match=f"method {name} takes no samples that lack a modality: .*Drop them, or .*lfm"):
        trainer.train()
    assert len(METHODS[name].spec.no_holes) > 20


def test_towers_that_read_together_are_refused(tmp_path):
    towers = method_towers("mmtm")
    trainer = toy_trainer(tmp_path, towers, holes=True, size=16, holdout=4)
    model = toy_model(towers, fusion="mmtm")
    with pytest.raises(ValueError, match="fusion mmtm"):
        trainer.method.check_holes(model.config)


@pytest.mark.parametrize("name", TAKERS)
def test_accumulated_batches_equal_a_big_one(name, tmp_path):
    settings = {"num_train_epochs": 2, "learning_rate": 0.01, "holdout": 12, "size": 24, "holes": True}
    settings |= {"optim": "sgd", "optim_args": "momentum=0.9", "method": method_settings(name)}
    towers = smallest_towers(name)
    big = toy_trainer(tmp_path, towers, per_device_train_batch_size=12, **settings)
    small = toy_trainer(tmp_path, towers, per_device_train_batch_size=4, gradient_accumulation_steps=3, **settings)
    big.train()
    small.train()
    assert_same_but_for_rounding(big, small)
    metrics = small.evaluate()
    names = small.model.config.modality_names
    assert all(0 < metrics[f"eval_{modality}_samples"] < 16 for modality in names)
    absence = small.measure_absence(small.eval_dataset)
    assert set(absence) >= {f"test_without_{modality}_samples" for modality in names}


@pytest.mark.parametrize(
    "settings", [{"alpha": "lookahead"}, {"alpha_parameters": "all"}, {"matching_loss": "infonce"}]
)
def test_a_learned_alpha_moves(settings, tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH, holes=True, size=32, holdout=16, num_train_epochs=2, method=settings)
    trainer.train()
    alphas = [entry["alpha"] for entry in trainer.state.log_history if "alpha" in entry]
    assert len(set(alphas)) > 1
    assert np.isfinite(alphas).all()


def losses_of(trainer):
    """What the method says of the whole training set as one batch, and the model's output for it."""
    batch = trainer.data_collator(list(trainer.train_dataset))
    labels = batch.pop("labels")
    output = trainer.model.train()(**batch)
    return trainer.method.losses(output, labels, batch), output, labels


def test_losses_in_plain_torch(tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH, size=16, method="weight", holes=True)
    found, output, labels = losses_of(trainer)
    unimodal = sum(
        F.cross_entropy(part[rows], labels[rows])
        for part, rows in zip(output.modality_logits, output.present, strict=True)
    )
    both = output.present.all(0)
    cosine = F.cosine_similarity(*(part[both].softmax(-1) for part in output.modality_logits)).mean()
    expected = unimodal + 2 * F.cross_entropy(output.logits, labels) + 0.01 * cosine
    torch.testing.assert_close(found["loss"], expected)

    trainer = toy_trainer(tmp_path, SMOOTH, size=16, method="ogm", holes=True)
    _, output, labels = losses_of(trainer)
    (sums, counts), rows = trainer.method.scores, torch.arange(16)
    for place, part in enumerate(output.modality_logits):
        chances = part.softmax(-1)[rows, labels][output.present[place]]
        torch.testing.assert_close(sums[place] / counts[place], chances.mean().detach())

    trainer = toy_trainer(tmp_path, SMOOTH, size=16, method="domfn", holes=True)
    found, output, labels = losses_of(trainer)
    total = 0
    for row, there in enumerate(output.present.T):
        q = [part[row] for part, is_there in zip(output.modality_logits, there, strict=True) if is_there]
        errors = [F.cross_entropy(part, labels[row]) for part in q]
        total = total + sum(errors)
        if there.all() and trainer.model.fusion.fuses(trainer.model.fusion.penalties(torch.stack(q)[:, None]))[0]:
            penalties = trainer.model.fusion.penalties(torch.stack(q)[:, None])[:, 0]
            total = total + F.cross_entropy(output.logits[row], labels[row])
            total = total + sum(error**2 / 2 for error in errors) - 0.5 * penalties.sum()
    torch.testing.assert_close(found["loss"], total / 16)


# -- metrics ------------------------------------------------------------------------------------------------------


def test_metrics_of_a_modality_are_of_the_samples_that_have_it():
    rng = np.random.default_rng(0)
    logits, one, other, none = (rng.normal(size=(20, 3)) for _ in range(4))
    labels = np.arange(20) % 3
    rows = rng.random(20) < 0.6
    one[~rows], none[:] = np.nan, np.nan
    prediction = EvalPrediction((logits, (one, other, none)), labels)
    metrics = compute_multimodal_metrics(prediction, ("a", "b", "c"))
    assert metrics["a_samples"] == rows.sum()
    assert metrics["a_accuracy"] == pytest.approx((one[rows].argmax(1) == labels[rows]).mean())
    assert metrics["c_samples"] == 0
    assert "c_accuracy" not in metrics
    assert "b_samples" not in metrics
    assert metrics["gap"] == pytest.approx(abs(metrics["a_accuracy"] - metrics["b_accuracy"]))
    logits[~rows] = np.nan  # then it is no hole
    with pytest.raises(ValueError, match="'a'"):
        compute_multimodal_metrics(prediction, ("a", "b", "c"))
