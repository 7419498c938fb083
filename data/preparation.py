"""From raw samples to the model's tensors: once, cached as Arrow, and read back in batches without decoding media."""

import json
from functools import partial

import datasets
import numpy as np
import torch
from datasets.fingerprint import Hasher

from .labels import label_encoder, label_names

FORMAT = 2  # of what is stored; a change makes older caches stale


def prepare_dataset(
    dataset, processor, columns=None, label_column="label", class_names=None, num_proc=None, batch_size=64
):
    """Run a data set through the processor once.

    Media are stored as the bytes of arrays (spectrograms float32, images uint8, which the collator scales), so that
    reading a batch costs little more than copying it.

    Args:
        dataset (`datasets.Dataset` or `datasets.DatasetDict`): raw samples; media as paths, bytes,
            `{"bytes", "path"}`, arrays, or in columns of the types `datasets.Audio` and `datasets.Image`.
        processor ([`LfmProcessor`])
        columns (`dict[str, str]`, *optional*): from a modality of the processor to its column; equal names if not
            given.
        label_column (`str`): see [`label_names`] for what it may hold.
        class_names (`list[str]`, *optional*): the classes in their order; by default those of this data set. Where
            labels are plain strings and the splits are prepared one by one, give all the same.
        num_proc (`int`, *optional*): processes.
        batch_size (`int`): samples that are written at a time.

    Returns:
        `datasets.Dataset` (or `DatasetDict`), whose samples hold `{modality}_values` (`torch.Tensor`) or
        `{modality}_input_ids` (`list[int]`), and `labels`: an `int` (`features["labels"]` is a `ClassLabel` with the
        names), or for multi-label problems a `list[float]`. [`LfmDataCollator`] makes batches of them.

    Raises:
        ValueError: a column or label that is missing or wrong; a sample that cannot be read, with its index.
    """
    class_names = label_names(dataset, label_column) if class_names is None else list(class_names)
    if isinstance(dataset, dict):
        settings = (processor, columns, label_column, class_names, num_proc, batch_size)
        return datasets.DatasetDict({split: prepare_dataset(part, *settings) for split, part in dataset.items()})
    columns = _check_columns(columns, dataset, processor)
    for column in columns.values():
        feature = dataset.features[column]
        if isinstance(feature, (datasets.Audio, datasets.Image)):  # the processor reads their bytes itself
            dataset = dataset.cast_column(column, type(feature)(decode=False))
    encode_label, label_feature = label_encoder(dataset, label_column, class_names)
    stored = {
        f"{name}_{processor.kinds[name].parts[0]}": datasets.List(datasets.Value("int32"))
        if processor.shape(name) is None
        else datasets.Value("binary")
        for name in columns
    }
    raw = dataset.select_columns(list(dict.fromkeys([*columns.values(), label_column])))
    identity = (FORMAT, dataset._fingerprint, _identify(processor), sorted(columns.items()), label_column, class_names)
    prepared = raw.map(
        partial(_encode, processor=processor, columns=columns, label_column=label_column, encode_label=encode_label),
        batched=True,
        with_indices=True,
        batch_size=batch_size,
        writer_batch_size=batch_size,
        num_proc=num_proc,
        remove_columns=raw.column_names,
        features=datasets.Features({**stored, "labels": label_feature}),
        new_fingerprint=Hasher.hash(identity),  # the processor's own hash differs from process to process
        desc="preparing",
    )
    return prepared.with_transform(_Decoder(processor, columns))


def _check_columns(columns, dataset, processor):
    columns = {name: name for name in processor.modalities} if columns is None else dict(columns)
    unknown = sorted(set(columns) - set(processor.modalities))
    if unknown or not columns:
        raise ValueError(
            f"columns names {unknown or 'nothing'}; the processor reads {', '.join(processor.modalities)}."
        )
    for name, column in columns.items():
        if column not in dataset.column_names:
            raise ValueError(
                f"the data set has no column {column!r} for the modality {name!r}; it has "
                f"{', '.join(dataset.column_names)}. columns={{{name!r}: ...}} names it."
            )
    return columns


def _identify(processor):
    """What of a processor decides its output, as JSON, equal in every process."""
    tokenizer = processor.tokenizer
    if tokenizer is None:
        text = None
    elif getattr(tokenizer, "backend_tokenizer", None) is not None:
        text = json.loads(tokenizer.backend_tokenizer.to_str())
        text = {key: value for key, value in text.items() if key not in ("padding", "truncation")}  # of the last call
    else:
        text = [type(tokenizer).__name__, tokenizer.get_vocab()]
    return json.dumps([processor.modalities, text], sort_keys=True)


def _encode(batch, indices, processor, columns, label_column, encode_label):
    output = {"labels": [encode_label(label, i) for label, i in zip(batch[label_column], indices, strict=True)]}
    for name, column in columns.items():
        rows = []
        for value, index in zip(batch[column], indices, strict=True):
            try:
                rows.append(processor.encode(name, value))
            except (ValueError, TypeError, OSError) as error:
                raise ValueError(f"sample {index}, column {column!r}: {error}") from error
        is_text = processor.shape(name) is None
        output[f"{name}_{processor.kinds[name].parts[0]}"] = rows if is_text else [row.tobytes() for row in rows]
    return output


class _Decoder:
    """Stored bytes to tensors; small and without the tokenizer, so that it travels to other processes."""

    def __init__(self, processor, names):
        arrays = [name for name in names if processor.shape(name) is not None]
        self.layouts = {f"{name}_values": (processor.kinds[name].dtype, processor.shape(name)) for name in arrays}

    def __call__(self, batch):
        return {
            key: [self._decode(value, *self.layouts[key]) for value in values] if key in self.layouts else values
            for key, values in batch.items()
        }

    @staticmethod
    def _decode(content, dtype, shape):
        return torch.from_numpy(np.frombuffer(content, dtype=dtype).reshape(shape).copy())


class LfmDataCollator:
    """Makes batches of prepared samples; pads text (and audio without a fixed duration) to the longest of the batch.

    Args:
        processor ([`LfmProcessor`])
    """

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, samples):
        """Samples (`list[dict]`, as [`prepare_dataset`] gives them) to a `dict` of tensors, the batch dimension first.

        Raises:
            ValueError: a sample without any of the processor's inputs.
        """
        batch = {}
        for name, kind in self.processor.kinds.items():
            key = f"{name}_{kind.parts[0]}"
            if key in samples[0]:
                batch |= self.processor.stack(name, [sample[key] for sample in samples])
        if not batch:
            raise ValueError(
                f"samples hold {list(samples[0])}, but the processor's inputs are {self.processor.model_input_names}."
            )
        if "labels" in samples[0]:
            labels = torch.as_tensor(np.asarray([np.asarray(sample["labels"]) for sample in samples]))
            batch["labels"] = labels.float() if labels.is_floating_point() else labels
        return batch
