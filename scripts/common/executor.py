"""Independent pieces of work, such as shards or runs, on processes of this machine or on a Ray cluster.

Each piece writes its own file, whole or not at all, so that what is lost with a process or a machine is one piece.
"""

import gc
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from queue import SimpleQueue

from transformers.hf_argparser import HfArg

from modeling_lfm.scripts.common import settings

DIED = "a process ended before its work did: killed, short of memory, or crashed."


@dataclass
class ExecutorArguments:
    """Where the pieces of a program are worked on."""

    executor: str = HfArg(
        default="local",
        help="local: processes of this machine; ray: a Ray cluster (pip install ray) whose machines have this package "
        "and the same folders.",
    )
    address: str = HfArg(default="auto", help="Of the Ray cluster; auto: that of this machine.")
    part: str | None = HfArg(
        default=None,
        help="i/n: work on every n-th piece only, from the i-th on (1/4, 2/4, ...), as one task of a Slurm array does; "
        "the same command without it ends what the parts began.",
    )

    def __post_init__(self):
        if self.executor not in ("local", "ray"):
            raise ValueError(f"executor={self.executor!r} should be local or ray.")
        found = re.fullmatch(r"(\d+)/(\d+)", "1/1" if self.part is None else str(self.part))
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"part={self.part!r} should be i/n with 1 <= i <= n, such as 1/4.")
        self.pieces = slice(None) if self.part is None else slice(int(found[1]) - 1, None, int(found[2]))

    def make_executor(self, processes):
        """A [`Local`] of so many `processes` (one a core, 16 at most, if None), or a [`Ray`]."""
        if self.executor == "ray":
            return Ray(self.address)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return Local(processes or min(cores, 16))

    def choose_run(self, processes, pieces):
        """`run` of such an executor for so many `pieces`; None where they are done here as well."""
        executor = self.make_executor(processes) if pieces else None
        alone = isinstance(executor, Local) and 1 in (executor.processes, pieces)
        return None if executor is None or alone else executor.run


class Local:
    """Processes of this machine, each on one of its CUDA devices in turn.

    Args:
        processes (`int`): at the same time.

    Attributes:
        threads (`int`): of torch, in each.
    """

    def __init__(self, processes):
        self.processes, self.threads = processes, max((os.cpu_count() or 1) // processes, 1)

    def run(self, function, context, pieces):
        """Call `function(context, piece)` for each of the `pieces`, in any order.

        All are sent to other processes, so that they must be picklable.

        Yields:
            `tuple`: a piece and what came of it: a result, or an `Exception`; a
            `concurrent.futures.BrokenExecutor` where the process died.
        """
        others, slots = set(multiprocessing.active_children()), SimpleQueue()
        with tempfile.TemporaryDirectory(prefix="lfm-", ignore_cleanup_errors=True) as scratch:
            start = (scratch, dict(os.environ), function, context, settings.PLUGINS)
            for number in range(min(self.processes, len(pieces))):
                slots.put((number, None))

            def work(piece):
                number, process = slots.get()
                process = process or ProcessPoolExecutor(1, PROCESSES, initializer=_start, initargs=(number, *start))
                try:
                    return process.submit(_work, piece).result()
                except BrokenExecutor:
                    process = None
                    return BrokenExecutor(DIED)
                except Exception as error:
                    return error
                finally:
                    slots.put((number, process))

            with ThreadPoolExecutor(self.processes) as threads:
                futures = {threads.submit(work, piece): piece for piece in pieces}
                try:
                    for future in as_completed(futures):
                        yield futures[future], future.result()
                    while not slots.empty():  # they end as programs do, or what they held would be told as leaked
                        if (process := slots.get()[1]) is not None:
                            process.shutdown()
                finally:  # where it is ended early, no further piece is begun, and none goes on
                    threads.shutdown(wait=False, cancel_futures=True)
                    for process in set(multiprocessing.active_children()) - others:
                        process.terminate()
                    threads.shutdown()


# A fork of a program with threads can hang. On Linux a server without any imports once what all need, and is forked.
PROCESSES = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    PROCESSES.set_forkserver_preload(["modeling_lfm.trainer.trainer", "modeling_lfm.data", "librosa.core.spectrum"])
_job = None  # in a process of `Local`: function and context, or what kept it from its work


def _start(number, scratch, environment, function, context, plugins):
    """What a new process does first."""
    global _job
    os.environ.clear()
    os.environ.update(environment)  # the server's is that of the program when it first needed a process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program itself is interrupted, and ends its processes
    threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True).start()
    tempfile.tempdir = scratch
    import torch

    devices = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    os.environ["CUDA_VISIBLE_DEVICES"] = devices.split(",")[number % len(devices.split(","))]
    torch.set_num_threads(1)
    gc.freeze()  # a trainer's run collects garbage, and would look through all that was imported
    try:
        settings.load_plugins(plugins)
        _job = function, context
    except Exception as error:
        _job = error


def _end_with_parent(scratch):
    """End this process when the program is killed: it must not go on in the background, nor leave its files."""
    multiprocessing.parent_process().join()
    for _ in range(100):  # a file may be written at this very moment
        if not os.path.exists(scratch):
            break
        shutil.rmtree(scratch, ignore_errors=True)
    os._exit(1)


def _work(piece):
    if isinstance(_job, Exception):
        raise _job
    function, context = _job
    return function(context, piece)


class Ray:
    """The machines of a Ray cluster, a task a piece; one whose worker or machine is lost is done again elsewhere.

    Args:
        address (`str`): as `ray.init` takes it.

    Raises:
        ImportError: Ray is not installed. ConnectionError: there is no such cluster.
    """

    threads = 1

    def __init__(self, address):
        try:
            import ray
        except ImportError:
            raise ImportError("executor=ray needs Ray: pip install ray") from None
        self.ray = ray
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="error")

    def run(self, function, context, pieces):
        """As [`Local.run`]. A piece has one core, and one CUDA device where the cluster has any."""
        ray, errors = self.ray, self.ray.exceptions
        devices = min(1, ray.cluster_resources().get("GPU", 0))
        task = ray.remote(num_cpus=1, num_gpus=devices, max_retries=3)(_work_on_ray)
        job = ray.put((function, context, settings.PLUGINS))
        left = {task.remote(job, piece): piece for piece in pieces}
        try:
            while left:
                (done,), _ = ray.wait(list(left), num_returns=1)
                piece = left.pop(done)
                try:
                    yield piece, ray.get(done)
                except errors.RayTaskError as error:
                    yield piece, error.cause
                except errors.RayError as error:
                    yield piece, BrokenExecutor(f"{DIED} Ray says: {' '.join(str(error).split())[:200]}.")
        finally:
            for reference in left:
                ray.cancel(reference, force=True)


def _work_on_ray(job, piece):
    import torch

    function, context, plugins = job
    torch.set_num_threads(1)
    settings.load_plugins(plugins)
    return function(context, piece)
