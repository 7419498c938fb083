"""Samples to batches, and the positions of samples for methods that remember something of each."""

import numpy as np
import torch
from torch.utils.data import Dataset


class LfmDataCollator:
    """Makes batches of prepared samples; pads text (and audio without a fixed duration) to the longest of the batch.

    Args:
        processor ([`LfmProcessor`])

    Example:

        ```python
        >>> import torch
        >>> from modeling_lfm import LfmProcessor
        >>> from modeling_lfm.trainer import LfmDataCollator
        >>> processor = LfmProcessor({"size": {"type": "vector", "num_features": 3, "standardize": False}})
        >>> batch = LfmDataCollator(processor)([{"size_values": torch.rand(3), "labels": label} for label in (0, 1)])
        >>> {key: value.shape for key, value in batch.items()}
        {'size_values': torch.Size([2, 3]), 'labels': torch.Size([2])}

        ```
    """

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, samples):
        """Samples (`list[dict]`, as `prepare_dataset` gives them) to a `dict` of tensors, the batch dimension first.

        Where a sample holds None for a modality that it lacks, or the samples tell, `{modality}_present`, bool (B,),
        marks those that have it.

        Raises:
            ValueError: a sample without any of the processor's inputs.
        """
        batch = {}
        for name, kind in self.processor.kinds.items():
            key, vector = f"{name}_{kind.parts[0]}", f"{name}_vector"
            if vector in samples[0]:  # as `cache_features` stores them
                batch[vector] = torch.stack([torch.as_tensor(sample[vector]) for sample in samples])
                if f"{name}_present" in samples[0]:
                    batch[f"{name}_present"] = torch.tensor([bool(sample[f"{name}_present"]) for sample in samples])
            elif key in samples[0]:
                batch |= self.processor.stack(name, [sample[key] for sample in samples], fill=True)
                if f"{name}_present" in samples[0]:
                    batch.setdefault(f"{name}_present", torch.ones(len(samples), dtype=torch.bool))
        if not batch:
            raise ValueError(
                f"samples hold {list(samples[0])}, but the processor's inputs are {self.processor.model_input_names}."
            )
        if "labels" in samples[0]:
            labels = torch.as_tensor(np.asarray([np.asarray(sample["labels"]) for sample in samples]))
            batch["labels"] = labels.float() if labels.is_floating_point() else labels
        return batch


class SampleIdDataset(Dataset):
    """A map-style data set (of dicts) whose samples also hold `sample_ids`, their position (`int`)."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return {**self.dataset[index], "sample_ids": index}

    def set_epoch(self, epoch):
        """Tell a data set whose samples change from epoch to epoch."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __getitems__(self, indices):
        """Samples at several positions, read at once where the data set can."""
        if hasattr(self.dataset, "__getitems__"):
            samples = self.dataset.__getitems__(indices)
        else:
            samples = [self.dataset[index] for index in indices]
        return [{**sample, "sample_ids": index} for sample, index in zip(samples, indices, strict=True)]


class SampleIdCollator:
    """A collator that passes `sample_ids` (B,) int64 on beside what `collator` makes; samples may lack them."""

    def __init__(self, collator):
        self.collator = collator

    def __call__(self, samples):
        ids = [sample["sample_ids"] for sample in samples if "sample_ids" in sample]
        batch = self.collator([{k: v for k, v in sample.items() if k != "sample_ids"} for sample in samples])
        return {**batch, "sample_ids": torch.tensor(ids)} if ids else batch
