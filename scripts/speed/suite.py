"""What the measurements of benchmark.py share: the registry, goals and rows of the table, and fair timing.

A measurement is one module beside this one and one entry of `MEASUREMENTS`. The module defines

    def measure(bench):      # bench: a `Bench`
        ...
        yield Row("what was measured", value, goal="name of a Goal of the entry", ...)

and is imported only when it runs, so it may import torch and everything else at its top. It yields one `Row` for each
of the entry's goals at least, and as many without a goal as are worth naming. `bench.quick` asks for the smallest sizes
that exercise every line (tests); `bench.suite` is "cpu" or "gpu", `bench.device` the torch device for it. Times are
taken by `bench.alternate`, which interleaves what is compared; memory and start-up in processes of their own. What is
no row goes to `bench.details` (JSON-able) and `bench.plots[title]` (a matplotlib figure, written beside the Markdown).
"""

import math
import os
import statistics
import time
from dataclasses import dataclass, field
from importlib import import_module

SUITES = ("cpu", "gpu")
WAYS = ("at least", "at most")


@dataclass(frozen=True)
class Goal:
    """A number to reach.

    Args:
        name: by which rows refer to it, unique in its measurement; also what the table shows if nothing was measured.
        way: one of `WAYS`.
        value: in `unit`.
        unit: "x" (a ratio), "exponent", "%", "s" or "calls"; of the rows that refer to it, too.
    """

    name: str
    way: str
    value: float
    unit: str = "x"

    def __post_init__(self):
        if self.way not in WAYS:
            raise ValueError(f"the way of a goal is one of {', '.join(WAYS)}, got {self.way!r}.")

    def is_met(self, measured):
        """`bool`"""
        return measured >= self.value if self.way == "at least" else measured <= self.value

    def __str__(self):
        return f"{self.way} {show(self.value, self.unit)}"


@dataclass
class Row:
    """One line of the table.

    Args:
        what: was measured.
        measured: the median of the repeats, in the unit of its goal or `unit`; None where it could not be measured.
        goal: name of one of the measurement's goals; None where a number is only named.
        low, high: spread of the repeats, their quartiles.
        unit: where there is no goal: one of those of a goal, or any word, such as "MB".
        correct: whether what was timed also computed the right result; None where there is nothing to compare.
        check: what was compared for that, such as "weights equal to the bit".
        note: a remark, such as the sizes.
    """

    what: str
    measured: float | None
    goal: str | None = None
    low: float | None = None
    high: float | None = None
    unit: str = "x"
    correct: bool | None = None
    check: str = ""
    note: str = ""


@dataclass(frozen=True)
class Measurement:
    """One entry of the registry.

    Args:
        name: for `--only`.
        title: its heading.
        module: of this package; its function `measure` is called.
        goals: all that it has to reach.
        suites: in which it runs.
    """

    name: str
    title: str
    module: str
    goals: tuple[Goal, ...] = ()
    suites: tuple[str, ...] = SUITES

    def run(self, bench):
        """Its rows, as an iterator."""
        return import_module(f"modeling_lfm.scripts.{self.module}").measure(bench)


MEASUREMENTS = (
    Measurement(
        "overhead",
        "LfmTrainer against a bare PyTorch loop",
        "speed.overhead",
        (
            Goal("bare loop, ResNet18 + ResNet18", "at least", 0.97),
            Goal("bare loop, ResNet18 + BERT", "at least", 0.97),
            Goal("bare loop, demo model", "at least", 0.85),
            Goal("released step, anomaly detection off", "at least", 1.0),
        ),
    ),
    Measurement(
        "alpha",
        "The learned alpha",
        "speed.alpha",
        (
            Goal("share of an epoch of 100 steps, ResNet18, batch 256", "at most", 2.0, "%"),
            Goal("share of an epoch of 100 steps, demo model, batch 64", "at most", 2.0, "%"),
            Goal("peak memory over that of a training step", "at most", 1.5),
        ),
    ),
    Measurement(
        "methods",
        "Methods: a step over that of concat",
        "speed.methods",
        (Goal("most above the passes of its formula", "at most", 10.0, "%"),),
    ),
    Measurement(
        "growth",
        "Growth of an update of alpha",
        "speed.growth",
        (
            Goal("exponent in the number of parameters", "at most", 1.1, "exponent"),
            Goal("exponent in the number of parameters, all of them", "at most", 1.1, "exponent"),
            Goal("exponent in the size of the data set", "at most", 0.1, "exponent"),
        ),
    ),
    Measurement("throughput", "Samples a second of training", "speed.throughput"),
    Measurement(
        "memory",
        "Memory",
        "speed.memory",
        (
            Goal("peak of preparing, 16 times the data over once", "at most", 1.1),
            Goal("peak of training, 16 times the data over once", "at most", 1.1),
        ),
        ("cpu",),
    ),
    Measurement(
        "startup",
        "Start-up",
        "speed.startup",
        (
            Goal("slowest --help", "at most", 1.5, "s"),
            Goal("import modeling_lfm over transformers' AutoModel", "at most", 1.1),
        ),
        ("cpu",),
    ),
    Measurement(
        "input",
        "Input pipeline",
        "speed.input",
        (Goal("waiting for data", "at most", 3, "%"),),
    ),
    Measurement(
        "processes",
        "Several processes",
        "speed.processes",
        (Goal("collective calls of InfoNCE's loss in a step", "at most", 1, "calls"),),
    ),
)


@dataclass
class Bench:
    """What a measurement is given (`data_dir`: the files of AV-MNIST, or None), and where it leaves what is no row."""

    suite: str = "cpu"
    quick: bool = False
    clock: str = "wall"
    data_dir: str | None = None
    details: dict = field(default_factory=dict)
    plots: dict = field(default_factory=dict)

    @property
    def device(self):
        """The `torch.device` of the suite."""
        import torch

        return torch.device("cuda" if self.suite == "gpu" else "cpu")

    def now(self):
        """Seconds (`float`), after the device has done what it was given."""
        if self.suite == "gpu":
            import torch

            torch.cuda.synchronize()
        return time.process_time() if self.clock == "cpu" else time.perf_counter()

    def time(self, function):
        """Seconds (`float`) of one call."""
        start = self.now()
        function()
        return self.now() - start

    def alternate(self, functions, rounds, warm_up=1):
        """Call each of `functions` (`dict` by name) once a round, every other round backwards.

        What slows the machine down for longer than a round hits all of them alike, so compare within rounds:
        `Times.ratio`. The first `warm_up` rounds do not count.

        Returns:
            `Times`
        """
        times = {name: [] for name in functions}
        for number in range(warm_up + rounds):
            for name in list(functions)[:: -1 if number % 2 else 1]:
                seconds = self.time(functions[name])
                if number >= warm_up:
                    times[name].append(seconds)
        return Times(times)


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        """From a list of numbers; one has no spread."""
        values = list(values)
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high)

    def row(self, what, **kwargs):
        """A `Row` of it; `factor` multiplies it, such as 100 for percent."""
        factor = kwargs.pop("factor", 1)
        return Row(what, factor * self.median, low=factor * self.low, high=factor * self.high, **kwargs)


@dataclass(frozen=True)
class Times:
    """Seconds by name, one number a round."""

    seconds: dict

    def of(self, name):
        """`Spread` of the seconds."""
        return Spread.of(self.seconds[name])

    def ratio(self, name, reference):
        """`Spread` of seconds(name) / seconds(reference), each round by itself."""
        pairs = zip(self.seconds[name], self.seconds[reference], strict=True)
        return Spread.of(one / other for one, other in pairs)


def judge(row, goals):
    """The verdict (`str`) on a row: met, missed by how much, wrong, or nothing where there is no goal.

    Args:
        row (`Row`)
        goals (`dict[str, Goal]`): of its measurement, by name.
    """
    if row.correct is False:
        return "wrong result"
    if row.goal is None:
        return ""
    goal = goals[row.goal]
    if row.measured is None or not math.isfinite(row.measured):
        return "not measured"
    if goal.is_met(row.measured):
        return "met"
    return f"missed by {show(abs(row.measured - goal.value), goal.unit)}"


def show(value, unit):
    """A number with its unit, to three digits or so."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    text = f"{value:.{digits}f}"
    return text if unit in ("x", "exponent") else f"{text} {unit}"


def use_threads(number):
    """Let torch compute on so many cores (`int`; 0: all that this process may use) here and in child processes."""
    import torch

    number = number or len(os.sched_getaffinity(0))
    torch.set_num_threads(number)
    os.environ["OMP_NUM_THREADS"] = str(number)
    return number
