"""Predict the labels of one sample from its files, with the probabilities of the fused model and of each modality."""

import difflib
import sys
from dataclasses import dataclass, field
from pathlib import Path

from modeling_lfm.scripts import arguments, runs
from modeling_lfm.scripts.console import run, write_json

HELP = """
Predict one sample with a trained model, and print JSON.

usage: python scripts/predict.py --checkpoint DIR --input MODALITY=VALUE [MODALITY=VALUE ...] [--setting value ...]
       python -m modeling_lfm.scripts.predict --checkpoint DIR --input MODALITY=VALUE ...

VALUE is a file for audio and images. For text it is the text itself, or @FILE for the text in a file.

examples:
  python scripts/predict.py --checkpoint outputs/av_mnist --input audio=7.wav image=7.png
  python scripts/predict.py --checkpoint outputs/mvsa_single --input image=a.jpg text="what a day" --top_k 1

settings:
{settings}

The JSON holds the label (multi-label: the labels) of the fused prediction and every label's probability, the largest
first, and under 'modalities' the same from each modality alone.
"""


@dataclass
class PredictArguments:
    """What is predicted by what."""

    checkpoint: str = field(metadata={"help": "Folder of the model that train.py wrote, or a model on the Hub."})
    input: list[str] = field(metadata={"help": "One MODALITY=VALUE for each modality of the model."})
    output: str | None = field(default=None, metadata={"help": "The JSON file to write, beside printing it."})
    top_k: int | None = field(default=None, metadata={"help": "Print so many probabilities at most."})


def read_inputs(pairs, modalities):
    """Raw inputs of one sample.

    Args:
        pairs (`list[str]`): `MODALITY=VALUE`.
        modalities (`dict[str, dict]`): the processor's settings of each modality.

    Returns:
        `dict[str, str]`: text, or the path of a file that exists, for each modality.

    Raises:
        ValueError: an unknown or missing modality. FileNotFoundError: a file is missing; the message names it.
    """
    inputs = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--input {pair!r} should be MODALITY=VALUE, such as {next(iter(modalities))}=...")
        if name not in modalities:
            near = difflib.get_close_matches(name, modalities, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the model reads {', '.join(modalities)}."
            raise ValueError(f"unknown modality {name!r}; {hint}")
        is_text = modalities[name]["type"] == "text"
        file = Path(value.removeprefix("@")) if value.startswith("@") or not is_text else None
        if file is not None and not file.is_file():
            raise FileNotFoundError(f"no file at {file}, the input of modality {name!r}.")
        inputs[name] = file.read_text(encoding="utf-8").strip() if is_text and file else value
    missing = [name for name in modalities if name not in inputs]
    if missing:
        raise ValueError(f"the model also reads {', '.join(missing)}; add --input {missing[0]}=...")
    return inputs


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
    inputs = read_inputs(args.input, processor.modalities)

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
    (args,) = arguments.build(arguments.read_settings(argv), PredictArguments)
    write_json(predict(args), args.output)


if __name__ == "__main__":
    run(main)
