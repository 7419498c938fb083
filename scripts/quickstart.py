"""The main job on the built-in data: trains plain fusion and LFM, and prints what LFM changes."""

import json
import shutil
import sys
import time
from pathlib import Path

from modeling_lfm.scripts import arguments
from modeling_lfm.scripts.console import hide_progress_bars, run, say
from modeling_lfm.scripts.train import fit, parse_arguments, set_up

HELP = """
Train three models on the built-in data set `demo` and compare them on its test split.

usage: bash scripts/quickstart.sh [--setting value ...]
       python scripts/quickstart.py [--setting value ...]

The three are plain concatenation (alpha = 0), LFM with the heuristic alpha (1 - exp(-1/t) in epoch t), and LFM with
the learned alpha. `demo` pairs handwritten digits (scikit-learn's) with synthetic voices; the voices of the test
split are not heard in training. Settings are those of train.py, such as --num_train_epochs 4, --seed 1 or
--output_dir outputs/quickstart.
"""

RUNS = {
    "concat": {"alpha": "constant", "alpha_value": 0.0},
    "heuristic": {"alpha": "heuristic"},
    "learned": {"alpha": "learned"},
}
TITLES = {"concat": "concat (alpha 0)", "heuristic": "LFM, heuristic", "learned": "LFM, learned"}


def train_all(overrides, output_dir):
    """Train every run.

    Args:
        overrides (`list[str]`): settings of the command line, for all of them.
        output_dir (`Path`): each run gets a folder of its name in it; checkpoints of an earlier quickstart go.

    Returns:
        `dict` from the run to its trainer and its metrics.
    """
    from modeling_lfm.trainer.callbacks import LfmPrinterCallback

    done = {}
    for name, settings in RUNS.items():
        folder = output_dir / name
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        say(f"\n{TITLES[name]}")
        forced = {**settings, "do_predict": True, "disable_tqdm": True, "output_dir": folder}
        words = [word for key, value in forced.items() for word in (f"--{key}", str(value))]
        _, data_args, _ = built = parse_arguments(["demo", *overrides, *words])
        trainer, splits = set_up(*built)
        trainer.pop_callback(LfmPrinterCallback)
        trainer.add_callback(make_epoch_printer())
        done[name] = trainer, fit(trainer, splits, data_args)
    return done


def make_epoch_printer():
    """A callback that prints alpha and the validation accuracies of each epoch in one short line."""
    from transformers import TrainerCallback

    from modeling_lfm.trainer.plots import accuracy_by_epoch, alpha_by_epoch

    class EpochPrinter(TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            alphas, accuracies = alpha_by_epoch(state.log_history), accuracy_by_epoch(state.log_history)
            now = "  ".join(f"{name} {100 * points[-1][1]:5.1f}" for name, points in accuracies.items())
            say(f"  epoch {round(state.epoch):2d}  alpha {alphas[max(alphas)]:.2f}  validation accuracy, %: {now}")

    return EpochPrinter()


def table(done, modalities):
    """The comparison as text: one line a run, in percent."""
    columns = ("fused", *modalities)
    width = 8 * len(columns)
    lines = [
        f"{'test split, %':<20}" + "".join(f"{title:^{width}} " for title in ("accuracy", "mAP", "macro F1")),
        f"{'':<20}" + (" ".join([f"{column:>7}" for column in columns]) + "  ") * 3 + f"{'gap':>5}",
    ]
    for name, (_, metrics) in done.items():
        line = f"{TITLES[name]:<20}"
        for key in ("accuracy", "map", "f1"):
            starts = ("test_", *(f"test_{modality}_" for modality in modalities))
            line += " ".join(f"{100 * metrics[start + key]:>7.1f}" for start in starts) + "  "
        lines.append(line + f"{100 * metrics['test_gap']:>5.1f}")
    return "\n".join(lines)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        arguments.show_help(HELP)
    started = time.monotonic()
    settings = arguments.read_settings(argv)
    output_dir = Path(settings.get("output_dir", "outputs/quickstart"))

    import torch

    from modeling_lfm.trainer.plots import alpha_by_epoch, plot_accuracy, plot_alpha

    torch.set_num_threads(1)  # towers this small gain nothing from more, and lose much where cores are busy
    hide_progress_bars()
    done = train_all(argv, output_dir)
    modalities = next(iter(done.values()))[0].model.config.modality_names
    histories = {TITLES[name]: trainer.state.log_history for name, (trainer, _) in done.items()}
    plot_alpha(histories, output_dir / "alpha.png")
    plot_accuracy(histories, output_dir / "accuracy.png")
    results = {name: metrics for name, (_, metrics) in done.items()}
    (output_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")

    say("\n" + table(done, modalities))
    say("\nalpha, epoch by epoch")
    for title, history in histories.items():
        say(f"{title:<20}" + " ".join(f"{alpha:.2f}" for alpha in alpha_by_epoch(history).values()))
    say(f"\nmodels   {', '.join(str(output_dir / name) for name in done)}")
    say(f"plots    {output_dir / 'alpha.png'}, {output_dir / 'accuracy.png'}")
    say(f"numbers  {output_dir / 'results.json'}")
    say(f"time     {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    run(main)
