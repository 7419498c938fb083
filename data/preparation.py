"""From raw samples to the model's tensors: once, cached as Arrow, and read back in batches without decoding media."""

import functools
import json
import logging
import math
import os
import warnings

import datasets
import numpy as np
import torch
from datasets.fingerprint import Hasher

from .files import cache_file, digest_files
from .holes import check_holes, is_hole, leave_out_empty, present_key
from .labels import LabelEncoder, label_names

FORMAT = 5  # of what is stored; a change makes older caches stale
BATCH_BYTES = 2**25  # of samples that are written at a time, so that memory does not grow with what a sample holds
SHOWN = 20  # broken samples, in a warning

logger = logging.getLogger(__name__)
# Of the bytes that `datasets` hands out; nobody else has them, and a copy would cost as much as reading.
warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)


def prepare_dataset(
    dataset,
    processor,
    columns=None,
    label_column="label",
    class_names=None,
    num_proc=None,
    batch_size=None,
    broken="raise",
    missing="error",
):
    """Run a data set through the processor once.

    Media are stored as the bytes of arrays (spectrograms float32, images and frames uint8, flow int8, which the
    collator scales), so that reading a batch costs little more than copying it.

    Args:
        dataset (`datasets.Dataset` or `datasets.DatasetDict`): raw samples; media as paths, bytes,
            `{"bytes", "path"}`, arrays, or in columns of the types `datasets.Audio`, `Image` and `Video`; cuts of
            videos as `{"bytes", "path", "first_frame", "last_frame"}`.
        processor ([`LfmProcessor`])
        columns (`dict[str, str]`, *optional*): from a modality of the processor to its column; equal names if not
            given.
        label_column (`str`): see [`label_names`] for what it may hold.
        class_names (`list[str]`, *optional*): the classes in their order; by default those of this data set. Where
            labels are plain strings and the splits are prepared one by one, give all the same.
        num_proc (`int`, *optional*): processes.
        batch_size (`int`, *optional*): samples that are written at a time; about 32 MB of them if not given.
        broken (`str`): samples whose media cannot be read are an error (`"raise"`), or left out with a warning that
            names them (`"skip"`).
        missing (`str`): None, NaN, rows of empty cells and files that do not exist are an error that counts them
            (`"error"`; with `broken="skip"` such samples are left out), or modalities that a sample lacks (`"absent"`):
            it holds None in their place, and `{modality}_present` (`bool`); those that lack all are left out with a
            warning.

    Returns:
        `datasets.Dataset` (or `DatasetDict`), whose samples hold `{modality}_values` (`torch.Tensor`; all stored frames
        of a video, see [`Video`][modeling_lfm.video_inputs_lfm.Video]) or `{modality}_input_ids` (`list[int]`), and
        `labels`: an `int` (`features["labels"]` is a `ClassLabel` with the names), or for multi-label problems a
        `list[float]`. [`LfmDataCollator`] makes batches of them; for training wrap it into [`AugmentedDataset`] first
        where `processor.varies`.

    Raises:
        ValueError: a column or label that is missing or wrong; a sample that cannot be read, with its index; no sample
        that can be.

    Example:

        ```python
        >>> import datasets
        >>> from modeling_lfm import LfmProcessor
        >>> from modeling_lfm.data import prepare_dataset
        >>> raw = datasets.Dataset.from_dict({"size": [[1.0, 2.0], [3.0, 5.0]], "label": ["cat", "dog"]})
        >>> processor = LfmProcessor({"size": {"type": "vector"}})
        >>> prepare_dataset(datasets.DatasetDict(train=raw), processor)["train"][1]
        {'size_values': tensor([3., 5.]), 'labels': 1}

        ```
    """
    if broken not in ("raise", "skip"):
        raise ValueError(f"broken={broken!r} must be 'raise' or 'skip'.")
    splits = dataset if isinstance(dataset, dict) else {"the data": dataset}
    _require_datasets(splits.values())
    if not any(map(len, splits.values())):
        raise ValueError("the data set holds no samples.")
    class_names = label_names(dataset, label_column) if class_names is None else list(class_names)
    for part in splits.values():
        columns = check_columns(columns, part, processor)
    if broken == "raise" or missing != "error":
        found = check_holes(splits, processor.kinds, columns, missing)
        splits = {split: leave_out_empty(part, found[split], split) for split, part in splits.items()}
    settings = (processor, columns, label_column, class_names, num_proc, batch_size, broken, missing)
    if isinstance(dataset, dict):
        fit_processor(processor, splits, columns, missing)
        return datasets.DatasetDict({split: _prepare(part, *settings) for split, part in splits.items()})
    return _prepare(*splits.values(), *settings)


def _require_datasets(parts):
    for part in parts:
        if not isinstance(part, datasets.Dataset):
            raise ValueError(
                "raw samples are a datasets.Dataset or DatasetDict (Dataset.from_pandas(frame) and "
                f"Dataset.from_list(rows) make one); this is of type {type(part).__name__}."
            )


def _prepare(dataset, processor, columns, label_column, class_names, num_proc, batch_size, broken, missing):
    for name in processor.unfitted():
        raise ValueError(f"modality {name!r} has no statistics yet: call fit_processor with the training split first.")
    for column in columns.values():
        feature = dataset.features[column]
        if isinstance(feature, (datasets.Audio, datasets.Image, datasets.Video)):  # the processor reads their bytes
            dataset = dataset.cast_column(column, type(feature)(decode=False))
    skip, encode_label = broken == "skip", LabelEncoder(dataset, label_column, class_names)
    stored = {**stored_features(processor, columns, missing), **({"error": datasets.Value("string")} if skip else {})}
    batch_size = batch_size or max(1, min(64, BATCH_BYTES // sample_bytes(processor, columns)))
    raw = dataset.select_columns(list(dict.fromkeys([*columns.values(), label_column])))
    files = digest_files(dataset, [column for name, column in columns.items() if processor.shape(name) is not None])
    # The processor's own hash differs from process to process.
    identity = (FORMAT, dataset._fingerprint, files, identify(processor), sorted(columns.items()))
    absent = () if missing == "error" else (missing,)
    fingerprint = Hasher.hash((*identity, label_column, class_names, broken, *absent))
    prepared = raw.map(
        functools.partial(_encode, processor, columns, label_column, encode_label, skip, missing),
        batched=True,
        with_indices=True,
        batch_size=batch_size,
        writer_batch_size=batch_size,
        num_proc=num_proc and min(num_proc, os.cpu_count() or 1),
        remove_columns=raw.column_names,
        features=datasets.Features({**stored, "labels": encode_label.feature}),
        new_fingerprint=fingerprint,
        cache_file_name=cache_file(raw, fingerprint),
        desc="preparing",
    )
    return read_prepared(_leave_out(prepared) if skip else prepared, processor, columns)


def fit_processor(processor, train, columns=None, missing="error"):
    """Let a processor find the statistics that it lacks (of vectors, tables and series) in raw training samples.

    Args:
        processor ([`LfmProcessor`]): changed in place, unless it lacks nothing.
        train (`datasets.Dataset`, or `DatasetDict` with this split), columns (`dict[str, str]`, *optional*), missing
            (`str`): as in [`prepare_dataset`].

    Raises:
        ValueError: a modality without samples, or one that cannot be read; the message names it.

    Example:

        ```python
        >>> import datasets
        >>> from modeling_lfm import LfmProcessor
        >>> from modeling_lfm.data import fit_processor
        >>> processor = LfmProcessor({"size": {"type": "vector"}})
        >>> fit_processor(processor, datasets.Dataset.from_dict({"size": [[1.0, 2.0], [3.0, 6.0]]}))
        >>> processor.modalities["size"]["mean"], processor.modalities["size"]["std"]
        ([2.0, 4.0], [1.0, 2.0])

        ```
    """
    if isinstance(train, dict):
        train = train.get("train", {})  # a split that need not be there
    else:
        _require_datasets([train])
    names = {name: (columns or {}).get(name, name) for name in processor.unfitted()}
    samples = {name: train[column] for name, column in names.items() if column in getattr(train, "features", ())}
    if missing == "absent":
        kinds = processor.kinds
        samples = {n: [cell for cell in cells if not is_hole(kinds, n, cell)] for n, cells in samples.items()}
    processor.fit(samples)


def _leave_out(prepared):
    """What is left of prepared samples without those that have an `error`, and a warning about these."""
    errors = prepared.data.column("error").to_pylist()
    found = [error for error in errors if error is not None]
    if found:
        more = f"\n  ... and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
        text = f"{len(found):,} of {len(errors):,} samples cannot be read and are left out:\n  "
        text += "\n  ".join(found[:SHOWN]) + more
        if len(found) == len(errors):
            raise ValueError(text)
        logger.warning(text)
        prepared = prepared.select([number for number, error in enumerate(errors) if error is None])
    return prepared.remove_columns("error")


def stored_features(processor, columns, missing="error"):
    """Features (`dict`) of what is stored of the modalities `columns`: bytes of an array, or token numbers; where some
    may be absent (`missing`) also whether they are there."""
    marks = {present_key(name): datasets.Value("bool") for name in columns} if missing == "absent" else {}
    return marks | {
        f"{name}_{processor.kinds[name].parts[0]}": datasets.List(datasets.Value("int32"))
        if processor.shape(name) is None
        else datasets.Value("binary")
        for name in columns
    }


def sample_bytes(processor, columns):
    """How much is stored of a sample (`int`); a guess for texts and audio of any length."""
    shapes = [(processor.shape(name) or (-1,), getattr(processor.kinds[name], "dtype", np.int32)) for name in columns]
    return sum(math.prod(1000 if side < 0 else side for side in shape) * np.dtype(d).itemsize for shape, d in shapes)


def encode_sample(processor, columns, sample, missing="error"):
    """What is stored of one raw sample (`dict`, from column to raw input), with the keys of [`stored_features`].

    It is None of a modality that is absent, where `missing`, as in [`prepare_dataset`], allows that.

    Raises:
        ValueError: an input that cannot be read; the message names the column and the file.
    """
    output = {}
    for name, column in columns.items():
        kind = processor.kinds[name]
        absent = missing == "absent" and is_hole(processor.kinds, name, sample[column])
        if missing == "absent":
            output[present_key(name)] = not absent
        elif processor.is_absent(name, sample[column]):
            raise ValueError(f"column {column!r} holds nothing; set missing: absent, or drop the sample.")
        try:
            row = None if absent else processor.encode(name, sample[column])
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"column {column!r}: {error}") from error
        output[f"{name}_{kind.parts[0]}"] = row if row is None or isinstance(row, list) else row.tobytes()
    return output


def read_prepared(dataset, processor, columns=None):
    """Let a `datasets.Dataset` of stored samples (see [`stored_features`]) give tensors, as [`prepare_dataset`] does.

    Those of `columns` alone, where given. Settings of the processor that only matter in reading may have changed.

    Example:

        ```python
        >>> import datasets, numpy as np
        >>> from modeling_lfm import LfmProcessor
        >>> from modeling_lfm.data import read_prepared
        >>> processor = LfmProcessor({"size": {"type": "vector", "num_features": 2}})
        >>> stored = datasets.Dataset.from_dict({"size_values": [np.float32([1, 2]).tobytes()], "labels": [0]})
        >>> read_prepared(stored, processor)[0]
        {'size_values': tensor([1., 2.]), 'labels': 0}

        ```
    """
    return dataset.with_transform(Decoder(processor, processor.modalities if columns is None else columns))


def check_columns(columns, dataset, processor):
    """`columns` (`dict`, or None for equal names), whose modalities and columns are there; else a `ValueError`."""
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


def identify(processor):
    """What of a processor decides what is stored, as JSON (`str`), equal in every process."""
    tokenizer, text = processor.tokenizer, None
    if getattr(tokenizer, "backend_tokenizer", None) is not None:
        text = json.loads(tokenizer.backend_tokenizer.to_str())
        text = {key: value for key, value in text.items() if key not in ("padding", "truncation")}  # of the last call
    elif tokenizer is not None:
        text = [type(tokenizer).__name__, tokenizer.get_vocab()]
    modalities = {
        name: {key: value for key, value in settings.items() if key not in processor.kinds[name].read_only}
        for name, settings in processor.modalities.items()
    }
    return json.dumps([modalities, text], sort_keys=True)


def _encode(processor, columns, label_column, encode_label, skip, missing, batch, indices):
    rows = []
    for number, index in enumerate(indices):
        row = {**dict.fromkeys(stored_features(processor, columns, missing)), **({"error": None} if skip else {})}
        row["labels"] = encode_label(batch[label_column][number], index)
        sample = {column: batch[column][number] for column in columns.values()}
        try:
            row |= encode_sample(processor, columns, sample, missing)
        except ValueError as error:
            problem = f"sample {index}, {error}"
            if not skip:
                raise ValueError(problem) from error
            row["error"] = problem
        rows.append(row)
    return {key: [row[key] for row in rows] for key in rows[0]}


class Decoder:
    """Stored bytes to tensors; small and without the tokenizer, so that it travels to other processes."""

    def __init__(self, processor, names):
        arrays = [name for name in names if processor.shape(name) is not None]
        self.layouts = {f"{name}_values": (processor.kinds[name].dtype, processor.shape(name)) for name in arrays}

    def __call__(self, batch):
        arrays = {
            key: [self._read(value, *layout) for value in batch[key]]
            for key, layout in self.layouts.items()
            if key in batch
        }
        return {**batch, **arrays}

    @staticmethod
    def _read(value, dtype, shape):
        return None if value is None else torch.from_numpy(np.frombuffer(value, dtype).reshape(shape))
