"""Predict one sample with a trained model and print JSON, or every row of a table.

usage: python scripts/predict.py --checkpoint DIR --input MODALITY=VALUE [MODALITY=VALUE ...] [--setting value ...]
       python scripts/predict.py --checkpoint DIR --MODALITY VALUE [--MODALITY VALUE ...] [--setting value ...]
       python scripts/predict.py --checkpoint DIR --input_file TABLE --output FILE [--setting value ...]

VALUE is a file for audio (a video with sound, too), images, video and optical flow; of the latter two, FILE:FIRST:LAST
is a part: numbers of frames from 0, both inclusive. FILE may be an address (https://...). For text, VALUE is the text
itself, or @FILE for the text in a file; of rows, vectors and series also JSON: table='{"age": 3}'. Modalities that are
left out are absent, and the prediction is made of the others; but one that was computed from another one's input in
training, such as flow, is computed from it again.

examples:
  python scripts/predict.py --checkpoint outputs/av_mnist --input audio=7.wav image=7.png
  python scripts/predict.py --checkpoint outputs/mvsa_single --input image=a.jpg text="what a day" --top_k 1
  python scripts/predict.py --checkpoint outputs/crema_d --audio 1001_DFA_ANG_XX.flv --video 1001_DFA_ANG_XX.flv
  python scripts/predict.py --checkpoint outputs/table --input_file new.csv --output answers.jsonl
  python scripts/predict.py --checkpoint outputs/nvgesture --rgb sk_color.avi:146:226 --depth sk_depth.avi:146:226

The JSON holds the label (multi-label: the labels) of the fused prediction and every label's probability, the largest
first, and under 'modalities' the same from each modality that was given, alone. Of a table (csv, tsv, jsonl, Parquet;
columns as in training, labels are not needed) every row is a line of JSON, {"row": 0, "label": ...}, or
{"row": 0, "error": ...} where it cannot be read.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from modeling_lfm.registry_lfm import suggest
from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common.console import check_writable, run, say, write_json
from modeling_lfm.scripts.common.settings import check_positive, parse_value, read_arguments

CLIPS = ("video", "flow")  # types of input of which a part can be given
NUMBERS = ("tabular", "vector", "sequence")  # types that JSON can give


@dataclass
class PredictArguments:
    """Settings of `predict.py`: the model, the inputs that it reads, and where answers are written."""

    checkpoint: str = HfArg(help="Folder of the model that train.py wrote, or a model on the Hub.")
    input: list[str] = HfArg(
        default_factory=list, help="One MODALITY=VALUE for each modality that is there; or --MODALITY VALUE."
    )
    input_file: str | None = HfArg(default=None, help="A table whose rows are predicted.")
    output: str | None = HfArg(default=None, help="The file to write: JSON, of a table a line of JSON for each row.")
    resume: bool = HfArg(default=False, help="Go on with a table behind the rows that the output holds.")
    batch_size: int = HfArg(default=64, help="Rows of a table that are computed at a time.")
    threshold: float = HfArg(default=0.5, help="Probability from which on a label counts, of multi-label models.")
    top_k: int | None = HfArg(default=None, help="Tell so many probabilities at most.")


def parse_arguments(argv):
    """[`PredictArguments`] of a command line; what they lack, `--rgb a.avi`, is an input, `--input rgb=a.avi`."""
    args = read_arguments(argv, __doc__, PredictArguments, rest=(rest := {}))
    for name, values in rest.items():
        if len(values) != 1:
            raise ValueError(f"--{name} should have one value, the input of the modality {name!r}; quote a text.")
        args.input.append(f"{name}={values[0]}")
    check_positive(args, "top_k", "batch_size")
    if args.input_file is not None and (args.input or args.output is None):
        raise ValueError("--input_file takes the place of --input, and needs --output, the file to write.")
    return args


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


def predict(args):
    """What is predicted of one sample (`dict`): `label`(`s`), `probabilities`, and `modalities` with the same."""
    model, processor = runs.load_run(args.checkpoint)
    inputs = read_inputs(args.input, processor.modalities, runs.recall(args.checkpoint)["columns"])

    from modeling_lfm import MultimodalClassificationPipeline

    answer = MultimodalClassificationPipeline(model, processor)(inputs, top_k=args.top_k, threshold=args.threshold)
    alone = {name: to_report(part) for name, part in answer["modalities"].items()}
    return {**to_report(answer), "modalities": alone}


def main(argv=None):
    args = parse_arguments(argv)
    check_writable("output", args.output)
    if args.input_file is None:
        return write_json(predict(args), args.output)

    from modeling_lfm.scripts.common.own_data import predict_file

    counts = predict_file(args)
    say(f"{counts['rows']} rows, {counts['broken']} of them could not be read: {args.output}")


if __name__ == "__main__":
    run(main)
