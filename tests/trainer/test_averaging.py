"""The mean of the weights of the last epochs: against weights that a callback keeps, resumed, and with statistics."""

import copy

import pytest
import torch
from transformers import TrainerCallback

from .toy import NORMALISED, SMALLEST, toy_trainer


class Keeper(TrainerCallback):
    """Keeps the weights at the end of each epoch."""

    def __init__(self):
        self.weights = []

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(copy.deepcopy(model.state_dict()))


def trained(folder, modalities=SMALLEST, resume=None, **settings):
    settings = {"method": "concat", "average_epochs": 2, "lr_scheduler_type": "constant", "size": 40, **settings}
    trainer, keeper = toy_trainer(folder, modalities, **settings), Keeper()
    trainer.add_callback(keeper)
    trainer.train(resume)
    return trainer, keeper.weights


def test_the_model_is_the_mean_of_the_last_epochs(tmp_path):
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer, (_, second, third) = trained(tmp_path, **best, metric_for_best_model="accuracy")
    for name, weight in trainer.model.state_dict().items():
        torch.testing.assert_close(weight, (second[name] + third[name]) / 2, rtol=1e-5, atol=1e-7)
    assert any((second[name] - third[name]).abs().max() > 1e-3 for name in second)
    log = trainer.state.log_history
    assert [entry["averaged"] for entry in log if "averaged" in entry] == [2]
    found = trainer.evaluate()
    assert trainer.state.best_metric == found["eval_accuracy"], "what the card tells is of the mean"
    assert next(e for e in log[::-1] if "eval_loss" in e)["eval_loss"] == pytest.approx(found["eval_loss"])
    everything, weights = trained(tmp_path / "all", average_epochs=9, num_train_epochs=2)
    assert len(weights) == 2
    for name, weight in everything.model.state_dict().items():
        torch.testing.assert_close(weight, sum(part[name] for part in weights) / 2, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("step", [7, 10, 15])  # in the middle of an epoch, after one that counts, and at the end
def test_a_resumed_run_ends_with_the_same_mean(step, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": step, "num_train_epochs": 3}
    whole, _ = trained(tmp_path, **settings)
    resumed, weights = trained(tmp_path, resume=str(tmp_path / f"checkpoint-{step}"), **settings)
    assert len(weights) < 3
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_batch_normalisation_is_measured_with_the_mean_weights(tmp_path):
    frozen = {**NORMALISED, "audio": {**NORMALISED["audio"], "frozen": True}}
    before = toy_trainer(tmp_path, frozen, method="concat").model.state_dict()
    trainer, _ = trained(tmp_path, frozen)
    norms = [name for name in before if name.endswith("running_mean")]
    assert norms
    assert all(torch.equal(trainer.model.state_dict()[name], before[name]) for name in norms), "a frozen tower's stay"

    trainer, weights = trained(tmp_path, NORMALISED)
    name, norm = next((n, m) for n, m in trainer.model.named_modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen = []
    hook = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mean((0, 2, 3))))
    batches = trainer.make_batches(trainer.train_dataset, torch.arange(len(trainer.train_dataset)).numpy())
    with torch.no_grad():
        for batch in batches:
            trainer.model.eval()(**batch)
    hook.remove()
    torch.testing.assert_close(norm.running_mean, sum(seen) / len(seen), rtol=1e-3, atol=1e-4)
    mean = sum(part[f"{name}.running_mean"] for part in weights[-2:]) / 2
    assert not torch.allclose(norm.running_mean, mean, rtol=1e-3, atol=1e-4)


def test_what_a_method_does_in_the_end_is_done_to_the_mean(tmp_path):
    settings = {"method": {"alpha": "linear", "keep_prior": True}, "holdout": 16}
    trainer, (_, second, third) = trained(tmp_path, **settings)
    (weight,) = [entry["prior_weight"] for entry in trainer.state.log_history if "prior_weight" in entry]
    name = "fusion.head.weight"
    mean = (second[name] + third[name]) / 2
    torch.testing.assert_close(trainer.model.state_dict()[name], weight * mean, rtol=1e-4, atol=1e-6)
    assert abs(weight - 1) > 0.01


@pytest.mark.parametrize("method", ["umt", "auto"])
def test_models_that_are_trained_apart_are_trained_plainly(method, tmp_path):
    """A teacher, or a candidate of a race, has no validation data to be stacked on."""
    chosen = {"umt": {"name": "umt", "teacher_epochs": 1}, "auto": {"name": "auto", "race": 0.4}}[method]
    trainer, weights = trained(tmp_path, method=chosen, stack=True, average_epochs=1)
    log = trainer.state.log_history
    assert [entry["averaged"] for entry in log if "averaged" in entry] == [1]
    assert sum("stacking_vit" in entry for entry in log) == 1
    name = next(name for name in weights[-1] if name.startswith("lfm.towers") and weights[-1][name].ndim > 1)
    assert torch.equal(trainer.model.state_dict()[name], weights[-1][name])


def test_what_cannot_be_averaged_is_told(tmp_path):
    with pytest.raises(ValueError, match="average_epochs=-1"):
        trained(tmp_path, average_epochs=-1)
    stops = {"early_stopping_patience": 2, "eval_strategy": "epoch", "save_strategy": "epoch"}
    stops |= {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
    with pytest.raises(ValueError, match="leave out early_stopping_patience"):
        trained(tmp_path, **stops)
