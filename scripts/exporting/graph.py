"""A model as a graph: inputs of one shape, what `torch.export` needs to trace it, and its failures in a sentence."""

import inspect
import logging
import warnings
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
from torch import nn

from modeling_lfm import LfmProcessor


def fix_shapes(processor, modalities, changes=None):
    """A processor whose tensors have one shape, whatever comes in: texts are padded to `max_length`.

    Modalities that the model does not read are dropped. `changes` are settings to change, such as
    `{"audio": {"duration": 3.0}}`.

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
    texts = [own for own in settings.values() if own["type"] == "text"]
    for own in texts:
        own["padding"] = "max_length"
    fixed = LfmProcessor(settings, processor.tokenizer if texts else None)
    for name in modalities:
        if -1 in (fixed.shape(name) or ()):
            setting = "length 100" if hasattr(fixed.kinds[name], "length") else "duration 3"
            raise ValueError(
                f"modality {name!r} takes recordings of any length, and an exported model reads one shape: fix it, "
                f"such as --processor.{name}.{setting}."
            )
    return fixed


def draw_inputs(processor, size, generator, present=False):
    """Random inputs of a model for `size` samples (`dict[str, torch.Tensor]`), made as the processor of [`fix_shapes`]
    makes them; with `present` also `{modality}_present`, one of each sample True at least."""

    def draw(name, kind):
        if kind.shape is None:
            length = generator.integers(1, kind.max_length + 1)
            numbers = generator.integers(len(processor.tokenizer), size=length).tolist()
            return processor.encode(name, processor.tokenizer.decode(numbers, skip_special_tokens=True))
        if np.issubdtype(kind.dtype, np.integer):
            limits = np.iinfo(kind.dtype)
            return torch.from_numpy(generator.integers(limits.min, limits.max, kind.shape, kind.dtype, endpoint=True))
        values = generator.standard_normal(kind.shape, dtype=kind.dtype)
        if sizes := kind.tower_keys.get("cardinalities"):  # of the last columns of a table, which are categories
            values[-len(sizes) :] = generator.integers(sizes)
        return torch.from_numpy(values)

    inputs = {}
    for name, kind in processor.kinds.items():
        batch = processor.stack(name, [draw(name, kind) for _ in range(size)])
        inputs |= {key: value.contiguous() for key, value in batch.items()}
    if present:
        names = list(processor.kinds)
        marks = torch.from_numpy(generator.random((len(names), size)) < 0.5)
        marks[generator.integers(len(names), size=size), np.arange(size)] = True
        inputs |= {f"{name}_present": row.clone() for name, row in zip(names, marks, strict=True)}
    return inputs


def name_outputs(modalities):
    """Names (`list[str]`) of what an exported model answers: `logits`, and those of each modality alone."""
    return ["logits", *(f"{name}_logits" for name in modalities)]


class Exportable(nn.Module):
    """A model with named inputs and a plain `dict` of outputs, `logits` and `{modality}_logits`, all (B, K).

    Where it reads `{modality}_present`, a sample from which every modality is absent gets NaN; the model itself
    refuses it, which a traced graph cannot.
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
            return dict(zip(name_outputs(model.config.modality_names), (logits, *output.modality_logits), strict=True))

        # torch.export reads names from the signature; it cannot keep a shape open behind **inputs.
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
        self.forward = forward


def evaluated(model, plain=False):
    """A copy of a model as it is exported: in evaluation mode, float32, on the CPU; `plain`, with timm's attention as
    two products and a softmax, as ONNX cannot hold the fused one of every tower (BEiT, Hiera)."""
    model = deepcopy(model).to("cpu", torch.float32).eval()
    for module in model.modules() if plain else ():
        if getattr(module, "fused_attn", False) is True:
            module.fused_attn = False
    return model


def ask(exportable, inputs):
    """The model's own outputs; a `ValueError` where it cannot read these shapes, or they are not finite."""
    try:
        with torch.no_grad():
            outputs = exportable(**inputs)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in inputs.items())
        raise ValueError(f"the model cannot read what the processor gives, {shapes}: {first_line(error)}") from error
    if not outputs["logits"].isfinite().all():  # those of what is absent are NaN
        raise ValueError("the model answers with logits that are not finite: its training diverged.")
    return outputs


def trace(exportable, inputs, dynamic=True):
    """The model as a graph (`torch.export.ExportedProgram`), from example inputs; `dynamic` for any number of samples.
    A `ValueError` where it cannot be traced, or only for one number of samples."""
    batch = torch.export.Dim("batch")
    shapes = {name: {0: batch} for name in inputs} if dynamic else None
    try:
        with quiet(), torch.no_grad():
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
def quiet():
    """No warnings and no log lines: what is skipped, the check afterwards judges. Nor stack traces of what is traced,
    which take a sixth of the time, where torch can do without them."""
    before, traceless = logging.root.manager.disable, getattr(torch.fx.config, "do_not_emit_stack_traces", False)
    logging.disable(logging.CRITICAL)
    torch.fx.config.do_not_emit_stack_traces = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = traceless
        logging.disable(before)


def first_line(error):
    """The first line (`str`) of what an error says, or its kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
