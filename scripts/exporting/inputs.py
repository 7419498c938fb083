"""Inputs of an exported model: a processor whose tensors have one shape, and random ones to trace and check with."""

from copy import deepcopy

import numpy as np
import torch

from modeling_lfm import LfmProcessor


def fix_shapes(processor, modalities, changes=None):
    """A processor whose tensors have one shape, whatever comes in: texts are padded to `max_length`.

    Args:
        processor ([`LfmProcessor`])
        modalities (`tuple[str]`): those of the model; others are dropped.
        changes (`dict[str, dict]`, *optional*): settings to change, such as `{"audio": {"duration": 3.0}}`.

    Returns:
        [`LfmProcessor`]

    Raises:
        ValueError: a modality that the processor or the model lacks, a wrong setting, or a shape that is still open.
    """
    changes = changes or {}
    for name in modalities:
        if name not in processor.modalities:
            raise ValueError(f"the processor has no modality {name!r}; it reads {', '.join(processor.modalities)}.")
    for name, settings in changes.items():
        if name not in modalities or not isinstance(settings, dict):
            raise ValueError(f"processor.{name} should be settings of one of the modalities {', '.join(modalities)}.")
    settings = {name: {**deepcopy(processor.modalities[name]), **changes.get(name, {})} for name in modalities}
    for own in settings.values():
        if own["type"] == "text":
            own["padding"] = "max_length"
    reads_text = any(own["type"] == "text" for own in settings.values())
    fixed = LfmProcessor(settings, processor.tokenizer if reads_text else None)
    for name in modalities:
        if -1 in (fixed.shape(name) or ()):
            raise ValueError(
                f"modality {name!r} takes recordings of any length, and an exported model reads one shape: fix it, "
                f"such as --processor.{name}.duration 3."
            )
    return fixed


def draw_inputs(processor, size, generator, present=False):
    """Random inputs of a model, made as the processor makes them from media and texts.

    Args:
        processor ([`LfmProcessor`]): see [`fix_shapes`].
        size (`int`): samples, B.
        generator (`np.random.Generator`)
        present (`bool`): with `{modality}_present`, random, one of each sample True at least.

    Returns:
        `dict[str, torch.Tensor]`
    """
    inputs = {}
    for name, kind in processor.kinds.items():
        rows = [_draw_row(processor, name, kind, generator) for _ in range(size)]
        inputs.update({key: value.contiguous() for key, value in processor.stack(name, rows).items()})
    if present:
        names = list(processor.kinds)
        marks = torch.from_numpy(generator.random((len(names), size)) < 0.5)
        marks[generator.integers(len(names), size=size), np.arange(size)] = True
        inputs.update({f"{name}_present": row.clone() for name, row in zip(names, marks, strict=True)})
    return inputs


def _draw_row(processor, name, kind, generator):
    """One sample as [`LfmProcessor.encode`] gives it."""
    if kind.shape is None:
        length = generator.integers(1, kind.max_length + 1)
        numbers = generator.integers(len(processor.tokenizer), size=length).tolist()
        return processor.encode(name, processor.tokenizer.decode(numbers, skip_special_tokens=True))
    if np.issubdtype(kind.dtype, np.integer):
        limits = np.iinfo(kind.dtype)
        return torch.from_numpy(generator.integers(limits.min, limits.max, kind.shape, kind.dtype, endpoint=True))
    return torch.from_numpy(generator.standard_normal(kind.shape, dtype=kind.dtype))
