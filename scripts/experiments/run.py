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
from queue import SimpleQueue

from modeling_lfm.scripts.common import settings as arguments

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
        config (`dict`): settings of train.py.
        threads (`int`): of torch.

    Returns:
        `dict` with the `method` and its settings, the metrics of `validation` and `test`, `best_epoch`, the
        `seconds` of training (without evaluations), `steps` of the optimizer, `seconds_per_step` (on a CPU of its
        time), and LFM's `alpha` by epoch.
    """
    global _scratch
    import torch
    from transformers.utils import logging

    from modeling_lfm.scripts.common.console import hide_progress_bars
    from modeling_lfm.scripts.common.training import read_run, set_up
    from modeling_lfm.trainer.callbacks import LfmProgressCallback

    torch.set_num_threads(threads)
    hide_progress_bars()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="lfm-run-", ignore_cleanup_errors=True) as _scratch:
        settings = {**config, **FORCED, "output_dir": _scratch}
        trainer, splits = set_up(*read_run(settings))
        trainer.pop_callback(LfmProgressCallback)
        watch = make_stopwatch()
        trainer.callback_handler.callbacks.insert(0, watch)  # the work of other callbacks in an epoch counts
        watch.start()
        trainer.train()
    state, method = trainer.state, trainer.method
    best = next(e for e in state.log_history if e["step"] == state.best_global_step and "eval_loss" in e)
    record = {
        "method": {"name": method.spec.name, **asdict(method.settings)},
        "best_epoch": best["epoch"],
        "seconds": round(watch.seconds, 2),
        "steps": state.global_step,
        "seconds_per_step": watch.busy / state.global_step,
        "alpha": [entry["alpha"] for entry in state.log_history if "alpha" in entry and "loss" in entry],
    }
    names = ("", *(f"{name}_" for name in trainer.model.config.modality_names))
    for split in ("validation", "test"):
        metrics = trainer.predict(splits[split], metric_key_prefix=split).metrics
        record[split] = {f"{n}{m}": metrics.get(f"{split}_{n}{m}") for n in names for m in (*METRICS, "loss")}
        record[split] = {key: value for key, value in record[split].items() if value is not None}
    absence = trainer.measure_absence(splits["test"], metric_key_prefix="test")
    record["test"] |= {key.removeprefix("test_"): value for key, value in absence.items()}
    return record


def make_stopwatch():
    """A callback that measures the `seconds` of training, with what a method does before and between its epochs, and
    without evaluating and saving; and the `busy` ones, processor time on a CPU, where other work would count else."""
    import torch
    from transformers import TrainerCallback

    def read():
        wall = time.perf_counter()
        return wall, wall if torch.cuda.is_available() else time.process_time()

    class Stopwatch(TrainerCallback):
        def start(self):
            self.seconds, self.busy, self.started = 0.0, 0.0, read()

        def on_epoch_begin(self, args, state, control, **kwargs):
            if self.started is None:
                self.started = read()

        def on_epoch_end(self, args, state, control, **kwargs):
            wall, busy = read()
            self.seconds += wall - self.started[0]
            self.busy += busy - self.started[1]
            self.started = None

    return Stopwatch()


def digest(config):
    """A short word that changes with what a run computes; the seed and where files lie are left out."""
    important = {key: value for key, value in config.items() if key not in UNIMPORTANT}
    return hashlib.sha256(json.dumps(important, sort_keys=True).encode()).hexdigest()[:12]


def sweep(jobs, workers, folder):
    """Run every job that `folder` does not hold yet; write each as it ends.

    A job whose configuration is another than that of its file is run again, and so is one that failed.

    Args:
        jobs (`dict`): configurations by (setting, row, seed).
        workers (`int`): runs at the same time; each gets one of the CUDA devices, in turn.
        folder (`Path`): of the results, see [`write_record`].

    Returns:
        `dict` from (setting, row, seed) to the error of each job that failed.
    """
    done = {key: record["config"] for key, record in read_records(folder).items()}
    left = {key: config for key, config in jobs.items() if done.get(key) != digest(config)}
    threads, devices, pools = max((os.cpu_count() or 1) // workers, 1), find_devices() or [None], SimpleQueue()
    for slot in range(workers):
        pools.put(start_worker(devices[slot % len(devices)]))

    def work(config):
        pool = pools.get()
        try:
            return pool.submit(run_one, config, threads).result()
        except BrokenProcessPool:
            pool = start_worker(pool.device)
            return {"error": "the process died: killed, or out of memory."}
        except Exception as error:
            return {
                "error": f"{type(error).__name__}: {' '.join(str(error).split())}",
                "traceback": str(error.__cause__),
            }
        finally:
            pools.put(pool)

    failures = {}
    with ThreadPoolExecutor(workers) as executor:
        futures = {executor.submit(work, config): key for key, config in left.items()}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                (setting, row, seed), result = futures[future], future.result()
                write_record(folder, setting, row, seed, config=digest(left[setting, row, seed]), **result)
                if "error" in result:
                    failures[setting, row, seed] = result["error"]
                print(f"[{number}/{len(left)}] {setting}, {row}, seed {seed}: {summarise(result)}", flush=True)
        finally:  # where it is ended, no further run is begun
            executor.shutdown(cancel_futures=True)
            for _ in range(workers):
                pools.get().shutdown()
    return failures


def summarise(result):
    """One finished run in a few words."""
    if "error" in result:
        return f"FAILED, {result['error']}"
    return (
        f"test accuracy {100 * result['test']['accuracy']:.1f} %, best epoch {result['best_epoch']:g}, "
        f"{result['seconds']:.0f} s"
    )


def find_devices():
    """The CUDA devices that are there (`list[str]`), as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [device for device in given.split(",") if device.strip()]
    import torch

    return [str(device) for device in range(torch.cuda.device_count())]


def start_worker(device):
    """A pool of one process that runs jobs, on the CUDA device `device` (`str`, or None for what there is)."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, context, initializer=prepare_worker, initargs=(device, arguments.PLUGINS))
    pool.device = device
    return pool


def prepare_worker(device, plugins):
    """What a new worker does first; torch is not imported yet."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
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
    record = json.dumps({"setting": setting, "row": row, "seed": seed, **result})
    record = json.loads(record, parse_constant=lambda word: None)  # NaN is no JSON
    part = file.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    part.replace(file)


def read_all(folder):
    """Every record (`list[dict]`) in `folder` (`Path`): runs, failures, and cells that were left out.

    Raises:
        ValueError: a file there is none.
    """
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
