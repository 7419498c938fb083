"""`fit` in three lines on a table of one's own, and the `Predictor` that comes out of it."""

import copy
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import yaml

from modeling_lfm.registry_lfm import check_type
from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common.console import hide_progress_bars, say
from modeling_lfm.scripts.common.own_data import complete

# Settings that say how is trained, or that a linear probe has no place for; what is sent is sent before the choice.
NO_PROBE = {
    "method",
    "fusion",
    "linear_probe",
    "stack",
    "average_epochs",
    "modality_dropout",
    "max_steps",
    "push_to_hub",
}
NO_PROBE |= {"class_weights", "focal_gamma", "logit_adjustment", "label_smoothing_factor", "train_sampling_strategy"}


def fit(train, label="label", *, validation=None, test=None, time_limit=None, output_dir="outputs/fit", **given):
    """Train a classifier on a table: what its columns are is found out, and printed.

    Where all towers are frozen, or read numbers, a linear probe is fitted first. The simpler model, it is kept unless
    what is trained then is ahead of it on validation data by more than a standard error.

    Args:
        train, validation, test: a `pandas.DataFrame`, a `datasets.Dataset`, or a file (csv, tsv, jsonl, Parquet); what
            is not given is drawn from `train`, see [`load_table`][modeling_lfm.data.table.load_table]. Columns hold
            paths of pictures, sounds or clips, texts, numbers, categories, lists of numbers. Cells may be empty, and
            files missing: what is not there is absent, as the counts that are printed tell.
        label (`str`, or as the frame names it): column of the labels.
        time_limit (`float`, *optional*): seconds after which training stops.
        output_dir (`str`): a new folder for the model, the tables and `fit.yaml`, the settings that `train.py` takes.
        given: any setting of `train.py`: `preset="best"` (pretrained towers; the default `"fast"` downloads nothing),
            `method="ogm"`, `num_train_epochs=5`, `group_column="person"`, `table_columns={...}`, `modalities={...}`.

    Returns:
        [`Predictor`]

    Raises:
        ValueError, FileNotFoundError: a table, a column or a setting that is wrong; the message names it.

    Example:

        ```python
        >>> import pandas as pd
        >>> from modeling_lfm import fit
        >>> table = pd.DataFrame({"age": range(60), "sex": ["a", "b"] * 30, "y": ["yes", "no", "no"] * 20})
        >>> predictor = fit(table, label="y", time_limit=600, num_train_epochs=1)
        table: tabular, from age, sex
        ...
        >>> len(predictor.predict(table[:2]))
        2

        ```
    """
    from modeling_lfm.scripts.common import training
    from modeling_lfm.trainer.checkpoints import only_run

    folder, time_limit = Path(output_dir), check_type("time_limit", time_limit, float | None)
    if train is None:
        raise ValueError("train=None should be a table.")
    tables = {"train": train, "validation": validation, "test": test}
    options = {"label_column": label, **(given.pop("benchmark_options", None) or {})}
    options |= {key: given.pop(key) for key in ("group_column", "label_separator", "table_columns") if key in given}
    names = ("label_column", "group_column")  # of columns, which may be numbers in a frame
    options |= {key: str(options[key]) for key in names if options.get(key) is not None}
    with only_run(folder, True):
        training.refuse_earlier_run(folder)
        for split, table in tables.items():
            if table is not None:
                options[f"{split}_file"] = _store(table, folder / "tables" / f"{split}.parquet")
        told = {"benchmark": "table", "data_dir": str(folder / "tables"), "benchmark_options": options}
        told = complete({**told, "output_dir": str(folder), "report_to": "none", "missing": None, **given}, show=True)
        if not sys.stderr.isatty():
            hide_progress_bars()
        (folder / "fit.yaml").write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
        say(f"the same again: python scripts/train.py {folder / 'fit.yaml'} --output_dir DIR")
        trainer, metrics = _train(told, time_limit, told["method"] == "concat" and not NO_PROBE & set(given))
    say(f"validation accuracy {100 * metrics['eval_accuracy']:.1f} %; model: {folder}")
    return Predictor(trainer.model, trainer.processor, **recall_columns(folder), trainer=trainer, metrics=metrics)


def _train(told, time_limit, takes_probe):
    """Train with these settings, beside a linear probe where one makes sense; the [`LfmTrainer`] of what is kept, and
    its metrics (`dict`)."""
    from modeling_lfm.scripts.common import training
    from modeling_lfm.trainer.callbacks import TimeLimitCallback

    began, seconds = time.monotonic(), None if time_limit is None else time_limit / 4
    probe, found = _fit_probe(told, seconds) if takes_probe else (None, None)
    model_args, data_args, training_args = training.fill_run(copy.deepcopy(told))
    trainer, splits = training.set_up(model_args, data_args, training_args)
    if time_limit is not None:
        trainer.add_callback(TimeLimitCallback(time_limit - (time.monotonic() - began)))
    metrics = training.fit(trainer, splits, data_args)
    if probe is not None and _is_kept(probe, trainer, splits["validation"]):
        return probe, _write_probe(probe, told, splits, data_args, found)
    return trainer, metrics


def _fit_probe(told, seconds):
    """The [`LfmTrainer`] of a linear probe with these settings, and the metrics of its training (`dict`); of the
    penalties those are tried for which there is time."""
    from modeling_lfm.scripts.common import training
    from modeling_lfm.trainer.callbacks import LfmProgressCallback

    trainer, _ = training.set_up(*training.fill_run(copy.deepcopy({**told, "linear_probe": True})))
    trainer.pop_callback(LfmProgressCallback)
    trainer.probe_seconds = seconds
    return trainer, trainer.train().metrics


def _is_kept(probe, trainer, dataset):
    """Whether the linear probe stays, beside what the `trainer` trained: unless the latter is ahead on the validation
    samples by more than a standard error. Of accuracies it is that of the difference, by the samples that only one of
    them has right (McNemar, 1947); of the mean average precision p of several labels sqrt(p (1 - p) / n)."""
    name = "map" if probe.model.config.is_multi_label else "accuracy"
    answers = [part.predict(dataset) for part in (probe, trainer)]
    found, trained = (answer.metrics[f"test_{name}"] for answer in answers)
    error = (found * (1 - found) / len(dataset)) ** 0.5
    if name == "accuracy":
        first, second = (answer.predictions[0].argmax(-1) == answer.label_ids for answer in answers)
        error = (first != second).sum() ** 0.5 / len(dataset)
    ahead = round((trained - found) * len(dataset), 6) > round(error * len(dataset), 6)
    say(
        f"a linear probe has {100 * found:.1f} % on validation data, what was trained {100 * trained:.1f} %: "
        f"{'more' if ahead else 'no more'} than a standard error ({100 * error:.1f} points) ahead, so the "
        f"{'latter' if ahead else 'probe'} is kept"
    )
    return not ahead


def _write_probe(trainer, told, splits, data_args, metrics):
    """Put a linear probe in the place of what was trained, in its folder; its `metrics` (`dict`) and those of the
    splits."""
    from modeling_lfm.scripts.common import training
    from modeling_lfm.trainer.checkpoints import list_checkpoints, naming_full_disk

    folder = Path(trainer.args.output_dir)
    with naming_full_disk(folder):
        for checkpoint in list_checkpoints(folder):
            shutil.rmtree(checkpoint)
        runs.forget_results(folder)
        runs.remember(folder, data_args, trainer, splits)
        settings = yaml.safe_dump({**told, "linear_probe": True}, sort_keys=False)
        (folder / "fit.yaml").write_text(settings, encoding="utf-8")
        return training.write(trainer, splits, metrics)


def _store(table, file):
    """Write a table as Parquet (`Path`), with absolute paths; its name."""
    from modeling_lfm.data.table import read_table

    file.parent.mkdir(parents=True, exist_ok=True)
    frame = read_table(table, absolute=True)
    for column in frame.columns[[kind.kind == "O" for kind in frame.dtypes]]:  # Parquet takes arrays of one axis only
        frame[column] = [cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in frame[column]]
    try:
        frame.to_parquet(file)
    except (ValueError, TypeError, NotImplementedError, OverflowError) as error:  # of pyarrow, which names the column
        told = "; ".join(map(str, error.args))
        raise ValueError(
            f"the table has a column of cells that a file cannot hold ({told}): mend or drop it."
        ) from error
    return file.name


def recall_columns(checkpoint):
    """What a [`Predictor`] is told (`dict`) of the columns of the table that a model was trained on."""
    options = runs.recall(checkpoint)["benchmark_options"]
    told = {"columns": "table_columns", "label": "label_column", "label_separator": "label_separator"}
    return {name: options[key] for name, key in told.items() if options.get(key) is not None}


class Predictor:
    """A trained model that reads tables.

    Args:
        model (`LfmForMultimodalClassification`), processor (`LfmProcessor`)
        columns (`dict`, *optional*): what its modalities are made of; columns of their names if not given.
        label (`str`): the column of labels. label_separator (`str`, *optional*): between several labels in a cell.
        trainer (`LfmTrainer`, *optional*), metrics (`dict`, *optional*): of its training.

    Example:

        ```python
        >>> import pandas as pd
        >>> from modeling_lfm import Predictor, fit
        >>> table = pd.DataFrame({"age": range(60), "sex": ["a", "b"] * 30, "y": ["yes", "no", "no"] * 20})
        >>> made = fit(table, label="y", output_dir="outputs/people", num_train_epochs=1)
        table: tabular, from age, sex
        ...
        >>> predictor = Predictor.load("outputs/people")
        >>> predictor.predict(table) == made.predict(table), predictor.evaluate(table[:20])["samples"]
        (True, 20)

        ```
    """

    def __init__(self, model, processor, columns=None, label="label", label_separator=None, trainer=None, metrics=None):
        from modeling_lfm import MultimodalClassificationPipeline

        self.model, self.processor = model, processor
        self.columns = columns or {name: name for name in processor.modalities}
        self.label, self.label_separator = label, label_separator
        self.trainer, self.metrics = trainer, metrics
        self.pipeline = MultimodalClassificationPipeline(model, processor)

    @classmethod
    def load(cls, *folders):
        """The predictor of the model that `fit` or `train.py` wrote into a folder (`str`); of several folders, such as
        those of other seeds, an [`LfmEnsemble`]."""
        for folder in folders:
            if not isinstance(folder, (str, Path)):
                raise ValueError(f"a folder is expected, got {folder!r}; give several one by one: load(*folders).")
        return cls(*runs.load_together(folders), **recall_columns(folders[0]))

    def answers(self, table, start=0, **settings):
        """What the pipeline answers for each row of a table (iterator of `dict`), from the row `start` on.

        Args:
            table: as in [`fit`]; it needs no labels, and lacks columns of modalities that are absent.
            settings: of the pipeline; `broken="skip"` answers `{"error": str}` for a row that cannot be read.
        """
        return self.pipeline(iter(self.rows(table)[start:]), **{"top_k": None, "batch_size": 64, **settings})

    def rows(self, table):
        """The raw inputs of each row of a table (`list[dict]`)."""
        from modeling_lfm.data.table import read_rows

        return read_rows(table, self.columns)

    def predict(self, table):
        """The label of each row (`list[str]`; multi-label: `list[list[str]]`)."""
        return [answer.get("label", answer.get("labels")) for answer in self.answers(table)]

    def predict_proba(self, table):
        """The probability of every label (`pandas.DataFrame`, a row each)."""
        import pandas as pd

        labels = list(self.model.config.label2id)
        scores = [{part["label"]: part["score"] for part in answer["scores"]} for answer in self.answers(table)]
        return pd.DataFrame(scores, columns=labels)

    def evaluate(self, table, label=None):
        """Metrics (`dict[str, float]`) on a table with labels, as `eval.py` tells them: of the fused prediction, of
        each modality alone, and of the fused prediction where one is absent.

        Args:
            table: as in [`fit`]; a modality whose cells are empty, or whose files are missing, is absent.
            label (`str`, *optional*): column of the labels; that of the training if not given.

        Raises:
            ValueError: a label that the model does not know; columns that are missing.
        """
        from modeling_lfm.data import prepare_dataset
        from modeling_lfm.data.table import read_labelled

        raw = read_labelled(table, self.columns, str(label or self.label), self.label_separator)
        raw = runs.as_classes(raw, self.model.config)
        with runs.evaluating(self.model, self.processor, use_cpu=self.model.device.type == "cpu") as trainer:
            return runs.measure(trainer, prepare_dataset(raw, self.processor, missing="absent"))

    def embed(self, table):
        """Vectors of the rows, for retrieval and clustering, see [`join_vectors`]; a row that cannot be read is left
        out.
        """
        answers = self.answers(table, broken="skip", features=True)
        return join_vectors({n: a["features"] for n, a in enumerate(answers) if "error" not in a}, self.model.config)


def join_vectors(found, config):
    """Vectors of rows side by side.

    Args:
        found (`dict[int, dict]`): by number of the row its `features`, as the pipeline answers them.
        config (`LfmConfig`): of the model.

    Returns:
        `dict[str, np.ndarray]`, n rows: `rows`, their numbers, int64 `(n,)`; by modality its features, float32
        `(n, d)`, NaN where it is absent; and `fused`, float32 `(n, M d)`: those of all modalities side by side, each
        scaled to length 1, zeros where it is absent, and the whole to length 1, so that a scalar product is the mean of
        the modalities' cosines where all are there.
    """
    names, width = config.modality_names, config.hidden_size
    if "rows" in names:
        raise ValueError("a modality is called 'rows', as the numbers of the rows are; rename it.")
    blank = [np.nan] * width
    vectors = {
        name: np.array([part.get(name, blank) for part in found.values()], np.float32).reshape(-1, width)
        for name in names
    }
    units = [v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in vectors.values()]
    fused = np.nan_to_num(np.hstack(units))
    fused /= np.maximum(np.linalg.norm(fused, axis=1, keepdims=True), 1e-12)
    return {"rows": np.array(list(found), np.int64), **vectors, "fused": fused}
