"""Look into trained models: the figures of the paper for models of yours, their numbers, and a page of it all."""

import datetime
import sys
from dataclasses import dataclass, field
from pathlib import Path

from modeling_lfm.scripts.common import compare, runs
from modeling_lfm.scripts.common import settings as arguments
from modeling_lfm.scripts.common.console import hide_progress_bars, run, say

HELP = """
Draw what trained models do: figures as PNG and SVG, their numbers as JSON, and report.html, one page with all of it.

usage: python scripts/analyze.py --checkpoint DIR [--setting value ...]
       python scripts/analyze.py --checkpoints [NAME=]DIR [NAME=]DIR ... [--setting value ...]
       python -m modeling_lfm.scripts.analyze --checkpoint DIR [--setting value ...]

The data set and its options are those of the (last) checkpoint's training, unless given. The models are compared side
by side: runs, or the checkpoints of one run (its folders checkpoint-N); they share modalities, classes and processor.

figures:
  modality_gap    distance between the modalities' features, and a projection, before training and after it
  alpha           alpha over training, the losses, the hypergradient; from the log of each run
  maps            where a tower looks: Grad-CAM on convolutions (needs captum), attention rollout on transformers
  contributions   Shapley values of the modalities, for samples and for classes
  agreement       how often the modalities and the fused prediction are the same
  calibration     reliability diagrams and the expected calibration error
  label_fitting   what softer labels do, from the results of reproduce.py --table figure_1 (--label_fitting FILE)

examples:
  python scripts/analyze.py --checkpoint outputs/demo
  python scripts/analyze.py --checkpoints outputs/quickstart/concat LFM=outputs/quickstart/learned --output outputs/look
  python scripts/analyze.py --checkpoints outputs/demo/checkpoint-15 outputs/demo/checkpoint-240 --figures maps
  python scripts/analyze.py --checkpoint outputs/av_mnist --data_dir data/av_mnist --projection umap --samples 3 14 15

settings:
{settings}
"""
FIGURES = ("modality_gap", "alpha", "maps", "contributions", "agreement", "calibration", "label_fitting")


@dataclass
class AnalyzeArguments:
    """What is drawn of what."""

    checkpoint: str | None = field(
        default=None, metadata={"help": "Folder of the model that train.py wrote, or a model on the Hub."}
    )
    checkpoints: list[str] = field(
        default_factory=list, metadata={"help": "Several of them, or [NAME=]DIR, to be compared side by side."}
    )
    benchmark: str | None = field(default=None, metadata={"help": "Name of the data set; that of the training."})
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of the data set's files, or one that prepare_data.py wrote."}
    )
    split: str = field(default="test", metadata={"help": "train, validation or test."})
    benchmark_options: dict = field(
        default_factory=dict, metadata={"help": "Options of the data set; the others stay as in training."}
    )
    columns: dict = field(
        default_factory=dict,
        metadata={"help": "Mapping from a modality to its column in the data set, where the names differ."},
    )
    figures: list[str] = field(
        default_factory=list, metadata={"help": "Only these; if not given, all that the models allow."}
    )
    output: str = field(default="outputs/analysis", metadata={"help": "Folder that everything is written into."})
    projection: str = field(default="pca", metadata={"help": "Of the features: pca, or umap (needs umap-learn)."})
    before: bool = field(
        default=True, metadata={"help": "Show the gap before training too, of a model made again from the seed."}
    )
    seed: int | None = field(
        default=None, metadata={"help": "Of the training; what the run remembers if not given. For `before`."}
    )
    pretrained: dict = field(
        default_factory=dict,
        metadata={
            "help": "Mapping from a modality to what its tower started from, a name on the Hub or a folder; what the "
            "run remembers if not given. For `before`."
        },
    )
    runs: list[str] = field(
        default_factory=list, metadata={"help": "Further runs, [NAME=]DIR, in the figure of alpha."}
    )
    label_fitting: str | None = field(
        default=None, metadata={"help": "What reproduce.py --table figure_1 wrote, a file of JSON lines."}
    )
    samples: list[int] = field(
        default_factory=list,
        metadata={
            "help": f"Numbers of the samples in maps, from 0; {compare.NUM_SHOWN} of different classes if not given."
        },
    )
    layers: dict = field(
        default_factory=dict,
        metadata={
            "help": "Mapping from a modality to the layer of its tower that Grad-CAM looks at, such as audio: layer3; "
            "the last convolutional stage if not given."
        },
    )
    max_samples: int | None = field(default=1000, metadata={"help": "Look at so many samples at most."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Samples in a batch."})
    num_proc: int | None = field(default=None, metadata={"help": "Processes that prepare the data."})
    use_cpu: bool = field(default=False, metadata={"help": "Use no accelerator even where there is one."})


def check_arguments(args):
    """Raise a `ValueError` for settings that are wrong whatever the models are."""
    unknown = sorted(set(args.figures) - set(FIGURES))
    if unknown:
        raise ValueError(f"figures {', '.join(unknown)}: unknown; choose of {', '.join(FIGURES)}.")
    if args.split not in ("train", "validation", "test"):
        raise ValueError(f"split={args.split!r} is unknown; choose train, validation or test.")
    if not all(isinstance(number, int) and number >= 0 for number in args.samples):
        raise ValueError(f"samples {args.samples} should be whole numbers from 0 on.")
    if args.checkpoint is None and not args.checkpoints:
        raise ValueError("the setting 'checkpoint' is missing: the folder of the model that train.py wrote.")

    from modeling_lfm.trainer.analysis.modality_gap import check_projection

    check_projection(args.projection)


def plan_figures(args, models, logs):
    """What can be drawn, found out before anything is computed.

    Args:
        args ([`AnalyzeArguments`]), models (`dict`): by name. logs (`dict`): see `compare.find_logs`.

    Returns:
        names of figures (`list[str]`), and a `dict` from those that are left out to a reason.

    Raises:
        ValueError: a figure that `args` names cannot be drawn.
    """
    from modeling_lfm.trainer.analysis.alpha_curves import measure_alpha
    from modeling_lfm.trainer.analysis.maps import plan_maps

    model = next(iter(models.values()))

    def need_modalities():
        if len(model.config.modality_names) < 2:
            raise ValueError("the model has one modality, and this compares several.")

    def need_alpha():
        if not logs:
            raise ValueError("no trainer_state.json beside the models; name runs that have one by --runs.")
        measure_alpha(logs)

    def need_map():
        kinds, reasons = plan_maps(model, args.layers)
        for name, other in models.items():
            if plan_maps(other, args.layers)[0] != kinds:
                raise ValueError(f"the towers of {name} are of another kind than those of {next(iter(models))}.")
        if not kinds:
            raise ValueError("; ".join(f"{name}: {reason}" for name, reason in reasons.items()) + ".")

    def need_results():
        if args.label_fitting is None:
            raise ValueError("give --label_fitting FILE, which reproduce.py --table figure_1 writes.")
        compare.read_label_fitting(args.label_fitting)

    checks = {"modality_gap": need_modalities, "contributions": need_modalities, "agreement": need_modalities}
    checks |= {"alpha": need_alpha, "maps": need_map, "label_fitting": need_results}
    told = {"label_fitting": args.label_fitting, "maps": args.layers, "alpha": args.runs}
    left_out = {}
    for name in args.figures or FIGURES:
        try:
            checks.get(name, lambda: None)()
        except (ValueError, OSError) as error:
            if name in args.figures or told.get(name):
                raise type(error)(f"{name}: {error}") from error
            left_out[name] = str(error)
    return [name for name in args.figures or FIGURES if name not in left_out], left_out


def analyze(args):
    """Draw the figures and write the page.

    Args:
        args ([`AnalyzeArguments`])

    Returns:
        `list[Section]`, and the `Path` of the page.
    """
    check_arguments(args)
    folders = compare.name_checkpoints([*args.checkpoints, *([args.checkpoint] if args.checkpoint else [])])
    args.checkpoint = list(folders.values())[-1]
    models, processor = compare.load_models(folders)
    args = runs.complete(args)
    logs = compare.find_logs(folders, args.runs)
    figures, left_out = plan_figures(args, models, logs)
    initial = None
    if args.before and "modality_gap" in figures:
        initial, reason = compare.make_initial(args, models, folders)
        left_out |= {} if initial else {f"modality_gap, {compare.BEFORE}": reason}
    dataset = None
    if set(figures) - {"alpha", "label_fitting"}:
        raw = runs.load_data(args, processor, args.split)
        runs.check_labels(next(iter(models.values())).config, raw, f"{args.benchmark} ({args.split})")
        dataset = runs.prepare(raw, args, processor, args.max_samples)
    seen = compare.Seen(args, models, processor, dataset, initial, logs)
    sections = []
    for name in figures:
        try:
            sections.append(seen.explain(name))
        except ValueError as error:  # what only shows in running the models, such as a modality that no sample has
            if name in args.figures:
                raise
            left_out[name] = str(error)
            continue
        files = [path.name for path in sections[-1].save(args.output)]
        say("\n" + "\n  ".join([f"{sections[-1].title}  ({', '.join(files)})", *sections[-1].text]))
    if not sections:
        raise ValueError("nothing can be drawn: " + "; ".join(f"{name}: {why}" for name, why in left_out.items()))
    for name, reason in left_out.items():
        say(f"\nleft out: {name}: {reason}")
    return sections, write_page(args, sections, left_out, folders, dataset)


def write_page(args, sections, left_out, folders, dataset):
    """Write report.html into the output folder; returns its `Path`."""
    from modeling_lfm.trainer.analysis import write_report

    facts = {"models": ", ".join(folders)}
    if dataset is not None:
        facts |= {"data set": f"{args.benchmark}, {args.split}", "samples": f"{len(dataset):,}"}
    facts["date"] = datetime.date.today().isoformat()
    title = f"What the model does: {args.benchmark}"
    return write_report(sections, Path(args.output) / "report.html", title, facts, left_out)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        arguments.show_help(HELP.format(settings=arguments.describe(AnalyzeArguments)))
    (args,) = arguments.build(arguments.read_settings(argv), AnalyzeArguments)
    if not sys.stderr.isatty():
        hide_progress_bars()
    _, page = analyze(args)
    say(f"\npage     {page}")


if __name__ == "__main__":
    run(main)
