"""Many runs: each trains one model in a worker process and becomes one JSON line, so that a sweep can go on later."""

import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict

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
    from modeling_lfm.scripts.common.training import set_up
    from modeling_lfm.trainer import LfmTrainingArguments
    from modeling_lfm.trainer.callbacks import LfmProgressCallback

    torch.set_num_threads(threads)
    hide_progress_bars()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="lfm-run-", ignore_cleanup_errors=True) as _scratch:
        settings = {**config, **FORCED, "output_dir": _scratch}
        built = arguments.build(settings, arguments.ModelArguments, arguments.DataArguments, LfmTrainingArguments)
        trainer, splits = set_up(*built)
        trainer.pop_callback(LfmProgressCallback)
        watch = make_stopwatch()
        trainer.callback_handler.callbacks.insert(0, watch)  # the work of other callbacks in an epoch counts
        watch.start()
        trainer.train()
    state, method = trainer.state, trainer.method
    record = {
        "method": {"name": method.spec.name, **asdict(method.settings)},
        "best_epoch": best_epoch(state),
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


def best_epoch(state):
    """The epoch (`float`) whose model was kept, from a `TrainerState`."""
    evaluations = (e for e in state.log_history if e["step"] == state.best_global_step and "eval_loss" in e)
    return next(evaluations)["epoch"]


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


def sweep(jobs, workers, output):
    """Run every job that `output` does not hold yet; append each as it ends.

    A job whose configuration is another than that of its line is run again, and so is one that failed.

    Args:
        jobs (`dict`): configurations by (setting, row, seed).
        workers (`int`): runs at the same time; each gets one of the CUDA devices, in turn.
        output (`Path`): JSON lines.

    Returns:
        `dict` from (setting, row, seed) to the error of each job that failed.
    """
    done = {key: record["config"] for key, record in read_records(output).items()}
    left = deque((key, config) for key, config in jobs.items() if done.get(key) != digest(config))
    number, total, failures, lock = 0, len(left), {}, threading.Lock()
    output.parent.mkdir(parents=True, exist_ok=True)
    drop_cut_line(output)
    threads = max((os.cpu_count() or 1) // workers, 1)
    devices = find_devices()

    def work(slot):
        nonlocal number
        pool = None
        while True:
            with lock:
                if not left:
                    break
                key, config = left.popleft()
            if pool is None:
                pool = start_worker(devices[slot % len(devices)] if devices else None)
            try:
                result = pool.submit(run_one, config, threads).result()
            except BrokenProcessPool:
                result, pool = {"error": "the process died: killed, or out of memory."}, None
            except Exception as error:
                text = " ".join(str(error).split())
                result = {"error": f"{type(error).__name__}: {text}", "traceback": str(error.__cause__)}
            with lock:
                number += 1
                append(output, dict(zip(("setting", "row", "seed"), key, strict=True), config=digest(config), **result))
                if "error" in result:
                    failures[key] = result["error"]
                setting, row, seed = key
                print(f"[{number}/{total}] {setting}, {row}, seed {seed}: {summarise(result)}", flush=True)
        if pool is not None:
            pool.shutdown()

    with ThreadPoolExecutor(workers) as pool:
        try:
            for future in [pool.submit(work, slot) for slot in range(workers)]:
                future.result()
        except BaseException:
            left.clear()
            raise
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
    return ProcessPoolExecutor(1, context, initializer=prepare_worker, initargs=(device,))


def prepare_worker(device):
    """What a new worker does first; torch is not imported yet."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent():
    """End this worker when its parent does: a killed sweep must not go on in the background."""
    multiprocessing.parent_process().join()
    for _ in range(100):  # a checkpoint may be written at this very moment
        if _scratch is None or not os.path.exists(_scratch):
            break
        shutil.rmtree(_scratch, ignore_errors=True)
    os._exit(1)


def append(output, record):
    """Add one JSON line to `output` (`Path`)."""
    with output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def drop_cut_line(output):
    """Remove from `output` (`Path`) a last line that a kill cut short."""
    content = output.read_bytes() if output.is_file() else b""
    if content and not content.endswith(b"\n"):
        output.write_bytes(content[: content.rfind(b"\n") + 1])


def read_lines(output):
    """The lines of `output` (`Path`) as dictionaries (`list`); one that a kill cut short is left out."""
    if not output.is_file():
        return []
    return [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n")[:-1]]


def read_records(output):
    """The last finished run of each (setting, row, seed) in `output` (`Path`), as a `dict`."""
    records = {}
    for line in read_lines(output):
        if "test" in line:
            records[line["setting"], line["row"], line["seed"]] = {"config": None, **line}
    return records
