"""What training has computed: the towers' vectors of its latest steps, and those of held-out samples.

With them an update of alpha through the head needs no tower, but for a batch of held-out samples now and then.
"""

import math
from functools import partial

import numpy as np
import torch
from accelerate.utils import gather_object

PASS_STEPS = 64
"""Half a batch of held-out samples passes the towers for so many training steps: forward alone, a sixth of a step's
work, so about 0.3 % of the time."""
KEPT_PASSES = 4
"""What older passes computed goes: it is up to 256 steps old."""


class VectorMemory:
    """Vectors of the latest training steps and of the latest held-out samples, detached, as they were computed.

    Rows are `(vectors, labels, present)`: M tensors `(n, num_features)`, `(n,)` or `(n, K)`, and bool `(M, n)` or None
    where every sample has every modality. Of several processes each computes and keeps its part.

    Args:
        model ([`LfmForMultimodalClassification`]): its projections are watched in training mode, until `close`.
        inner_samples (`int`): of training; the fewest latest steps that hold so many are kept.
        outer_samples (`int`): held-out ones that are kept at most.
        period (`int`): steps between two updates.
        batch_size (`int`): samples of a step, over all processes.
        processes (`int`): that train.
    """

    def __init__(self, model, inner_samples, outer_samples, period, batch_size, processes=1):
        self.inner_samples, self.outer_samples, self.processes = inner_samples, outer_samples, processes
        self.pass_updates, size = math.ceil(PASS_STEPS / period), max(period // PASS_STEPS, 1) * -(-batch_size // 2)
        self.pass_size = max(min(size, outer_samples) // processes, 1)
        self.steps, self.held_out, self._passing = [], [], {}
        self.dtypes = {name: layer.weight.dtype for name, layer in model.lfm.projections.items()}
        self._hooks = [
            layer.register_forward_pre_hook(partial(self._see, name)) for name, layer in model.lfm.projections.items()
        ]

    def _see(self, name, layer, inputs):
        if layer.training:
            self._passing[name] = inputs[0].detach()

    def close(self):
        """Watch the model no more."""
        while self._hooks:
            self._hooks.pop().remove()

    def begin_step(self):
        """An optimizer step begins: what is kept from now on belongs to it."""
        self.steps = [*self._latest(), []]

    def keep(self, labels, present=None):
        """Keep what the model has just computed in training, of samples with these labels (and `present`)."""
        vectors = tuple(self._passing.pop(name).to(dtype, copy=True) for name, dtype in self.dtypes.items())
        self.steps[-1].append((vectors, labels, present))

    def _latest(self):
        """The fewest latest steps (`list` of `list` of rows) that hold enough samples."""
        steps, count = [], 0
        for step in reversed(self.steps):
            if count * self.processes >= self.inner_samples:
                break
            steps.insert(0, step)
            count += sum(len(labels) for _, labels, _ in step)
        return steps

    def draw_held_out(self, update, total, seed, process):
        """Which of `total` held-out samples pass the towers in this `process` before an update (`int`, from 0): in a
        shuffled order the next ones, before the first and every `pass_updates`-th; before others none."""
        if update % self.pass_updates and self.held_out:
            return np.arange(0)
        number = min(self.pass_size, max(total // self.processes, 1))
        start = (update // self.pass_updates * self.processes + process) * number
        return np.random.default_rng((seed, 1)).permutation(total)[(start + np.arange(number)) % total]

    def add_held_out(self, rows):
        """Keep these rows of held-out samples; the oldest ones go."""
        limit = max(self.outer_samples // self.processes // len(rows[1]), 1)
        self.held_out = [*self.held_out, rows][-min(limit, KEPT_PASSES) :]

    def gather(self):
        """The training rows and the held-out rows of all processes, the same on each; None where there are none."""
        parts = self.state_dict()
        steps = [rows for steps in parts["steps"] for step in steps for rows in step]
        held_out = [rows for part in parts["held_out"] for rows in part]
        return join(steps), join(held_out)

    def state_dict(self):
        """What a resumed run needs: of each process its `steps` and `held_out` rows, the same on every process."""
        mine = [(self._latest(), self.held_out)]
        parts = mine if self.processes == 1 else gather_object(move("cpu", mine))
        return {"steps": [steps for steps, _ in parts], "held_out": [held_out for _, held_out in parts]}

    def load_state_dict(self, state, process, device):
        """Go on from `state`, in this `process` (`int`) with tensors on `device`; empty if it is of another number of
        processes."""
        if len(state["steps"]) != self.processes:
            return
        self.steps, self.held_out = (move(device, state[part][process]) for part in ("steps", "held_out"))


def join(rows):
    """Rows of several batches as those of one; None of none."""
    if not rows:
        return None
    vectors = tuple(torch.cat(parts) for parts in zip(*(vectors for vectors, _, _ in rows), strict=True))
    marks = None
    if any(present is not None for _, _, present in rows):
        whole = torch.ones(len(vectors), 1, dtype=torch.bool, device=vectors[0].device)
        marks = [whole.expand(-1, len(labels)) if present is None else present for _, labels, present in rows]
        marks = torch.cat(marks, dim=1)
    return vectors, torch.cat([labels for _, labels, _ in rows]), marks


def move(device, tree):
    """Nested lists and tuples with their tensors on `device`."""
    if isinstance(tree, torch.Tensor):
        return tree.to(device)
    return type(tree)(move(device, part) for part in tree) if isinstance(tree, (list, tuple)) else tree
