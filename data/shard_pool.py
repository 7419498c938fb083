"""Writing shards in parallel, for prepare_data.py: processes of which none outlives the program."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

POLL = 0.2  # seconds between looks at the progress

_worker = None  # in a worker: what it needs


def write_shards(shards, setup, processes, on_progress):
    """Write shards, each by one process.

    Args:
        shards (`list[Shard]`)
        setup (`dict`): arguments of [`ShardWriter`], with the processor's folder for the processor.
        processes (`int`): at most; with one, this process does it.
        on_progress: called now and then with the samples that are done (`int`).

    Raises:
        OSError: a shard cannot be written, or a process was killed; finished shards stay.
    """
    processes = min(processes, len(shards))
    if processes <= 1:
        return _write_here(shards, setup, on_progress)
    context = multiprocessing.get_context("spawn")  # a fork of a program with threads can hang
    done = context.Array("q", [-1] * len(shards), lock=False)  # samples of each; -1: not begun
    stop = context.Value("b", 0, lock=False)
    with ProcessPoolExecutor(processes, context, _start, (shards, setup, done, stop)) as pool:
        try:
            pending = {pool.submit(_write, number) for number in range(len(shards))}
            while pending:
                finished, pending = wait(pending, timeout=POLL, return_when=FIRST_EXCEPTION)
                on_progress(sum(max(count, 0) for count in done))
                for future in finished:
                    future.result()
        except BrokenProcessPool:
            raise ChildProcessError(_tell_death(shards, setup, done)) from None
        except BaseException:
            stop.value = 1  # each looks at it after every sample
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _make_writer(setup):
    from modeling_lfm import LfmProcessor
    from modeling_lfm.data.shards import ShardWriter

    return ShardWriter(**{**setup, "processor": LfmProcessor.from_pretrained(setup["processor"])})


def _write_here(shards, setup, on_progress):
    writer, count = _make_writer(setup), 0

    def on_sample():
        nonlocal count
        count += 1
        on_progress(count)

    for shard in shards:
        writer.write(shard, on_sample)


def _start(shards, setup, done, stop):
    """What a new process does first."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program itself is interrupted, and tells its processes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    _worker = (_make_writer(setup), shards, done, stop)


def _end_with_parent():
    """End this process when the program is killed: it must not go on in the background."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _write(number):
    from modeling_lfm.data.shards import Stopped

    writer, shards, done, stop = _worker
    done[number] = 0

    def on_sample():
        done[number] += 1
        if stop.value:
            raise Stopped

    writer.write(shards[number], on_sample)


def _tell_death(shards, setup, done):
    names = []
    for shard, count in zip(shards, done, strict=True):
        if 0 <= count < len(shard):
            index = shard.start + count
            path = next((v["path"] for v in setup["raw"][shard.split][index].values() if isinstance(v, dict)), None)
            names.append(path or f"sample {index} of {shard.split}")
    return (
        "a process ended while it prepared a shard: killed, short of memory, or crashed in a decoder. At work were: "
        f"{', '.join(names) or 'none'}. Finished shards are kept. Run the command again, with a smaller --num_proc "
        "if memory is short; if it happens again at the same file, move that file away."
    )
