"""Exporting a model to one file, by `torch.export` or to ONNX, and checking what was written against the model."""

import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from modeling_lfm import __version__
from modeling_lfm.scripts.common.console import require
from modeling_lfm.scripts.exporting import graph
from modeling_lfm.trainer.checkpoints import naming_full_disk

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-4
"""The largest difference from the model's logits that an exported file may show."""
TRACED_SIZE = 3  # samples of the batch that is traced where the exported one takes any number
CHECKED_SIZES = (1, 2, 5)  # and of the batches on which it is then checked


@dataclass
class Exported:
    """What was written: a `file` (`Path`) of `size` bytes (with those of a `.data` beside it) and what it tells of
    itself, `metadata` (`dict`); the largest `difference` (`float`) from the model's logits on random inputs."""

    file: Path
    size: int
    metadata: dict
    difference: float


def describe_model(model, processor, inputs, batch_size):
    """What an exported file tells of itself (`dict`, ready for JSON): of `inputs` (an example) and outputs the `dtype`
    and the `shape`, with the word `batch` where `batch_size` is None and any number of samples goes."""
    config, size = model.config, "batch" if batch_size is None else batch_size
    names = list(config.modality_names)

    def describe(shape, dtype):
        return {"shape": [size, *shape], "dtype": str(dtype).removeprefix("torch.")}

    return {
        "producer": f"modeling_lfm {__version__}",
        "modalities": names,
        "problem_type": config.problem_type,
        "calibration": config.calibration,
        "id2label": {str(number): label for number, label in config.id2label.items()},
        "processor": processor.modalities,
        "inputs": {key: describe(value.shape[1:], value.dtype) for key, value in inputs.items()},
        "outputs": {key: describe([config.num_labels], torch.float32) for key in graph.name_outputs(names)},
    }


def export_model(model, processor, output, *, format=None, batch_size=None, present=False, changes=None):
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
        changes (`dict[str, dict]`, *optional*): settings of the processor to change, see [`fix_shapes`].

    Returns:
        [`Exported`]

    Raises:
        ValueError: wrong arguments; a model that cannot be traced, or has an operator that ONNX lacks; a file that
            differs from the model by more than 1e-4. ImportError: packages for ONNX are missing. OSError: no room.
    """
    file, is_folder = choose_output(output, format)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be positive.")
    if present and len(model.config.modality_names) == 1:
        raise ValueError("present: the model has one modality, which cannot be absent.")
    draft = make_room(file, sum(tensor.numel() * 4 for tensor in model.state_dict().values()))
    processor = graph.fix_shapes(processor, model.config.modality_names, changes)
    generator, to_onnx = np.random.default_rng(0), file.suffix == SUFFIXES["onnx"]
    traced, *batches = (
        graph.draw_inputs(processor, batch_size or size, generator, present) for size in (TRACED_SIZE, *CHECKED_SIZES)
    )
    reference = graph.Exportable(graph.evaluated(model), list(traced))
    expected = [graph.ask(reference, batch) for batch in batches]
    exportable = graph.Exportable(graph.evaluated(model, plain=to_onnx), list(traced))
    program = graph.trace(exportable, traced, dynamic=batch_size is None)
    metadata = describe_model(model, processor, traced, batch_size)
    try:
        with naming_full_disk(file.parent):
            draft.parent.mkdir(parents=True)
            (write_onnx if to_onnx else write_torch)(program, draft, metadata)
        difference = check_outputs(open_exported(draft), batches, expected)
        parts = sorted(draft.parent.iterdir())
        size = sum(part.stat().st_size for part in parts)
        for part in parts:
            os.replace(part, file.parent / part.name)
    finally:
        shutil.rmtree(draft.parent, ignore_errors=True)
    if is_folder:
        processor.save_pretrained(file.parent)
    return Exported(file, size, metadata, difference)


def make_room(file, size):
    """Where `file` (`Path`) is written before it is checked: in a hidden folder, without what a killed export left.

    Raises:
        OSError: there is no room for `size` (`int`) bytes.
    """
    draft = file.parent / f".{file.name}.part" / file.name
    shutil.rmtree(draft.parent, ignore_errors=True)
    free = shutil.disk_usage(next(path for path in file.resolve().parents if path.exists())).free
    if free < size:
        raise OSError(f"{file.parent} has {free / 1e6:.0f} MB free, and the model needs {size / 1e6:.0f} MB.")
    return draft


def choose_output(output, format=None):
    """The file to write (`Path`), and whether its folder is the output; an `ImportError` where ONNX's packages lack."""
    if format not in (None, *SUFFIXES):
        raise ValueError(f"format={format!r} is unknown; choose onnx or torch.")
    path, suffix = Path(output), SUFFIXES.get(format)
    is_folder = path.is_dir() or path.suffix not in SUFFIXES.values()
    file = path / f"model{suffix or SUFFIXES['onnx']}" if is_folder else path
    if file.suffix != (suffix or file.suffix):
        raise ValueError(f"{output} does not fit format {format}, whose files end in {suffix}.")
    if path.is_file() and is_folder:
        raise ValueError(f"{output} is a file; name one that ends in .onnx or .pt2, or a folder.")
    if (path / "config.json").is_file():
        raise ValueError(f"{output} holds a model, whose processor would be replaced; give another folder, or a file.")
    if file.suffix == SUFFIXES["onnx"]:
        require("export", "onnx", "onnxruntime", "onnxscript")
    return file, is_folder


def write_torch(program, file, metadata):
    """Write a traced model (`torch.export.ExportedProgram`) as it is, with `metadata` (`dict`) as its extra file."""
    buffer = io.BytesIO()  # writing to a full disk, torch would end the process
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(metadata)})
    file.write_bytes(buffer.getbuffer())


def write_onnx(program, file, metadata):
    """Write a traced model as ONNX; each entry of `metadata` becomes one of the file's `metadata_props`, as JSON.

    Raises:
        ValueError: an operator has no translation.
    """
    shapes = {name: {0: "batch"} if entry["shape"][0] == "batch" else {} for name, entry in metadata["inputs"].items()}
    settings = {"output_names": list(metadata["outputs"]), "dynamic_shapes": shapes}
    try:
        with graph.quiet():
            written = torch.onnx.export(program, dynamo=True, verbose=False, **settings)
    except Exception as error:  # torch wraps what went wrong in errors that it keeps to itself
        root = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise ValueError(f"ONNX cannot hold this model ({graph.first_line(root)}); try --format torch.") from error
    for node in written.model.graph:
        node.metadata_props.clear()  # what the graph was traced from: much text, and names of files on this machine
    written.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    written.save(file)


def open_exported(file):
    """An exported model as a function from inputs to outputs, both `dict[str, torch.Tensor]`; a `ValueError` where
    onnxruntime refuses the file. Open a `.pt2` from people you trust only."""
    if file.suffix == SUFFIXES["torch"]:
        module = torch.export.load(file).module()
        return lambda inputs: module(**inputs)
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        raise ValueError(f"onnxruntime cannot run the exported model: {graph.first_line(error)}") from error

    def run(inputs):
        found = session.run(None, {key: value.numpy() for key, value in inputs.items()})
        outputs = zip(session.get_outputs(), found, strict=True)
        return {output.name: torch.from_numpy(values) for output, values in outputs}

    return run


def check_outputs(run, batches, expected):
    """The largest difference (`float`) of what `run` answers to the batches from what is expected.

    Raises:
        ValueError: it is above the tolerance, or names, shapes or places of NaN differ.
    """
    largest = 0.0
    for batch, wanted in zip(batches, expected, strict=True):
        found = run(batch)
        try:
            torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE, equal_nan=True)
        except AssertionError as error:
            told = " ".join(str(error).split())
            raise ValueError(
                f"the exported model answers otherwise than the model ({told}); nothing was written. Try the other "
                "format."
            ) from error
        largest = max(largest, *((found[key] - wanted[key]).nan_to_num().abs().max().item() for key in wanted))
    return largest
