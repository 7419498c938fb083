"""Updates of alpha from what training has computed: the same hypergradient, and next to no work for the towers."""

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from modeling_lfm.trainer.alpha.bilevel import BilevelProblem
from modeling_lfm.trainer.alpha.memory import VectorMemory

from .toy import NORMALISED, SMALLEST, SMOOTH, toy_model, toy_trainer


class AtStep(TrainerCallback):
    """Calls `function` at the end of so many steps."""

    def __init__(self, step, function):
        self.step, self.function = step, function

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.function()


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("matching", ["js", "infonce"])
def test_with_weights_that_rest_it_is_the_hypergradient_of_the_same_samples(matching, holes, tmp_path):
    """Of 16 inner samples, the latest two batches, and the next four that are held out; the towers run for these."""
    method = {"alpha_every": 4, "alpha_solver": "cg", "matching_loss": matching}
    settings = {"learning_rate": 0.0, "in_order": True, "holes": holes, "holdout": 16, "num_train_epochs": 1}
    trainer = toy_trainer(tmp_path, SMOOTH, method=method, **settings)
    found = []

    def compare():
        problem, memory = BilevelProblem(trainer.method), trainer.method.memory
        places = np.random.default_rng((trainer.args.seed, 1)).permutation(16)[:4]
        assert (memory.draw_held_out(0, 16, trainer.args.seed, 0) == places).all()
        result = problem.hypergradient_from_memory(0.9, 2)
        inner = problem._outputs(trainer.train_dataset, np.arange(16, 32), True)
        outer = problem._outputs(trainer.holdout_dataset, places, True)
        found.extend([result, problem._solve(inner, outer, trainer.model.head_parameters(), 0.9)])

    trainer.add_callback(AtStep(4, compare))
    trainer.train()
    reused, fresh = found
    assert fresh.value != 0
    for name in ("value", "cosine", "norm_outer", "norm_mixed", "norm_solution", "outer_loss"):
        assert getattr(reused, name) == pytest.approx(getattr(fresh, name), rel=1e-4), name


def test_the_towers_run_for_half_a_held_out_batch_in_64_steps(tmp_path):
    trainer = toy_trainer(tmp_path, SMALLEST, method={"alpha_every": 16}, size=784, holdout=16, num_train_epochs=1)
    seen = []
    tower = trainer.model.lfm.towers["text"]
    tower.register_forward_pre_hook(
        lambda module, args: None if module.training else seen.append(trainer.state.global_step)
    )
    trainer.train()
    assert trainer.method.schedule.updates == 5
    assert [step for step in seen if step < 96] == [0, 16, 80]  # first to see whether it fits; at 96 it is evaluated


def test_what_is_kept(tmp_path):
    """The fewest latest whole steps; every held-out sample in turn; the latest rows of those."""
    memory = VectorMemory(toy_model(SMOOTH), inner_samples=16, outer_samples=20, period=32, batch_size=15)
    assert len(memory.draw_held_out(1, 18, 0, 0)) == 8  # resumed without
    memory.add_held_out(((torch.zeros(8, 2),), torch.zeros(8), None))
    places = [memory.draw_held_out(update, 18, 0, 0) for update in range(9)]
    assert [len(part) for part in places] == [8, 0, 8, 0, 8, 0, 8, 0, 8]
    assert set(np.concatenate(places[:5])) == set(range(18))
    for number in range(3):
        memory.add_held_out(((torch.full((8, 2), number),), torch.full((8,), number), None))
    assert memory.gather()[1][1].tolist() == [1] * 8 + [2] * 8
    for step in range(4):
        memory.begin_step()
        memory.steps[-1].append(((torch.zeros(10, 2),), torch.full((10,), step), None))
    (_, labels, present), _ = memory.gather()
    assert labels.tolist() == [2] * 10 + [3] * 10
    assert present is None
    memory.close()


def test_nothing_is_watched_outside_training(tmp_path):
    trainer = toy_trainer(tmp_path, NORMALISED, method={"alpha_every": 2}, holdout=16, num_train_epochs=1)
    for _ in range(2):
        trainer.train()
        assert trainer.method.memory is None
        assert not any(layer._forward_pre_hooks for layer in trainer.model.lfm.projections.values())


def test_an_epoch_reuses_where_it_is_asked_for(tmp_path):
    found = []
    for reuse in (None, True):
        trainer = toy_trainer(
            tmp_path, SMOOTH, method={"alpha_reuse": reuse, "alpha_start": 0.5}, holdout=16, num_train_epochs=2
        )
        assert trainer.method.settings.reuses == bool(reuse)
        trainer.train()
        found.append(trainer.method.alpha)
    assert found[0] != found[1]
