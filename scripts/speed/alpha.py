"""What one update of the learned alpha costs, in training steps and in memory."""

import tempfile
from dataclasses import dataclass, field, replace

import torch

from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.suite import Row
from modeling_lfm.trainer.alpha.bilevel import BilevelProblem
from modeling_lfm.trainer.alpha.guards import frozen_norm_statistics

STEPS_AN_EPOCH = 100
WAYS = (("cg", "double_backward"), ("cg", "central_difference"), ("neumann", "double_backward"))
WAYS += (("neumann", "central_difference"), ("identity", "double_backward"))
DEFAULT, FEATURES, READING = PARTS = "cg, double_backward, head", "features", "reading"
ROUNDS, OTHERS = 5, 2  # rounds of the default, and of the other ways


@dataclass
class Setting:
    """What is trained while alpha is learned."""

    name: str
    towers: dict
    shapes: dict
    batch_size: int
    samples: int = 256
    share_goal: str | None = None
    memory_goal: str | None = None
    parameters: tuple = ("head",)
    model: dict = field(default_factory=dict)
    quick: bool = False


def settings(bench):
    """Those of the suite (`list[Setting]`)."""
    demo = Setting(
        "demo model, batch 64",
        models.demo_towers(),
        {"audio": (1, 65, 33), "image": (1, 16, 16)},
        64,
        share_goal="share of an epoch of 100 steps, demo model, batch 64",
        parameters=("head", "all"),
        model={"hidden_size": 64, "num_labels": 10},
    )
    large = Setting(
        "ResNet18 + ResNet18 (48 x 48), batch 256",
        {"audio": models.resnet(1), "image": models.resnet(3)},
        {"audio": (1, 48, 48), "image": (3, 48, 48)},
        256,
        share_goal="share of an epoch of 100 steps, ResNet18, batch 256",
        memory_goal="peak memory over that of a training step",
    )
    if bench.suite == "gpu":
        large.shapes = {"audio": (1, 257, 299), "image": (3, 3, 224, 224)}
        large.name = "ResNet18 + ResNet18 (257 x 299, three frames of 224 x 224), batch 256"
    if bench.quick:
        tiny = models.resnet(1, model_args=models.TINY_ARGS)
        large.towers, large.shapes = {"audio": tiny, "image": tiny}, {"audio": (1, 32, 32), "image": (1, 32, 32)}
        large = replace(large, name="tiny", batch_size=16, samples=16, quick=True)
        demo = replace(demo, batch_size=16, samples=16, quick=True)
    return [large, demo]


def make_problem(bench, setting, folder):
    """A trainer that has taken a step (with the learned alpha of the settings), and the problem of its alpha."""
    held = setting.samples
    data = models.make_samples(setting.shapes, held + max(held, 2 * setting.batch_size), seed=1)
    model = models.make_model(setting.towers, "lfm", **setting.model)
    method = {"name": "lfm", "alpha_inner_samples": held, "alpha_outer_samples": held}
    trainer = models.make_trainer(
        bench, folder, model, data[held:], method, setting.batch_size, holdout=data[:held], max_steps=1
    )
    trainer.train()
    return trainer, BilevelProblem(trainer.method)


def make_updates(problem, setting):
    """Functions (`dict` by name): the hypergradient in every way, its value returned, and parts of it alone."""
    trainer, held_out = problem.trainer, problem.trainer.holdout_dataset

    def update(solver, product, parameters):
        changes = {"alpha_solver": solver, "alpha_product": product, "alpha_parameters": parameters}
        changes |= {"alpha_iterations": 1} if setting.quick else {}
        problem.settings = replace(problem.method.settings, **changes)
        return problem.hypergradient(0.9, 2).value

    def encode():
        with frozen_norm_statistics(problem.model):
            problem._outputs(trainer.train_dataset, trainer.draw_indices(setting.samples, 2), head=True)
            problem._outputs(held_out, problem._held_out(2), head=True)

    def read():
        list(trainer.make_batches(trainer.train_dataset, trainer.draw_indices(setting.samples, 2)))
        list(trainer.make_batches(held_out, problem._held_out(2)))

    ways = [(*way, parameters) for parameters in setting.parameters for way in WAYS]
    return {**{", ".join(way): lambda way=way: update(*way) for way in ways}, FEATURES: encode, READING: read}


def peak_memory(bench, trainer, function):
    """Most bytes (`int`) of tensors at a time while `function` runs, with those that were there before.

    On a CPU from the allocations that torch's profiler sees, added to weights, gradients and the optimizer's state.
    """
    if bench.suite == "gpu":
        torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated()
    owned = [*trainer.model.parameters(), *trainer.model.buffers(), *(p.grad for p in trainer.model.parameters())]
    owned += [value for state in trainer.optimizer.state.values() for value in state.values()]
    now = sum(tensor.nbytes for tensor in owned if isinstance(tensor, torch.Tensor))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = now
    for change in changes:
        now += change.nbytes()
        peak = max(peak, now)
    return peak


def measure_setting(bench, setting, folder):
    """Rows of one setting: the default and its goals, then the other ways."""
    trainer, problem = make_problem(bench, setting, folder)
    batches = models.make_batches(trainer.train_dataset, setting.batch_size)
    step, updates = models.make_step(trainer, batches), make_updates(problem, setting)
    values = {name: update() for name, update in updates.items()}
    ratios = {}
    for names, rounds in ((PARTS, ROUNDS), (updates.keys() - set(PARTS), OTHERS)):
        functions = {"step": step, **{name: update for name, update in updates.items() if name in names}}
        times = bench.alternate(functions, 1 if bench.quick else rounds, warm_up=0)  # each has been called
        ratios |= {name: times.ratio(name, "step") for name in functions if name != "step"}
    bench.details[setting.name] = {
        "step_seconds": times.of("step").median,
        "updates_in_steps": {name: spread.median for name, spread in ratios.items()},
        "hypergradients": {name: value for name, value in values.items() if value is not None},
    }
    exact, near = (values[f"cg, {product}, head"] for product in ("double_backward", "central_difference"))
    yield ratios[DEFAULT].row(
        f"default ({DEFAULT}), {setting.name}",
        goal=setting.share_goal,
        factor=100 / STEPS_AN_EPOCH,
        correct=abs(exact - near) <= 0.02 * abs(exact) + 1e-7,
        check="double backward and differences agree to 2 %",
        note=f"{setting.samples} + {setting.samples} samples: reading them and passing them through the towers "
        f"{ratios[FEATURES].median:.2f} steps, reading alone {ratios[READING].median:.2f}; a step taken as three "
        f"forward passes of its batch, {2 * setting.samples / 3 / setting.batch_size:.2f}",
    )
    for name in [name for name in updates if name not in PARTS]:
        yield ratios[name].row(f"{name}, {setting.name}", unit="steps")
    if setting.memory_goal is not None:
        step_peak, update_peak = (peak_memory(bench, trainer, function) for function in (step, updates[DEFAULT]))
        yield Row(
            f"peak memory of the default, {setting.name}",
            update_peak / step_peak,
            goal=setting.memory_goal,
            note=f"{update_peak / 1e6:.0f} MB and {step_peak / 1e6:.0f} MB of tensors",
        )


def measure(bench):
    """See `benchmark_suite`."""
    for setting in settings(bench):
        with tempfile.TemporaryDirectory() as folder:
            yield from measure_setting(bench, setting, folder)
