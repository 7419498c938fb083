"""Samples that lack modalities: which of a data set do, and what an optimizer step lacks."""

import numpy as np
import torch
from torch.utils.data import Subset

from .holdout import is_stream, read_column
from .presence import Presence


def find_present(dataset, names):
    """Which samples have which of the modalities `names`: bool (M, N); None where all have all, and of a stream.

    Samples lack one whose `{modality}_present` is False, or whose tensor is None.
    """
    if is_stream(dataset):
        return None
    columns = getattr(dataset, "column_names", None)
    if columns is None:
        samples = (dataset[place] for place in range(len(dataset)))
        present = np.array([[_has(sample, name) for name in names] for sample in samples], bool).T
    else:
        present = np.ones((len(names), len(dataset)), bool)
        for row, name in zip(present, names, strict=True):
            if f"{name}_present" in columns:
                row[:] = read_column(dataset, f"{name}_present")
    return None if present.all() else present


def _has(sample, name):
    tensors = (sample.get(f"{name}_{part}", 0) for part in ("values", "input_ids"))
    return bool(sample.get(f"{name}_present", True)) and all(tensor is not None for tensor in tensors)


def keep_present(dataset, names):
    """The samples of a data set that have one of the modalities `names`, of the same type or a `Subset`."""
    present = find_present(dataset, names)
    if present is None or present.any(0).all():
        return dataset
    places = np.flatnonzero(present.any(0))
    return dataset.select(places) if hasattr(dataset, "select") else Subset(dataset, places.tolist())


class PresenceCounter:
    """The part of [`LfmTrainer`] that knows what the samples of an optimizer step lack.

    Attributes:
        step_counts (`torch.Tensor`): while a method computes, the sum of [`Presence.count`] over all batches and
            processes of the step; None where nothing lacks.
    """

    def may_lack(self):
        """Whether training samples may lack modalities, of what is known without reading them; as on every process."""
        known = getattr(self._labelled(), "column_names", None)
        return known is None or any(f"{name}_present" in known for name in self.model.config.modality_names)

    def refuse_holes(self):
        """Raise a `ValueError` before training where it can be told that samples lack what the method needs."""
        dataset = self._labelled()
        cheap = isinstance(getattr(dataset, "dataset", dataset), list) or hasattr(dataset, "column_names")
        if cheap and find_present(dataset, self.model.config.modality_names) is not None:
            self.method.check_holes(self.model.config)

    def find_presence(self, inputs, size):
        """The [`Presence`] of the model's inputs of `size` samples; None where every sample of the step has all."""
        marks = [inputs.get(f"{name}_present") for name in self.model.config.modality_names]
        if self.step_counts is None and all(mark is None for mark in marks):
            return None
        return Presence(self._stack_marks(marks, size), self.step_counts)

    def _stack_marks(self, marks, size):
        """bool (M, B) of `size` samples, of marks (B,) that are None where all have the modality."""
        there = torch.ones(size, dtype=torch.bool, device=self.args.device)
        return torch.stack([there if mark is None else mark.to(there.device) for mark in marks])

    def count_presence(self, batches, everywhere=False):
        """The sum of [`Presence.count`] over batches (`list[dict]`), and `everywhere` over the processes; None if
        nothing lacks.

        Raises:
            ValueError: samples lack a modality, and the method takes none such.
        """
        names, everywhere = self.model.config.modality_names, everywhere and self.args.world_size > 1
        marked = [[batch.get(f"{name}_present") for name in names] for batch in batches]
        if not batches or not (everywhere or any(mark is not None for marks in marked for mark in marks)):
            return None
        sizes = [len(batch["labels"]) for batch in batches]
        total = sum(Presence.count(self._stack_marks(marks, n)) for marks, n in zip(marked, sizes, strict=True))
        total = self.reduce(total, "sum") if everywhere else total
        if (total == total[0]).all():
            return None
        self.method.check_holes(self.model.config)
        return total
