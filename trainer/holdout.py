"""What a method reads beside the batches of training: held-out samples, draws of the training set, labels."""

from hashlib import sha256
from itertools import islice

import datasets
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler, Subset
from transformers.utils import logging

from modeling_lfm.data.benchmark import stratified_split
from modeling_lfm.data.splits import draw_folds

logger = logging.get_logger(__name__)


def choose_holdout(train_dataset, eval_dataset, args):
    """The training set and the samples that a method watches: a part of the former, or the evaluation set."""
    if is_stream(eval_dataset) and not args.holdout:
        raise ValueError("samples that a method watches must have a length; eval_dataset is a stream.")
    if args.holdout:
        seed = args.seed if args.data_seed is None else args.data_seed
        return split_holdout(train_dataset, args.holdout, seed, args.holdout_group)
    if eval_dataset is None or isinstance(eval_dataset, dict):
        raise ValueError("holdout=0 lets the method watch eval_dataset: give one, or another holdout.")
    return train_dataset, eval_dataset


def split_holdout(dataset, size, seed, group=None):
    """Keep a stratified part of a data set apart; what is kept is told in the log.

    Samples that are the same, as oversampling makes them, are never on both sides: those of a list that are one object,
    those at one place of a `torch.utils.data.Subset`, rows of a `datasets.Dataset` of up to 256 MB.

    Args:
        dataset (`datasets.Dataset` or map-style data set): samples with `labels`.
        size (`float`): a fraction below 1, or a number of samples; where some stay together, about so many.
        seed (`int`): of the draw.
        group (`str`, *optional*): a column; samples of one value, such as a speaker, stay together.

    Returns:
        the rest and the kept part, of the same type (or `torch.utils.data.Subset`).

    Raises:
        ValueError: a stream, no such column, or nothing would be left on one of the sides.
    """
    if is_stream(dataset):
        raise ValueError("the method needs a data set with a length, to hold a part out; or give holdout_dataset.")
    labels = read_labels(dataset)
    kept = round(size * len(labels)) if size < 1 else int(size)
    if not 0 < kept < len(labels):
        raise ValueError(f"holdout={size} keeps {kept} of {len(labels)} training samples; change it.")
    groups = find_same(dataset) if group is None else read_column(dataset, group, "holdout_group: ")
    groups = None if groups is None else pd.factorize(np.asarray(groups))[0]  # numbered as they come
    number = len(labels) if groups is None else groups.max() + 1
    if number == len(labels):
        rest, held = stratified_split(labels, kept, seed)
    else:
        folds = min(max(round(len(labels) / kept), 2), number)
        if folds < 2:
            raise ValueError(
                f"holdout_group={group!r}: all training samples are of one group, so none can be held out."
            )
        fold = draw_folds(labels, folds, seed, groups)
        rest, held = np.flatnonzero(fold), np.flatnonzero(fold == 0)
    together = "" if number == len(labels) else f", samples of {number} {group or 'different ones'} staying together"
    logger.info(f"{len(held)} of {len(labels)} training samples are held out for the method, by seed {seed}{together}.")
    if hasattr(dataset, "select"):
        held = dataset.select(held)
        return dataset.select(rest), getattr(held, "unaugmented", held)
    return Subset(dataset, rest.tolist()), Subset(dataset, held.tolist())


def find_same(dataset):
    """A value for each sample (`list`) that is the same where samples are, or None where that cannot be had cheaply."""
    dataset = getattr(dataset, "unaugmented", dataset)
    if isinstance(dataset, Subset):
        return dataset.indices
    if isinstance(dataset, list):
        return [id(sample) for sample in dataset]
    if not isinstance(dataset, datasets.Dataset):
        return None
    table = dataset.with_format("arrow")
    if table[:1].nbytes * len(dataset) > 2**28:
        return None
    rows = (row for batch in table.iter(100) for row in batch.to_pylist())
    return [sha256(repr(sorted(row.items())).encode()).hexdigest() for row in rows]


def read_labels(dataset):
    """Labels of a data set, (N,) or (N, K) as a numpy array, read without the other columns where possible."""
    if is_stream(dataset):
        raise ValueError("labels are to be counted, and this data set is a stream, without a length.")
    return read_column(dataset, "labels")


def read_column(dataset, key, setting=""):
    """The values of a column of a data set with a length, as a numpy array; an error begins with the `setting`."""
    if isinstance(dataset, dict):
        raise ValueError(f"{setting}this is a mapping of data sets ({', '.join(map(str, dataset))}): give one of them.")
    if hasattr(dataset, "column_names"):
        if key not in dataset.column_names:
            made = " prepare_dataset makes it of raw samples." if key == "labels" else ""
            raise ValueError(f"{setting}the data set needs a column {key!r}; it has {dataset.column_names}.{made}")
        return np.asarray(dataset.with_format("numpy")[key][:])
    try:
        return np.asarray([np.asarray(dataset[i][key]) for i in range(len(dataset))])
    except KeyError as error:
        raise ValueError(f"each sample of the data set needs the key {key!r}.") from error
    except TypeError as error:
        kind = type(dataset[0]).__name__
        raise ValueError(f"each sample of the data set is to be a dict with the key {key!r}, not a {kind}.") from error


def known_inputs(model):
    """Names of what a model reads of a batch, and of its labels (`set`)."""
    marks = (f"{name}_present" for name in model.config.modality_names)
    return {*model.lfm.input_names, *marks, "labels"}


def is_stream(dataset):
    """Whether a data set is read from its beginning, without places (`bool`)."""
    return dataset is not None and (isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"))


class BalancedSampler(Sampler):
    """Positions of as many samples as there are, drawn with replacement, all classes with the same probability.

    Args:
        dataset: with a length; samples with `labels`.
        seed (`int`): of the draws, together with the epoch; the same on every process.

    Raises:
        ValueError: samples have several labels.
    """

    def __init__(self, dataset, seed):
        labels = read_labels(dataset)
        if labels.ndim > 1:
            raise ValueError("train_sampling_strategy=balanced is defined for single-label problems only.")
        _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.shares, self.seed, self.epoch = 1 / (len(counts) * counts[places]), seed, 0

    def __len__(self):
        return len(self.shares)

    def __iter__(self):
        rng = np.random.default_rng((self.seed, self.epoch))
        yield from rng.choice(len(self), len(self), p=self.shares).tolist()

    def set_epoch(self, epoch):
        """Draw anew, by the number of the epoch (`int`, from 0); the trainer calls it as each begins."""
        self.epoch = epoch


class SampleReader:
    """The part of [`LfmTrainer`] that reads samples for methods; the same on every process."""

    def draw_indices(self, size, epoch):
        """`size` indices of the training set, without repeats until all were drawn; the same on every process."""
        if is_stream(self.train_dataset):
            raise ValueError(
                f"method {self.method.spec.name} draws training samples by their place; a stream has none."
            )
        rng = np.random.default_rng((self.args.seed, epoch))
        total = len(self.train_dataset)
        passes = -(-size // total)
        return np.concatenate([rng.permutation(total) for _ in range(passes)])[:size]

    def draw_samples(self, size, epoch):
        """A data set and indices of `size` training samples, as in `draw_indices`; of a stream its first ones.

        Raises:
            ValueError: a stream that can be read only once, or that has no samples.
        """
        stream = self.train_dataset
        if not is_stream(stream):
            return stream, self.draw_indices(size, epoch)
        if iter(stream) is stream:
            raise ValueError("alpha is learned from samples at the beginning of the stream: it must be readable again.")
        samples = list(islice(stream, size))
        if not samples:
            raise ValueError("the stream of training samples is empty.")
        return samples, np.arange(size) % len(samples)

    def make_batches(self, dataset, indices):
        """Batches (`dict` with `labels`) of the samples on the training device, in order, even in size, and at most as
        big as that of a training step; the same on every process."""
        count = -(-len(indices) // self.args.train_batch_size)
        loader = DataLoader(
            dataset,
            batch_sampler=[part.tolist() for part in np.array_split(indices, count)],
            collate_fn=self.data_collator,
            generator=torch.Generator(),  # or each pass would draw a seed from the random state of training
        )
        for batch in loader:
            batch.pop("sample_ids", None)
            yield self._prepare_inputs(batch)

    @torch.no_grad()
    def run_batches(self, dataset, indices=None, model=None):
        """Outputs and labels of the samples, batch by batch, in evaluation mode; the same on every process.

        Args:
            dataset: map-style, as the training set.
            indices (`np.ndarray`, *optional*): of the samples; all if not given.
            model (*optional*): in place of the one that is trained; may lack some of the modalities.
        """
        model = self.model if model is None else model
        training = model.training
        model.eval()
        for batch in self.make_batches(dataset, np.arange(len(dataset)) if indices is None else indices):
            known = known_inputs(model) if model is not self.model else batch
            yield model(**{name: tensor for name, tensor in batch.items() if name in known}), batch["labels"]
        model.train(training)
