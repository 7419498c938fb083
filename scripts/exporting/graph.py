"""A model as a graph: what `torch.export` needs to trace it, and what goes wrong on the way told in a sentence."""

import inspect
import logging
import warnings
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import nn


class Exportable(nn.Module):
    """A model with named inputs and a plain `dict` of outputs, `logits` and `{modality}_logits`, all (B, K).

    Where it reads `{modality}_present`, a sample from which every modality is absent gets NaN; the model itself
    refuses it, which a traced graph cannot.

    Args:
        model ([`LfmForMultimodalClassification`])
        names (`list[str]`): of the inputs.
    """

    def __init__(self, model, names):
        super().__init__()
        self.model = model
        marks = [name for name in names if name.endswith("_present")]

        def forward(**inputs):
            output = model(**inputs)
            logits = output.logits
            if marks:
                nothing = ~torch.stack([inputs[mark] for mark in marks]).any(0)
                logits = logits.masked_fill(nothing.unsqueeze(-1), torch.nan)
            alone = zip(model.config.modality_names, output.modality_logits, strict=True)
            return {"logits": logits, **{f"{name}_logits": values for name, values in alone}}

        # torch.export reads names from the signature; it cannot keep a shape open behind **inputs.
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
        self.forward = forward


@contextmanager
def evaluated(model):
    """A model as it is exported: in evaluation mode, float32, on the CPU; a copy where it is not."""
    kinds = {(tensor.device.type, tensor.dtype) for tensor in model.parameters()}
    if kinds != {("cpu", torch.float32)}:
        model = deepcopy(model).to("cpu", torch.float32)
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield model.eval()
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def plain_attention(model):
    """timm's attention as two products and a softmax: ONNX cannot hold the fused one of every tower (BEiT, Hiera)."""
    fused = [module for module in model.modules() if getattr(module, "fused_attn", False) is True]
    try:
        for module in fused:
            module.fused_attn = False
        yield
    finally:
        for module in fused:
            module.fused_attn = True


def ask(exportable, inputs):
    """The model's own outputs.

    Raises:
        ValueError: it cannot read tensors of these shapes.
    """
    try:
        with torch.no_grad():
            return exportable(**inputs)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in inputs.items())
        raise ValueError(f"the model cannot read what the processor gives, {shapes}: {first_line(error)}") from error


def trace(exportable, inputs, dynamic=True):
    """The model as a graph.

    Args:
        exportable ([`Exportable`])
        inputs (`dict[str, torch.Tensor]`): an example.
        dynamic (`bool`): leave the number of samples open.

    Returns:
        `torch.export.ExportedProgram`

    Raises:
        ValueError: it cannot be traced, or only for one number of samples.
    """
    batch = torch.export.Dim("batch")
    shapes = {name: {0: batch} for name in inputs} if dynamic else None
    try:
        with without_warnings(), torch.no_grad():
            program = torch.export.export(exportable, (), inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # of whatever kind the tower's code raises under tracing
        if dynamic and "Constraints violated" in str(error):
            raise ValueError(
                "a tower of this model can be exported for one number of samples only: give --batch_size, such as 1."
            ) from error
        raise ValueError(f"torch.export cannot trace this model: {first_line(error)}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names of files on this machine
    return program


@contextmanager
def without_warnings(*names):
    """No warnings, and none of these loggers: what they skip, the check afterwards judges."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
