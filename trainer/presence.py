"""Which samples of a batch have which modality, and losses over those that do."""

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from modeling_lfm.fusion_base_lfm import full_precision


class Presence:
    """Which of M modalities the B samples of a batch have.

    The mean of something over the n samples of an optimizer step that have it must not depend on how they are split
    into batches and processes. The trainer averages over these, so a batch of B of the step's N samples, k of which
    have it, contributes its own mean over the k times (k N) / (B n).

    Args:
        mask (`torch.BoolTensor` `(M, B)`)
        totals (`torch.Tensor`, *optional*): the sum of [`count`][Presence.count] over all batches of the optimizer
            step, those of other processes too; this batch is all of it if not given.
    """

    def __init__(self, mask: Tensor, totals: Tensor | None = None):
        self.mask = mask
        counts = self.count(mask)
        self.counts, self.totals = counts.tolist(), (counts if totals is None else totals).tolist()
        number = len(mask)
        groups = [*((m,) for m in range(number)), *combinations(range(number), 2)]
        self.places = {group: place for place, group in enumerate(groups, 1)}

    @staticmethod
    def count(mask: Tensor) -> Tensor:
        """B, the samples that have each modality, and those that have both of each pair: `(1 + M + M (M - 1) / 2,)`."""
        pairs = [one & other for one, other in combinations(mask, 2)]
        return torch.stack([torch.ones_like(mask[0]), *mask, *pairs]).sum(1)

    def there(self, *modalities: int) -> Tensor:
        """Which samples have all of these modalities, `(B,)` bool."""
        return self.mask[list(modalities)].all(0)

    def anywhere(self, *modalities: int) -> bool:
        """Whether a sample of the optimizer step has all of these, one or two, modalities."""
        return self.totals[self.places[modalities]] > 0

    def scale(self, *modalities: int) -> float:
        """N / n, of these one or two modalities; 0 where no sample of the step has them."""
        total = self.totals[self.places[modalities]]
        return self.totals[0] / total if total else 0.0

    def weight(self, *modalities: int) -> float:
        """(k N) / (B n), the factor of this batch's mean over the samples that have them; see the class."""
        place = self.places[modalities]
        return self.counts[place] * self.totals[0] / max(self.counts[0] * self.totals[place], 1.0)

    def over(self, modalities: Sequence[int], loss: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """The batch's part of a mean over the samples that have these modalities; see above.

        Args:
            modalities: places of one or two of them.
            loss: from `tensors` of some samples to the mean over these.
            tensors: `(B, ...)` each.

        Returns:
            what `loss` does, weighted; a zero that `backward` accepts where no sample has them.
        """
        rows = self.there(*modalities)
        parts = [tensor[rows] for tensor in tensors]
        if self.counts[self.places[tuple(modalities)]] == 0:
            return torch.stack([full_precision(part.sum()) for part in parts if part.is_floating_point()]).sum()
        return loss(*parts) * self.weight(*modalities)

    def mean(self, groups: Sequence[Sequence[int]], losses: Sequence[Tensor]) -> Tensor:
        """The mean of `losses`, each of a group of modalities, over those that a sample of the step has."""
        there = sum(self.anywhere(*group) for group in groups)
        return torch.stack(list(losses)).sum() / max(there, 1)


def over(presence, modalities, loss, *tensors):
    """[`Presence.over`], or `loss(*tensors)` where `presence` is None: every sample has every modality."""
    return loss(*tensors) if presence is None else presence.over(modalities, loss, *tensors)


def make_presence(outputs, totals=None):
    """The [`Presence`] of a model's outputs; None where every sample of the batch, and of `totals`, has all."""
    if outputs.present is None and totals is None:
        return None
    present = outputs.present
    if present is None:  # other batches of the step have holes
        shape = len(outputs.modality_logits), len(outputs.logits)
        present = torch.ones(shape, dtype=torch.bool, device=outputs.logits.device)
    return Presence(present, totals)
