"""How the cost of an update of alpha grows with the number of parameters, and with the data set."""

import tempfile
from dataclasses import replace

import numpy as np
from torch.utils.data import Dataset

from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.suite import Spread
from modeling_lfm.trainer.alpha.bilevel import BilevelProblem
from modeling_lfm.trainer.plots import line_style, new_figure, tidy

ROUNDS, SIZE = 5, 32
PARAMETERS = {"head": (128, (1, 2, 4, 8)), "all": (32, (1, 2, 4))}  # samples, and factors of the towers' width
SAMPLES = (2_560, 10_240, 40_960, 163_840)
LINES = {"head": "projections and fusion (default)", "all": "all parameters"}


class Endless(Dataset):
    """`size` samples, which are a few in memory over and over."""

    def __init__(self, samples, size):
        self.samples, self.size = samples, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.samples[index % len(self.samples)]


def make_problem(bench, folder, width, size, **settings):
    """The problem of alpha of a trainer that has taken a step: towers of a `width`, a data set of a `size` (`int`s)."""
    tower = models.resnet(1, model_args={"channels": [8 * width, 16 * width, 32 * width, 64 * width]})
    samples = models.make_samples({"audio": (1, SIZE, SIZE), "image": (1, SIZE, SIZE)}, 256)
    model = models.make_model({"audio": tower, "image": tower}, "lfm", hidden_size=64 * width)
    trainer = models.make_trainer(
        bench,
        folder,
        model,
        Endless(samples, size),
        {"name": "lfm", **settings},
        holdout=Endless(samples, size // 10),
        max_steps=1,
    )
    trainer.train()
    return BilevelProblem(trainer.method)


def fit(sizes, times):
    """Exponent of a power law through the seconds, `Spread` over the rounds.

    Args:
        sizes (`dict`): from a name in `times` (`Times`) to a number.
    """
    rounds = zip(*(times.seconds[name] for name in sizes), strict=True)
    logarithms = np.log(list(sizes.values()))
    return Spread.of(float(np.polyfit(logarithms, np.log(seconds), 1)[0]) for seconds in rounds)


def grow_parameters(bench, parameters, folder):
    """Numbers of parameters (`dict` by name), and the `Times` of an update through `parameters`, "head" or "all"."""
    samples, widths = PARAMETERS[parameters]
    widths, samples = (widths[:2], 16) if bench.quick else (widths, samples)
    settings = {"alpha_parameters": parameters, "alpha_inner_samples": samples, "alpha_outer_samples": samples}
    problems = {str(width): make_problem(bench, folder, width, SAMPLES[0], **settings) for width in widths}
    numbers = {name: problem.model.num_parameters() for name, problem in problems.items()}
    updates = {name: lambda problem=problem: problem.hypergradient(0.9, 2) for name, problem in problems.items()}
    return numbers, bench.alternate(updates, 1 if bench.quick else ROUNDS)


def grow_samples(bench, folder):
    """Sizes of the training set (`dict` by name) and the `Times` of the default update."""
    sizes = SAMPLES[:2] if bench.quick else SAMPLES
    problem = make_problem(bench, folder, 1, sizes[0])
    if bench.quick:
        problem.settings = replace(problem.settings, alpha_inner_samples=16, alpha_outer_samples=16)
    trainer = problem.trainer

    def update(size):
        for dataset, length in ((trainer.train_dataset, size), (trainer.holdout_dataset, size // 10)):
            dataset.size = length
        problem.hypergradient(0.9, 2)

    updates = {str(size): lambda size=size: update(size) for size in sizes}
    return {str(size): size for size in sizes}, bench.alternate(updates, 1 if bench.quick else 2 * ROUNDS)


def draw(panels):
    """A figure of panels: (label of the x axis, lines), a line (name, sizes, times, exponent)."""
    figure = new_figure()
    for axes, (label, lines) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for number, (name, sizes, times, exponent) in enumerate(lines):
            x = np.array(list(sizes.values()), float)
            y = np.array([times.of(key).median for key in sizes])
            style = line_style(number)
            axes.plot(x, y, label=f"{name}: exponent {exponent:.2f}", linestyle="none", **style)
            slope, offset = np.polyfit(np.log(x), np.log(y), 1)
            axes.plot(x, np.exp(offset) * x**slope, color=style["color"], linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel=label)
        low, high = axes.get_ylim()
        axes.set_ylim(low / 3, high * 12)  # room for the legend; and a flat line looks flat
        axes.legend(frameon=False, loc="upper left", fontsize=8)
    figure.axes[0].set_ylabel("seconds of an update of alpha")
    return tidy(figure, figure.axes)


def measure(bench):
    """See `benchmark_suite`."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for parameters, name in LINES.items():
            numbers, times = grow_parameters(bench, parameters, folder)
            exponent = fit(numbers, times)
            lines.append((name, numbers, times, exponent.median))
            few, many = min(numbers.values()), max(numbers.values())
            yield exponent.row(
                f"exponent in the number of parameters, through {name}",
                goal="exponent in the number of parameters" + ("" if parameters == "head" else ", all of them"),
                note=f"{few:,} to {many:,} parameters in all; 1 is linear",
            )
        sizes, times = grow_samples(bench, folder)
        exponent = fit(sizes, times)
    yield exponent.row(
        "exponent in the number of training samples",
        goal="exponent in the size of the data set",
        note=f"{min(sizes.values()):,} to {max(sizes.values()):,} samples; 0 is flat",
    )
    panels = [("parameters", lines), ("training samples", [("default", sizes, times, exponent.median)])]
    for label, drawn in panels:
        for name, numbers, found, _ in drawn:
            seconds = {numbers[key]: found.of(key).median for key in numbers}
            bench.details[f"seconds by {label}, {name}"] = seconds
    bench.plots["Cost of an update of alpha against the number of parameters and of samples"] = draw(panels)
