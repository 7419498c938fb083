"""Many runs: each trains one model in a worker process and becomes one JSON file, so that a sweep can go on later."""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue

from modeling_lfm.scripts.common import settings as arguments
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
UNIMPORTANT = ("data_dir", "num_proc", "output_dir", "seed")
_scratch = None  # folder of this worker's checkpoints


def run_one(config, threads):
    """Train one model, choose its best epoch on the validation split, and evaluate that on the test split, once.

    Args:
        config (`dict`): settings of train.py; with `probe`, see [`run_probe`], no model is trained.
        threads (`int`): of torch.

    Returns:
        `dict` with the `method` and its settings, the metric by which the epoch is chosen (`chosen_by`), the metrics of
        `validation` and `test`, `best_epoch`, the `seconds` of training with its evaluations, `steps` of the optimizer,
        and LFM's `alpha` by epoch.
    """
    global _scratch
    import torch
    from transformers.utils import logging

    from modeling_lfm.scripts.common.console import hide_progress_bars
    from modeling_lfm.scripts.common.training import read_run, set_up
    from modeling_lfm.scripts.experiments.probe import run_probe
    from modeling_lfm.trainer.callbacks import LfmProgressCallback

    torch.set_num_threads(threads)
    hide_progress_bars()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="lfm-run-", ignore_cleanup_errors=True) as _scratch:
        settings = {**config, **FORCED, "output_dir": _scratch}
        probe = settings.pop("probe", None)
        trainer, splits = set_up(*read_run(settings))
        if probe is not None:
            began = time.perf_counter()
            return {**run_probe(probe, trainer, splits), "seconds": time.perf_counter() - began}
        trainer.pop_callback(LfmProgressCallback)
        seconds = trainer.train().metrics["train_runtime"]
    state, method = trainer.state, trainer.method
    best = next(e for e in state.log_history if e["step"] == state.best_global_step and "eval_loss" in e)
    record = {
        "method": {"name": method.spec.name, **asdict(method.settings)},
        "chosen_by": trainer.args.metric_for_best_model,
        "best_epoch": best["epoch"],
        "seconds": seconds,
        "steps": state.global_step,
        "alpha": [entry["alpha"] for entry in state.log_history if "alpha" in entry and "loss" in entry],
    }
    names = ("", *(f"{name}_" for name in trainer.model.config.modality_names))
    for split in ("validation", "test"):
        found = trainer.predict(splits[split], metric_key_prefix=split).metrics
        keys = {f"{split}_{n}{m}": f"{n}{m}" for n in names for m in (*METRICS, "loss")}
        record[split] = {key: found[name] for name, key in keys.items() if found.get(name) is not None}
    absence = trainer.measure_absence(splits["test"], metric_key_prefix="test")
    record["test"] |= {key.removeprefix("test_"): value for key, value in absence.items()}
    return record


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


def sweep(jobs, workers, folder):
    """Run every job that `folder` does not hold yet; write each as it ends.

    A job whose configuration is another than that of its file is run again, and so is one that failed.

    Args:
        jobs (`dict`): configurations by (setting, row, seed).
        workers (`int`): runs at the same time; each gets one of the CUDA devices, in turn.

    Returns:
        `dict` from (setting, row, seed) to the error of each job that failed.
    """
    done = {key: record["config"] for key, record in read_records(folder).items()}
    left = {key: config for key, config in jobs.items() if done.get(key) != digest(config)}
    threads, failures, pools = max((os.cpu_count() or 1) // workers, 1), {}, SimpleQueue()
    for slot in range(workers):
        pools.put(Worker(slot))

    def work(config):
        worker = pools.get()
        try:
            return worker.submit(run_one, config, threads).result()
        except BrokenProcessPool:
            worker = Worker(worker.slot)
            return {"error": "the process died: killed, or out of memory."}
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return {"error": text, "traceback": str(error.__cause__)}
        finally:
            pools.put(worker)

    with ThreadPoolExecutor(workers) as executor:
        futures = {executor.submit(work, config): key for key, config in left.items()}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                (setting, row, seed), result = futures[future], future.result()
                write_record(folder, setting, row, seed, config=digest(left[setting, row, seed]), **result)
                if "error" in result:
                    failures[setting, row, seed] = result["error"]
                    told = f"FAILED, {result['error']}"
                else:
                    accuracy, seconds = result["test"]["accuracy"], result["seconds"]
                    told = f"test accuracy {100 * accuracy:.1f} %, {seconds:.0f} s"
                print(f"[{number}/{len(left)}] {setting}, {row}, seed {seed}: {told}", flush=True)
        finally:  # where it is ended, no further run is begun
            executor.shutdown(cancel_futures=True)
            for _ in range(workers):
                pools.get().shutdown()
    return failures


class Worker(ProcessPoolExecutor):
    """One process that runs jobs, on one of the CUDA devices: the first has the first, and so on in turn."""

    def __init__(self, slot):
        self.slot = slot
        context, words = multiprocessing.get_context("spawn"), (slot, arguments.PLUGINS)
        super().__init__(1, context, initializer=prepare_worker, initargs=words)


def prepare_worker(slot, plugins):
    """Let a new worker see the CUDA device of its `slot` (`int`, from 0), and know the `plugins` (files)."""
    import torch

    devices = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    os.environ["CUDA_VISIBLE_DEVICES"] = devices.split(",")[slot % len(devices.split(","))]
    arguments.load_plugins(plugins)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent():
    """End this worker when its parent does: a killed sweep must not go on in the background."""
    multiprocessing.parent_process().join()
    for _ in range(100):  # a checkpoint may be written at this very moment
        if _scratch is None or not os.path.exists(_scratch):
            break
        shutil.rmtree(_scratch, ignore_errors=True)
    os._exit(1)


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
    finished = (record for record in read_all(folder) if "test" in record)
    return {(record["setting"], record["row"], record["seed"]): {"config": None, **record} for record in finished}
