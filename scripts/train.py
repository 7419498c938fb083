"""Train a multimodal classifier on a benchmark, and choose it on the validation split.

usage: python scripts/train.py CONFIG [--setting value ...]
       accelerate launch scripts/train.py CONFIG [--setting value ...]
       python -m modeling_lfm.scripts.train CONFIG [--setting value ...]
       python scripts/train.py --list_methods

CONFIG is a YAML file with any of the settings below, or the name of one that comes along: {configs}.
The command line overrides it. Dots reach into mappings, and an unknown setting is an error.

examples:
  python scripts/train.py demo --output_dir outputs/demo
  python scripts/train.py scripts/configs/av_mnist.yaml --data_dir data/av_mnist --seed 1
  python scripts/train.py demo --method concat                            the baseline without LFM
  python scripts/train.py demo --method ogm --method.alpha 0.8            a rival, and one of its settings
  python scripts/train.py demo --method.alpha heuristic                   LFM, with the paper's schedule
  python scripts/train.py demo --benchmark_options.audio_snr_db 5 --modalities.audio.name resnet34
  python scripts/train.py demo --resume_from_checkpoint true              go on where a run was stopped
  python scripts/train.py crema_d --data_dir prepared/crema_d             what prepare_data.py wrote, nothing to decode
  python scripts/train.py mine.yaml --plugin my_parts.py                  with towers, methods, ... of your own

settings of the training (`--help_training` lists all: those of transformers.TrainingArguments and LFM's):
  --method            lfm (default), a rival or a baseline; `--list_methods` shows all and their settings
  --method.SETTING    a setting of the method, such as --method.alpha, of lfm: learned | lookahead | constant | linear |
                      stepwise | heuristic | polynomial
  --num_train_epochs, --learning_rate, --per_device_train_batch_size, --optim, --lr_scheduler_type, --seed
  --output_dir        where everything is written (default: outputs/BENCHMARK)
  --do_predict        evaluate the chosen model once on the test split
  --resume_from_checkpoint   true (the last one in output_dir that is whole) or a folder
  --report_to         tensorboard or trackio (both stay on this machine): alpha, losses, accuracy of each modality

written to output_dir: the model and its processor, all_results.json, train_results.json, eval_results.json,
test_results.json with --do_predict, trainer_state.json, lfm_run.json (settings, versions), and a model card,
README.md, with alpha.png, accuracy.png and gap.png.

settings of the model and the data:
"""

import sys
import textwrap
from dataclasses import MISSING, fields

from modeling_lfm.scripts.common import settings
from modeling_lfm.scripts.common.console import hide_progress_bars, is_main_process, note_missing_processes, run, say
from modeling_lfm.scripts.common.training import MEASURES, find_checkpoint, fit, parse_arguments, set_up


def train(model_args, data_args, training_args):
    """Train, choose on the validation split, save; the test split is touched once, if `do_predict`.

    Returns:
        `LfmTrainer` with the chosen model, and the metrics of all splits (`dict[str, float]`).
    """
    from modeling_lfm.trainer.checkpoints import only_run

    with only_run(training_args.output_dir, is_main_process()):
        checkpoint = find_checkpoint(training_args)
        if training_args.disable_tqdm or not is_main_process() or not sys.stderr.isatty():
            hide_progress_bars()
        trainer, splits = set_up(model_args, data_args, training_args)
        config, sizes = trainer.model.config, (f"{len(dataset)} {split}" for split, dataset in splits.items())
        how, parameters = f"method {trainer.method.spec.name}", f", {trainer.model.num_parameters():,} parameters"
        if training_args.linear_probe:  # its head is made later
            how, parameters = "a linear probe", ""
        say(
            f"{data_args.benchmark}: {', '.join(sizes)} samples, {config.num_labels} classes; {how}, "
            f"{', '.join(config.modality_names)} with fusion {config.fusion}{parameters}"
        )
        return trainer, fit(trainer, splits, data_args, checkpoint)


def summarise(metrics, modalities, prefix):
    """Lines with accuracy, mean average precision and macro F1, fused, of each modality and without it, and the gap."""
    rows = {"fused": "", **{name: f"{name}_" for name in modalities}}
    if len(modalities) > 1:
        rows |= {f"without {name}": f"without_{name}_" for name in modalities}
    width = max(12, *(len(row) + 2 for row in rows))
    lines = [f"{prefix:<{width}}{'accuracy':>10}{'mAP':>10}{'macro F1':>10}"]
    for row, start in rows.items():
        values = [metrics.get(f"{prefix}_{start}{key}") for key in MEASURES]
        cells = ("-".rjust(10) if value is None else f"{100 * value:>9.1f}%" for value in values)
        samples = metrics.get(f"{prefix}_{start}samples")
        lines.append(f"{row:<{width}}{''.join(cells)}" + ("" if samples is None else f"  of {samples:,} samples"))
    lines.append(f"{'gap':<{width}}{100 * metrics[f'{prefix}_gap']:>9.1f}%")
    return "\n".join(lines)


def format_methods():
    """What every method says of itself, and its settings with their defaults (`str`)."""
    from modeling_lfm.trainer.methods import METHODS, list_methods

    blocks = []
    for spec in list_methods():
        number = f"{spec.min_modalities}+" if spec.max_modalities is None else f"up to {spec.max_modalities}"
        fusions = " or ".join(spec.fusions or ["any"])
        note = f" ({spec.note})" if spec.note else ""
        lines = [f"{spec.label}, {spec.venue}; fusion: {fusions}; modalities: {number}", f"{spec.formula}{note}"]
        lines.append(f"extra passes a step: {spec.extra_passes}")
        lines.append(f"samples that lack a modality: {spec.holes or f'refused, {spec.no_holes}'}")
        lines.append("settings: " + ("  ".join(map(_default, fields(METHODS[spec.name].Settings))) or "none"))
        wrap = textwrap.TextWrapper(100, initial_indent=" " * 14, subsequent_indent=" " * 16, break_on_hyphens=False)
        text = "\n".join(wrap.fill(line) for line in lines)
        blocks.append(f"{spec.name:<14}{text.lstrip()}")
    return "\n\n".join(blocks) + "\n\nsettings are given as --method.SETTING VALUE"


def _default(setting):
    factory = setting.default_factory
    return f"{setting.name}={setting.default if factory is MISSING else factory()}"


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    text = __doc__.replace("{configs}", ", ".join(settings.list_configs()))
    settings.show_help(argv, text, settings.ModelArguments, settings.DataArguments)
    if "--help_training" in argv:
        from modeling_lfm.trainer import LfmTrainingArguments

        settings.show_help(["--help"], "", LfmTrainingArguments)
    if "--list_methods" in argv:
        settings.parse_command_line(argv)  # plugins bring theirs
        return print(format_methods())
    note_missing_processes()
    trainer, metrics = train(*parse_arguments(argv))
    for prefix in ("eval", "test"):
        if f"{prefix}_accuracy" in metrics:
            say("\n" + summarise(metrics, trainer.model.config.modality_names, prefix))
    say(f"\nmodel, metrics and plots: {trainer.args.output_dir}")


if __name__ == "__main__":
    run(main)
