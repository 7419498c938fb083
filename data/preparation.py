"""From raw samples to the model's tensors: once, cached as Arrow, and read back in batches without decoding."""

from functools import partial

import datasets
import numpy as np
import torch
from datasets.fingerprint import Hasher


def prepare_dataset(dataset, processor, columns=None, label_column="label", num_proc=None, batch_size=64):
    """Run a data set through the processor once.

    Args:
        dataset (`datasets.Dataset`): raw samples; media as paths, bytes, `{"bytes", "path"}`, arrays or PIL images.
        processor ([`LfmProcessor`])
        columns (`dict[str, str]`, *optional*): from a modality of the processor to its column; equal names if not
            given.
        label_column (`str`): integers or strings (class labels), or lists of class indices or names, or of 0 and 1
            (multi-label).
        num_proc (`int`, *optional*): processes.
        batch_size (`int`): samples a call of the processor.

    Returns:
        `datasets.Dataset` in numpy format with the model's inputs, flat, and `labels` (int64, or float32 vectors
        for multi-label problems); feed it to [`LfmDataCollator`], which restores the shapes. `features["labels"]`
        holds the class names where they are known.

    Raises:
        ValueError: a column or label that is missing or wrong; a sample that cannot be read (with its index).
    """
    columns = {name: name for name in processor.modalities} if columns is None else dict(columns)
    unknown = sorted(set(columns) - set(processor.modalities))
    if unknown or not columns:
        raise ValueError(
            f"columns names {unknown or 'nothing'}; the processor reads {', '.join(processor.modalities)}."
        )
    for column in (*columns.values(), label_column):
        if column not in dataset.column_names:
            raise ValueError(f"the data set has no column {column!r}; it has {', '.join(dataset.column_names)}.")
    encode, labels = _label_encoder(dataset, label_column)
    features = {"labels": labels}
    for name in columns:
        shape = processor.shape(name)
        if shape is None:
            for part in ("input_ids", "attention_mask"):
                features[f"{name}_{part}"] = datasets.List(datasets.Value("int64"))
        else:
            features[f"{name}_values"] = datasets.List(datasets.Value("float32"), length=int(np.prod(shape)))
    tokenizer = processor.tokenizer
    settings = (
        processor.to_dict()["modalities"],
        None if tokenizer is None else (tokenizer.name_or_path, len(tokenizer), type(tokenizer).__name__),
        sorted(columns.items()),
        label_column,
    )
    raw = dataset.select_columns(list(dict.fromkeys([*columns.values(), label_column])))
    prepared = raw.map(
        partial(_prepare_batch, processor=processor, columns=columns, label_column=label_column, encode=encode),
        batched=True,
        with_indices=True,
        batch_size=batch_size,
        writer_batch_size=batch_size,
        num_proc=num_proc,
        remove_columns=raw.column_names,
        features=datasets.Features(features),
        # The processor's own hash differs from process to process.
        new_fingerprint=Hasher.hash((dataset._fingerprint, settings)),
        desc="preparing",
    )
    return prepared.with_format("numpy")


def _prepare_batch(batch, indices, processor, columns, label_column, encode):
    output = {"labels": [encode(label, index) for label, index in zip(batch[label_column], indices, strict=True)]}
    for name, column in columns.items():
        rows = []
        for value, index in zip(batch[column], indices, strict=True):
            try:
                rows.append(processor(**{name: [value]}, padding=False))
            except (ValueError, TypeError, OSError) as error:
                raise ValueError(f"sample {index}, column {column!r}: {error}") from error
        for key in rows[0]:
            output[key] = [np.asarray(row[key][0]).ravel() for row in rows]
    return output


def _label_encoder(dataset, column):
    """A function from a raw label and its index to what is stored, and the feature of `labels`."""
    feature = dataset.features[column]
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return _multi_label_encoder(dataset, column, inner)
    if isinstance(feature, datasets.ClassLabel):
        return partial(_encode_class, names=feature.names, known={}), feature
    values = dataset.unique(column)
    if any(value is None for value in values):
        raise ValueError(f"the label column {column!r} has missing values; drop those samples.")
    if all(isinstance(value, str) for value in values):
        names = sorted(values)
        known = {name: number for number, name in enumerate(names)}
        return partial(_encode_class, names=names, known=known), datasets.ClassLabel(names=names)
    if all(isinstance(value, int) for value in values):
        if min(values) < 0:
            raise ValueError(f"the label column {column!r} holds {min(values)}; labels must not be negative.")
        names = [str(number) for number in range(max(values) + 1)]
        return partial(_encode_class, names=names, known={}), datasets.ClassLabel(names=names)
    raise ValueError(f"the label column {column!r} must hold strings, integers, or lists of them; it is {feature}.")


def _encode_class(label, index, names, known):
    number = known.get(label, label)
    if not isinstance(number, int) or not 0 <= number < len(names):
        raise ValueError(f"sample {index}: label {label!r} is not one of the {len(names)} classes.")
    return number


def _multi_label_encoder(dataset, column, inner):
    if inner.dtype.startswith("float") or inner.dtype == "bool":  # already vectors of 0 and 1
        width = len(dataset[0][column])
        return partial(_check_vector, width=width), datasets.List(datasets.Value("float32"), length=width)
    if isinstance(inner, datasets.ClassLabel):
        names = inner.names
        known = {number: number for number in range(len(names))}
    else:
        names = sorted({name for row in dataset[column] for name in row})
        known = {name: number for number, name in enumerate(names)}
    feature = datasets.List(datasets.Value("float32"), length=len(names))
    return partial(_encode_set, known=known), feature


def _check_vector(label, index, width):
    if len(label) != width:
        raise ValueError(f"sample {index} has {len(label)} labels, the first has {width}.")
    return [float(value) for value in label]


def _encode_set(label, index, known):
    vector = [0.0] * len(known)
    for name in label:
        if name not in known:
            raise ValueError(f"sample {index}: label {name!r} is not one of the {len(known)} classes.")
        vector[known[name]] = 1.0
    return vector


class LfmDataCollator:
    """Stacks prepared samples to the model's tensors, and pads text to the longest of the batch.

    Args:
        processor ([`LfmProcessor`]): knows the shapes, and the tokenizer's padding.
    """

    def __init__(self, processor):
        self.shapes = {
            f"{name}_values": processor.shape(name)
            for name, settings in processor.modalities.items()
            if settings["type"] != "text"
        }
        self.pad_token = 0 if processor.tokenizer is None else processor.tokenizer.pad_token_id or 0

    def __call__(self, samples):
        """Samples (`list[dict]`) to a `dict` of `torch.Tensor`s, first dimension the batch."""
        batch = {}
        for key in samples[0]:
            values = [sample[key] for sample in samples]
            if key in self.shapes:
                batch[key] = torch.from_numpy(np.stack(values)).reshape(-1, *self.shapes[key])
            elif key.endswith(("_input_ids", "_attention_mask")):
                rows = [torch.tensor(value) for value in values]
                fill = self.pad_token if key.endswith("_input_ids") else 0
                batch[key] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)
            else:
                batch[key] = torch.as_tensor(np.asarray(values))
        return batch
