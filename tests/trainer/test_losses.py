"""What may stand for the cross-entropy of every method, and balanced draws, against plain torch."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.alpha.outer_loss import outer_loss
from modeling_lfm.trainer.holdout import BalancedSampler
from modeling_lfm.trainer.objectives import classification_loss

from .methods.steps import ONE_STEP, assert_one_step, twin
from .toy import SMOOTH, only, toy_data, toy_model, toy_trainer

COUNTS = torch.tensor([6.0, 3.0, 2.0, 1.0])
LOGITS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
LABELS = torch.tensor([0] * 6 + [1] * 3 + [2] * 2 + [3])
WEIGHTS = 12 / (4 * COUNTS.double())


def written_out(options, logits, labels):
    """The loss in the words of the papers."""
    logits = logits + options.get("shift", 0)
    p = logits.softmax(1)
    smoothing = options.get("smoothing", 0.0)
    targets = (1 - smoothing) * F.one_hot(labels, 4) + smoothing / 4
    losses = -(targets * p.log()).sum(1)
    losses = losses * (1 - p[torch.arange(len(labels)), labels]) ** options.get("gamma", 0.0)
    return (losses * options.get("weights", torch.ones(4))[labels]).mean()


CASES = [
    {"weights": WEIGHTS},
    {"smoothing": 0.2},
    {"gamma": 2.0},
    {"shift": (COUNTS.double() / 12).log()},
    {"weights": WEIGHTS, "gamma": 1.5, "smoothing": 0.1, "shift": (COUNTS.double() / 12).log()},
]


@pytest.mark.parametrize("options", CASES, ids=lambda options: "_".join(options))
def test_losses_are_those_of_the_papers(options):
    one, other = classification_loss(LOGITS, LABELS, **options), written_out(options, LOGITS, LABELS)
    torch.testing.assert_close(one, other)
    gradients = [torch.autograd.grad(loss, LOGITS, create_graph=True)[0] for loss in (one, other)]
    torch.testing.assert_close(*gradients)
    second = [torch.autograd.grad(gradient.square().sum(), LOGITS)[0] for gradient in gradients]
    torch.testing.assert_close(*second)
    assert classification_loss(1e3 * LOGITS, LABELS, **options).isfinite()


def test_losses_of_several_labels_a_sample():
    labels = (LOGITS.detach() > 0.5).float()
    found = classification_loss(LOGITS, labels, "multi_label_classification", weights=WEIGHTS)
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(LOGITS, labels.double(), pos_weight=WEIGHTS))
    p = LOGITS.sigmoid()
    true = torch.where(labels > 0, p, 1 - p)
    focal = classification_loss(LOGITS, labels, "multi_label_classification", gamma=2.0)
    torch.testing.assert_close(focal, (-((1 - true) ** 2) * true.log()).mean())


def test_outer_loss_is_calibrated_for_the_loss_at_hand():
    """At the fitted temperature the loss is as low as on a fine grid of temperatures."""

    def loss(logits, labels):
        return classification_loss(logits, labels, weights=WEIGHTS)

    found = outer_loss("calibrated", LOGITS, [LOGITS], LABELS, loss=loss)
    grid = [loss(LOGITS * b, LABELS).item() for b in np.geomspace(1e-3, 1e3, 4001)]
    assert found.item() == pytest.approx(min(grid), rel=1e-5)
    assert found.item() < loss(LOGITS, LABELS).item()
    assert torch.equal(outer_loss("plain", LOGITS, [], LABELS, loss=loss), loss(LOGITS, LABELS))


SETTINGS = {
    "balanced": ({"class_weights": "balanced"}, {"weights": 12 / (4 * COUNTS)}),
    "given": ({"class_weights": [1.0, 2.0, 3.0, 4.0]}, {"weights": torch.tensor([1.0, 2.0, 3.0, 4.0])}),
    "focal": ({"focal_gamma": 2.0}, {"gamma": 2.0}),
    "adjusted": ({"logit_adjustment": 1.5}, {"shift": 1.5 * (COUNTS / 12).log()}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_one_step_with_settings_for_unbalanced_classes(name, tmp_path):
    settings, options = SETTINGS[name]
    trainer = toy_trainer(
        tmp_path, SMOOTH, method="concat", per_device_train_batch_size=12, **{**ONE_STEP, "size": 12}, **settings
    )
    for sample, label in zip(trainer.train_dataset, LABELS, strict=True):
        sample["labels"] = label
    plain = F.cross_entropy(twin(trainer)[0].eval()(**twin(trainer)[1]).logits, LABELS)
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == pytest.approx(plain.item(), rel=1e-5)
    model, batch = twin(trainer)
    written_out(options, model(**batch).logits, LABELS).backward()
    trainer.train()
    assert_one_step(trainer.model, model)


def test_alpha_descends_the_loss_of_the_user(tmp_path):
    settings = {"holdout": 16, "size": 40, "num_train_epochs": 2}
    alphas = []
    for weights in (None, [1.0, 0.0, 0.0, 3.0]):
        trainer = toy_trainer(tmp_path, SMOOTH, class_weights=weights, **settings)
        trainer.train()
        alphas.append(trainer.method.alpha)
    assert alphas[0] != alphas[1]


def test_gradients_of_a_users_loss_accumulate(tmp_path):
    """transformers takes such a loss for a sum over the whole step; here it is the mean of its batch."""
    found = []
    for size, steps in ((8, 1), (4, 2)):
        trainer = toy_trainer(
            tmp_path, SMOOTH, method="concat", **ONE_STEP, per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        )  # fmt: skip
        trainer.loss_func = lambda outputs, labels, num_items_in_batch=None: F.cross_entropy(outputs.logits, labels)
        trainer.train()
        found.append(trainer.model)
    for one, other in zip(*(model.parameters() for model in found), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_balanced_draws(tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH, method="qmf", size=60, train_sampling_strategy="balanced")
    for place, sample in enumerate(trainer.train_dataset.dataset):
        sample["labels"] = torch.tensor(0 if place < 57 else place - 56)
    seen = [torch.cat([batch["labels"] for batch in trainer.get_train_dataloader()]) for _ in range(2)]
    assert len(seen[0]) == 60
    assert torch.bincount(seen[0]).min() >= 5
    assert torch.equal(*seen)  # drawn anew where the epoch is another
    loader = trainer.get_train_dataloader()
    loader.set_epoch(1)
    assert not torch.equal(seen[0], torch.cat([batch["labels"] for batch in loader]))


def test_balanced_draws_are_resumed(tmp_path):
    settings = {"method": "concat", "size": 24, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 4}
    runs = [toy_trainer(tmp_path / str(i), SMOOTH, train_sampling_strategy="balanced", **settings) for i in range(2)]
    runs[0].train()
    runs[1].train(resume_from_checkpoint=str(tmp_path / "0" / "checkpoint-4"))
    for one, other in zip(*(run.model.parameters() for run in runs), strict=True):
        assert torch.equal(one, other)


def test_what_a_problem_lacks_is_refused(tmp_path):
    for settings, words in (
        ({"class_weights": [1.0, 2.0]}, "class_weights must hold 4"),
        ({"class_weights": "equal"}, "class_weights='equal'"),
        ({"label_smoothing_factor": 1.5}, "label_smoothing_factor"),
        ({"focal_gamma": -1.0}, "focal_gamma"),
    ):
        with pytest.raises(ValueError, match=words):
            toy_trainer(tmp_path, SMOOTH, method="concat", **settings)
    model = toy_model(SMOOTH, problem_type="multi_label_classification")
    for key in ("label_smoothing_factor", "logit_adjustment"):
        args = LfmTrainingArguments(str(tmp_path), method="concat", use_cpu=True, **{key: 0.5})
        with pytest.raises(ValueError, match=f"{key} is defined for single-label"):
            LfmTrainer(model=model, args=args, train_dataset=only(toy_data(8), SMOOTH))
    labels = [{"labels": torch.ones(4)}] * 8
    with pytest.raises(ValueError, match="train_sampling_strategy"):
        BalancedSampler(labels, 0)
