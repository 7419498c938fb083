"""Cross-validation: methods on the same folds of one data set, with several seeds; one JSON file a run."""

import copy
import hashlib
import json
import re
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as students_t
from torch.utils.data import Subset

from modeling_lfm.configuration_lfm import LfmConfig
from modeling_lfm.data.splits import draw_folds
from modeling_lfm.modeling_lfm import LfmForMultimodalClassification

from .callbacks import LfmProgressCallback
from .cards.record import read_json, to_json
from .checkpoints import BOOKKEEPING
from .holdout import read_column, read_labels
from .methods import make_method


def cross_validate(config, args, dataset, methods, folds=5, seeds=(0,), group=None, metric="accuracy", **kwargs):
    """Train every method on each fold with each seed, and compare them.

    A seed draws the folds, the same for all methods, stratified by label, and the weights. Each fold is tested on once,
    by models that are trained on the others; where `args` evaluate in training (`eval_strategy`, for
    `load_best_model_at_end`, say), or let the method watch the evaluation set (`holdout=0`), the next fold is what is
    evaluated on then, and is not trained on.

    Args:
        config ([`LfmConfig`]): of the models; a method gets the fusion and the classifiers that it needs.
        args ([`LfmTrainingArguments`]): of every run, but for `method` and `seed`. `output_dir` gets a JSON file a run,
            `METHOD_seedS_foldF.json`; what is there already, with the same settings and labels, is not run again.
            Models are not kept.
        dataset (`datasets.Dataset` or map-style data set): samples with `labels`.
        methods (`dict`, or `list[str]`): from a title to a method, as in [`LfmTrainingArguments`]. The others are
            compared with the first.
        folds (`int`): how many; 3 or more where one is evaluated on.
        seeds (iterable of `int`)
        group (`str`, *optional*): a column, such as the speaker: samples of one value are in the same fold, and on the
            same side of a hold-out.
        metric (`str`): of those that `evaluate` gives, without `eval_`.
        kwargs: of [`LfmTrainer`], such as `processing_class`.

    Returns:
        `pandas.DataFrame`, a row a method: the `mean` of the metric over all runs, its sample standard deviation `std`,
        `p` of [`paired_test`] against the first method (NaN for itself), and the number of `runs`.

    Raises:
        ValueError: a method that cannot train such a model, too few samples or groups for the folds, a metric that is
            not measured; a damaged file in `output_dir`; several processes.

    Example:

        ```python
        >>> import torch
        >>> from modeling_lfm import LfmConfig
        >>> from modeling_lfm.trainer import LfmTrainingArguments, cross_validate
        >>> data = [{"a_values": torch.rand(3), "b_values": torch.rand(3), "labels": n % 2} for n in range(16)]
        >>> config = LfmConfig(dict.fromkeys("ab", {"tower": "mlp", "in_features": 3}), hidden_size=8)
        >>> args = LfmTrainingArguments("outputs", num_train_epochs=1)
        >>> table = cross_validate(config, args, data, ["concat", "ogm"], folds=2)
        >>> list(table.columns), list(table["runs"])
        (['mean', 'std', 'p', 'runs'], [2, 2])

        ```
    """
    methods = methods if isinstance(methods, dict) else {name: name for name in methods}
    args = copy.copy(args)
    args.holdout_group = group or args.holdout_group
    held, configs = _check(config, args, methods, folds)
    labels, groups = read_labels(dataset), None if group is None else read_column(dataset, group)
    found = {title: {} for title in methods}
    for seed in seeds:
        fold_of = draw_folds(labels, folds, seed, groups)
        for fold in range(folds):
            test, validation = fold_of == fold, (fold_of == (fold + 1) % folds) & held
            parts = [_take(dataset, places) for places in (~(test | validation), validation, test)]
            for title, method in methods.items():
                args.seed, args.method = seed, method
                metrics = _read_or_run(title, configs[title], args, parts, (fold, fold_of), kwargs)["metrics"]
                if metric not in metrics:
                    raise ValueError(f"metric={metric!r} is not measured; there are {', '.join(metrics)}.")
                found[title][seed, fold] = metrics[metric]
    table = pd.DataFrame(found).astype(float)
    p = [paired_test(table[title], table[next(iter(methods))], 1 / (folds - 1 - held)) for title in methods]
    return pd.DataFrame({"mean": table.mean(), "std": table.std(), "p": p, "runs": table.count()})


def _check(config, args, methods, folds):
    """Whether runs have an evaluation set (`bool`), and the configuration for each method (`dict`)."""
    if args.world_size > 1:
        raise ValueError("cross_validate runs in one process; start one for each of the seeds.")
    made = {title: make_method(method) for title, method in methods.items()}
    watches = any(method.needs_holdout for method in made.values())
    held = args.eval_strategy != "no" or (watches and not args.holdout)
    if held and folds < 3:
        raise ValueError(f"folds={folds} must be 3 or more: one is tested on, and one evaluated on in training.")
    configs = {title: fit_config(config, method) for title, method in made.items()}
    for fitted in configs.values():
        LfmForMultimodalClassification(fitted)
    return held, configs


def paired_test(ours, theirs, overlap=0.0):
    """p (`float`) of a paired, two-sided t-test; NaN for fewer than two pairs, or none that differ.

    Runs of cross-validation share training samples, so that the plain test finds too much: the variance of the mean
    is then (1 / n + overlap) times that of the differences (Nadeau and Bengio, *Inference for the Generalization
    Error*, 2003).

    Args:
        ours, theirs (array_like of shape (n,)): what was measured in the same runs.
        overlap (`float`): test samples over training samples; 0 for runs that are independent.
    """
    differences = np.asarray(ours, float) - np.asarray(theirs, float)
    n = len(differences)
    if n < 2 or not differences.any():
        return float("nan")
    with np.errstate(divide="ignore"):  # all differ by the same
        statistic = abs(differences.mean()) / np.sqrt((1 / n + overlap) * differences.var(ddof=1))
    return float(2 * students_t.sf(statistic, n - 1))


def fit_config(config, method):
    """A copy of an [`LfmConfig`] with the modalities, the fusion and the classifiers that a [`Method`] needs."""
    wanted = method.config_settings(config.modalities)
    if method.spec.fusions is None or config.fusion in method.spec.fusions:
        wanted |= {"fusion": config.fusion, "fusion_args": config.fusion_args}
    fitted = LfmConfig.from_dict({**config.to_dict(), "modality_order": None, **wanted})
    method.check(fitted)
    return fitted


def _take(dataset, places):
    """The samples of a data set at the `places` (bool, (N,))."""
    indices = np.flatnonzero(places).tolist()
    return dataset.select(indices) if hasattr(dataset, "select") else Subset(dataset, indices)


def _read_or_run(title, config, args, parts, fold, kwargs):
    """The record (`dict`) of a run: read if it is there, else made and written."""
    fold, fold_of = fold
    settings = {key: value for key, value in args.to_dict().items() if not key.startswith(BOOKKEEPING)}
    settings |= {key: getattr(args, key) for key in ("method", "eval_strategy", "eval_steps")}
    told = json.dumps([settings, config.to_dict(), fold_of.tolist()], sort_keys=True, default=str)
    digest = hashlib.sha256(told.encode()).hexdigest()[:12]
    record = {"method": title, "seed": args.seed, "fold": fold, "config": digest}
    file = Path(args.output_dir, re.sub(r"[^\w.,+-]+", "-", f"{title}_seed{args.seed}_fold{fold}.json"))
    found = read_json(file, absent={})
    if found.get("config") == digest and "metrics" in found:
        return found
    record |= _run(config, args, *parts, kwargs)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".part").write_text(to_json(record), encoding="utf-8")
    file.with_suffix(".part").replace(file)
    return json.loads(to_json(record))


def _run(config, args, train, validation, test, kwargs):
    """Train a model and test it."""
    from .fitting import collate_inputs
    from .trainer import LfmTrainer

    args, test = copy.copy(args), getattr(test, "unaugmented", test)
    args.disable_tqdm, args.push_to_hub = True, False
    validation = getattr(validation, "unaugmented", validation) if len(validation) else None
    if not args.load_best_model_at_end:
        args.save_strategy = "no"
    with tempfile.TemporaryDirectory(prefix="lfm-run-") as args.output_dir:
        trainer = LfmTrainer(config, args, train, eval_dataset=validation, **kwargs)
        trainer.pop_callback(LfmProgressCallback)
        names = {*trainer.model.lfm.input_names, "labels", "sample_ids"}  # samples may have more modalities
        trainer.data_collator = partial(collate_inputs, trainer.data_collator, names)
        trainer.train()
        metrics = trainer.predict(test, metric_key_prefix="test").metrics
    sizes = {"train": len(train), "validation": 0 if validation is None else len(validation), "test": len(test)}
    told = {key.removeprefix("test_"): value for key, value in metrics.items() if "per_second" not in key}
    return {"samples": sizes, "steps": trainer.state.global_step, "metrics": told}
