"""A finished run: the data set that is remembered beside its model, and how a program reads both back."""

import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from transformers.hf_argparser import HfArg
from transformers.utils import logging

from modeling_lfm.registry_lfm import list_some
from modeling_lfm.scripts.common.console import say
from modeling_lfm.scripts.common.settings import SourceArguments, check_missing, check_positive
from modeling_lfm.trainer.cards.record import RESULTS, describe_run, read_json, read_record, write_record

logger = logging.get_logger(__name__)
REMEMBERED_KEYS = ("benchmark", "benchmark_options", "columns", "missing")
PLOTS = ("alpha.png", "accuracy.png", "gap.png")


@dataclass
class SplitArguments(SourceArguments):
    """A split of a data set that finished models look at, see [`complete`] and [`load_split`]."""

    benchmark: str | None = HfArg(default=None, help="Name of the data set; that of the training.")
    split: str = HfArg(default="test", help="train, validation or test.")
    per_device_eval_batch_size: int = HfArg(default=64, help="Samples in a batch.")
    max_samples: int | None = HfArg(default=None, help="Look at so many samples at most.")
    use_cpu: bool = HfArg(default=False, help="Use no accelerator even where there is one.")

    def __post_init__(self):
        if self.split not in ("train", "validation", "test"):
            raise ValueError(f"split={self.split!r} is unknown; choose train, validation or test.")
        check_positive(self, "per_device_eval_batch_size", "max_samples", "num_proc")
        check_missing(self.missing)


def remember(folder, data_args, trainer, splits):
    """Write beside a model what is known before its training: the data set and its options, all settings, versions."""
    source = {key: getattr(data_args, key) for key in REMEMBERED_KEYS}
    modalities = trainer.model.config.modality_names
    source["columns"] = {name: column for name, column in data_args.columns.items() if name in modalities}
    data = {**describe_source(data_args.benchmark), **count_samples(splits)}
    write_record(folder, **source, data=data, run=describe_run(trainer))


def count_samples(splits):
    """Number of `samples` of each split, and the share (`majority`) of the training set's most frequent class."""
    from modeling_lfm.trainer.holdout import is_stream, read_labels

    counts = {"samples": {split: len(dataset) for split, dataset in splits.items()}}
    if is_stream(splits["train"]):
        return counts
    labels = {split: read_labels(dataset) for split, dataset in splits.items()}
    if labels["train"].ndim > 1:  # several labels a sample
        return counts
    most_frequent = np.bincount(labels["train"]).argmax()
    majority = {split: float((of_split == most_frequent).mean()) for split, of_split in labels.items()}
    return {**counts, "majority": majority}


def describe_source(benchmark):
    """What a model card tells of a benchmark (`dict`): its title, licence, citation, notes, and names on the Hub."""
    from modeling_lfm.data.sources import find_source

    told = asdict(find_source(benchmark))
    return {key: told[key] for key in ("title", "licence", "citation", "notes", "hub")}


def forget_results(folder):
    """Remove what an earlier run wrote at its end into the folder of a new one, which would be told as if of this one;
    models and checkpoints stay."""
    for name in (*RESULTS, *PLOTS):
        (Path(folder) / name).unlink(missing_ok=True)


def recall(checkpoint):
    """What [`remember`] wrote (`dict`) in the folder of a model, or in that of its run, such as `outputs/demo` of
    `outputs/demo/checkpoint-100`; empty settings if nothing.

    Raises:
        ValueError: the file is damaged, or a value in it has a wrong type; the message names both.
    """
    folder = Path(checkpoint).resolve()
    record = read_record(folder) or read_record(folder.parent)
    return {"benchmark": None, "benchmark_options": {}, "columns": {}, "missing": None, **record}


def complete(args, checkpoint, *others):
    """Fill in what `args` (with the fields of `REMEMBERED_KEYS`) lacks from what the run of a model remembers; it is
    told where `others` remember other data, whose training part may hold what the first is tested on."""
    remembered = recall(checkpoint)
    for other in others:
        for key in ("benchmark", "benchmark_options"):
            if (found := recall(other)[key]) != remembered[key]:
                told = f"{key}={found}, {checkpoint} with {remembered[key]}"
                logger.warning(f"{other} may know the samples of the split: it was trained with {told}.")
    if args.benchmark is None and remembered["benchmark"] is None:
        raise ValueError(f"{checkpoint} does not remember its data set; give --benchmark.")
    if args.benchmark in (None, remembered["benchmark"]):
        args.benchmark = remembered["benchmark"]
        args.benchmark_options = {**remembered["benchmark_options"], **args.benchmark_options}
        args.columns = {**remembered["columns"], **args.columns}
        args.missing = args.missing or remembered["missing"]
    return args


def load_run(checkpoint):
    """The model, in evaluation mode, and the processor in a folder that `train.py` wrote, or on the Hub.

    Raises:
        FileNotFoundError: there is no model, or no processor beside it.
        ValueError: a file is damaged; the message names it.
    """
    folder = Path(checkpoint)
    for what, name in (("model", "config.json"), ("processor", "processor_config.json")):
        if folder.is_dir() and not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {what} (no {name}); give the folder that train.py wrote.")

    from modeling_lfm import LfmForMultimodalClassification, LfmProcessor

    try:
        model = LfmForMultimodalClassification.from_pretrained(checkpoint)
        for name, weights in model.state_dict().items():
            if weights.is_floating_point() and not weights.isfinite().all():
                raise ValueError(f"{checkpoint}: {name} is NaN or infinite: its training diverged, or it is damaged.")
        return model.eval(), LfmProcessor.from_pretrained(checkpoint)
    except Exception as error:
        if not folder.is_dir() and isinstance(error, OSError):
            raise FileNotFoundError(
                f"no model at {checkpoint}: it is neither a folder nor a model that can be fetched from the Hub."
            ) from error
        check_files(folder)
        if isinstance(error, (ValueError, OSError, ImportError)) and str(folder) in str(error):
            raise
        raise ValueError(f"the model in {checkpoint} cannot be read ({type(error).__name__}: {error}).") from error


def check_files(folder):
    """Raise a `ValueError` that names a damaged file of a model's folder, if one is: cut weights, JSON that is none."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.iterdir()):
        if file.exists() and not (file.is_file() or file.is_dir()):  # a pipe would be waited for
            raise ValueError(f"{file} is no file, but a pipe or a device: remove it.")
    for file in sorted(folder.glob("*.json")):
        read_json(file)
    for file in sorted(folder.glob("*.safetensors")):
        try:
            safe_open(file, "pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is damaged ({error}): copy it again.") from error


def pick_columns(modalities, columns):
    """The column of the data set that each modality reads: `columns` (`dict`) where given, else its own name; a
    `ValueError` where it names a modality that the model does not have."""
    unknown = sorted(set(columns) - set(modalities))
    if unknown:
        raise ValueError(
            f"columns names {unknown}, but the modalities are {', '.join(modalities)}; which columns of a table a "
            "modality is made of is told by table_columns."
        )
    return {name: columns.get(name, name) for name in modalities}


def load_data(args, processor, split=None, seed=0):
    """The data set of a run, or one split of it, to be given to [`prepare`]: raw, or what `prepare_data.py` wrote.

    Args:
        args: with `benchmark`, `data_dir`, `benchmark_options` and `columns`, such as `DataArguments`.
        seed (`int`): of the order of training samples that are streamed.

    Raises:
        ValueError, FileNotFoundError: wrong files or options; a folder that was prepared otherwise.
    """
    from modeling_lfm.data import is_prepared, load_benchmark, load_prepared
    from modeling_lfm.data.prepared import read_manifest

    streaming = split is None and getattr(args, "streaming", False)
    if is_prepared(args.data_dir):
        source = (args.data_dir, processor, pick_columns(processor.modalities, args.columns))
        source += (args.benchmark, args.benchmark_options)
        if not streaming:
            return load_prepared(*source, split)
        stream = load_prepared(*source, "train", streaming=True, seed=seed)
        others = [name for name in read_manifest(args.data_dir)["samples"] if name != "train"]
        return {"train": stream, **{name: load_prepared(*source, name) for name in others}}
    if streaming:
        raise ValueError(f"streaming: true reads what prepare_data.py wrote, and data_dir={args.data_dir} is none.")
    missing = args.missing or "error"
    return load_benchmark(args.benchmark, args.data_dir, split, missing=missing, **args.benchmark_options)


def prepare(dataset, args, processor, limit=None):
    """A split of [`load_data`] as the model's tensors, `limit` (`int`, *optional*) samples of it at most."""
    from modeling_lfm.data import is_prepared, prepare_dataset

    dataset = draw_samples(dataset, limit)
    if is_prepared(args.data_dir):
        return dataset
    columns, missing = pick_columns(processor.modalities, args.columns), args.missing or "error"
    return prepare_dataset(dataset, processor, columns=columns, num_proc=args.num_proc, broken="skip", missing=missing)


def check_data(raw, args, processor):
    """Whether samples of what [`load_data`] gives lack modalities (`bool`).

    Raises:
        ValueError: they do, and `args.missing` is not `absent`; the message counts them.
    """
    from modeling_lfm.data import check_holes, is_prepared
    from modeling_lfm.data.preparation import check_columns
    from modeling_lfm.trainer.holes import find_present

    splits = raw if isinstance(raw, dict) else {args.split: raw}
    if is_prepared(args.data_dir):  # it was said when they were prepared
        return any(find_present(part, processor.modalities) is not None for part in splits.values())
    for part in splits.values():
        columns = check_columns(pick_columns(processor.modalities, args.columns), part, processor)
    found = check_holes(splits, processor.kinds, columns, args.missing or "error")
    return any(holes.any() for holes in found.values())


def read_classes(dataset):
    """The names of the classes (`list[str]`) of a raw or a prepared split, and whether a sample may have several."""
    feature = dataset.features["labels" if "labels" in dataset.features else "label"]
    inner = getattr(feature, "feature", feature)
    return inner.names, inner is not feature


def draw_samples(dataset, limit):
    """At most `limit` samples of a data set, always the same ones and in its order; all where `limit` is None."""
    if limit is None or limit >= len(dataset):
        return dataset
    if limit < 1:
        raise ValueError(f"a limit of {limit} samples leaves nothing; it must be positive.")
    return dataset.select(np.sort(np.random.default_rng(0).permutation(len(dataset))[:limit]))


def load_split(args, config, processor):
    """The split of [`SplitArguments`] as the tensors of the model with these `config` and `processor`."""
    raw = load_data(args, processor, args.split)
    check_labels(config, raw, f"{args.benchmark} ({args.split})")
    check_data(raw, args, processor)
    return prepare(raw, args, processor, args.max_samples)


def as_classes(dataset, config):
    """The labels (names, one a sample or a list) of a raw data set as the classes of a model.

    Raises:
        ValueError: a class that the model does not know, or lists for a model of one label a sample.
    """
    import datasets

    names, several = [config.id2label[place] for place in range(config.num_labels)], config.is_multi_label
    labels = dataset["label"][:]
    lists = bool(labels) and isinstance(labels[0], list)
    if lists != several:
        raise ValueError(f"the model gives {'several labels' if several else 'one label'} a row; the table does not.")
    unknown = sorted({name for label in labels for name in (label if lists else [label])} - set(names))
    if unknown:
        raise ValueError(
            f"the table has labels that the model has not ({list_some(unknown)}); it has {list_some(names)}."
        )
    feature = datasets.ClassLabel(names=names)
    return dataset.cast_column("label", datasets.List(feature) if several else feature)


@contextmanager
def evaluating(model, processor, **settings):
    """An `LfmTrainer` that measures a model, and leaves no folder behind; `settings` are of its arguments."""
    from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments

    with tempfile.TemporaryDirectory() as scratch:
        args = LfmTrainingArguments(output_dir=scratch, **settings)
        yield LfmTrainer(model=model, args=args, processing_class=processor)


def measure(trainer, dataset, drop=()):
    """Metrics (`dict[str, float]`) of a model on prepared samples, without the modalities `drop` (names)."""
    if drop:
        metrics = trainer.predict_without(drop, dataset, metric_key_prefix="eval").metrics
    else:
        metrics = trainer.evaluate(dataset) | trainer.measure_absence(dataset, metric_key_prefix="eval")
    kept = {key.removeprefix("eval_"): value for key, value in metrics.items() if key.startswith("eval_")}
    wanted = ("gap", "loss", "accuracy", "map", "f1", "samples", "before", "after")
    report = {key: value for key, value in sorted(kept.items()) if key.rsplit("_", 1)[-1] in wanted}
    return {**report, "samples": len(dataset)}


def keep_whole(dataset):
    """The samples of a prepared data set that have every modality, of which figures are made; it is said."""
    marks = [key for key in dataset.column_names if key.endswith("_present")]
    if not marks:
        return dataset
    whole = np.all([np.asarray(dataset.with_format("numpy")[key][:], bool) for key in marks], axis=0)
    if not whole.any():
        raise ValueError("no sample has every modality, and figures compare them; choose another --split.")
    say(f"figures are of the {whole.sum():,} of {len(whole):,} samples that have every modality")
    return dataset.select(np.flatnonzero(whole))


def check_labels(config, dataset, what):
    """Raise a `ValueError` when the classes of a data set are not those of the model."""
    names, _ = read_classes(dataset)
    known = [config.id2label[i] for i in range(config.num_labels)]
    if names != known:
        raise ValueError(
            f"the classes of {what} are {names}, but the model knows {known} (id2label in its config.json)."
        )


def load_runs(folders):
    """The models of `folders` (`dict`, both by name), which go together, and the processor of the last one.

    Raises:
        FileNotFoundError: see [`load_run`]. ValueError: their modalities, classes or processors differ.
    """
    from modeling_lfm.ensemble_lfm import describe

    models, processors, facts = {}, {}, {}
    for name, folder in folders.items():
        model, processor = models[name], processors[name] = load_run(folder)
        facts[name] = {**describe(model.config), "processor settings": processor.modalities}
    last_name = list(folders)[-1]
    for name, found in facts.items():
        for what, value in found.items():
            if value != (last := facts[last_name][what]):
                raise ValueError(f"{name} and {last_name} do not go together: their {what} differ, {value} and {last}.")
    return models, processors[last_name]


def load_together(checkpoints):
    """The model of one checkpoint, of several an [`LfmEnsemble`] of theirs, and their processor, see [`load_runs`]."""
    if not checkpoints:
        raise ValueError("checkpoint is empty: give the folder of a model, or of several.")
    if len(checkpoints) == 1:
        return load_run(checkpoints[0])
    models, processor = load_runs({str(checkpoint): checkpoint for checkpoint in checkpoints})

    from modeling_lfm import LfmEnsemble

    return LfmEnsemble(models.values()), processor


def name_folders(given):
    """Folders by short names: `[NAME=]DIR` (`list[str]`) to a `dict`, without NAME that of the folder; a `ValueError`
    for two of one name, or none."""
    named = {}
    for text in dict.fromkeys(given):
        name, equals, folder = text.partition("=")
        if equals and not folder:
            raise ValueError(f"--checkpoints {text} names no folder; give NAME=DIR.")
        if not equals or "/" in name or Path(text).exists():
            name, folder = Path(text).resolve().name, text
        if name in named:
            raise ValueError(f"two folders are called {name!r}; give one of them another name: NAME={folder}.")
        named[name] = folder
    return named


def find_logs(folders):
    """The folders with the trainer_state.json of models (`dict` by name); checkpoints of one run count once."""
    found, state = {}, "trainer_state.json"
    for name, folder in folders.items():
        run = path = Path(folder).resolve()
        if path.name.startswith("checkpoint-") and (path.parent / state).is_file():
            run = path.parent
        if (run / state).is_file() and run not in found.values():
            key = name if run == path else run.name
            found[key if key not in found else str(run)] = run
    return found
