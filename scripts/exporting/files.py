"""Exporting a model to one file, by `torch.export` or to ONNX, and checking what was written against the model.

It stands here because nothing else needs it: what travels to the Hub stays small, and training does not export.
"""

import json
import math
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from modeling_lfm import __version__
from modeling_lfm.scripts.exporting.graph import (
    Exportable,
    ask,
    evaluated,
    first_line,
    plain_attention,
    trace,
    without_warnings,
)
from modeling_lfm.scripts.exporting.inputs import draw_inputs, fix_shapes

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-4
"""The largest difference from the model's logits that an exported file may show."""
MIN_OPSET = 18  # what torch writes of itself; older ones are conversions that it gives up in silence
TRACED_SIZE = 3  # samples of the batch that is traced where the exported one takes any number
CHECKED_SIZES = (1, 2, 5)  # and of the batches on which it is then checked


@dataclass
class Exported:
    """What was written.

    Attributes:
        file (`Path`): the exported model.
        size (`int`): bytes, with those of a `.data` beside it.
        metadata (`dict`): what the file tells of itself, see [`describe_model`].
        opset (`int` or None): of ONNX.
        difference (`float`): the largest from the model's logits, on random inputs.
        batches (`list[int]`): numbers of samples of those.
    """

    file: Path
    size: int
    metadata: dict
    opset: int | None
    difference: float
    batches: list


def describe_model(model, processor, inputs, batch_size):
    """What an exported file tells of itself, as JSON-able objects.

    Args:
        model ([`LfmForMultimodalClassification`]), processor ([`LfmProcessor`])
        inputs (`dict[str, torch.Tensor]`): an example.
        batch_size (`int` or None): None where any number of samples goes.

    Returns:
        `dict`: `producer`; `modalities` (`list[str]`); `problem_type`; `id2label` (as in config.json, from the number
        as a string); `processor`, its settings of each modality; `inputs` and `outputs`, `shape` (with the word
        `batch` where it is open) and `dtype` of each.
    """
    size = "batch" if batch_size is None else batch_size
    names = list(model.config.modality_names)
    logits = {"shape": [size, model.config.num_labels], "dtype": "float32"}
    return {
        "producer": f"modeling_lfm {__version__}",
        "modalities": names,
        "problem_type": model.config.problem_type,
        "id2label": {str(number): label for number, label in model.config.id2label.items()},
        "processor": processor.modalities,
        "inputs": {
            key: {"shape": [size, *value.shape[1:]], "dtype": str(value.dtype).removeprefix("torch.")}
            for key, value in inputs.items()
        },
        "outputs": {key: dict(logits) for key in ("logits", *(f"{name}_logits" for name in names))},
    }


def export_model(
    model, processor, output, *, format=None, batch_size=None, present=False, opset=None, changes=None, seed=0
):
    """Write a model to one file, and check that file against the model.

    All shapes but the number of samples are those that the processor gives, with texts padded to `max_length`. The
    inputs are those of the model, the outputs `logits` and `{modality}_logits`, float32 (B, K). Nothing stands at its
    place before the check is passed.

    Args:
        model ([`LfmForMultimodalClassification`]): exported in evaluation mode, float32, from the CPU; unchanged.
        processor ([`LfmProcessor`]): of the model.
        output (`str`): the file (`.onnx` or `.pt2`), or a folder for `model.onnx` or `model.pt2` and the processor
            that gives such tensors. ONNX weights above 2 GB go to a second file, `.data`, beside it.
        format (`str`, *optional*): `onnx` or `torch`; that of the file's name, or `onnx`.
        batch_size (`int`, *optional*): the number of samples; any if not given.
        present (`bool`): further inputs `{modality}_present`, bool (B,), tell which samples have a modality; without
            them every sample has all.
        opset (`int`, *optional*): version of ONNX's operators, from 18; torch's default if not given.
        changes (`dict[str, dict]`, *optional*): settings of the processor to change, see [`fix_shapes`].
        seed (`int`): of the random inputs.

    Returns:
        [`Exported`]

    Raises:
        ValueError: wrong arguments; a model that cannot be traced, or has an operator that ONNX lacks; a file that
            differs from the model by more than 1e-4. ImportError: packages for ONNX are missing.
    """
    file, folder = choose_output(output, format)
    format = "onnx" if file.suffix == SUFFIXES["onnx"] else "torch"
    _check_settings(model, format, batch_size, present, opset)
    processor = fix_shapes(processor, model.config.modality_names, changes)
    generator = np.random.default_rng(seed)
    sizes = CHECKED_SIZES if batch_size is None else (batch_size, batch_size)
    with evaluated(model) as model:
        inputs = draw_inputs(processor, batch_size or TRACED_SIZE, generator, present)
        batches = [draw_inputs(processor, size, generator, present) for size in sizes]
        exportable = Exportable(model, list(inputs))
        expected = [ask(exportable, batch) for batch in batches]
        metadata = describe_model(model, processor, inputs, batch_size)
        with plain_attention(model) if format == "onnx" else nullcontext():
            program = trace(exportable, inputs, dynamic=batch_size is None)
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as scratch:
            draft = Path(scratch) / file.name
            if format == "onnx":
                opset = write_onnx(program, draft, metadata, opset)
            else:
                torch.export.save(program, draft, extra_files={"metadata.json": json.dumps(metadata)})
            run = open_exported(draft)
            difference = max(compare(run(batch), wanted) for batch, wanted in zip(batches, expected, strict=True))
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"the exported model's logits differ from the model's by {difference:.1e}, more than {TOLERANCE}; "
                    "nothing was written. Try the other format, or another opset."
                )
            del run
            parts = sorted(Path(scratch).iterdir())
            size = sum(part.stat().st_size for part in parts)
            for part in parts:
                shutil.move(part, file.parent / part.name)
    if folder:
        processor.save_pretrained(file.parent)
    return Exported(file, size, metadata, opset, difference, list(sizes))


def choose_output(output, format):
    """The file to write, and whether its folder is the output."""
    if format is not None and format not in SUFFIXES:
        raise ValueError(f"format={format!r} is unknown; choose onnx or torch.")
    path = Path(output)
    suffix = SUFFIXES.get(format)
    if path.suffix in SUFFIXES.values() and not path.is_dir():
        if suffix not in (None, path.suffix):
            raise ValueError(f"{output} does not fit format {format}, whose files end in {suffix}.")
        return path, False
    if path.is_file():
        raise ValueError(f"{output} is a file; name one that ends in .onnx or .pt2, or a folder.")
    if (path / "config.json").is_file():
        raise ValueError(
            f"{output} holds a model, whose processor would be replaced; give another folder, or a file in it, such as "
            f"{path / ('model' + (suffix or '.onnx'))}."
        )
    return path / f"model{suffix or SUFFIXES['onnx']}", True


def _check_settings(model, format, batch_size, present, opset):
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be positive.")
    if present and len(model.config.modality_names) == 1:
        raise ValueError("present: the model has one modality, which cannot be absent.")
    if opset is not None and format != "onnx":
        raise ValueError("opset is a setting of format onnx.")
    if format == "onnx":
        require_onnx()
        from onnx.defs import onnx_opset_version

        if opset is not None and not MIN_OPSET <= opset <= onnx_opset_version():
            raise ValueError(f"opset={opset} must lie between {MIN_OPSET} and {onnx_opset_version()}, the newest here.")


def require_onnx():
    """Raise an `ImportError` that says what to install, where the packages for ONNX are missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'ONNX needs more packages ({error}): pip install "modeling-lfm[export]", or take --format torch.'
        ) from error


def write_onnx(program, file, metadata, opset=None):
    """Write a traced model as ONNX.

    Args:
        program (`torch.export.ExportedProgram`): its inputs and outputs keep the names in `metadata`.
        file (`Path`)
        metadata (`dict`): each entry becomes one of the file's `metadata_props`, as JSON.
        opset (`int`, *optional*)

    Returns:
        `int`: the opset.

    Raises:
        ValueError: an operator has no translation, or the opset cannot be had.
    """
    dynamic = {name: {0: "batch"} if entry["shape"][0] == "batch" else {} for name, entry in metadata["inputs"].items()}
    try:
        with without_warnings("torch.onnx", "onnxscript", "onnx_ir"):
            written = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                output_names=list(metadata["outputs"]),
                dynamic_shapes=dynamic,
                opset_version=opset,
            )
    except Exception as error:  # torch wraps what went wrong in errors that it keeps to itself
        raise ValueError(
            f"ONNX cannot hold this model ({first_line(_root(error))}); another opset may, or --format torch."
        ) from error
    graph = written.model
    if opset not in (None, graph.opset_imports[""]):
        raise ValueError(f"opset={opset} cannot be had: torch wrote opset {graph.opset_imports['']}.")
    for node in graph.graph:
        node.metadata_props.clear()  # what the graph was traced from: much text, and names of files on this machine
    graph.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    written.save(file)
    return graph.opset_imports[""]


def open_exported(file):
    """An exported model as a function.

    Args:
        file (`Path` or `str`): `.onnx` or `.pt2`. Open the latter from people you trust only.

    Returns:
        a function from inputs (`dict[str, torch.Tensor]`) to outputs, likewise.

    Raises:
        ValueError: onnxruntime refuses the file.
    """
    if Path(file).suffix == SUFFIXES["torch"]:
        module = torch.export.load(file).module()
        return lambda inputs: module(**inputs)
    require_onnx()
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        raise ValueError(f"onnxruntime cannot run the exported model: {first_line(error)}") from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs):
        found = session.run(None, {key: value.numpy() for key, value in inputs.items()})
        return {name: torch.from_numpy(values) for name, values in zip(names, found, strict=True)}

    return run


def compare(found, expected):
    """The largest difference (`float`) of outputs of the same names; infinite where names, shapes or NaNs differ."""
    if list(found) != list(expected):
        return math.inf
    largest = 0.0
    for name, wanted in expected.items():
        value = found[name]
        if value.shape != wanted.shape or not torch.equal(value.isnan(), wanted.isnan()):
            return math.inf
        largest = max(largest, (value - wanted).nan_to_num().abs().max().item())
    return largest


def _root(error):
    while error.__cause__ is not None:
        error = error.__cause__
    return error
