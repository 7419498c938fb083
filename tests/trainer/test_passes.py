"""How often a step of each method runs the encoders: as often as its formula needs."""

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from modeling_lfm.trainer.methods import list_methods

from .toy import NORMALISED, method_settings, method_towers, toy_trainer

SPECS = list_methods()
BATCH, STEPS = 8, 2
# How often every encoder is needed in a step, forwards and backwards, of M modalities, the mean over the stages of a
# method and without what happens once an epoch; once each if not told.
PASSES = {
    "agm": lambda number: (2**number - 1, 2**number - 1),
    "mmpareto": lambda number: (1, 2),
    "reconboost": lambda number: (1, (1 + 1 / number) / 2),
    "umt": lambda number: (2, 1),
    **dict.fromkeys(("unimodal_1", "unimodal_2", "unimodal_3"), lambda number: (1 / number, 1 / number)),
}
# Of all encoders before the training itself, each as long as it.
TRAININGS = {"g_blend": 2, "umt": 1, "lfm": 0}


class Passes(TrainerCallback):
    """Counts, within steps, the samples that go through encoders: `forward`, and `backward`."""

    def __init__(self, trainer):
        self.trainer, self.forward, self.backward = trainer, 0, 0
        trainer.add_callback(self)

    def on_step_begin(self, args, state, control, **kwargs):
        models = [self.trainer.model, *getattr(self.trainer.method, "teachers", {}).values()]
        self.projections = [projection for model in models for projection in model.lfm.projections.values()]
        self.hook = nn.modules.module.register_module_forward_pre_hook(self.see)

    def on_step_end(self, args, state, control, **kwargs):
        self.hook.remove()

    def see(self, module, inputs):
        # The vectors of each encoder go into its projection, and their gradients come back from there.
        if any(module is projection for projection in self.projections):
            self.forward += len(inputs[0])
            if inputs[0].requires_grad:
                inputs[0].register_hook(self.see_gradient)

    def see_gradient(self, gradient):
        self.backward += len(gradient)


def numbers(spec):
    """Numbers of modalities for which to count: 3, and 2 where it takes no more or other passes."""
    if spec.max_modalities == 2:
        return [2]
    passes = PASSES.get(spec.name)
    return [3] if spec.name == "unimodal_3" or passes is None or passes(2) == passes(3) else [2, 3]


@pytest.mark.parametrize(
    ("spec", "number"), [pytest.param(s, n, id=f"{s.name}-{n}") for s in SPECS for n in numbers(s)]
)
def test_passes_of_a_step(spec, number, tmp_path):
    settings = {"size": BATCH * STEPS, "per_device_train_batch_size": BATCH, "num_train_epochs": 1, "holdout": 0}
    towers = method_towers(spec.name, number=number)
    trainer = toy_trainer(tmp_path, towers, method=method_settings(spec.name), **settings)
    counted = Passes(trainer)
    trainer.train()
    whole = number * BATCH * STEPS
    assert trainer.state.global_step == STEPS
    assert (counted.forward / whole, counted.backward / whole) == pytest.approx(
        PASSES.get(spec.name, lambda number: (1, 1))(number)
    )


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_before_the_training(name, tmp_path):
    settings = {"size": BATCH * STEPS, "per_device_train_batch_size": BATCH, "num_train_epochs": 2, "holdout": 0}
    trainer = toy_trainer(tmp_path, method_towers(name), method={"name": name}, **settings)
    counted = BeforeTheFirstStep(trainer)
    trainer.train()
    whole = 2 * trainer.args.num_train_epochs * BATCH * STEPS
    assert counted.samples == TRAININGS[name] * whole


class BeforeTheFirstStep(TrainerCallback):
    """Counts the samples that towers in training mode see before it."""

    def __init__(self, trainer):
        self.samples, self.kinds = 0, {type(tower) for tower in trainer.model.lfm.towers.values()}
        self.hook = nn.modules.module.register_module_forward_pre_hook(self.see)
        trainer.add_callback(self)

    def see(self, module, inputs):
        if type(module) in self.kinds and module.training:
            self.samples += len(inputs[0])

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.hook.remove()
        control.should_training_stop = True


def test_channels_last_is_an_order_in_memory_and_nothing_else(tmp_path):
    """Losses and weights are those of the plain order but for rounding; a run is resumed to the bit."""
    settings = {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.05, "save_strategy": "steps"}
    settings |= {"save_steps": 2, "num_train_epochs": 2, "size": 32, "holdout": 16}
    plain, last = (
        toy_trainer(tmp_path / str(order), NORMALISED, channels_last=order, **settings) for order in (False, True)
    )
    for trainer in (plain, last):
        torch.manual_seed(0)
        trainer.train()
    losses = [[e["loss"] for e in trainer.state.log_history if "loss" in e] for trainer in (plain, last)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    convolutions = [p for p in last.model.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert len(convolutions) > 5
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions)
    resumed = toy_trainer(tmp_path / "resumed", NORMALISED, channels_last=True, **settings)
    torch.manual_seed(0)
    resumed.train(resume_from_checkpoint=str(tmp_path / "True" / "checkpoint-2"))
    for one, other in zip(resumed.model.parameters(), last.model.parameters(), strict=True):
        assert torch.equal(one, other)
