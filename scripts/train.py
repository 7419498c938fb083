"""Train a model on a benchmark, choose it on the validation split, and save everything that the run produced."""

import sys
from dataclasses import replace
from pathlib import Path

from modeling_lfm.scripts.common import listing, runs
from modeling_lfm.scripts.common import settings as arguments
from modeling_lfm.scripts.common.console import hide_progress_bars, is_main_process, note_missing_processes, run, say
from modeling_lfm.scripts.common.settings import DataArguments, ModelArguments

HELP = """
Train a multimodal classifier.

usage: python scripts/train.py CONFIG [--setting value ...]
       accelerate launch scripts/train.py CONFIG [--setting value ...]
       python -m modeling_lfm.scripts.train CONFIG [--setting value ...]
       python scripts/train.py --list_methods

CONFIG is a YAML file with any of the settings below, or the name of one that comes along:
{configs}. The command line overrides it. Dots reach into mappings, and an unknown setting is an error.

examples:
  python scripts/train.py demo --output_dir outputs/demo
  python scripts/train.py scripts/configs/av_mnist.yaml --data_dir data/av_mnist --seed 1
  python scripts/train.py demo --method concat                            the baseline without LFM
  python scripts/train.py demo --method ogm --method.alpha 0.8            a rival, and one of its settings
  python scripts/train.py demo --method.alpha heuristic                   LFM, with the paper's schedule
  python scripts/train.py demo --benchmark_options.audio_snr_db 5 --modalities.audio.name resnet34
  python scripts/train.py demo --resume_from_checkpoint true              go on where a run was stopped
  python scripts/train.py crema_d --data_dir prepared/crema_d             what prepare_data.py wrote, nothing to decode

model:
{model}

data:
{data}

training (the most used; `--help_training` lists all, which are those of transformers.TrainingArguments and LFM's):
  --method            lfm (default), a rival or a baseline; `--list_methods` shows all and their settings
  --method.SETTING    a setting of the method, such as --method.alpha, of lfm: learned | lookahead | constant | linear |
                      stepwise | heuristic | polynomial
  --holdout           part of the training set that a method such as lfm watches; 0 takes the validation split
  --num_train_epochs, --learning_rate, --per_device_train_batch_size, --optim, --lr_scheduler_type, --seed
  --output_dir        where everything is written (default: outputs/BENCHMARK)
  --do_predict        evaluate the chosen model once on the test split
  --resume_from_checkpoint   true (the last one in output_dir) or a folder
  --report_to         tensorboard or trackio (both stay on this machine): alpha, losses, accuracy of each modality

written to output_dir: the model and its processor, all_results.json, train_results.json, eval_results.json,
test_results.json with --do_predict, trainer_state.json, lfm_run.json (settings, versions), and a model card,
README.md, with alpha.png, accuracy.png and gap.png.
"""


def parse_arguments(argv):
    """Settings of a run from a command line.

    Args:
        argv (`list[str]`): the words after the program's name.

    Returns:
        [`ModelArguments`], [`DataArguments`], `LfmTrainingArguments`

    Raises:
        ValueError, FileNotFoundError: an unknown setting, a wrong value, a missing file.
    """
    words, overrides = arguments.parse_command_line(argv)
    if len(words) != 1:
        raise ValueError(f"one CONFIG is expected, got {' '.join(words) or 'none'}; --help tells more.")
    settings = arguments.read_config(words[0])
    arguments.apply_overrides(settings, overrides)
    benchmark = settings.get("benchmark", "run")
    settings.setdefault("output_dir", f"outputs/{benchmark}")
    settings.setdefault("project", str(benchmark))  # under which trackio shows runs together

    from modeling_lfm.trainer import LfmTrainingArguments

    return arguments.build(settings, ModelArguments, DataArguments, LfmTrainingArguments)


def find_checkpoint(training_args):
    """The checkpoint from which to resume (`str`), or None for a new run.

    Raises:
        FileNotFoundError: there is nothing to resume from. ValueError: a new run would mix with an earlier one.
    """
    from transformers.trainer_utils import get_last_checkpoint

    folder, wanted = training_args.output_dir, training_args.resume_from_checkpoint
    last = get_last_checkpoint(folder) if Path(folder).is_dir() else None
    if wanted is None or str(wanted).lower() == "false":
        if last is not None:
            raise ValueError(
                f"{folder} holds checkpoints of an earlier run: go on with --resume_from_checkpoint true, or choose "
                "another --output_dir."
            )
        return None
    if str(wanted).lower() == "true":
        if last is None:
            raise FileNotFoundError(f"no checkpoint to resume from in {folder}.")
        return last
    if not Path(wanted).is_dir():
        raise FileNotFoundError(f"no checkpoint to resume from at {wanted}.")
    return wanted


def make_config(model_args, training_args):
    """The `LfmConfig` that the method wants, with what `model_args` gives in its place.

    Raises:
        ValueError: the method cannot train such a model.
    """
    from modeling_lfm import LfmConfig
    from modeling_lfm.trainer.methods import make_method

    method = make_method(training_args.method)
    settings = method.config_settings(model_args.modalities)
    if model_args.fusion not in (None, settings["fusion"]):
        settings |= {"fusion": model_args.fusion, "fusion_args": {}}
    settings["fusion_args"] = {**settings["fusion_args"], **model_args.fusion_args}
    config = LfmConfig(**settings, hidden_size=model_args.hidden_size, modality_dropout=model_args.modality_dropout)
    method.check(config)
    return config


def make_processor(modalities, model_args, data_args):
    """The `LfmProcessor` of `modalities`, those of the model in their order, with the tokenizer of the text tower."""
    from transformers import AutoTokenizer

    from modeling_lfm import LfmProcessor

    missing = [name for name in modalities if name not in data_args.processor]
    if missing:
        raise ValueError(f"processor has no entry for the modalities {', '.join(missing)}.")
    settings = {name: data_args.processor[name] for name in modalities}
    texts = [name for name, entry in settings.items() if entry.get("type") == "text"]
    tokenizer = None
    if texts:
        source = model_args.tokenizer or model_args.modalities[texts[0]].get("name")
        if source is None:
            raise ValueError(f"the text modality {texts[0]!r} needs a tokenizer: set 'tokenizer'.")
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
        except OSError as error:
            raise FileNotFoundError(
                f"no tokenizer at {source}: it is neither a folder nor a model that can be fetched from the Hub; set "
                f"'tokenizer', or 'name' of the tower of {texts[0]!r}."
            ) from error
    return LfmProcessor(modalities=settings, tokenizer=tokenizer)


def give_frontends(config, processor):
    """Let the towers (of `LfmConfig`, changed in place) compute the spectrograms that the processor leaves to them."""
    for name, frontend in processor.frontends().items():
        spec = config.modalities[name]
        if spec["tower"] != "timm":
            raise ValueError(f"processor.{name}: in_model needs a timm tower, and {name} has {spec['tower']!r}.")
        spec["frontend"] = frontend


def set_up(model_args, data_args, training_args):
    """Everything before the first step: data, model and trainer.

    Args:
        model_args ([`ModelArguments`]), data_args ([`DataArguments`]), training_args (`LfmTrainingArguments`)

    Returns:
        `LfmTrainer`, and the prepared splits (`dict` of `datasets.Dataset`; `test` only with `do_predict`).
    """
    from transformers import set_seed

    from modeling_lfm import LfmForMultimodalClassification
    from modeling_lfm.data import AugmentedDataset, LfmDataCollator
    from modeling_lfm.trainer import LfmTrainer
    from modeling_lfm.trainer.methods import make_method

    config = make_config(model_args, training_args)
    processor = make_processor(config.modality_names, model_args, data_args)
    give_frontends(config, processor)
    unused = set(model_args.modalities) - set(config.modality_names)
    columns = {name: column for name, column in data_args.columns.items() if name not in unused}
    data_args = replace(data_args, columns=columns)
    with training_args.main_process_first(desc="reading the data"):
        raw = runs.load_data(data_args, processor)
        check_splits(raw, data_args.benchmark, training_args)
    names = runs.read_class_names(raw["train"])
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    make_method(training_args.method).check(config)
    set_seed(training_args.seed)
    model = LfmForMultimodalClassification.from_towers(config)  # what is wrong with it is told before data is prepared
    with training_args.main_process_first(desc="preparing the data"):
        splits = prepare_splits(raw, processor, data_args, training_args.do_predict)
    train_dataset = splits["train"]
    if processor.varies:
        train_dataset = AugmentedDataset(train_dataset, processor, training_args.seed)
    trainer = LfmTrainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=splits.get("validation"),
        processing_class=processor,
        data_collator=LfmDataCollator(processor),
    )
    return trainer, splits


def check_splits(raw, benchmark, training_args):
    """Raise a `ValueError` when a split that this run needs is not there."""
    hints = {"validation": "; set eval_strategy: no and load_best_model_at_end: false"}
    needed = {"train": True, "validation": training_args.eval_strategy != "no", "test": training_args.do_predict}
    for split, is_needed in needed.items():
        if is_needed and split not in raw:
            raise ValueError(f"{benchmark} has no {split} split with these options{hints.get(split, '')}.")


def prepare_splits(raw, processor, data_args, with_test):
    """The splits (`dict`) as the model's tensors, each cut to the limit of `data_args`."""
    limits = {"train": data_args.max_train_samples, "validation": data_args.max_eval_samples}
    if with_test:
        limits["test"] = data_args.max_test_samples
    return {
        split: runs.prepare(raw[split], data_args, processor, limit) for split, limit in limits.items() if split in raw
    }


def train(model_args, data_args, training_args):
    """Train, choose on the validation split, save; the test split is touched once, if `do_predict`.

    Args: as in [`set_up`].

    Returns:
        `LfmTrainer` with the chosen model, and the metrics of all splits (`dict[str, float]`).
    """
    checkpoint = find_checkpoint(training_args)
    if training_args.disable_tqdm or not is_main_process() or not sys.stderr.isatty():
        hide_progress_bars()
    trainer, splits = set_up(model_args, data_args, training_args)
    config = trainer.model.config
    say(
        f"{data_args.benchmark}: {', '.join(f'{len(dataset)} {split}' for split, dataset in splits.items())} samples, "
        f"{config.num_labels} classes; method {trainer.method.spec.name}, {', '.join(config.modality_names)} with "
        f"fusion {config.fusion}, {trainer.model.num_parameters():,} parameters"
    )
    return trainer, fit(trainer, splits, data_args, checkpoint)


def fit(trainer, splits, data_args, checkpoint=None):
    """Train what [`set_up`] made, and write the run into its `output_dir`; the metrics of all splits (`dict`)."""
    folder = trainer.args.output_dir
    if is_main_process():
        if checkpoint is None:
            runs.forget_results(folder)
        runs.remember(folder, data_args, trainer, splits)
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    hide_progress_bars()  # what follows is quick
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("train", metrics)
    for name, split in (("eval", "validation"), ("test", "test")):
        if split in splits:
            found = trainer.predict(splits[split], metric_key_prefix=name).metrics  # evaluate() would log it once more
            found |= trainer.measure_absence(splits[split], metric_key_prefix=name)
            trainer.save_metrics(name, found)
            metrics = metrics | found
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    else:
        trainer.create_model_card()
    return metrics


def summarise(metrics, modalities, prefix):
    """Lines with accuracy, mean average precision and macro F1, fused, of each modality and without it, and the gap."""
    rows = {"fused": "", **{name: f"{name}_" for name in modalities}}
    if len(modalities) > 1:
        rows |= {f"without {name}": f"without_{name}_" for name in modalities}
    width = max(12, *(len(row) + 2 for row in rows))
    lines = [f"{prefix:<{width}}{'accuracy':>10}{'mAP':>10}{'macro F1':>10}"]
    for row, start in rows.items():
        values = (metrics[f"{prefix}_{start}{key}"] for key in ("accuracy", "map", "f1"))
        lines.append(f"{row:<{width}}" + "".join(f"{100 * value:>9.1f}%" for value in values))
    lines.append(f"{'gap':<{width}}{100 * metrics[f'{prefix}_gap']:>9.1f}%")
    return "\n".join(lines)


def list_training_settings():
    """Print every setting of training."""
    from modeling_lfm.trainer import LfmTrainingArguments

    arguments.show_help(arguments.describe(LfmTrainingArguments))


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        configs = ", ".join(arguments.list_configs())
        model, data = arguments.describe(ModelArguments), arguments.describe(DataArguments)
        arguments.show_help(HELP.format(configs=configs, model=model, data=data))
    if "--help_training" in argv:
        list_training_settings()
    if "--list_methods" in argv:
        arguments.show_help(listing.format_methods())
    note_missing_processes()
    trainer, metrics = train(*parse_arguments(argv))
    for prefix in ("eval", "test"):
        if f"{prefix}_accuracy" in metrics:
            say("\n" + summarise(metrics, trainer.model.config.modality_names, prefix))
    say(f"\nmodel, metrics and plots: {trainer.args.output_dir}")


if __name__ == "__main__":
    run(main)
