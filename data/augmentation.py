"""What is random in training data: which frames of a clip, and augmentation by timm's transforms."""

import random
from contextlib import contextmanager

import torch
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.utils.data import Dataset, Subset


class AugmentedDataset(Dataset):
    """Prepared samples, changed at random in each epoch.

    What is drawn depends on seed, epoch and position alone: not on workers, processes, or what was read before, so that
    a resumed run equals an uninterrupted one. The modalities of a sample draw the same numbers: a clip's colours, depth
    and flow, of the same size and settings, are cut and turned around alike. The random state of the program stays as
    it was.

    Args:
        dataset (`datasets.Dataset` or map-style data set): what [`prepare_dataset`] returns.
        processor ([`LfmProcessor`])
        seed (`int`)

    Attributes:
        unaugmented: the data set inside, for a part that is kept from training.

    Example:

        ```python
        >>> import torch
        >>> from modeling_lfm import LfmProcessor
        >>> from modeling_lfm.data import AugmentedDataset
        >>> processor = LfmProcessor({"sight": {"type": "image", "size": [8, 8], "augment": True}})
        >>> plain = [{"sight_values": torch.arange(192, dtype=torch.uint8).view(3, 8, 8), "labels": 0}]
        >>> AugmentedDataset(plain, processor)[0]["sight_values"].shape
        torch.Size([3, 8, 8])

        ```
    """

    def __init__(self, dataset, processor, seed=0):
        self.unaugmented = dataset
        self.seed = seed
        self._kinds = {f"{name}_values": kind for name, kind in processor.kinds.items() if kind.varies}
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # for workers that outlive an epoch

    def __len__(self):
        return len(self.unaugmented)

    def __getitem__(self, index):
        return self.vary(self.unaugmented[index], index)

    def __getitems__(self, indices):
        """Samples (`list[dict]`) at several positions, read at once where the data set can."""
        if hasattr(self.unaugmented, "__getitems__"):
            samples = self.unaugmented.__getitems__(indices)
        else:
            samples = [self.unaugmented[index] for index in indices]
        return [self.vary(sample, index) for sample, index in zip(samples, indices, strict=True)]

    def __copy__(self):
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._epoch = self._epoch.clone().share_memory_()
        return other

    @property
    def epoch(self):
        """The epoch (`int`, from 0) that decides what is drawn."""
        return int(self._epoch)

    def set_epoch(self, epoch):
        """Draw anew, by the number of the epoch (`int`, from 0); the trainer calls it as each begins."""
        self._epoch.fill_(epoch)

    @property
    def column_names(self):
        return self.unaugmented.column_names

    def with_format(self, *args, **kwargs):
        """The data set inside with another format, such as for its labels alone."""
        return self.unaugmented.with_format(*args, **kwargs)

    def select(self, indices):
        """Those at the given positions, augmented too (`AugmentedDataset`)."""
        inside, part = self.unaugmented, self.__copy__()
        indices = [int(index) for index in indices]
        part.unaugmented = inside.select(indices) if hasattr(inside, "select") else Subset(inside, indices)
        return part

    def vary(self, sample, index):
        """A prepared sample (`dict`), changed as that at a position (`int`) is in this epoch."""
        varied = {
            key: self._vary_values(kind, sample[key], index)
            for key, kind in self._kinds.items()
            if sample.get(key) is not None
        }
        return {**sample, **varied}

    def _vary_values(self, kind, values, index):
        seed = f"{self.seed} {self.epoch} {int(index)}"
        places, crop, flip = None, None, False
        if hasattr(kind, "segments"):
            with _seeded(f"frames {seed}"):
                places = [start + int(random.random() * (stop - start)) for start, stop in kind.segments]
        if kind.augment:
            scale, ratio, chance = (kind.augment[key] for key in ("scale", "ratio", "flip"))
            with _seeded(f"crop {seed}"):
                flip = random.random() < chance
                crop = RandomResizedCropAndInterpolation.get_params(values, scale, ratio)
        return kind.vary(values, places, crop, flip)


@contextmanager
def _seeded(seed):
    """Python's random numbers, which timm draws from, start from `seed` inside; afterwards they are as before."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
