"""PMR: prototypes, who is slower, and the cross-entropy over prototypes."""

import copy

import pytest
import torch
from torch.nn import functional as F

from modeling_lfm.modeling_lfm import LfmOutput
from modeling_lfm.trainer.methods import make_method

from ..toy import SMOOTH, only, shallow_resnet, toy_data, toy_trainer
from .steps import ONE_STEP, EpochWatcher, assert_one_step, stack, twin

TOWERS = {"audio": shallow_resnet(1), **SMOOTH}  # the first differs between training and evaluation


class Watched(torch.utils.data.Dataset):
    """Samples that remember which of them were read."""

    def __init__(self, samples):
        self.samples, self.read = samples, []

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.read.append(index)
        return self.samples[index]


def towers(number):
    return dict(list(TOWERS.items())[:number])


def class_means(model, batch, labels, classes=range(4)):
    """For each modality a `dict` from class to the mean of its features in evaluation mode."""
    with torch.no_grad():
        features = copy.deepcopy(model).eval()(**batch).features
    return [
        {k: torch.stack([f[i] for i in range(len(f)) if labels[i] == k]).mean(0) for k in classes} for f in features
    ]


def similarities(feature, means):
    return torch.stack([-(((feature - mean) ** 2).sum(1)).sqrt() for mean in means.values()], dim=1)


@pytest.mark.parametrize("number", [2, 3])
def test_one_step_pulls_the_slower_to_its_prototypes(number, tmp_path):
    """With three modalities both that are below the best."""
    trainer = toy_trainer(tmp_path, towers(number), method={"name": "pmr", "alpha": 2.0}, **ONE_STEP)
    model, batch = twin(trainer)
    labels = batch.pop("labels")
    means = class_means(model, batch, labels)
    output = model(**batch)
    sims = [similarities(feature, mean) for feature, mean in zip(output.features, means, strict=True)]
    scores = [sum(sim[i].softmax(0)[labels[i]].item() for i in range(8)) for sim in sims]
    assert len({round(score, 3) for score in scores}) == number
    pulled = [F.cross_entropy(sim, labels) for place, sim in enumerate(sims) if scores[place] < max(scores)]
    assert len(pulled) == number - 1
    loss_cls = F.cross_entropy(output.logits, labels)
    (loss_cls + 2 * sum(pulled)).backward()
    trainer.train()
    assert_one_step(trainer.model, model)
    entry = trainer.state.log_history[0]
    assert entry["loss_cls"] == pytest.approx(loss_cls.item(), rel=1e-4)
    assert entry["loss_prototypes"] == pytest.approx(sum(pulled).item(), rel=1e-4)
    assert entry["loss"] == pytest.approx(entry["loss_cls"] + 2 * entry["loss_prototypes"], rel=1e-4)


def test_prototypes_keep_a_part_of_the_old(tmp_path):
    method = {"name": "pmr", "momentum": 0.3}
    trainer = toy_trainer(tmp_path, towers(2), method=method, **{**ONE_STEP, "num_train_epochs": 2})
    model, batch = twin(trainer)
    labels = batch.pop("labels")
    watcher = EpochWatcher(trainer, lambda: trainer.method.prototypes)
    first = class_means(model, batch, labels)
    trainer.train()
    model.load_state_dict(watcher.weights[0])
    second = class_means(model, batch, labels)
    for place in range(2):
        for k in range(4):
            torch.testing.assert_close(watcher.measured[0][place, k], first[place][k], rtol=1e-4, atol=1e-5)
            blended = 0.7 * second[place][k] + 0.3 * first[place][k]
            torch.testing.assert_close(watcher.measured[1][place, k], blended, rtol=1e-4, atol=1e-5)


def test_a_class_that_was_not_drawn_is_left_out(tmp_path):
    """Of 50 samples 40 are drawn; the only sample of class 3 is not among them."""
    settings = {**ONE_STEP, "size": 50, "per_device_train_batch_size": 50}
    trainer = toy_trainer(tmp_path, SMOOTH, method="pmr", **settings)
    drawn = trainer.draw_indices(40, 1).tolist()
    lonely = next(index for index in range(50) if index not in drawn)
    for index, sample in enumerate(trainer.train_dataset):
        sample["labels"] = torch.tensor(3 if index == lonely else index % 3)
    model, batch = twin(trainer)
    labels = batch.pop("labels")
    means = class_means(model, {k: v[drawn] for k, v in batch.items()}, labels[drawn], classes=range(3))
    output, rest = model(**batch), [index for index in range(50) if index != lonely]
    sims = [similarities(feature, mean)[rest] for feature, mean in zip(output.features, means, strict=True)]
    scores = [sim.softmax(1)[torch.arange(49), labels[rest]].sum() for sim in sims]
    slower = sims[1] if scores[0] > scores[1] else sims[0]
    (F.cross_entropy(output.logits, labels) + F.cross_entropy(slower, labels[rest], reduction="sum") / 50).backward()
    trainer.train()
    assert trainer.method.known.tolist() == [True, True, True, False]
    assert_one_step(trainer.model, model)


def test_a_prototype_outlives_a_draw_without_its_class(tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH, method="pmr", **ONE_STEP)
    method = trainer.method
    method.on_train_begin()
    method.on_epoch_begin(1)
    before = method.prototypes.clone()
    for sample in trainer.train_dataset:
        sample["labels"] = sample["labels"] % 3
    method.on_epoch_begin(2)
    assert method.known.all()
    assert torch.equal(method.prototypes[:, 3], before[:, 3])
    assert torch.equal(method.prototypes[:, 0], 0.8 * method.class_means(2)[0][:, 0] + 0.2 * before[:, 0])


def test_a_first_prototype_is_not_blended(tmp_path):
    """Nothing is kept of a class that was not drawn before."""
    trainer = toy_trainer(tmp_path, SMOOTH, method="pmr", **ONE_STEP)
    method, labels = trainer.method, [sample["labels"] for sample in trainer.train_dataset]
    for sample in trainer.train_dataset:
        sample["labels"] = sample["labels"] % 3
    method.on_train_begin()
    method.on_epoch_begin(1)
    assert method.known.tolist() == [True, True, True, False]
    for sample, label in zip(trainer.train_dataset, labels, strict=True):
        sample["labels"] = label
    method.on_epoch_begin(2)
    assert method.known.all()
    assert torch.equal(method.prototypes[:, 3], method.class_means(2)[0][:, 3])


@pytest.mark.parametrize(("shift", "slower"), [(0.0, 0), (0.5, 1), (-0.5, 0)])
def test_the_first_is_slower_unless_it_scores_higher(shift, slower, tmp_path):
    """Equal features, moved to their prototypes or away from them in the first modality."""
    trainer = toy_trainer(tmp_path, SMOOTH, method="pmr", **ONE_STEP)
    prototypes = torch.eye(4).repeat(2, 1, 4)
    trainer.method.prototypes, trainer.method.known = prototypes, torch.ones(4, dtype=torch.bool)
    labels = torch.tensor([0, 1, 2])
    features = [torch.zeros(3, 16), torch.zeros(3, 16)]
    features[0] += shift * prototypes[0, labels]
    features = [feature.requires_grad_() for feature in features]
    logits = torch.zeros(3, 4, requires_grad=True)
    trainer.method.losses(LfmOutput(logits=logits, features=tuple(features)), labels, {})["loss"].backward()
    assert features[slower].grad.abs().max() > 0.01
    assert not features[1 - slower].grad.any()


@pytest.mark.parametrize("epochs", [{"first_epoch": 2}, {"last_epoch": 0}])
def test_outside_of_its_epochs_it_is_plain(epochs, tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH, method={"name": "pmr", **epochs}, **ONE_STEP)
    model, batch = twin(trainer)
    labels = batch.pop("labels")
    F.cross_entropy(model(**batch).logits, labels).backward()
    trainer.train()
    assert_one_step(trainer.model, model)
    assert trainer.method.prototypes is None


def test_draws_are_a_tenth_and_differ_from_epoch_to_epoch(tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH, method="pmr", **ONE_STEP)
    trainer.train_dataset = data = Watched(only(toy_data(450), SMOOTH))
    for epoch in (1, 2):
        trainer.method.class_means(epoch)
    assert len(data.read) == 90
    first, second = set(data.read[:45]), set(data.read[45:])
    assert len(first) == len(second) == 45
    assert first != second


def test_wrong_settings_are_named():
    for key, value in (("alpha", -1.0), ("momentum", 1.0), ("share", 0.0), ("share", 1.5)):
        with pytest.raises(ValueError, match=rf"method\.{key}={value}"):
            make_method({"name": "pmr", key: value})
    settings = make_method("pmr").settings
    assert (settings.first_epoch, settings.last_epoch) == (1, 71)  # 0 <= epoch <= 70, counted from 0


def test_distances_of_equal_points_have_a_gradient(tmp_path):
    """A feature that lies on its prototype."""
    trainer = toy_trainer(tmp_path, SMOOTH, method="pmr", **ONE_STEP)
    sample = stack(trainer.train_dataset)
    trainer.method.prototypes = torch.zeros(2, 4, 16)
    trainer.method.known = torch.ones(4, dtype=torch.bool)
    feature = torch.zeros(8, 16, requires_grad=True)
    trainer.method.log_probabilities((feature, feature), sample["labels"]).sum().backward()
    assert feature.grad.isfinite().all()
