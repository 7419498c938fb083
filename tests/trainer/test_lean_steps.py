"""What the trainer leaves out of transformers' steps changes no number, and SGD's kernel no more than the rounding."""

import pytest
import torch
from transformers import Trainer

from modeling_lfm import LfmForMultimodalClassification
from modeling_lfm.trainer import LfmTrainer
from modeling_lfm.trainer.lean_steps import LeanSteps

from .toy import NORMALISED, only, toy_data, toy_trainer

SGD = {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.05, "weight_decay": 0.01}


def as_in_transformers(trainer, *names):
    """The trainer without these methods of [`LeanSteps`]."""
    assert set(names) <= set(vars(LeanSteps))
    trainer.__class__ = type("Plain", (type(trainer),), {name: vars(Trainer)[name] for name in names})
    return trainer


def trained_twice(folder, settings, *names):
    """A trainer that has trained, and one without the methods `names`."""
    lean = toy_trainer(folder, NORMALISED, size=40, holdout=8, **settings)
    lean.train()
    plain = as_in_transformers(toy_trainer(folder, NORMALISED, size=40, holdout=8, **settings), *names)
    plain.train()
    return lean, plain


@pytest.mark.parametrize(
    "settings",
    [
        {"max_grad_norm": 0.0},
        {"max_grad_norm": 1.0},
        {"max_grad_norm": 0.0, "gradient_accumulation_steps": 2, "max_steps": 4},
        {"max_grad_norm": 0.0, "logging_strategy": "steps", "logging_steps": 2, "logging_first_step": True},
    ],
)
def test_norms_and_weights_are_those_of_transformers_to_the_bit(settings, tmp_path):
    lean, plain = trained_twice(tmp_path, settings, "_get_grad_norm", "floating_point_ops")
    for one, other in zip(lean.model.state_dict().values(), plain.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    timed = ("runtime", "per_second")
    logs = [
        [{key: value for key, value in entry.items() if not any(word in key for word in timed)} for entry in log]
        for log in (lean.state.log_history, plain.state.log_history)
    ]
    assert logs[0] == logs[1]
    assert all(entry["grad_norm"] > 0 for entry in logs[0] if "loss" in entry)
    assert logs[0][-1]["total_flos"] == plain.state.total_flos > 0


def test_fused_sgd_is_sgd(tmp_path):
    lean, plain = trained_twice(tmp_path, SGD, "get_optimizer_cls_and_kwargs")
    assert lean.optimizer.optimizer.defaults["fused"]
    assert not plain.optimizer.optimizer.defaults["fused"]
    for one, other in zip(lean.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_sgd_is_fused_but_where_parameters_are_sharded(tmp_path, monkeypatch):
    trainer = toy_trainer(tmp_path, NORMALISED, size=16, **SGD)
    cls, settings = trainer.get_optimizer_cls_and_kwargs(trainer.args)
    assert cls is torch.optim.SGD
    assert settings["fused"] is True
    assert settings["momentum"] == 0.9
    assert trainer.create_optimizer().defaults["fused"] is True
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "fused" not in LfmTrainer.get_optimizer_cls_and_kwargs(trainer.args)[1]


def test_channels_last_is_an_order_in_memory_and_nothing_else(tmp_path):
    """Losses and gradients are those of the plain order but for rounding; checkpoints load, and a run goes on."""
    settings = {**SGD, "save_strategy": "steps", "save_steps": 6, "num_train_epochs": 2, "size": 64, "holdout": 16}
    plain, last = (
        toy_trainer(tmp_path / str(order), NORMALISED, channels_last=order, **settings) for order in (False, True)
    )
    for trainer in (plain, last):
        torch.manual_seed(0)
        trainer.train()
        (batch,) = trainer.make_batches(only(toy_data(8, seed=1), NORMALISED), range(8))
        trainer.training_step(trainer.model, batch)
    losses = [[e["loss"] for e in trainer.state.log_history if "loss" in e] for trainer in (plain, last)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    convolutions = 0
    for one, other in zip(plain.model.parameters(), last.model.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-5)
        torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=1e-5)
        if one.dim() == 4 and one.shape[1] > 1 and one.shape[2] > 1:
            convolutions += 1
            assert one.is_contiguous()
            assert other.is_contiguous(memory_format=torch.channels_last)
    assert convolutions > 5
    saved = LfmForMultimodalClassification.from_pretrained(tmp_path / "True" / "checkpoint-12").state_dict()
    resumed = toy_trainer(tmp_path / "resumed", NORMALISED, channels_last=True, **settings)
    torch.manual_seed(0)
    resumed.train(resume_from_checkpoint=str(tmp_path / "True" / "checkpoint-6"))
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, saved[key])
