"""What an update of the learned alpha costs, in training steps."""

import tempfile
from dataclasses import replace

from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.rows import Row, ratios
from modeling_lfm.trainer.alpha.bilevel import BilevelProblem

STEPS_AN_EPOCH = 100
DEFAULT = ("cg", "double_backward")
WAYS = (DEFAULT, ("cg", "central_difference"), ("neumann", "double_backward"), ("identity", "double_backward"))


def cost(setup):
    """An update of alpha in training steps, in every way."""
    yield from cost_of(setup, "ResNet18", *models.pair(setup, 48), *setup.pick((16, 16), (256, 256)), hidden_size=512)
    yield from cost_of(setup, "demo model", *models.demo_pair(), *setup.pick((16, 16), (64, 256)))


def cost_of(setup, name, towers, shapes, batch_size, count, hidden_size=64):
    """Rows of one model, with `count` samples on each side of the problem."""
    data = models.make_samples(shapes, count + max(count, 2 * batch_size))
    with tempfile.TemporaryDirectory() as folder:
        method = {"name": "lfm", "alpha_inner_samples": count, "alpha_outer_samples": count}
        model = models.make_model(towers, "lfm", hidden_size)
        trainer = models.make_trainer(setup, folder, model, data[count:], batch_size, method, data[:count], max_steps=1)
        step, problem = models.make_step(trainer), BilevelProblem(trainer.method)
        updates = {way: update_by(problem, *way) for way in WAYS}
        method = {"name": "lfm", "alpha_every": STEPS_AN_EPOCH}
        again = models.make_trainer(setup, folder, model, data[count:], batch_size, method, data[:count], max_steps=1)
        trained = again.method.settings.inner_samples
        updates["reused"] = update_from_memory(again, -(-trained // batch_size))
        one, other = (updates[way]() for way in WAYS[:2])
        times = setup.take_turns({"step": step, **updates}, rounds=3)
    yield Row(
        f"{', '.join(DEFAULT)}, {name}, batch {batch_size}: share of an epoch of {STEPS_AN_EPOCH} steps",
        [100 / STEPS_AN_EPOCH * value for value in ratios(times[DEFAULT], times["step"])],
        "%",
        most=2.0,
        right=abs(one - other) <= 0.02 * abs(one) + 1e-7,
        note=f"double backward and differences agree to 2 %; {count} + {count} samples",
    )
    yield Row(
        f"the same every {STEPS_AN_EPOCH} steps, {name}, batch {batch_size}",
        [100 / STEPS_AN_EPOCH * value for value in ratios(times["reused"], times["step"])],
        "%",
        most=2.0,
        note=f"{trained} samples or a batch that were trained on, and half a batch that passes the towers",
    )
    for way in WAYS[1:]:
        yield Row(f"{', '.join(way)}, {name}", ratios(times[way], times["step"]), "steps")


def update_by(problem, solver, product):
    """A function that computes the hypergradient this way and returns its value."""

    def update():
        problem.settings = replace(problem.method.settings, alpha_solver=solver, alpha_product=product)
        return problem.hypergradient(0.9, 2).value

    return update


def update_from_memory(trainer, steps):
    """A function that computes the hypergradient from what so many `steps` have computed, and a held-out batch."""
    step, method = models.make_step(trainer), trainer.method
    method.on_train_begin()
    method.begin_period(1)
    for _ in range(steps):
        step()
    return lambda: BilevelProblem(method).hypergradient_from_memory(0.9, 2).value
