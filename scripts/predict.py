"""Predict the labels of one sample from its files, with the probabilities of the fused model and of each modality."""

import difflib
import re
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

from modeling_lfm.scripts import arguments, runs
from modeling_lfm.scripts.console import run, write_json

HELP = """
Predict one sample with a trained model, and print JSON.

usage: python scripts/predict.py --checkpoint DIR --input MODALITY=VALUE [MODALITY=VALUE ...] [--setting value ...]
       python scripts/predict.py --checkpoint DIR --MODALITY VALUE [--MODALITY VALUE ...] [--setting value ...]
       python -m modeling_lfm.scripts.predict --checkpoint DIR --input MODALITY=VALUE ...

VALUE is a file for audio (a video with sound, too), images, video and optical flow; of the latter two, FILE:FIRST:LAST
is a part: numbers of frames from 0, both inclusive. For text it is the text itself, or @FILE for the text in a file.
A modality that was computed from another one's input in training, such as flow, need not be given.

examples:
  python scripts/predict.py --checkpoint outputs/av_mnist --input audio=7.wav image=7.png
  python scripts/predict.py --checkpoint outputs/mvsa_single --input image=a.jpg text="what a day" --top_k 1
  python scripts/predict.py --checkpoint outputs/crema_d --audio 1001_DFA_ANG_XX.flv --video 1001_DFA_ANG_XX.flv
  python scripts/predict.py --checkpoint outputs/nvgesture --rgb sk_color.avi:146:226 --depth sk_depth.avi:146:226

settings:
{settings}

The JSON holds the label (multi-label: the labels) of the fused prediction and every label's probability, the largest
first, and under 'modalities' the same from each modality alone.
"""

CLIPS = ("video", "flow")  # types of input of which a part can be given


@dataclass
class PredictArguments:
    """What is predicted by what."""

    checkpoint: str = field(metadata={"help": "Folder of the model that train.py wrote, or a model on the Hub."})
    input: list[str] = field(
        default_factory=list,
        metadata={"help": "One MODALITY=VALUE for each modality of the model; or --MODALITY VALUE."},
    )
    output: str | None = field(default=None, metadata={"help": "The JSON file to write, beside printing it."})
    top_k: int | None = field(default=None, metadata={"help": "Print so many probabilities at most."})


def take_inputs(settings):
    """Turn each setting that [`PredictArguments`] lacks, `--rgb a.avi`, into `--input rgb=a.avi`.

    Args:
        settings (`dict`): changed in place.
    """
    known = [f.name for f in fields(PredictArguments)]
    given = settings.pop("input", True)
    pairs = [] if given is True else given if isinstance(given, list) else [given]
    for name in [name for name in settings if name not in known]:
        value = settings.pop(name)
        if not isinstance(value, str):
            raise ValueError(f"--{name} should have one value, the input of the modality {name!r}; quote a text.")
        pairs = [*pairs, f"{name}={value}"]
    settings["input"] = pairs


def read_inputs(pairs, modalities, columns=None):
    """Raw inputs of one sample.

    Args:
        pairs (`list[str]`): `MODALITY=VALUE`.
        modalities (`dict[str, dict]`): the processor's settings of each modality.
        columns (`dict[str, str]`, *optional*): from a modality to the column that it read in training, where the names
            differ. Those of the same column have the same input.

    Returns:
        `dict`: text, the path of a file that exists, or a cut of a clip for each modality, see [`LfmProcessor`].

    Raises:
        ValueError: an unknown or missing modality. FileNotFoundError: a file is missing; the message names it.
    """
    inputs, columns = {}, columns or {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--input {pair!r} should be MODALITY=VALUE, such as {next(iter(modalities))}=...")
        if name not in modalities:
            near = difflib.get_close_matches(name, [*modalities, *(f.name for f in fields(PredictArguments))], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the model reads {', '.join(modalities)}."
            raise ValueError(f"unknown modality {name!r}; {hint}")
        inputs[name] = _read_input(name, value, modalities[name]["type"])
    by_column = {columns.get(name, name): value for name, value in inputs.items()}
    for name in modalities:
        if name not in inputs and columns.get(name) in by_column:
            inputs[name] = by_column[columns[name]]
    missing = [name for name in modalities if name not in inputs]
    if missing:
        raise ValueError(f"the model also reads {', '.join(missing)}; add --input {missing[0]}=...")
    return inputs


def _read_input(name, value, kind):
    """The raw input that `value` (`str`) gives of the modality `name`, whose type is `kind`."""
    if kind == "text" and not value.startswith("@"):
        return value
    file = Path(value.removeprefix("@") if kind == "text" else value)
    part = re.fullmatch(r"(.+):([0-9]{1,9}):([0-9]{1,9})", value) if kind in CLIPS and not file.is_file() else None
    if part is not None:
        file = Path(part[1])
    if not file.is_file():
        raise FileNotFoundError(f"no file at {file}, the input of modality {name!r}.")
    if part is not None:
        return {"bytes": None, "path": part[1], "first_frame": int(part[2]), "last_frame": int(part[3])}
    return file.read_text(encoding="utf-8", errors="replace").strip() if kind == "text" else value


def to_report(logits, config, top_k):
    """Label and sorted probabilities from logits (`torch.Tensor` `(K,)`), as JSON-able objects."""
    multi_label = config.problem_type == "multi_label_classification"
    probabilities = (logits.double().sigmoid() if multi_label else logits.double().softmax(-1)).tolist()
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    ranked = [{"label": config.id2label[i], "probability": probabilities[i]} for i in order]
    if multi_label:
        answer = {"labels": [entry["label"] for entry in ranked if entry["probability"] >= 0.5]}
    else:
        answer = {"label": ranked[0]["label"]}
    return {**answer, "probabilities": ranked[:top_k]}


def predict(args):
    """Predict one sample.

    Args:
        args ([`PredictArguments`])

    Returns:
        `dict`: `label` (multi-label: `labels`), `probabilities`, and `modalities` with the same of each.
    """
    if args.top_k is not None and args.top_k < 1:
        raise ValueError(f"top_k={args.top_k} must be positive.")
    model, processor = runs.load_run(args.checkpoint)
    inputs = read_inputs(args.input, processor.modalities, runs.recall(args.checkpoint)["columns"])

    import torch

    batch = processor(**{name: [value] for name, value in inputs.items()}, return_tensors="pt")
    with torch.no_grad():
        output = model(**batch)
    modalities = {
        name: to_report(logits[0], model.config, args.top_k)
        for name, logits in zip(model.config.modality_names, output.modality_logits, strict=True)
    }
    return {**to_report(output.logits[0], model.config, args.top_k), "modalities": modalities}


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        arguments.show_help(HELP.format(settings=arguments.describe(PredictArguments)))
    settings = arguments.read_settings(argv)
    take_inputs(settings)
    (args,) = arguments.build(settings, PredictArguments)
    write_json(predict(args), args.output)


if __name__ == "__main__":
    run(main)
