"""Look into trained models: figures as PNG, their numbers as JSON, and report.html, one page of it all.

usage: python scripts/analyze.py --checkpoint DIR [--setting value ...]
       python scripts/analyze.py --checkpoints [NAME=]DIR [NAME=]DIR ... [--setting value ...]

The data set and its options are those of the (last) checkpoint's training, unless given. The models are compared side
by side: runs, or the checkpoints of one run (its folders checkpoint-N), of the same modalities, classes and processor.

figures:
  alpha           alpha over training, the losses, the hypergradient; from the log of each run
  label_fitting   what softer labels do, from the results of reproduce.py --table figure_1 (--label_fitting DIR)
  modality_gap    distance between the modalities' features, and their PCA, before training and after it
  maps            where a tower looks: Grad-CAM on convolutions (needs captum), attention rollout on transformers
  contributions   Shapley values of the modalities, for samples and for classes
  agreement       how often the modalities and the fused prediction are the same
  calibration     reliability diagrams and the expected calibration error

examples:
  python scripts/analyze.py --checkpoint outputs/demo
  python scripts/analyze.py --checkpoints outputs/quickstart/concat LFM=outputs/quickstart/learned --output outputs/look
  python scripts/analyze.py --checkpoint outputs/av_mnist --data_dir DIR --figures maps contributions
"""

import sys
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common.console import hide_progress_bars, run, say
from modeling_lfm.scripts.common.settings import read_arguments
from modeling_lfm.scripts.experiments import report
from modeling_lfm.scripts.experiments import run as sweep


@dataclass
class AnalyzeArguments(runs.SplitArguments):
    """What is drawn of what."""

    checkpoint: str | None = field(default=None, metadata={"help": "Folder of a model, or its name on the Hub."})
    checkpoints: list[str] = field(default_factory=list, metadata={"help": "Several, or [NAME=]DIR, side by side."})
    figures: list[str] = field(default_factory=list, metadata={"help": "Only these; all that the models allow."})
    output: str = field(default="outputs/analysis", metadata={"help": "Folder that everything is written into."})
    runs: list[str] = field(default_factory=list, metadata={"help": "Further runs, [NAME=]DIR, for alpha."})
    label_fitting: str | None = field(default=None, metadata={"help": "Results of reproduce.py --table figure_1."})
    max_samples: int | None = field(default=1000, metadata={"help": "Look at so many samples at most."})

    def __post_init__(self):
        super().__post_init__()
        if self.checkpoint is None and not self.checkpoints:
            raise ValueError("the setting 'checkpoint' is missing: the folder of the model that train.py wrote.")


def make_initial(models, folders):
    """The model from which the training of all `models` (by name, of `folders`) started.

    Raises:
        ValueError: they started from different weights, or a run does not tell from which.
    """
    from modeling_lfm.trainer.analysis import initial_model

    starts = []
    for name, folder in folders.items():
        record, config = runs.recall(folder).get("run", {}), models[name].config
        seed, towers = record.get("training", {}).get("seed"), record.get("pretrained", {})
        starts.append((seed, towers, config.modalities, config.hidden_size))
    if seed is None or any(start != starts[0] for start in starts):
        raise ValueError("the runs do not tell their seed, or did not start from the same weights.")
    return initial_model(config, seed, towers)


def read_results(folder):
    """The runs of reproduce.py --table figure_1, and the published figures beside; nothing without a folder."""
    if folder is None:
        return [], {}
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no results at {folder}; make them by reproduce.py --table figure_1.")
    records = list(sweep.read_records(Path(folder)).values())
    if not records:
        raise ValueError(f"label_fitting: {folder} holds no results of reproduce.py --table figure_1.")
    return records, report.read_published("figure_1", records[0]["setting"])


def analyze(args):
    """Draw the figures and write the page; returns its `Path`.

    Args:
        args ([`AnalyzeArguments`])
    """
    import torch

    from modeling_lfm.trainer.analysis import FIGURES, Look, write_report

    folders = runs.name_folders([*args.checkpoints, *([args.checkpoint] if args.checkpoint else [])])
    models, processor = runs.load_runs(folders)
    args.checkpoint = list(folders.values())[-1]
    args = runs.complete(args)
    look = Look(models, processor, lambda: runs.load_split(args, next(iter(models.values())).config, processor))
    look.logs = {**runs.find_logs(folders), **runs.name_folders(args.runs)}
    look.results = read_results(args.label_fitting)
    look.batch_size = args.per_device_eval_batch_size
    if torch.accelerator.is_available() and not args.use_cpu:
        look.device = torch.accelerator.current_accelerator()
    sections, left_out = [], {}
    figures = args.figures or FIGURES
    if "modality_gap" in figures:
        try:
            look.initial = make_initial(models, folders)
        except (ValueError, OSError) as error:
            left_out["modality_gap before training"] = str(error)
    asked = {*args.figures, *(["label_fitting"] if args.label_fitting else []), *(["alpha"] if args.runs else [])}
    for figure in figures:
        try:
            sections.append(look.explain(figure))
        except (ValueError, OSError) as error:
            if figure in asked:
                raise type(error)(f"{figure}: {error}") from error
            left_out[figure] = str(error)
    if not sections:
        raise ValueError(f"nothing can be drawn: {left_out}.")
    for section in sections:
        files = ", ".join(path.name for path in section.save(args.output))
        say("\n  ".join([f"\n{section.title}  ({files})", *section.text]))
    for name, reason in left_out.items():
        say(f"\nleft out: {name}: {reason}")
    facts = {"models": ", ".join(folders), "data set": f"{args.benchmark}, {args.split}", "date": date.today()}
    return write_report(sections, Path(args.output) / "report.html", "What the model does", facts, left_out)


def main(argv=None):
    args = read_arguments(argv, __doc__, AnalyzeArguments)
    if not sys.stderr.isatty():
        hide_progress_bars()
    say(f"\npage     {analyze(args)}")


if __name__ == "__main__":
    run(main)
