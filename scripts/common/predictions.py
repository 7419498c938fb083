"""Predictions of a trained model: of one sample that the command line names, and of every row of a table."""

import json
import re
from pathlib import Path

import numpy as np

from modeling_lfm.registry_lfm import suggest
from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common.fit import Predictor, join_vectors
from modeling_lfm.scripts.common.settings import parse_value

CLIPS = ("video", "flow")  # types of input of which a part can be given
NUMBERS = ("tabular", "vector", "sequence")  # types that JSON can give


def read_inputs(pairs, modalities, columns=None):
    """Raw inputs of one sample (`dict`).

    Args:
        pairs (`list[str]`): `MODALITY=VALUE`.
        modalities (`dict[str, dict]`): the processor's settings of each modality.
        columns (`dict[str, str]`, *optional*): from a modality to the column that it read in training, where the names
            differ. Those of the same column have the same input.

    Raises:
        ValueError: an unknown modality, or none. FileNotFoundError: a file is missing; the message names it.
    """
    inputs, columns = {}, columns or {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--input {pair!r} should be MODALITY=VALUE, such as {next(iter(modalities))}=...")
        if name not in modalities:
            raise ValueError(f"unknown modality {name!r}; {suggest(name, [*modalities, 'checkpoint', 'top_k'])}")
        inputs[name] = _read_input(name, value, modalities[name]["type"])
    by_column = {columns.get(name, name): value for name, value in inputs.items()}
    for name in modalities:
        if name not in inputs and columns.get(name) in by_column:
            inputs[name] = by_column[columns[name]]
    if not inputs:
        raise ValueError(f"no input; give one at least of {', '.join(modalities)}: --input MODALITY=...")
    return inputs


def _read_input(name, value, kind):
    """The raw input that `value` (`str`) gives of the modality `name`, whose type is `kind`."""
    from modeling_lfm.pipeline_lfm import is_url

    if kind == "text" and not value.startswith("@"):
        return value
    if value[:1] in "{[" and kind in NUMBERS:
        return parse_value(value)
    file = value.removeprefix("@") if kind == "text" else value
    part = None
    if kind in CLIPS and not Path(file).is_file():
        part = re.fullmatch(r"(.+):([0-9]{1,9}):([0-9]{1,9})", file)
        file = file if part is None else part[1]
    if not (kind != "text" and is_url(file)) and not Path(file).is_file():  # the pipeline fetches
        raise FileNotFoundError(f"no file at {file}, the input of modality {name!r}.")
    if part is not None:
        return {"bytes": None, "path": file, "first_frame": int(part[2]), "last_frame": int(part[3])}
    return Path(file).read_text(encoding="utf-8", errors="replace").strip() if kind == "text" else file


def to_report(answer):
    """What the pipeline answers (`dict`) as a report: its scores are probabilities."""
    ranked = [{"label": entry["label"], "probability": entry["score"]} for entry in answer["scores"]]
    return {key: answer[key] for key in ("label", "labels") if key in answer} | {"probabilities": ranked}


def predict_sample(args):
    """What is predicted of one sample (`dict`): `label`(`s`), `probabilities`, and `modalities` with the same."""
    model, processor = runs.load_together(args.checkpoint)
    inputs = read_inputs(args.input, processor.modalities, runs.recall(args.checkpoint[0])["columns"])

    from modeling_lfm import MultimodalClassificationPipeline

    settings = {"top_k": args.top_k, "threshold": args.threshold, "calibrated": args.calibrated}
    answer = MultimodalClassificationPipeline(model, processor)(inputs, **settings)
    alone = {name: to_report(part) for name, part in answer["modalities"].items()}
    return {**to_report(answer), "modalities": alone}


# -- predict.py --input_file -----------------------------------------------------------------------------------


def predict_file(args):
    """Answer every row of `args.input_file` into `args.output`, a line of JSON each, with a bar on a terminal.

    Rows that cannot be read have an `error`. With `args.resume` it goes on behind the rows that are there; vectors for
    `args.embeddings`, an npz file of [`join_vectors`][modeling_lfm.scripts.common.fit.join_vectors], are computed
    of all rows.

    Returns:
        `int` and `dict[int, str]`: how many rows were read, and why not of those that could not be.

    Raises:
        ValueError: the output exists, or is none of this function; a table that cannot be read.
    """
    from tqdm import tqdm

    output = Path(args.output)
    done = _whole_lines(output, args.resume)
    predictor = Predictor.load(*args.checkpoint)
    settings = {key: getattr(args, key) for key in ("top_k", "threshold", "calibrated", "batch_size")}
    rows, start, broken, vectors = predictor.rows(args.input_file), 0 if args.embeddings else done, {}, {}
    answers = predictor.pipeline(iter(rows[start:]), **settings, broken="skip", features=args.embeddings is not None)
    with output.open("a", encoding="utf-8") as file:
        for row, answer in enumerate(tqdm(answers, total=len(rows) - start, unit=" rows", disable=None), start):
            if "error" in answer:
                answer["error"] = broken[row] = re.sub(r"^sample \d+: ", "", answer["error"])  # counted from `start`
            elif args.embeddings:
                vectors[row] = answer.pop("features")
            if row >= done:
                file.write(json.dumps({"row": row, **answer}, ensure_ascii=False, allow_nan=False) + "\n")
                file.flush()
    if args.embeddings:
        with open(args.embeddings, "wb") as file:
            np.savez(file, **join_vectors(vectors, predictor.model.config))
    return len(rows) - start, broken


def _whole_lines(output, resume):
    """How many whole lines the output (`Path`) of an earlier call holds; half a line behind them is cut off."""
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        return 0
    if not resume:
        raise ValueError(f"{output} exists: go on behind its rows with --resume true, or choose another --output.")
    content = output.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    for number, line in enumerate(whole.splitlines()):
        if not line.startswith(b'{"row": %d, ' % number):
            raise ValueError(f"{output} is no output of predict.py (line {number + 1}); choose another --output.")
    if not whole and content and not b'{"row": 0, '.startswith(content[:11]):
        raise ValueError(f"{output} is no output of predict.py; choose another --output.")
    with output.open("r+b") as file:
        file.truncate(len(whole))
    return whole.count(b"\n")
