"""Many runs: each trains one model in a worker process and becomes one JSON file, so that a sweep can go on later."""

import hashlib
import json
import re
import tempfile
from concurrent.futures import BrokenExecutor
from contextlib import closing
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from modeling_lfm.scripts.experiments.tables import merge
from modeling_lfm.trainer.cards.record import to_json

METRICS = ("accuracy", "map", "f1", "gap")
# The best epoch on validation data is kept and no other; what the configuration says of the metric stays.
FORCED = {
    "do_predict": True,
    "disable_tqdm": True,
    "eval_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "save_only_model": True,
    "load_best_model_at_end": True,
}
MEMBER = 1000  # from the seed of one member of an ensemble to that of the next
UNIMPORTANT = ("data_dir", "num_proc", "output_dir", "seed")


def run_one(threads, config):
    """Train one model, choose its best epoch on the validation split, and evaluate that on the test split, once.

    Args:
        threads (`int`): of torch.
        config (`dict`): settings of train.py; of so many `members`, trained with seeds of their own, the
            [`LfmEnsemble`] is evaluated; a `trial` does not read the test split, and trains one.

    Returns:
        `dict` with the `method` and its settings, the `learning_rate`, the metric by which the epoch is chosen
        (`chosen_by`) and its value (`best_metric`), the metrics of `validation` and `test`, `best_epoch`, the `seconds`
        of training with its evaluations, `steps` of the optimizer, LFM's `alpha` by epoch, and what the method logs in
        the end (`logs`), such as the weight that `auto` chose. Of an ensemble the metrics are its own, the seconds are
        those of all members, and the rest is the first one's.
    """
    import torch
    from transformers.utils import logging

    from modeling_lfm.scripts.common.console import hide_progress_bars
    from modeling_lfm.scripts.common.training import read_run, set_up

    torch.set_num_threads(threads)
    hide_progress_bars()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="lfm-run-", ignore_cleanup_errors=True) as scratch:
        settings = {**config, **FORCED, "output_dir": scratch}
        trial, members = (settings.pop(key, None) for key in ("trial", "members"))
        trainer, splits = set_up(*read_run(settings))
        seconds = train_silently(trainer)
        if members is not None and not trial:
            seconds += add_members(trainer, members, settings)
    state, method, probed = trainer.state, trainer.method, trainer.args.linear_probe
    best = next(e for e in state.log_history if e["step"] == state.best_global_step and "eval_loss" in e)
    record = {
        "method": {"name": method.spec.name, **asdict(method.settings)},
        "learning_rate": None if probed else trainer.args.learning_rate,
        "chosen_by": trainer.args.metric_for_best_model,
        "best_metric": state.best_metric,
        "greater_is_better": trainer.args.greater_is_better,
        "best_epoch": None if probed else best["epoch"],
        "seconds": seconds,
        "steps": state.global_step,
        "alpha": [entry["alpha"] for entry in state.log_history if "alpha" in entry and "loss" in entry],
        "logs": method.logs(),
    }
    names = ("", *(f"{name}_" for name in trainer.model.config.modality_names))
    for split in ("validation",) if trial else ("validation", "test"):
        found = trainer.predict(splits[split], metric_key_prefix=split).metrics
        keys = {f"{split}_{n}{m}": f"{n}{m}" for n in names for m in (*METRICS, "loss")}
        record[split] = {key: found[name] for name, key in keys.items() if found.get(name) is not None}
    if not trial:
        absence = trainer.measure_absence(splits["test"], metric_key_prefix="test")
        record["test"] |= {key.removeprefix("test_"): value for key, value in absence.items()}
    return record


def train_silently(trainer):
    """Train without a bar; the seconds that it took (`float`)."""
    from modeling_lfm.trainer.callbacks import LfmProgressCallback

    trainer.pop_callback(LfmProgressCallback)
    return trainer.train().metrics["train_runtime"]


def add_members(trainer, members, settings):
    """Train as many models as are lacking to `members` (`int`) with the same settings and other seeds, and give the
    trainer the [`LfmEnsemble`] of all; the seconds that it took (`float`)."""
    from modeling_lfm import LfmEnsemble
    from modeling_lfm.scripts.common.training import read_run, set_up

    models, seconds = [trainer.model], 0.0
    for number in range(1, members):
        places = {"seed": settings["seed"] + MEMBER * number, "output_dir": f"{settings['output_dir']}/{number}"}
        other, _ = set_up(*read_run({**settings, **places}))
        seconds += train_silently(other)
        models.append(other.model)
    trainer.model = trainer.model_wrapped = LfmEnsemble(models)
    return seconds


def digest(config):
    """A short word that changes with what a run computes; the seed and where files lie are left out."""
    important = {key: value for key, value in config.items() if key not in UNIMPORTANT}
    if config.get("benchmark") == "table":  # one's own may change
        options = config.get("benchmark_options") or {}
        files = [Path(config["data_dir"], options[key]) for key in sorted(options) if key.endswith("_file")]
        important["files"] = [digest_file(file, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return hashlib.sha256(json.dumps(important, sort_keys=True).encode()).hexdigest()[:12]


@lru_cache
def digest_file(file, changed):
    """SHA-256 of a file (`Path`), which is read again when it was `changed` (`int`)."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def make_jobs(cells, seeds, folds, folder):
    """A configuration with its seed, which also draws the `folds` (`int` or None), by (setting, row, seed), of cells.

    Raises:
        ValueError: two of them would be the same file in `folder`.
    """
    jobs = {(*cell, seed): merge(config, {"seed": seed}) for seed in seeds for cell, config in cells.items()}
    if len({file_of(folder, *key) for key in jobs}) < len(jobs):
        raise ValueError("two rows or settings differ in characters only that file names lack; rename one.")
    if folds is None:
        return jobs
    return {key: merge(config, {"benchmark_options": {"seed": key[2]}}) for key, config in jobs.items()}


def sweep(jobs, executor, folder):
    """Run every job that `folder` does not hold yet; write each as it ends.

    A job whose configuration is another than that of its file is run again, and so is one that failed. A linear probe
    draws nothing, so that one run of it stands for the seeds that differ in nothing else.

    Args:
        jobs (`dict`): configurations by (setting, row, seed).
        executor ([`Local`] or [`Ray`]): what runs them.

    Returns:
        `dict` from (setting, row, seed) to the error of each job that failed.
    """
    done = {key: record["config"] for key, record in read_records(folder).items()}
    left, failures = {key: config for key, config in jobs.items() if done.get(key) != digest(config)}, {}
    alike = {}
    for key, config in left.items():
        alike.setdefault((*key[:2], digest(config)) if config.get("linear_probe") else key, []).append(key)
    alike = {keys[0]: keys for keys in alike.values()}
    with closing(executor.run(run_job, (executor.threads, left), list(alike))) as outcomes:
        for number, (key, result) in enumerate(outcomes, 1):
            if isinstance(result, Exception):
                name = "" if isinstance(result, BrokenExecutor) else f"{type(result).__name__}: "
                result = {"error": name + " ".join(str(result).split()), "traceback": str(result.__cause__)}
            for setting, row, seed in alike[key]:
                write_record(folder, setting, row, seed, config=digest(left[key]), **result)
            if "error" in result:
                failures |= dict.fromkeys(alike[key], result["error"])
                told = f"FAILED, {result['error']}"
            else:
                part = "test" if "test" in result else "validation"
                told = f"{part} accuracy {100 * result[part]['accuracy']:.1f} %, {result['seconds']:.0f} s"
            print(f"[{number}/{len(alike)}] {key[0]}, {key[1]}, seed {key[2]}: {told}", flush=True)
    return failures


def run_job(context, key):
    """The outcome of [`run_one`] for one of the jobs, in a process of an executor."""
    threads, jobs = context
    return run_one(threads, jobs[key])


def file_of(folder, setting, row, seed):
    """The file (`Path`) of a run, or of a cell that was left out (`seed` None); characters that files lack are `-`."""
    end = "" if seed is None else f"_seed{seed}"
    return folder / re.sub(r"[^\w.,+-]+", "-", f"{row}_{setting}{end}.json")


def write_record(folder, setting, row, seed, **result):
    """Write a run, or why a cell was left out, as a JSON file, which is there whole or not at all."""
    file = file_of(folder, setting, row, seed)
    part = file.with_suffix(".part")
    part.write_text(to_json({"setting": setting, "row": row, "seed": seed, **result}, 1), encoding="utf-8")
    part.replace(file)


def read_all(folder):
    """Every record (`list[dict]`) in `folder` (`Path`): runs, failures, and cells that were left out. A file that is
    none is a `ValueError`."""
    records = []
    for file in sorted(folder.glob("*.json")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            records.append({key: record[key] for key in ("setting", "row", "seed")} | record)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not what reproduce.py writes; remove it.") from error
    return records


def read_records(folder):
    """The finished runs in `folder` (`Path`), as a `dict` by (setting, row, seed)."""
    finished = (record for record in read_all(folder) if not {"error", "inapplicable"} & set(record))
    return {(record["setting"], record["row"], record["seed"]): {"config": None, **record} for record in finished}
