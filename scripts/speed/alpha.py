"""What an update of the learned alpha costs: in training steps, in memory, and how the cost grows."""

import tempfile
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset

from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.rows import Row, ratios
from modeling_lfm.trainer.alpha.bilevel import BilevelProblem

STEPS_AN_EPOCH = 100
DEFAULT = ("cg", "double_backward")
WAYS = (("cg", "central_difference"), ("neumann", "double_backward"), ("identity", "double_backward"))


def cost(setup):
    """An update of alpha in training steps, in every way, and its peak memory."""
    towers, shapes = models.pair(setup, 48, {"audio": (1, 257, 299), "image": (3, 3, 224, 224)})
    yield from cost_of(setup, "ResNet18, batch 256", towers, shapes, setup.pick(16, 256), with_memory=True)
    yield from cost_of(setup, "demo model, batch 64", *models.demo_pair(), setup.pick(16, 64), with_memory=False)


def cost_of(setup, name, towers, shapes, batch_size, with_memory):
    """Rows of one model: the default and its goals, then the other ways."""
    samples, hidden = setup.pick(16, 256), 512 if with_memory else 64
    data = models.make_samples(shapes, samples + max(samples, 2 * batch_size))
    with tempfile.TemporaryDirectory() as folder:
        parts = data[samples:], data[:samples]
        problem = make_problem(setup, folder, towers, *parts, batch_size, hidden, samples=samples)
        step = models.make_step(problem.trainer)
        updates = {", ".join((*way, "head")): way_of(problem, *way, "head") for way in (DEFAULT, *WAYS)}
        if not with_memory:
            updates["cg, double_backward, all parameters"] = way_of(problem, *DEFAULT, "all")
        default, near = list(updates)[:2]
        values = [updates[way]() for way in (default, near)]
        times = setup.take_turns({"step": step, **updates}, rounds=3)
        yield Row(
            f"share of an epoch of {STEPS_AN_EPOCH} steps, {name}",
            [100 / STEPS_AN_EPOCH * value for value in ratios(times[default], times["step"])],
            "%",
            most=2.0,
            right=abs(values[0] - values[1]) <= 0.02 * abs(values[0]) + 1e-7,
            check="double backward and differences agree to 2 %",
            note=f"{default}; {samples} + {samples} samples",
        )
        for way in list(updates)[1:]:
            yield Row(f"{way}, {name}", ratios(times[way], times["step"]), "steps")
        if with_memory:
            peaks = [peak_memory(setup, problem.trainer, function) for function in (updates[default], step)]
            note = " and ".join(f"{peak / 1e6:.0f} MB" for peak in peaks) + " of tensors"
            yield Row("peak memory over that of a training step", [peaks[0] / peaks[1]], most=1.5, note=note)


def make_problem(setup, folder, towers, data, holdout, batch_size, hidden_size, samples=None, **settings):
    """The problem of alpha of a trainer that has taken a step."""
    method = {"name": "lfm", **settings}
    if samples is not None:
        method |= {"alpha_inner_samples": samples, "alpha_outer_samples": samples}
    model = models.make_model(towers, "lfm", hidden_size=hidden_size)
    trainer = models.make_trainer(setup, folder, model, data, method, batch_size, holdout=holdout, max_steps=1)
    trainer.train()
    return BilevelProblem(trainer.method)


def way_of(problem, solver, product, parameters):
    """A function that computes the hypergradient this way and returns its value."""
    changes = {"alpha_solver": solver, "alpha_product": product, "alpha_parameters": parameters}

    def update():
        problem.settings = replace(problem.method.settings, **changes)
        return problem.hypergradient(0.9, 2).value

    return update


def peak_memory(setup, trainer, function):
    """Most bytes (`int`) of tensors at a time while `function` runs, with those that were there before.

    On a CPU from the allocations that torch's profiler sees, added to weights, gradients and the optimizer's state.
    """
    if setup.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated()
    owned = [*trainer.model.parameters(), *trainer.model.buffers(), *(p.grad for p in trainer.model.parameters())]
    owned += [value for state in trainer.optimizer.state.values() for value in state.values()]
    now = peak = sum(tensor.nbytes for tensor in owned if isinstance(tensor, torch.Tensor))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


class Endless(Dataset):
    """`size` samples, which are a few in memory over and over."""

    def __init__(self, samples, size):
        self.samples, self.size = samples, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.samples[index % len(self.samples)]


def growth(setup):
    """How the cost of an update grows with the number of parameters, and with the data set."""
    shapes = {"audio": (1, 32, 32), "image": (1, 32, 32)}
    samples = models.make_samples(shapes, 256)

    def problem(folder, width, size, **settings):
        tower = models.resnet(1, channels=[8 * width, 16 * width, 32 * width, 64 * width])
        data = (Endless(samples, size), Endless(samples, size // 10))
        return make_problem(setup, folder, {"audio": tower, "image": tower}, *data, 32, 64 * width, **settings)

    with tempfile.TemporaryDirectory() as folder:
        for parameters, goal in (("head", "projections and fusion (default)"), ("all", "all of them")):
            count, widths = setup.pick((16, (1, 2)), {"head": (128, (1, 2, 4, 8)), "all": (32, (1, 2, 4))}[parameters])
            settings = {"alpha_parameters": parameters, "samples": count}
            problems = [problem(folder, width, 2560, **settings) for width in widths]
            sizes = [found.model.num_parameters() for found in problems]
            times = setup.take_turns(dict(enumerate(lambda p=p: p.hypergradient(0.9, 2) for p in problems)))
            note = f"{min(sizes):,} to {max(sizes):,} parameters in all; 1 is linear"
            what = f"exponent in the number of parameters, through {goal}"
            yield Row(what, exponents(sizes, times), most=1.1, note=note)
        sizes = setup.pick((2_560, 10_240), (2_560, 10_240, 40_960, 163_840))
        problems = [problem(folder, 1, size, samples=setup.pick(16, None)) for size in sizes]
        times = setup.take_turns(dict(enumerate(lambda p=p: p.hypergradient(0.9, 2) for p in problems)), rounds=10)
    note = f"{min(sizes):,} to {max(sizes):,} samples; 0 is flat"
    yield Row("exponent in the size of the data set", exponents(sizes, times), most=0.1, note=note)


def exponents(sizes, times):
    """Exponents of power laws through the seconds at these sizes (`list[float]`, one a round)."""
    rounds = zip(*times.values(), strict=True)
    return [float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) for seconds in rounds]
