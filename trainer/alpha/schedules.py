"""The weight alpha of the matching loss over the epochs t = 1, 2, ..., T: one small class for each rule.

Every class has `value(epoch)` and a JSON-able `state_dict()` that `load_state_dict` takes back bit for bit. The
two adaptive ones, `LearnedAlpha` and `LookaheadAlpha`, also have an `update`, called once an epoch. `make_alpha`
builds each by name; `ALPHAS.register` adds one. Source: "Facilitating Multimodal Classification via Dynamically
Learning Modality Gap" (NeurIPS 2024), its heuristic and its learned strategy, and the stepwise and polynomial ones of
its ablation.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any

from modeling_lfm.registry_lfm import Registry

ALPHAS = Registry("alpha")
"""The rules by name: subclasses of `AlphaSchedule`."""
ALPHA_RULES = ("cosine", "raw", "sign")
DEFAULT_STEPS = {"cosine": 3.0, "raw": 0.01, "sign": 1.0}
"""`step` of `LearnedAlpha` by rule, when none is given."""


class AlphaSchedule:
    """An alpha that is known in advance for every epoch, and the interface of all rules.

    A constructor takes those arguments of `make_alpha` that it names.

    Example:

        ```python
        >>> from modeling_lfm.trainer.alpha.schedules import ALPHAS, AlphaSchedule, make_alpha
        >>> @ALPHAS.register("halving")
        ... class HalvingAlpha(AlphaSchedule):
        ...     def __init__(self, start=0.8):
        ...         self.start = start
        ...     def value(self, epoch):
        ...         return self.start / 2 ** (epoch - 1)
        >>> make_alpha("halving", num_epochs=5).value(3)
        0.2

        ```
    """

    name: str = ""
    learned: tuple[str, ...] = ()
    """Attributes that a saved state holds: strings, numbers and None."""
    adaptive = False
    """Whether `update` is to be called once an epoch: with a `HypergradientResult`, or where there are `candidates`
    with the outer losses that these reached."""

    def value(self, epoch: int) -> float:
        """alpha of the `epoch`, counted from 1."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What the rule has learned: its name, and the attributes `learned`."""
        return {"name": self.name, **{key: getattr(self, key) for key in self.learned}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back a `state_dict`.

        Raises:
            ValueError: a state of another rule, or one with missing or unknown keys.
        """
        if state.get("name") != self.name:
            raise ValueError(
                f"the saved alpha is {state.get('name')!r} but this run uses {self.name!r}: resume with the alpha "
                "that the checkpoint was trained with."
            )
        if set(state) != set(self.state_dict()):
            raise ValueError(
                f"state of alpha {self.name!r} must have the keys {sorted(self.state_dict())}, got {sorted(state)}."
            )
        for key in set(state) - {"name"}:
            setattr(self, key, state[key])


@ALPHAS.register("constant")
class ConstantAlpha(AlphaSchedule):
    """`alpha_value` in every epoch; 0 trains the fusion alone."""

    name = "constant"

    def __init__(self, value: float):
        self.constant = _unit("constant", "value (alpha_value)", value)

    def value(self, epoch: int) -> float:
        _check_epoch(epoch)
        return self.constant


@ALPHAS.register("stepwise")
class StepwiseAlpha(AlphaSchedule):
    """The paper's h(p): p, the `value` (`alpha_value`), in the first half of the epochs, 1 - p in the second."""

    name = "stepwise"

    def __init__(self, num_epochs: int, value: float):
        self.half, self.p = num_epochs / 2, _unit("stepwise", "value (alpha_value)", value)

    def value(self, epoch: int) -> float:
        _check_epoch(epoch)
        return self.p if epoch <= self.half else 1 - self.p


@ALPHAS.register("heuristic")
class HeuristicAlpha(AlphaSchedule):
    """The paper's 1 - exp(-1 / t): 0.632, 0.393, ..., 0.095 at t = 10, whatever the number of epochs."""

    name = "heuristic"

    def value(self, epoch: int) -> float:
        _check_epoch(epoch)
        return 1 - math.exp(-1 / epoch)


@ALPHAS.register("polynomial")
class PolynomialAlpha(AlphaSchedule):
    """A polynomial in t, clipped to [0, 1]: 1.5e-4 t^3 - 6.5e-3 t^2 + 3.2e-2 t + 1 in the paper.

    Args:
        coefficients: highest power first, one at least.
    """

    name = "polynomial"

    def __init__(self, coefficients: Sequence[float] = (1.5e-4, -6.5e-3, 3.2e-2, 1.0)):
        self.coefficients = tuple(float(c) for c in coefficients)
        if not self.coefficients or not all(math.isfinite(c) for c in self.coefficients):
            raise ValueError(
                "alpha 'polynomial': coefficients (polynomial_coefficients) must be one or more finite numbers, "
                f"highest power first, got {list(coefficients)}."
            )

    def value(self, epoch: int) -> float:
        _check_epoch(epoch)
        result = 0.0
        for coefficient in self.coefficients:
            result = result * epoch + coefficient
        return min(max(result, 0.0), 1.0)


@ALPHAS.register("linear")
class LinearAlpha(AlphaSchedule):
    """From `start` in the first epoch down to 0 in the last."""

    name = "linear"

    def __init__(self, num_epochs: int, start: float = 0.95):
        self.start, self.intervals = _unit("linear", "start (alpha_start)", start), max(num_epochs - 1, 1)

    def value(self, epoch: int) -> float:
        _check_epoch(epoch)
        return self.start * max(1 - (epoch - 1) / self.intervals, 0.0)


@ALPHAS.register("learned")
class LearnedAlpha(AlphaSchedule):
    """Descends the hypergradient h = dJ / d alpha of the outer loss J, one step an epoch.

    By `rule`:

    - `"cosine"` (default): alpha -= (step / T) cos, with cos = h / (|c| |v|) of `HypergradientResult`. Free of
      the scale of the losses, so it needs no tuning for a data set; step = 3.
    - `"raw"`: alpha -= step h, the paper's rule. The scale of h varies by orders of magnitude between data sets
      and epochs, so the step must be tuned; step = 0.01.
    - `"sign"`: alpha -= (step / T) sign(h); step = 1. As h is positive nearly always, this is a linear schedule in
      disguise: prefer `linear`, which costs nothing.

    alpha stays within [0, max(0.95, start)]: with the matching loss alone, alpha = 1, nothing is learned.
    """

    name = "learned"
    adaptive, learned = True, ("alpha", "updates")

    def __init__(self, num_epochs: int, start: float = 0.95, step: float | None = None, rule: str = "cosine"):
        if rule not in ALPHA_RULES:
            raise ValueError(
                f"alpha 'learned': rule (alpha_rule) must be one of {', '.join(ALPHA_RULES)}, got {rule!r}."
            )
        self.alpha = _unit("learned", "start (alpha_start)", start)
        self.upper = max(0.95, self.alpha)
        self.rule, self.num_epochs = rule, num_epochs
        self.step = _positive("learned", "step (alpha_step)", DEFAULT_STEPS[rule] if step is None else step)
        self.updates = 0

    def value(self, epoch: int) -> float:
        _check_epoch(epoch)
        return self.alpha

    def update(self, hypergradient: Any) -> float:
        """One step, from an object with `value` and `cosine` such as `HypergradientResult`; returns the new alpha.

        Raises:
            FloatingPointError: a hypergradient that is not finite.
        """
        value, cosine = float(hypergradient.value), float(hypergradient.cosine)
        if not (math.isfinite(value) and math.isfinite(cosine)):
            raise FloatingPointError(f"the hypergradient is not finite (value {value}, cosine {cosine}).")
        share = self.step / self.num_epochs
        changes = {"cosine": share * cosine, "raw": self.step * value, "sign": share * ((value > 0) - (value < 0))}
        self.alpha = min(max(self.alpha - changes[self.rule], 0.0), self.upper)
        self.updates += 1
        return self.alpha


@ALPHAS.register("lookahead")
class LookaheadAlpha(AlphaSchedule):
    """Learns x = logit(alpha) from the outer losses of two copies trained a few steps, with alpha up and down.

    `candidates()` are the alphas of the copies, J(+) and J(-) their outer losses, and `update` subtracts
    (step / T) times Adam's direction (betas 0.5 and 0.9) for h = J(+) - J(-) from x. alpha stays in [0.05, 0.95].
    """

    name = "lookahead"
    adaptive, learned = True, ("x", "mean", "square", "updates")
    offset = 0.5
    bounds = (0.05, 0.95)
    betas = (0.5, 0.9)
    epsilon = 1e-8

    def __init__(self, num_epochs: int, start: float = 0.9, step: float = 6.0):
        low, high = self.bounds
        if not low <= start <= high:
            raise ValueError(f"alpha 'lookahead': start (alpha_start) must lie in [{low}, {high}], got {start}.")
        self.x, self.num_epochs = _logit(start), num_epochs
        self.step = _positive("lookahead", "step (alpha_step)", step)
        self.updates, self.mean, self.square = 0, 0.0, 0.0

    def value(self, epoch: int) -> float:
        _check_epoch(epoch)
        return _sigmoid(self.x)

    def candidates(self) -> tuple[float, float]:
        """(alpha up, alpha down): sigmoid(x + 0.5) and sigmoid(x - 0.5)."""
        return _sigmoid(self.x + self.offset), _sigmoid(self.x - self.offset)

    def update(self, outer_loss_up: float, outer_loss_down: float) -> float:
        """One step, from the outer losses that the two `candidates` reached, in their order; returns the new alpha.

        Raises:
            FloatingPointError: an outer loss that is not finite.
        """
        h = float(outer_loss_up) - float(outer_loss_down)
        if not math.isfinite(h):
            raise FloatingPointError(f"outer losses are not finite: {outer_loss_up}, {outer_loss_down}.")
        self.updates += 1
        first, second = self.betas
        self.mean = first * self.mean + (1 - first) * h
        self.square = second * self.square + (1 - second) * h * h
        mean = self.mean / (1 - first**self.updates)
        square = self.square / (1 - second**self.updates)
        self.x -= self.step / self.num_epochs * mean / (math.sqrt(square) + self.epsilon)
        self.x = min(max(self.x, _logit(self.bounds[0])), _logit(self.bounds[1]))
        return _sigmoid(self.x)


def make_alpha(
    name: str,
    *,
    num_epochs: int,
    value: float = 0.0,
    start: float | None = None,
    step: float | None = None,
    rule: str = "cosine",
    coefficients: Sequence[float] | None = None,
) -> AlphaSchedule:
    """The rule called `name`, one of `ALPHAS`; arguments that it does not use are ignored.

    Args:
        num_epochs: T, at least 1.
        value: the alpha of `constant`, the p of `stepwise`.
        start: first alpha of `linear`, `learned` (both 0.95) and `lookahead` (0.9).
        step: of `learned` (by rule, see there) and `lookahead` (6).
        rule: of `learned`.
        coefficients: of `polynomial`, highest power first; the paper's if not given.

    Raises:
        ValueError: an unknown name, or a value out of its range; it says which and what is allowed.

    Example:

        ```python
        >>> from modeling_lfm.trainer import make_alpha
        >>> schedule = make_alpha("stepwise", num_epochs=10, value=0.75)
        >>> schedule.value(1), schedule.value(10)
        (0.75, 0.25)

        ```
    """
    rule_class = ALPHAS.find(name)
    if not num_epochs >= 1 or math.isinf(num_epochs):
        raise ValueError(f"num_epochs must be at least 1, got {num_epochs}.")
    given: dict[str, object] = {"num_epochs": num_epochs, "value": value, "start": start, "step": step, "rule": rule}
    given["coefficients"] = coefficients
    taken = inspect.signature(rule_class).parameters
    schedule = rule_class(**{key: given[key] for key in taken if given.get(key) is not None})
    schedule.name = name
    return schedule


def _unit(name: str, key: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"alpha {name!r}: {key} must lie in [0, 1], got {value}.")
    return float(value)


def _positive(name: str, key: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"alpha {name!r}: {key} must be positive and finite, got {value}.")
    return float(value)


def _check_epoch(epoch: int) -> None:
    if epoch < 1:
        raise ValueError(f"epochs are counted from 1, got {epoch}.")


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
