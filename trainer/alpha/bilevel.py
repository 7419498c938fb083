"""The bi-level problem of a learned alpha on real data: which samples, which parameters, and its two solutions.

`Lfm.update_alpha` (`../methods/lfm.py`) solves it before every epoch but the first; `schedules.py` then changes alpha.
"""

import copy
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from accelerate.utils import gather_object

from ..objectives import total_loss
from .guards import frozen_norm_statistics, whole_parameters
from .hypergradient import hypergradient
from .memory import join, move
from .outer_loss import outer_loss


class BilevelProblem:
    """min over alpha of J(theta*(alpha)), with theta* minimising L_Total at that alpha.

    The inner losses are computed on a draw of the training set, J on the held-out set or a draw of it. Batch
    normalisation has the statistics of each batch (as in training), dropout is off. Several processes find the same as
    one on the same samples: each passes a part of the batches through the towers, or trains with one of the candidates.

    Args:
        method ([`Lfm`]): in training; the model, data sets, collator and optimizer of its trainer are used.
    """

    def __init__(self, method):
        self.method = method
        self.settings = method.settings
        self.trainer = method.trainer
        self.args = method.args
        self.model = method.model

    @property
    def shares(self):
        """`bool`: whether each process does a part; not where modules wait for all processes at every batch."""
        waits = any(isinstance(module, torch.nn.SyncBatchNorm) for module in self.model.modules())
        return self.args.world_size > 1 and not (self.trainer.is_fsdp_enabled or waits)

    def _part(self, items):
        """What of `items` (`list`) is of this process, in pairs with their places."""
        pairs = list(enumerate(items))
        return pairs[self.args.process_index :: self.args.world_size] if self.shares else pairs

    def _all(self, found):
        """Pairs of places and what was found there, of all processes, in the order of the places, without them."""
        found = gather_object(move("cpu", found)) if self.shares else found
        return [value for _, value in sorted(found, key=lambda pair: pair[0])]

    def advance(self, schedule, epoch):
        """Find out how alpha should move before `epoch` (or period of steps, counted likewise).

        Args:
            schedule ([`AlphaSchedule`]): an adaptive one, such as [`LearnedAlpha`] or [`LookaheadAlpha`].

        Returns:
            the arguments of `schedule.update` (`tuple`), and what to log (`dict`).
        """
        if hasattr(schedule, "candidates"):
            with self._random_numbers(epoch):
                losses = self.lookahead(schedule.candidates(), epoch)
            return losses, {"hypergradient": losses[0] - losses[1], "hypergradient_outer_loss": sum(losses) / 2}
        find = self.hypergradient if self.method.memory is None else self.hypergradient_from_memory
        result = find(schedule.value(epoch), epoch)
        return (result,), result.as_dict()

    @contextmanager
    def _random_numbers(self, epoch):
        """Those of this `epoch` inside, the same on every process; the generators are as before afterwards."""
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            self._seed(epoch)
            yield

    def _seed(self, epoch):
        """As `torch.manual_seed`, which takes milliseconds for devices that are there but not in use."""
        torch.default_generator.manual_seed(self.args.seed + epoch)
        if self.args.device.type == "cuda":
            torch.cuda.manual_seed(self.args.seed + epoch)

    # -- implicit ----------------------------------------------------------------------------------------------

    def hypergradient(self, alpha, epoch):
        """dJ/dalpha at the current parameters by the implicit function theorem (see [`hypergradient`])."""
        settings = self.settings
        head = settings.alpha_parameters == "head"
        with whole_parameters(self.model), frozen_norm_statistics(self.model), self._random_numbers(epoch):
            parameters = self.model.head_parameters() if head else list(self.model.parameters())
            inner = self._outputs(*self.trainer.draw_samples(settings.inner_samples, epoch), head)
            outer = self._outputs(self.trainer.holdout_dataset, self._held_out(epoch), head)
            return self._solve(inner, outer, parameters, alpha)

    def hypergradient_from_memory(self, alpha, epoch):
        """The same for the head, from the vectors that the towers computed in training (see [`VectorMemory`])."""
        model, memory, held_out = self.model, self.method.memory, self.trainer.holdout_dataset
        places = memory.draw_held_out(epoch - 2, len(held_out), self.args.seed, self.args.process_index)
        with whole_parameters(model):
            if len(places):
                memory.add_held_out(self._encode_apart(held_out, places, epoch))
            trained, watched = memory.gather()
            if trained is None:  # resumed from a checkpoint without
                trained = self._encode_apart(*self.trainer.draw_samples(self.settings.inner_samples, epoch), epoch)
            inner, outer = (partial(self._classify, *rows) for rows in (trained, watched))
            with frozen_norm_statistics(torch.nn.ModuleList([model.lfm.projections, model.fusion])):
                return self._solve(inner, outer, model.head_parameters(), alpha)

    def _encode_apart(self, dataset, indices, epoch):
        """The rows of these samples at the current parameters; nothing else changes."""
        with frozen_norm_statistics(self.model), self._random_numbers(epoch), torch.no_grad():
            return self._encode(self._batches(dataset, indices))

    def _solve(self, inner, outer, parameters, alpha):
        """The hypergradient of closures that give (outputs, labels) of inner and outer samples."""
        settings, parts = self.settings, {}

        def loss_cls():  # called right before loss_mm, which takes its part of the same forward pass
            parts.update(self.method.parts(*inner()))
            return parts.pop("loss_cls")

        return hypergradient(
            loss_cls,
            lambda: parts.pop("loss_mm"),
            lambda: self._outer_loss(*outer()),
            [p for p in parameters if p.requires_grad],
            alpha,
            solver=settings.solver,
            iterations=settings.alpha_iterations,
            damping=settings.alpha_damping,
            product=settings.alpha_product,
        )

    def _held_out(self, epoch):
        """Indices of the held-out samples for an update before `epoch`: all, or a draw of `alpha_outer_samples`."""
        total, size = len(self.trainer.holdout_dataset), self.settings.alpha_outer_samples
        if total <= size:
            return np.arange(total)
        return np.random.default_rng((self.args.seed, epoch, 1)).choice(total, size, replace=False)

    def _batches(self, dataset, indices):
        """Pairs of inputs and labels."""
        return [(batch, batch.pop("labels")) for batch in self.trainer.make_batches(dataset, indices)]

    def _encode(self, batches):
        """The rows (see [`VectorMemory`]) of such pairs; the towers run."""
        lfm = self.model.lfm
        return join([(lfm.run_towers(**batch), labels, lfm.read_presence(batch)) for batch, labels in batches])

    def _classify(self, vectors, labels, present):
        return self.model.classify(vectors, present=present), labels

    def _outputs(self, dataset, indices, head):
        """A closure that gives (outputs, labels) of the samples; the towers run once if only the head varies."""
        if not head:
            batches = self._batches(dataset, indices)
            return lambda: self._classify(*self._encode(batches))
        parts = np.array_split(indices, -(-len(indices) // self.args.train_batch_size))
        with torch.no_grad():
            mine = [(place, self._encode(self._batches(dataset, part))) for place, part in self._part(parts)]
        return partial(self._classify, *join(move(self.args.device, self._all(mine))))

    def _outer_loss(self, outputs, labels):
        problem_type, loss = self.model.config.problem_type, self.trainer.special_loss
        return outer_loss(
            self.settings.alpha_outer,
            outputs.logits,
            outputs.modality_logits,
            labels,
            problem_type,
            loss,
            outputs.present,
        )

    # -- look-ahead --------------------------------------------------------------------------------------------

    def lookahead(self, candidates, epoch):
        """J after training a few steps with each of the `candidates` for alpha (`tuple` of `float`).

        All start from the present weights and optimizer state and see the same batches and random numbers; weights,
        buffers and optimizer are as before afterwards.
        """
        optimizer = getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer)
        weights = {key: value.clone() for key, value in self.model.state_dict().items()}
        state = copy.deepcopy(optimizer.state_dict())
        size = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        count = self.settings.lookahead_steps
        dataset, indices = self.trainer.draw_samples(count * size, epoch)
        losses = []
        try:
            for place, alpha in self._part(candidates):
                self.model.load_state_dict(weights)
                optimizer.load_state_dict(copy.deepcopy(state))
                self._seed(epoch)
                for step in np.split(indices, count):
                    self._train_step(optimizer, dataset, step, alpha)
                losses.append((place, self._held_out_loss(epoch)))
        finally:
            self.model.load_state_dict(weights)
            optimizer.load_state_dict(state)
            optimizer.zero_grad()
        return tuple(self._all(losses))

    def _train_step(self, optimizer, dataset, indices, alpha):
        self.model.train()
        batches = list(self.trainer.make_batches(dataset, indices))
        totals = self.trainer.count_presence(batches)
        for batch in batches:
            labels = batch.pop("labels")
            parts = self.method.parts(self.model(**batch), labels, totals=totals)
            loss = total_loss(parts["loss_cls"], parts["loss_mm"], alpha, self.settings.total)
            (loss * len(labels) / len(indices)).backward()
        if self.args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    def _held_out_loss(self, epoch):
        with frozen_norm_statistics(self.model), torch.no_grad():
            rows = self._encode(self._batches(self.trainer.holdout_dataset, self._held_out(epoch)))
            return self._outer_loss(*self._classify(*rows)).item()
