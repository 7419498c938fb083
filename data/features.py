"""Vectors of frozen towers, computed once and stored in the cache of `datasets`: what follows trains in seconds."""

import functools
import json
from hashlib import sha256

import datasets
import numpy as np
import torch
from datasets.fingerprint import Hasher

from modeling_lfm.trainer.checkpoints import taking_turns
from modeling_lfm.trainer.collator import LfmDataCollator

from .files import cache_folder
from .holes import present_key
from .preparation import Decoder


def cache_features(model, dataset, processor, batch_size=64):
    """Put the vectors of frozen towers in the place of what these towers read.

    Each tower has a file of its own, under a key of its weights and settings and of what it reads, so that its vectors
    are computed again when one of these changes, and only then: models with other towers beside it share them. Of
    several runs that want the same at once, one computes and the others wait for it.

    Args:
        model ([`LfmForMultimodalClassification`]): with `frozen: true` in one entry of `config.modalities` at least.
        dataset (`datasets.Dataset`, or a `dict` of them): as [`prepare_dataset`] gives it.
        processor ([`LfmProcessor`])
        batch_size (`int`): samples that are computed at a time.

    Returns:
        `datasets.Dataset` (or a `dict`): samples hold `{modality}_vector`, (num_features,) float32, instead of the
        inputs of the frozen towers. The model reads it as it reads those, for the same results to rounding.

    Raises:
        ValueError: no tower is frozen; towers that exchange; inputs that vary from epoch to epoch.

    Example:

        ```python
        >>> import datasets
        >>> from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor
        >>> from modeling_lfm.data import cache_features, prepare_dataset
        >>> raw = datasets.Dataset.from_dict({"size": [[1.0, 2.0], [3.0, 5.0]], "label": ["cat", "dog"]})
        >>> processor = LfmProcessor({"size": {"type": "vector"}})
        >>> data = prepare_dataset(datasets.DatasetDict(train=raw), processor)
        >>> tower = {"tower": "mlp", "in_features": 2, "hidden_sizes": [4], "frozen": True}
        >>> data = cache_features(LfmForMultimodalClassification(LfmConfig({"size": tower})), data, processor)
        >>> data["train"][0]["size_vector"].shape
        torch.Size([4])

        ```
    """
    names = find_frozen(model)
    varying = [name for name in names if processor.kinds[name].varies]
    if varying:
        raise ValueError(f"cache_features: {varying[0]} varies from epoch to epoch; leave its augment out.")
    if isinstance(dataset, dict):
        return {split: cache_features(model, part, processor, batch_size) for split, part in dataset.items()}
    was_training = model.training
    vectors = [_compute(model.eval(), name, dataset, processor, batch_size) for name in names]
    model.train(was_training)
    left = [c for c in dataset.column_names if not any(c in _inputs(processor, name) for name in names)]
    decoder = Decoder(processor, [name for name in processor.modalities if name not in names])
    for name in names:
        decoder.layouts[f"{name}_vector"] = (np.float32, (model.lfm.towers[name].num_features,))
    joined = datasets.concatenate_datasets([dataset.with_format(None).select_columns(left), *vectors], axis=1)
    return joined.with_transform(decoder)


def find_frozen(model):
    """Names of the modalities (`list[str]`) whose towers are frozen; a `ValueError` if there is none to be cached."""
    names = [name for name, spec in model.config.modalities.items() if spec.get("frozen") is True]
    if not names:
        raise ValueError("cache_features: no tower is frozen; set frozen: true in an entry of modalities.")
    if model.lfm.exchange is not None:
        raise ValueError(f"cache_features: the towers of fusion {model.config.fusion} run together.")
    return names


def _inputs(processor, name):
    return {f"{name}_{part}" for part in processor.kinds[name].parts}


def _compute(model, name, dataset, processor, batch_size):
    """The vectors of the tower `name`, as bytes (`datasets.Dataset`)."""
    read = {*_inputs(processor, name), present_key(name)}
    stored = dataset.with_format(None).select_columns([column for column in dataset.column_names if column in read])
    settings = json.dumps(processor.modalities[name], sort_keys=True)  # a plain text: the same in every process
    key = Hasher.hash((_digest(model, name), settings, Hasher.hash_bytes(_content(stored))))
    folder = cache_folder() / f"vectors-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    with taking_turns(folder):
        vectors = stored.with_transform(Decoder(processor, [name])).map(
            functools.partial(_run, model, name, LfmDataCollator(processor)),
            batched=True,
            batch_size=batch_size,
            remove_columns=stored.column_names,
            features=datasets.Features({f"{name}_vector": datasets.Value("binary")}),
            new_fingerprint=key,
            cache_file_name=str(folder / "vectors.arrow"),
            desc=f"computing the vectors of {name}",
        )
    return vectors.with_format(None)


def _content(dataset):
    """All cells of stored samples, each with its length, as bytes."""
    for column in sorted(dataset.column_names):
        yield column.encode()
        for table in dataset.select_columns(column).with_format("arrow").iter(8):
            for cell in table.column(0).to_pylist():
                cell = cell if isinstance(cell, bytes) else repr(cell).encode()
                yield b"%d " % len(cell)
                yield cell


def _digest(model, name):
    """What decides the vectors of a tower beside its inputs (`str`)."""
    digest = sha256(repr((name, sorted(model.config.modalities[name].items()))).encode())
    for key, tensor in sorted(model.lfm.towers[name].state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _run(model, name, collator, batch):
    samples = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
    inputs = {key: value.to(model.device) for key, value in collator(samples).items()}
    vectors = model.lfm.run_tower(name, inputs).float().cpu().numpy()
    return {f"{name}_vector": [row.tobytes() for row in vectors]}
