"""From settings to model, processor, data and trainer, and the training itself."""

import os
from dataclasses import replace
from pathlib import Path

from modeling_lfm.registry_lfm import suggest
from modeling_lfm.scripts.common import runs, settings
from modeling_lfm.scripts.common.console import hide_progress_bars, is_main_process, say

MEASURES = ("accuracy", "map", "f1")


def parse_arguments(argv):
    """The settings of a run, see [`read_run`], of the words after a program's name, `CONFIG --setting value ...`."""
    words, overrides = settings.parse_command_line(argv)
    if len(words) != 1:
        raise ValueError(f"one CONFIG is expected, got {' '.join(words) or 'none'}; --help tells more.")
    given = settings.read_config(words[0])
    settings.apply_overrides(given, overrides)
    benchmark = str(given.get("benchmark") or "run")
    # trackio shows the runs of a project together.
    return read_run({"output_dir": f"outputs/{benchmark}", "project": benchmark, **given}, show=True)


def read_run(given, show=False):
    """[`ModelArguments`], [`DataArguments`] and `LfmTrainingArguments` of the settings `given` (`dict`) of a run, with
    those of a table that its columns propose, which it can `show`."""
    from modeling_lfm.scripts.common.own_data import complete

    return fill_run(complete(given, show) if given.get("benchmark") == "table" else given)


def fill_run(given):
    """As [`read_run`], of settings that are complete."""
    from modeling_lfm.trainer import LfmTrainingArguments

    classes = settings.ModelArguments, settings.DataArguments, LfmTrainingArguments
    return settings.SettingsParser(classes).parse_dict(given)


def find_checkpoint(training_args):
    """The checkpoint from which to resume (`str`), or None for a new run, and for one stopped before its first.

    Raises:
        FileNotFoundError: there is nothing to resume from. ValueError: a new run would mix with an earlier one, or no
            checkpoint is whole.
    """
    from modeling_lfm.trainer.cards.record import RUN_RECORD
    from modeling_lfm.trainer.checkpoints import find_last_whole

    folder, wanted = Path(training_args.output_dir), training_args.resume_from_checkpoint
    if wanted is None or str(wanted).lower() == "false":
        return refuse_earlier_run(folder)
    if str(wanted).lower() != "true":
        if not os.path.isdir(wanted):
            raise FileNotFoundError(f"resume_from_checkpoint: there is no checkpoint at {wanted}.")
        return wanted
    last, passed = find_last_whole(folder, training_args.resume_changed)
    if last is None and passed:
        raise ValueError(f"no checkpoint in output_dir {folder} is whole. " + " ".join(passed))
    if last is None and not ((folder / RUN_RECORD).is_file() and not (folder / "config.json").is_file()):
        raise FileNotFoundError(f"no checkpoint to resume from in output_dir {folder}.")
    for reason in passed:
        say(f"passed over: {reason}")
    say(f"resuming from {last}" if last else f"the run in {folder} was stopped before its first checkpoint: it begins")
    return last


def refuse_earlier_run(folder):
    """Raise a `ValueError` if a folder (`Path`) holds checkpoints, which a new run would mix with its own."""
    from modeling_lfm.trainer.checkpoints import list_checkpoints

    if list_checkpoints(folder):
        raise ValueError(
            f"{folder} holds checkpoints of an earlier run: choose another output_dir, or go on with that run by "
            "train.py and --resume_from_checkpoint true."
        )


def make_config(model_args, training_args):
    """The `LfmConfig` that the method wants, with what `model_args` gives in its place; a `ValueError` where it cannot
    train such a model."""
    from modeling_lfm import LfmConfig
    from modeling_lfm.trainer.methods import make_method
    from modeling_lfm.trainer.probe import leave_vectors

    method = make_method(training_args.method)
    wanted = method.config_settings(model_args.modalities)
    if model_args.fusion not in (None, wanted["fusion"]):
        wanted |= {"fusion": model_args.fusion, "fusion_args": {}}
    wanted["fusion_args"] = {**wanted["fusion_args"], **model_args.fusion_args}
    config = LfmConfig(**wanted, hidden_size=model_args.hidden_size, modality_dropout=model_args.modality_dropout)
    method.check(config)
    if training_args.linear_probe:
        leave_vectors(config)
    return config


def make_processor(modalities, model_args, data_args):
    """The `LfmProcessor` of `modalities`, those of the model in their order, with what their towers want."""
    from modeling_lfm import LfmProcessor

    missing = [name for name in modalities if name not in data_args.processor]
    if missing:
        raise ValueError(f"processor has no entry for the modalities {', '.join(missing)}.")
    entries = {name: data_args.processor[name] for name in modalities}
    return LfmProcessor.from_towers(entries, model_args.modalities, model_args.tokenizer)


def set_up(model_args, data_args, training_args, reader=runs):
    """Everything before the first step: the `LfmTrainer` with model and data, and the prepared splits (`dict` of
    `datasets.Dataset`; `test` only with `do_predict`). The data are read by the functions of `reader`."""
    from transformers import set_seed

    from modeling_lfm import LfmForMultimodalClassification
    from modeling_lfm.data import AugmentedDataset, cache_features, fit_processor
    from modeling_lfm.trainer import LfmTrainer
    from modeling_lfm.trainer.holdout import is_stream
    from modeling_lfm.trainer.methods import make_method

    config = make_config(model_args, training_args)
    check_metric(training_args, config.modality_names)
    processor = make_processor(config.modality_names, model_args, data_args)
    unused = set(model_args.modalities) - set(config.modality_names)
    columns = {name: column for name, column in data_args.columns.items() if name not in unused}
    data_args = replace(data_args, columns=columns)
    with training_args.main_process_first(desc="reading the data"):
        raw = reader.load_data(data_args, processor, seed=training_args.seed)
        check_splits(raw, data_args.benchmark, training_args)
    if reader.check_data(raw, data_args, processor):
        make_method(training_args.method).check_holes(config)
    fit_processor(processor, raw["train"], columns, data_args.missing)
    processor.complete_towers(config.modalities)
    names, several = runs.read_classes(raw["train"])
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    if several:
        config.problem_type = "multi_label_classification"
    make_method(training_args.method).check(config)
    set_seed(training_args.seed)
    model = LfmForMultimodalClassification.from_towers(config)  # what is wrong with it is told before data is prepared
    with training_args.main_process_first(desc="preparing the data"):
        splits = prepare_splits(raw, processor, data_args, training_args.do_predict, reader)
        if wants_cache(model_args, data_args, config):
            splits = cache_features(model.to(training_args.device), splits, processor)
    train_dataset = splits["train"]
    if processor.varies and not is_stream(train_dataset):  # which does so itself
        train_dataset = AugmentedDataset(train_dataset, processor, training_args.seed)
    trainer = LfmTrainer(model, training_args, train_dataset, splits.get("validation"), processing_class=processor)
    if len(trainer.train_dataset) < training_args.train_batch_size:
        training_args.dataloader_drop_last = False  # it would drop all that there is
    return trainer, splits


def wants_cache(model_args, data_args, config):
    """Whether vectors are computed before: where they are asked for, unless the method leaves all frozen towers out."""
    frozen = {name for name, spec in model_args.modalities.items() if spec.get("frozen")}
    return data_args.cache_features and (not frozen or bool(frozen & set(config.modality_names)))


def check_metric(training_args, modalities):
    """Raise a `ValueError` if no evaluation will give `metric_for_best_model`."""
    wanted = (training_args.metric_for_best_model or "loss").removeprefix("eval_")
    measures = (*MEASURES, *(training_args.metrics or ()))
    known = ["loss", "gap", *(f"{part}{key}" for part in ("", *(f"{n}_" for n in modalities)) for key in measures)]
    if wanted not in known:
        raise ValueError(f"metric_for_best_model={wanted!r} is never measured; {suggest(wanted, known)}")


def check_splits(raw, benchmark, training_args):
    """Raise a `ValueError` when a split that this run needs is not there."""
    hints = {"validation": "; set eval_strategy: no and load_best_model_at_end: false"}
    needed = {"train": True, "validation": training_args.eval_strategy != "no", "test": training_args.do_predict}
    for split, is_needed in needed.items():
        if is_needed and split not in raw:
            raise ValueError(f"{benchmark} has no {split} split with these options{hints.get(split, '')}.")


def prepare_splits(raw, processor, data_args, with_test, reader=runs):
    """The splits (`dict`) as the model's tensors, each cut to the limit of `data_args`."""
    limits = {"train": data_args.max_train_samples, "validation": data_args.max_eval_samples}
    if with_test:
        limits["test"] = data_args.max_test_samples
    return {
        split: reader.prepare(raw[split], data_args, processor, limit)
        for split, limit in limits.items()
        if split in raw
    }


def fit(trainer, splits, data_args, checkpoint=None):
    """Train what [`set_up`] made, and write the run into its `output_dir`; the metrics of all splits (`dict`)."""
    from modeling_lfm.trainer.checkpoints import naming_full_disk, only_run
    from modeling_lfm.trainer.rates import describe_training

    folder = trainer.args.output_dir
    for line in describe_training(trainer.model, trainer.args):
        say(line)
    with only_run(folder, is_main_process()), naming_full_disk(folder):
        if is_main_process():
            runs.forget_results(folder)  # of a run that was killed also half a file
            runs.remember(folder, data_args, trainer, splits)
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
        return write(trainer, splits, metrics)


def write(trainer, splits, metrics):
    """Write a trained model and how it does on its splits into its `output_dir`; its `metrics` (`dict`) and these."""
    hide_progress_bars()  # what follows is quick
    trainer.save_model(_internal_call=True)  # its card is written at the end
    trainer.save_state()
    trainer.save_metrics("train", metrics)
    for name, split in (("eval", "validation"), ("test", "test")):
        if split in splits:
            found = trainer.predict(splits[split], metric_key_prefix=name).metrics  # evaluate() would log it again
            found |= trainer.measure_absence(splits[split], metric_key_prefix=name)
            trainer.save_metrics(name, found)
            metrics = metrics | found
    trainer.push_to_hub() if trainer.args.push_to_hub else trainer.create_model_card()
    return metrics
