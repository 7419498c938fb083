"""MSLR: each modality's learning rate, from its factor and from how its held-out accuracy develops."""

import math

import pytest
import torch
from torch.nn import functional as F
from transformers import TrainerCallback

from modeling_lfm import LfmConfig
from modeling_lfm.trainer import LfmTrainer
from modeling_lfm.trainer.methods import make_method

from ..toy import method_towers, toy_trainer
from .steps import ONE_STEP, EpochWatcher, assert_one_step, stack, twin

TOWERS = method_towers("mslr", normalised=False)
FACTORS = {"audio": 0.5, "text": 2.0}


class Rates(TrainerCallback):
    """Keeps the learning rate of each modality's parameters at each step."""

    def __init__(self, trainer):
        self.trainer, self.kept = trainer, []
        trainer.add_callback(self)

    def on_step_begin(self, args, state, control, **kwargs):
        model, rates = self.trainer.model, {}
        for place, name in enumerate(model.config.modality_names):
            modules = (model.lfm.towers[name], model.lfm.projections[name], model.fusion.heads[place])
            own = {id(p) for module in modules for p in module.parameters()}
            found = {g["lr"] for g in self.trainer.optimizer.param_groups for p in g["params"] if id(p) in own}
            assert len(found) == 1
            rates[name] = found.pop()
        self.kept.append(rates)


def accuracies(trainer):
    """Of each modality alone on the held-out samples."""
    batch = stack(trainer.holdout_dataset)
    labels = batch.pop("labels")
    features, heads = trainer.model.lfm(**batch).features, trainer.model.fusion.heads
    guesses = [(z @ head.weight.T + head.bias).argmax(1) for z, head in zip(features, heads, strict=True)]
    return {
        name: sum(g.item() == y.item() for g, y in zip(guess, labels, strict=True)) / len(labels)
        for name, guess in zip(trainer.model.config.modality_names, guesses, strict=True)
    }


def expected_ratios(measured, epoch, memory):
    """r_m in `epoch` (from 1), from the accuracies after each epoch."""
    ratios = {}
    for name in measured[0]:
        values = [entry[name] for entry in measured[: epoch - 1]]
        past = values[:-1][-memory:]
        ratios[name] = values[-1] / (sum(past) / memory) if len(past) == memory else 1.0
    return ratios


@pytest.mark.parametrize("strategy", ["keep", "dynamic"])
def test_one_step_with_a_rate_for_each_modality(strategy, tmp_path):
    method = {"name": "mslr", "factors": {"text": 2}, "strategy": strategy}
    settings = {**ONE_STEP, "size": 16, "holdout": 8, "per_device_train_batch_size": 16}
    trainer = toy_trainer(tmp_path, TOWERS, method=method, **settings)
    assert len(trainer.train_dataset) == (16 if strategy == "keep" else 8)
    model, batch = twin(trainer)
    labels = batch.pop("labels")
    features, heads = model.lfm(**batch).features, model.fusion.heads
    logits = sum(feature @ head.weight.T + head.bias for feature, head in zip(features, heads, strict=True))
    F.cross_entropy(logits, labels).backward()
    doubled = (model.lfm.towers["text"], model.lfm.projections["text"], heads[1])
    trainer.train()
    assert_one_step(trainer.model, model, {p: 2.0 for module in doubled for p in module.parameters()})
    assert ("rate_ratio_text" in trainer.state.log_history[0]) == (strategy == "dynamic")


@pytest.mark.parametrize("scheduler", ["cosine", "reduce_lr_on_plateau"])
def test_rates_follow_accuracies_and_the_schedule(scheduler, tmp_path):
    settings = {"size": 40, "holdout": 24, "num_train_epochs": 6, "learning_rate": 5e-3}
    settings |= {"eval_strategy": "epoch", "metric_for_best_model": "accuracy", "lr_scheduler_type": scheduler}
    method = {"name": "mslr", "memory": 2, "factors": FACTORS}
    trainer = toy_trainer(tmp_path, TOWERS, method=method, **settings)
    watched, rates = EpochWatcher(trainer, lambda: accuracies(trainer)), Rates(trainer)
    trainer.train()
    seen = set()
    assert len(rates.kept) == 12
    for step, found in enumerate(rates.kept):
        ratios = expected_ratios(watched.measured, step // 2 + 1, memory=2)
        share = (1 + math.cos(math.pi * step / 12)) / 2 if scheduler == "cosine" else 1.0
        for name, ratio in ratios.items():
            assert found[name] == pytest.approx(5e-3 * FACTORS[name] * ratio * share, rel=1e-6), (step, name)
        seen.update(ratios.values())
    assert len(seen) > 4
    assert trainer.method.ratios == pytest.approx(ratios)


def test_a_second_run_starts_afresh(tmp_path):
    method = {"name": "mslr", "memory": 1, "factors": FACTORS}
    trainer = toy_trainer(tmp_path, TOWERS, method=method, size=40, holdout=24, num_train_epochs=4, learning_rate=5e-3)
    trainer.train()
    assert set(trainer.method.ratios.values()) != {1.0}
    rates = Rates(trainer)
    trainer.train()
    assert rates.kept[0] == pytest.approx({"audio": 2.5e-3, "text": 1e-2})


def test_a_modality_that_is_always_wrong_can_recover(tmp_path):
    trainer = toy_trainer(tmp_path, TOWERS, method={"name": "mslr", "memory": 1}, size=24, holdout=8)
    trainer.train()
    batch = stack(trainer.holdout_dataset)
    batch.pop("labels")
    with torch.no_grad():
        logits = trainer.model.eval()(**batch).modality_logits
    for place, sample in enumerate(trainer.holdout_dataset):
        guesses = {part[place].argmax().item() for part in logits}
        sample["labels"] = torch.tensor(min({0, 1, 2} - guesses))
    trainer.method.accuracies = {"audio": [0.5], "text": [0.0]}
    trainer.method.on_epoch_begin(5)
    assert trainer.method.ratios == {"audio": 0.01, "text": 1.0}
    assert all(group["lr"] >= 0 for group in trainer.optimizer.param_groups)


def test_three_modalities_and_multi_label(tmp_path):
    towers = method_towers("mslr", normalised=False, number=3)
    model_settings = make_method("mslr").config_settings(towers)
    config = LfmConfig(**model_settings, hidden_size=16, num_labels=4, problem_type="multi_label_classification")
    plain = toy_trainer(tmp_path, towers, method={"name": "mslr", "memory": 1}, size=24, holdout=8)
    samples = [{**s, "labels": F.one_hot(s["labels"], 4).float()} for s in [*plain.train_dataset] * 2]
    model, method = type(plain.model)(config), make_method(plain.args.method)
    trainer = LfmTrainer(model, plain.args, samples, holdout_dataset=samples[:8], method=method)
    watched = EpochWatcher(trainer, lambda: trainer.model(**stack(samples[:8])).modality_logits)
    trainer.train()
    assert len(trainer.method.ratios) == 3
    labels = stack(samples[:8])["labels"]
    right = [((logits > 0) == labels.bool()).float().mean().item() for logits in watched.measured[-2]]
    assert [trainer.method.accuracies[name][-1] for name in towers] == pytest.approx(right)


def test_an_optimizer_of_ones_own_is_refused(tmp_path):
    trainer = toy_trainer(tmp_path, TOWERS, method={"name": "mslr", "strategy": "keep"}, size=8)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"mslr .*optimizer"):
        trainer.train()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"factors": {"audio": 0}}, r"method\.factors\.audio=0"),
        ({"factors": {"audio": "much"}}, r"method\.factors\.audio='much'"),
        ({"factors": {"radio": 1.0}}, r"\['radio'\]; the modalities are audio, text"),
        ({"strategy": "smooth"}, r"method\.strategy='smooth'"),
        ({"memory": 0}, r"method\.memory=0"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        make_method({"name": "mslr", **setting}).check(LfmConfig(TOWERS, fusion="sum"))
