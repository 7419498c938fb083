"""Lines of the table of speed, and the clock: what is compared takes turns, so that ratios hold on a busy machine."""

import statistics
from dataclasses import dataclass

import torch
from torch.utils.benchmark import Timer

COLUMNS = ("what", "goal", "measured", "verdict", "result", "note")


@dataclass(frozen=True)
class Setup:
    """Where and how large: on `device` ("cpu" or "cuda"), or `quick`, the smallest sizes that reach every line."""

    device: str = "cpu"
    quick: bool = False

    def pick(self, quick, cpu, cuda=None):
        """The one of three that fits; CUDA has the CPU's where it is not given."""
        return quick if self.quick else cuda if self.device == "cuda" and cuda is not None else cpu

    def take_turns(self, functions, rounds=5, seconds=0.2):
        """Time functions without arguments (`dict` by name) by torch's `Timer`, each once a round, for as long as
        `seconds` or one call, after a warm-up: seconds of a call (`dict` of a `list`, a number a round), for
        [`ratios`]."""
        rounds, seconds = (1, 1e-4) if self.quick else (rounds, seconds)
        threads = torch.get_num_threads()
        timers = {name: Timer("call()", globals={"call": f}, num_threads=threads) for name, f in functions.items()}
        found = {name: [] for name in timers}
        for _ in range(rounds):
            for name, timer in timers.items():
                found[name].append(timer.blocked_autorange(min_run_time=seconds).median)
        return found


def ratios(ones, others):
    """Quotients (`list[float]`) of two lists of seconds, round by round."""
    return [one / other for one, other in zip(ones, others, strict=True)]


@dataclass
class Row:
    """One line of the table.

    Args:
        what: was measured.
        values (`list[float]`): a number a repeat; the table has their median and quartiles. None of what failed.
        unit: "x" is a ratio, any other stands behind the number.
        least, most: the goal, where there is one.
        right: whether what was timed also computed the right result; None where nothing was compared.
        note: what was compared for that, and sizes.
    """

    what: str
    values: list
    unit: str = "x"
    least: float | None = None
    most: float | None = None
    right: bool | None = None
    note: str = ""

    @property
    def measured(self):
        """The median of `values` (`float`), in `unit`."""
        return statistics.median(self.values)

    def cells(self):
        """The texts of the line (`list[str]`), one for each of `COLUMNS`."""
        if not self.values:
            return [self.what, "", "-", "", "", self.note]
        measured, goal, verdict = show(self.measured, self.unit), "", ""
        if len(self.values) > 1:
            low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
            measured += f" ({show(low)} to {show(high)})"
        for words, limit, sign in (("at least", self.least, -1), ("at most", self.most, 1)):
            if limit is not None:
                goal, excess = f"{words} {show(limit, self.unit)}", sign * (self.measured - limit)
                verdict = "met" if excess <= 0 else f"missed by {show(excess, self.unit)}"
        result = {True: "right", False: "WRONG", None: ""}[self.right]
        return [self.what, goal, measured, "wrong result" if self.right is False else verdict, result, self.note]


def show(value, unit="x"):
    """A number with its unit, to three digits or so."""
    digits = 0 if not value or abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}" + ("" if unit == "x" else f" {unit}")


def format_table(rows):
    """A Markdown table (`str`) of `rows` (`list[Row]`), below the titles `COLUMNS`."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
