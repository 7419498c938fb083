"""MSES: when a modality stops, what is brought back, and that nothing moves it afterwards."""

import math

import pytest
import torch
from torch.nn import functional as F
from transformers import TrainerCallback

from modeling_lfm.trainer.methods import make_method

from ..toy import method_towers, only, toy_data, toy_trainer
from .steps import ONE_STEP, EpochWatcher, assert_one_step, stack, twin

TOWERS = method_towers("mses", normalised=False)


def make_trainer(folder, wrong, towers=TOWERS, patience=0, **kwargs):
    """A trainer whose held-out samples contradict the training set in the modalities `wrong`: these overfit at once."""
    settings = {"num_train_epochs": 6, "optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.02}
    trainer = toy_trainer(
        folder, towers, method={"name": "mses", "patience": patience}, **{**settings, "weight_decay": 0.1, **kwargs}
    )
    held = only(toy_data(16, seed=7), towers)
    trainer.holdout_dataset = [
        {k: held[(i + 1) % 16][k] if k.split("_")[0] in wrong else v for k, v in sample.items()}
        for i, sample in enumerate(held)
    ]
    return trainer


def measure(trainer):
    """CE(f_m) of each modality on the held-out samples."""
    batch = stack(trainer.holdout_dataset)
    labels = batch.pop("labels")
    heads = trainer.model.fusion.heads
    features = trainer.model.lfm(**batch).features
    return [
        F.cross_entropy(feature @ head.weight.T + head.bias, labels).item()
        for feature, head in zip(features, heads, strict=True)
    ]


def own(weights, place, name):
    """Weights of one modality's encoder and head."""
    parts = (f"lfm.towers.{name}.", f"lfm.projections.{name}.", f"fusion.heads.{place}.")
    found = {key: value for key, value in weights.items() if key.startswith(parts)}
    assert len(found) > 4
    return found


class FirstStep(TrainerCallback):
    """Keeps weights and momentum as they are at the first step of each epoch."""

    def __init__(self, trainer):
        self.trainer, self.kept = trainer, []
        trainer.add_callback(self)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step % 4 == 0:
            optimizer = self.trainer.optimizer
            momentum = [optimizer.state[p].get("momentum_buffer") for p in self.trainer.model.parameters()]
            weights = {key: value.clone() for key, value in self.trainer.model.state_dict().items()}
            self.kept.append((weights, [None if m is None else m.clone() for m in momentum]))


def rule(losses, patience):
    """Epoch and value of the smoothed minimum, and epoch of the stop (None if it never stops), for one modality."""
    best, best_epoch, previous = math.inf, 0, None
    for epoch, loss in enumerate(losses, start=1):
        smoothed = loss if previous is None else 0.6 * previous + 0.4 * loss
        previous = loss
        if smoothed < best:
            best, best_epoch = smoothed, epoch
        elif epoch - best_epoch > patience:
            return best_epoch, best, epoch
    return best_epoch, best, None


def test_overfitted_modality_stops_at_its_best_and_the_other_goes_on(tmp_path):
    patience = 1  # without any in the next test
    trainer = make_trainer(tmp_path, wrong=("text",), patience=patience, size=32, holdout=0)
    watched = EpochWatcher(trainer, lambda: measure(trainer))
    first = FirstStep(trainer)
    trainer.train()
    method = trainer.method
    assert method.stopped == ["text"]
    audio, text = ([losses[place] for losses in watched.measured[:-1]] for place in (0, 1))
    best, loss, stop = rule(text, patience)
    assert stop == best + patience + 1 < 5
    assert method.best["text"] == {"epoch": best, "loss": pytest.approx(loss, rel=1e-5)}
    best_audio, loss, _ = rule(audio, patience)
    assert best_audio > stop
    assert method.best["audio"]["epoch"] == best_audio
    assert method.best["audio"]["loss"] == pytest.approx(loss, rel=1e-5) != pytest.approx(audio[-1], rel=1e-5)
    # all weights and the momentum go back as the next epoch begins
    weights, momentum = first.kept[stop]
    assert all(torch.equal(weights[key], value) for key, value in watched.weights[best - 1].items())
    assert all(torch.equal(one, other) for one, other in zip(momentum, first.kept[best][1], strict=True))
    # momentum and weight decay notwithstanding, nothing of text moves then, and all of audio does
    final = trainer.model.state_dict()
    assert all(torch.equal(final[key], value) for key, value in own(weights, 1, "text").items())
    assert not any(torch.equal(final[key], value) for key, value in own(weights, 0, "audio").items())
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["stopped_text"] for entry in entries] == [int(entry["epoch"] > stop) for entry in entries]
    assert not any(entry["stopped_audio"] for entry in entries)


def test_training_ends_when_all_have_stopped(tmp_path):
    settings = {"optim": "adamw_torch", "optim_args": None, "learning_rate": 2e-2}
    trainer = make_trainer(tmp_path, wrong=("audio", "text"), size=64, holdout=0, **settings)
    watched = EpochWatcher(trainer, lambda: measure(trainer))
    trainer.train()
    rules = [rule([losses[place] for losses in watched.measured], 0) for place in (0, 1)]
    assert sorted(trainer.method.stopped) == ["audio", "text"]
    assert max(stop for *_, stop in rules) < trainer.state.epoch < 3
    final, (best, *_) = trainer.model.state_dict(), max(rules, key=lambda found: found[2])
    assert all(torch.equal(final[key], value) for key, value in watched.weights[best - 1].items())


def test_before_anything_stops_it_is_the_sum(tmp_path):
    trainer = toy_trainer(tmp_path, TOWERS, method="mses", **{**ONE_STEP, "size": 16, "holdout": 8})
    model, batch = twin(trainer)
    labels = batch.pop("labels")
    features, heads = model.lfm(**batch).features, model.fusion.heads
    logits = sum(feature @ head.weight.T + head.bias for feature, head in zip(features, heads, strict=True))
    F.cross_entropy(logits, labels).backward()
    trainer.train()
    assert_one_step(trainer.model, model)


def test_resumed_after_a_stop(tmp_path):
    settings = {"size": 32, "holdout": 0, "save_strategy": "steps", "save_steps": 2, "num_train_epochs": 4}
    whole = make_trainer(tmp_path / "whole", wrong=("text",), **settings)
    whole.train()
    assert whole.method.stopped == ["text"]
    for step in (8, 10):  # the stop comes as the third epoch begins, after step 8
        resumed = make_trainer(tmp_path / str(step), wrong=("text",), **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
            assert torch.equal(one, other)
        assert resumed.method.stopped == whole.method.stopped
        assert resumed.method.last == whole.method.last
        one, other = (trainer.method.best["audio"]["checkpoint"]["model"] for trainer in (whole, resumed))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_three_modalities(tmp_path):
    towers = method_towers("mses", normalised=False, number=3)
    trainer = make_trainer(tmp_path, ("text",), towers, size=32, holdout=0, num_train_epochs=4)
    trainer.train()
    assert trainer.method.stopped == ["text"]
    assert list(trainer.method.best) == ["audio", "text", "vit"]


@pytest.mark.parametrize(("key", "value"), [("patience", -1), ("smoothing", 1.5), ("patience", 0.5)])
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=rf"method\.{key}={value}"):
        make_method({"name": "mses", key: value})
