"""Export a trained model to one file that runs without this package, and check it against the model.

usage: python scripts/export.py --checkpoint DIR --output FILE_OR_DIR [--setting value ...]
       python -m modeling_lfm.scripts.export --checkpoint DIR --output FILE_OR_DIR [--setting value ...]

A FILE ends in .onnx or .pt2 (torch.export). A folder gets model.onnx, or model.pt2 with --format torch, and the
processor that gives the tensors it reads. ONNX needs: pip install "modeling-lfm[export]"

examples:
  python scripts/export.py --checkpoint outputs/demo --output outputs/demo_onnx
  python scripts/export.py --checkpoint outputs/demo --output outputs/demo_onnx --present
  python scripts/export.py --checkpoint outputs/mvsa_single --output sentiment.onnx --processor.text.max_length 64
  python scripts/export.py --checkpoint outputs/crema_d --output crema_d.pt2 --batch_size 1

Inputs are named as the model's, outputs are logits and MODALITY_logits (batch, classes), before softmax (multi-label:
sigmoid). The number of samples is free unless --batch_size fixes it; every other shape is that of the processor, and
texts are padded to max_length. The file also holds, as JSON, id2label, problem_type, modalities, the processor's
settings, and the shapes and types of its inputs and outputs (ONNX: metadata; .pt2: the extra file metadata.json).

After writing, random inputs go through the file (onnxruntime, or torch.export.load) and through the model. If any logit
differs by more than 1e-4, nothing is written and the program fails.

Without --present every sample needs every modality. With it, further inputs MODALITY_present, bool (batch,), tell which
samples have it: logits follow from those that are there, MODALITY_logits of the others are NaN, and what stands in
their tensors does not matter. A sample without any gets NaN.

How the file is run, and what is absent filled in, is shown in scripts/README.md.
"""

from dataclasses import dataclass

from transformers.hf_argparser import HfArg

from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common.console import hide_progress_bars, run, say
from modeling_lfm.scripts.common.settings import read_arguments


@dataclass
class ExportArguments:
    """Settings of `export.py`: the model, the file to write, and its format."""

    checkpoint: str = HfArg(help="Folder of the model that train.py wrote, or a model on the Hub.")
    output: str = HfArg(help="The file to write, or a folder for it and its processor.")
    format: str | None = HfArg(default=None, help="onnx, or torch (torch.export); that of the file's name, or onnx.")
    batch_size: int | None = HfArg(default=None, help="The number of samples; any if not given.")
    present: bool = HfArg(default=False, help="Further inputs tell which samples have a modality.")
    processor: dict = HfArg(
        default_factory=dict, help="Settings of the processor to change, such as processor.text.max_length: 64."
    )


def describe(exported):
    """What was written, in lines for a reader (`str`)."""
    lines = []
    for title in ("inputs", "outputs"):
        for name, entry in exported.metadata[title].items():
            lines.append(f"{title[:-1]:8}{name} ({', '.join(map(str, entry['shape']))}) {entry['dtype']}")
    lines.append(f"largest difference from the model's logits, on random inputs: {exported.difference:.1e}")
    return "\n".join([*lines, f"model: {exported.file} ({exported.size / 1e6:.1f} MB)"])


def export(args):
    """Export a model as [`ExportArguments`] tell; [`Exported`], see `exporting/files.py`."""
    from modeling_lfm.scripts.exporting import files

    files.choose_output(args.output, args.format)  # before a model is read
    settings = {"format": args.format, "batch_size": args.batch_size, "present": args.present}
    return files.export_model(*runs.load_run(args.checkpoint), args.output, changes=args.processor, **settings)


def main(argv=None):
    args = read_arguments(argv, __doc__, ExportArguments)
    hide_progress_bars()
    say(describe(export(args)))


if __name__ == "__main__":
    run(main)
