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
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

from transformers.hf_argparser import HfArg

from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common.console import hide_progress_bars, run, say
from modeling_lfm.scripts.common.settings import read_arguments
from modeling_lfm.scripts.experiments import report
from modeling_lfm.scripts.experiments import run as sweep


@dataclass
class AnalyzeArguments(runs.SplitArguments):
    """Settings of `analyze.py`: which models are looked at, which figures are drawn, and where to."""

    checkpoint: str | None = HfArg(default=None, help="Folder of a model, or its name on the Hub.")
    checkpoints: list[str] = HfArg(default_factory=list, help="Several, or [NAME=]DIR, side by side.")
    figures: list[str] = HfArg(default_factory=list, help="Only these; all that the models allow.")
    output: str = HfArg(default="outputs/analysis", help="Folder that everything is written into.")
    runs: list[str] = HfArg(default_factory=list, help="Further runs, [NAME=]DIR, for alpha.")
    label_fitting: str | None = HfArg(default=None, help="Results of reproduce.py --table figure_1.")
    max_samples: int | None = HfArg(default=1000, help="Look at so many samples at most.")

    def __post_init__(self):
        super().__post_init__()
        if not self.checkpoint and not self.checkpoints:
            raise ValueError("the setting 'checkpoint' is missing: the folder of the model that train.py wrote.")


def read_results(folder):
    """The runs of reproduce.py --table figure_1, and the published figures beside; nothing without a folder."""
    records = list(sweep.read_records(Path(folder)).values()) if folder else []
    return records, report.read_published("figure_1", records[0]["setting"]) if records else {}


def make_figures(args, folders, left_out):
    """By name of a figure (`dict`) a function that gives its `Section`; `left_out` (`dict`) is told what it lacks."""
    import torch

    from modeling_lfm.trainer import analysis
    from modeling_lfm.trainer.collator import LfmDataCollator

    models, processor = runs.load_runs(folders)
    args = runs.complete(args, list(folders.values())[-1])
    data = cache(lambda: runs.keep_whole(runs.load_split(args, next(iter(models.values())).config, processor)))
    device = None if args.use_cpu else torch.accelerator.current_accelerator(check_available=True)

    def look(model):
        collator, size = LfmDataCollator(processor), args.per_device_eval_batch_size
        found = analysis.observe(model, data(), collator, size, device)
        model.cpu()
        return found

    @cache
    def observed():
        return {name: look(model) for name, model in models.items()}

    def explain_gap():
        before = {}
        try:
            records = {name: runs.recall(folder).get("run", {}) for name, folder in folders.items()}
            before["before training"] = look(analysis.make_initial(models, records))
        except (ValueError, OSError) as error:
            left_out["modality_gap before training"] = str(error)
        return analysis.explain_gap({**before, **observed()})

    return {
        "alpha": lambda: analysis.explain_alpha({**runs.find_logs(folders), **runs.name_folders(args.runs)}),
        "label_fitting": lambda: analysis.explain_label_fitting(*read_results(args.label_fitting)),
        "modality_gap": explain_gap,
        "maps": lambda: analysis.explain_maps(models, data(), processor),
        "contributions": lambda: analysis.explain_contributions(observed()),
        "agreement": lambda: analysis.explain_agreement(observed()),
        "calibration": lambda: analysis.explain_calibration(observed()),
    }


def analyze(args):
    """Draw the figures of [`AnalyzeArguments`] and write the page; returns its `Path`."""
    from modeling_lfm.trainer.analysis import write_report

    folders = runs.name_folders([*args.checkpoints, *([args.checkpoint] if args.checkpoint else [])])
    sections, left_out = {}, {}
    figures = make_figures(args, folders, left_out)
    unknown = set(args.figures) - set(figures)
    if unknown:
        raise ValueError(f"figures {', '.join(unknown)}: unknown; choose of {', '.join(figures)}.")
    asked = {*args.figures, *(["label_fitting"] if args.label_fitting else []), *(["alpha"] if args.runs else [])}
    for name in args.figures or figures:
        try:
            sections[name] = figures[name]()
        except (ValueError, OSError) as error:
            if name in asked:
                raise type(error)(f"{name}: {error}") from error
            left_out[name] = str(error)
    if not sections:
        raise ValueError(f"nothing can be drawn: {left_out}.")
    facts = {"models": ", ".join(folders), "data set": f"{args.benchmark}, {args.split}", "date": date.today()}
    page = write_report(sections, args.output, "What the model does", facts, left_out)
    for name, section in sections.items():
        files = ", ".join([*(f"{figure}.png" for figure in section.figures), f"{name}.json"])
        say("\n  ".join([f"{section.title}  ({files})", *section.notes]))
    for name, reason in left_out.items():
        say(f"left out: {name}: {reason}")
    return page


def main(argv=None):
    args = read_arguments(argv, __doc__, AnalyzeArguments)
    if not sys.stderr.isatty():
        hide_progress_bars()
    say(f"\npage     {analyze(args)}")


if __name__ == "__main__":
    run(main)
