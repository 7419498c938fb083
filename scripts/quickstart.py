"""Train three models on the built-in data set `demo` and compare them on its test split.

usage: bash scripts/quickstart.sh [--setting value ...]
       python scripts/quickstart.py [--setting value ...]

The three are plain concatenation, LFM with the heuristic alpha (1 - exp(-1/t) in epoch t), and LFM with the learned
alpha. `demo` pairs handwritten digits (scikit-learn's) with synthetic voices; the voices of the test split are not
heard in training. Settings are those of train.py, such as --num_train_epochs 4 or --seed 1; those of the method, such
as --method.matching_loss infonce, are for LFM.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from modeling_lfm.scripts.common.console import hide_progress_bars, run, say
from modeling_lfm.scripts.common.settings import read_arguments
from modeling_lfm.scripts.common.training import fit, parse_arguments, set_up
from modeling_lfm.trainer.cards.record import to_json

RUNS = {
    "concat": {"method": "concat"},
    "heuristic": {"method": "lfm", "method.alpha": "heuristic"},
    "learned": {"method": "lfm", "method.alpha": "learned"},
}
TITLES = {"concat": "concat", "heuristic": "LFM, heuristic", "learned": "LFM, learned"}


@dataclass
class QuickstartArguments:
    """Settings of the quickstart; all others are those of its runs."""

    output_dir: str = HfArg(default="outputs/quickstart", help="Folder of the three runs and the plots.")


def train_all(overrides, output_dir):
    """Train every run: a `dict` from its name to its trainer and its metrics.

    Args:
        overrides (`dict`): settings of the command line, for all of them; the method's for those of LFM.
        output_dir (`Path`): each run gets a folder of its name in it; checkpoints of an earlier quickstart go.
    """
    done = {}
    for name, own in RUNS.items():
        folder = output_dir / name
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        say(f"\n{TITLES[name]}")
        forced = {**own, "do_predict": True, "output_dir": folder}
        given = {k: v for k, v in overrides.items() if own["method"] == "lfm" or not k.startswith("method.")}
        given |= {key: [str(value)] for key, value in forced.items()}
        words = [word for key, values in given.items() for word in (f"--{key}", *values)]
        _, data_args, _ = built = parse_arguments(["demo", *words])
        trainer, splits = set_up(*built)
        done[name] = trainer, fit(trainer, splits, data_args)
    return done


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
    overrides = {}
    output_dir = Path(read_arguments(argv, __doc__, QuickstartArguments, rest=overrides).output_dir)
    started = time.monotonic()

    import torch

    from modeling_lfm.trainer.plots import alpha_by_epoch, plot_accuracy, plot_alpha

    torch.set_num_threads(1)  # towers this small gain nothing from more, and lose much where cores are busy
    hide_progress_bars()
    done = train_all(overrides, output_dir)
    modalities = next(iter(done.values()))[0].model.config.modality_names
    histories = {TITLES[name]: trainer.state.log_history for name, (trainer, _) in done.items()}
    alphas = {title: alpha_by_epoch(history) for title, history in histories.items()}
    plot_alpha({title: histories[title] for title in histories if alphas[title]}, output_dir / "alpha.png")
    plot_accuracy(histories, output_dir / "accuracy.png")
    results = {name: metrics for name, (_, metrics) in done.items()}
    (output_dir / "results.json").write_text(to_json(results), encoding="utf-8")

    say("\n" + table(done, modalities))
    say("\nalpha, epoch by epoch")
    for title, values in alphas.items():
        if values:
            say(f"{title:<20}" + " ".join(f"{alpha:.2f}" for alpha in values.values()))
    say(f"\nmodels   {', '.join(str(output_dir / name) for name in done)}")
    say(f"plots    {output_dir / 'alpha.png'}, {output_dir / 'accuracy.png'}")
    say(f"numbers  {output_dir / 'results.json'}")
    say(f"time     {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    run(main)
