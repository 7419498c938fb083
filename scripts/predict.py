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
  python scripts/predict.py --checkpoint outputs/table --input_file new.csv --output y.jsonl --embeddings vectors.npz
  python scripts/predict.py --checkpoint outputs/nvgesture --rgb sk_color.avi:146:226 --depth sk_depth.avi:146:226

The JSON holds the label (multi-label: the labels) of the fused prediction and every label's probability, the largest
first, and under 'modalities' the same from each modality that was given, alone. Of a table (csv, tsv, jsonl, Parquet;
columns as in training, labels are not needed) every row is a line of JSON, {"row": 0, "label": ...}, or
{"row": 0, "error": ...} where it cannot be read. The embeddings are `rows`, numbers of rows that could be read, and for
each modality and `fused` a vector a row.
"""

from dataclasses import dataclass

from transformers.hf_argparser import HfArg

from modeling_lfm.scripts.common import predictions
from modeling_lfm.scripts.common.console import check_writable, run, say, write_json
from modeling_lfm.scripts.common.settings import check_positive, read_arguments

SHOWN = 10  # rows that cannot be read are named so many times; the output has them all


@dataclass
class PredictArguments:
    """Settings of `predict.py`: the model, the inputs that it reads, and where answers are written."""

    checkpoint: list[str] = HfArg(
        kw_only=True,
        help="Folder of the model that train.py wrote, or a model on the Hub; several answer by the mean of their "
        "probabilities.",
    )
    input: list[str] = HfArg(
        default_factory=list, help="One MODALITY=VALUE for each modality that is there; or --MODALITY VALUE."
    )
    input_file: str | None = HfArg(default=None, help="A table whose rows are predicted.")
    output: str | None = HfArg(default=None, help="The file to write: JSON, of a table a line of JSON for each row.")
    embeddings: str | None = HfArg(default=None, help="An npz file for the vectors of a table's rows.")
    resume: bool = HfArg(default=False, help="Go on with a table behind the rows that the output holds.")
    batch_size: int = HfArg(default=64, help="Rows of a table that are computed at a time.")
    calibrated: bool = HfArg(default=True, help="Probabilities by the temperatures of the model, if it has any.")
    threshold: float | None = HfArg(
        default=None,
        help="Probability from which on a label counts, of multi-label models; if not given, the thresholds of the "
        "model, or 0.5.",
    )
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
    if args.embeddings is not None and args.input_file is None:
        raise ValueError("--embeddings are those of a table: give --input_file.")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    check_writable("output", args.output)
    check_writable("embeddings", args.embeddings)
    if args.input_file is None:
        return write_json(predictions.predict_sample(args), args.output)
    number, broken = predictions.predict_file(args)
    for row, error in list(broken.items())[:SHOWN]:
        say(f"row {row}: {error}")
    say(f"{number} rows, {len(broken)} of them could not be read: {args.output}")


if __name__ == "__main__":
    run(main)
