"""Greedy: balanced conditional learning speeds in networks that exchange channels (MMTM)."""

import math
from dataclasses import dataclass

import torch

from .base import Method, MethodSpec, check_limits, register


@dataclass(frozen=True)
class GreedySettings:
    """Published defaults.

    Args:
        epsilon: difference of conditional learning speeds above which a modality is held back.
        window: steps for which it is.
        first_epoch: epoch, counted from 1, from which on anything is held back.
    """

    epsilon: float = 0.01
    window: int = 5
    first_epoch: int = 2

    def __post_init__(self):
        check_limits(self, "not be negative", "epsilon")
        check_limits(self, "be at least 1", "window", "first_epoch")


@register
class Greedy(Method):
    """CE(f_1) + CE(f_2), and for `window` steps the gates of the modality that learns faster from the other are fixed.

    Speeds are sums over steps of mu = |gradient|^2 / |weights|^2 of all parameters of a part: of the main branch m
    (tower, projection, head), and of the bypass into m (its excitation and the shared squeeze of each MMTM block).
    d = log10(mu_bypass_1 / mu_main_1) - log10(mu_bypass_2 / mu_main_2). If |d| > epsilon, the gates of the modality
    with the larger quotient are replaced by their running mean over the training; such steps do not count for mu.

    Source: Wu et al., "Characterizing and Overcoming the Greedy Nature of Learning in Multi-modal Deep Neural
    Networks", ICML 2022, sections 3 and 5, and its released code (`src/callbacks.py`, `src/balanced_mmtm.py`). There
    the second modality's running mean is fed with the first one's gates, a mistake that is not repeated here. A mean
    counts the steps of training before the current one, over all processes and accumulated batches. Gates have the
    factor 2 of the MMTM paper.
    """

    spec = MethodSpec(
        name="greedy",
        title="Greedy",
        venue="ICML 2022",
        bibtex="wu2022characterizing",
        formula="CE(f_1) + CE(f_2), gates of the modality with the larger log10(mu_bypass / mu_main) fixed",
        fusions=("mmtm",),
        max_modalities=2,
        multi_label=True,
        row="Greedy",
        no_holes="its towers reweight each other's channels, and read every sample together",
    )
    Settings = GreedySettings
    kept = ("main", "bypass", "difference", "held", "left", "means", "steps")

    def bind(self, trainer):
        super().bind(trainer)
        self.batch_gates, self.batches = [], 0
        self.on_train_begin()

    def on_train_begin(self):
        self.main, self.bypass = [0.0, 0.0], [0.0, 0.0]
        self.difference = 0.0
        self.held, self.left = None, 0
        self.means, self.steps = [], 0
        self.hold()

    def on_train_end(self):
        self.held = None
        self.hold()

    @property
    def blocks(self):
        """The MMTM blocks (`list[MmtmBlock]`) by which the towers exchange, in the order of their stages."""
        return list(self.model.lfm.exchange.blocks.values())

    def losses(self, outputs, labels, inputs):
        gates = [block.gate_means for block in self.blocks]
        self.batch_gates, self.batches = added(self.batch_gates, gates), self.batches + 1
        losses = self.unimodal_losses(outputs, labels).unbind()
        return {"loss": sum(losses), **self.named(losses)}

    def on_gradients(self):
        gates = [
            {name: self.trainer.reduce(total / self.batches) for name, total in block.items()}
            for block in self.batch_gates
        ]
        self.batch_gates, self.batches = [], 0
        if self.held is not None:
            self.left -= 1
            self.held = self.held if self.left else None
        else:
            self.difference = self.measure()
            if self.trainer.epoch >= self.settings.first_epoch and abs(self.difference) > self.settings.epsilon:
                self.held, self.left = int(self.difference < 0), self.settings.window
        self.means, self.steps = added(self.means, gates), self.steps + 1
        self.hold()

    def measure(self):
        """Add this step's speeds to the sums, and return d."""
        squeezes, speeds = [p for block in self.blocks for p in block.squeeze.parameters()], []
        for name in self.modalities:
            excitations = [p for block in self.blocks for p in block.excite[name].parameters()]
            speeds += [speed(self.branch_parameters(name)), speed([*squeezes, *excitations])]
        found = torch.stack(speeds).tolist()  # what is computed next depends on it
        self.main = [total + new for total, new in zip(self.main, found[::2], strict=True)]
        self.bypass = [total + new for total, new in zip(self.bypass, found[1::2], strict=True)]
        if not all((*self.main, *self.bypass)):
            return 0.0  # a frozen tower has no speed
        first, second = (math.log10(b / m) for b, m in zip(self.bypass, self.main, strict=True))
        return first - second

    def hold(self):
        """Fix the gates of the modality `held` at their means, and let go of the others."""
        for place, block in enumerate(self.blocks):
            block.held = {}
            if self.held is not None:
                name = self.modalities[self.held]
                block.held[name] = self.means[place][name] / self.steps

    def logs(self):
        return {"speed_difference": self.difference, "held": -1 if self.held is None else self.held}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        device = self.args.device
        self.means = [{name: total.to(device) for name, total in block.items()} for block in self.means]
        self.hold()


def speed(parameters):
    """|gradient|^2 / |weights|^2 over all `parameters` (scalar, float64)."""
    norms = [square(p.detach()) for p in parameters]
    gradients = [square(p.grad) for p in parameters if p.grad is not None]
    return sum(gradients) / sum(norms) if gradients else torch.zeros_like(sum(norms))


def square(tensor):
    """|tensor|^2 (scalar, float64); added up in float32, to 1e-5, because float64 would copy the tensor."""
    flat = tensor.reshape(-1).float()
    return torch.dot(flat, flat).double()


def added(totals, values):
    """The sums of two lists of `dict` of tensors; an empty list counts as zeros."""
    pairs = zip(totals or [{}] * len(values), values, strict=True)
    return [{name: total.get(name, 0) + tensor for name, tensor in value.items()} for total, value in pairs]
