"""Which training samples are kept for a method that watches held-out ones, and how labels of a data set are read."""

import numpy as np
from torch.utils.data import Subset

from modeling_lfm.data.benchmark import stratified_split


def choose_holdout(train_dataset, eval_dataset, args):
    """The training set and the samples that a method watches: a part of the former, or the evaluation set."""
    if args.holdout:
        seed = args.seed if args.data_seed is None else args.data_seed
        return split_holdout(train_dataset, args.holdout, seed)
    if eval_dataset is None or isinstance(eval_dataset, dict):
        raise ValueError("holdout=0 lets the method watch eval_dataset: give one, or another holdout.")
    return train_dataset, eval_dataset


def split_holdout(dataset, size, seed):
    """Keep a stratified part of a data set apart.

    Args:
        dataset (`datasets.Dataset` or map-style data set): samples with `labels`.
        size (`float`): a fraction below 1, or a number of samples.
        seed (`int`): of the draw.

    Returns:
        the rest and the kept part, of the same type (or `torch.utils.data.Subset`).
    """
    if not hasattr(dataset, "__len__"):
        raise ValueError("the method needs a data set with a length, to hold a part out; or give holdout_dataset.")
    labels = read_labels(dataset)
    kept = round(size * len(labels)) if size < 1 else int(size)
    if not 0 < kept < len(labels):
        raise ValueError(f"holdout={size} keeps {kept} of {len(labels)} training samples; change it.")
    rest, held = stratified_split(labels, kept, seed)
    if hasattr(dataset, "select"):
        held = dataset.select(held)
        return dataset.select(rest), getattr(held, "unaugmented", held)
    return Subset(dataset, rest.tolist()), Subset(dataset, held.tolist())


def read_labels(dataset):
    """Labels of a data set, (N,) or (N, K) as a numpy array, read without the other columns where possible."""
    if hasattr(dataset, "column_names"):
        if "labels" not in dataset.column_names:
            raise ValueError(f"the data set needs a column 'labels'; it has {dataset.column_names}.")
        return np.asarray(dataset.with_format("numpy")["labels"][:])
    try:
        return np.asarray([np.asarray(dataset[i]["labels"]) for i in range(len(dataset))])
    except KeyError as error:
        raise ValueError("each sample of the data set needs the key 'labels'.") from error
