"""Writing a prepared folder: shard by shard, each whole or not at all, so that it can be stopped and go on."""

import contextlib
import errno
import itertools
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from . import prepared
from .preparation import BATCH_BYTES, encode_sample, label_encoder, sample_bytes, stored_features

SHARD_BYTES = 2**28  # of samples, before compression; a kill costs each process so much work at most
SHARD_SAMPLES = 1000
POLL = 0.2  # seconds between looks at the progress
LOCK = ".prepare.lock"

logger = logging.getLogger(__name__)


def unwritable(path, error):
    """An `OSError` that tells how to mend that a file or folder (`Path`) could not be written."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "mend that"
    return OSError(
        f"{path} cannot be written ({reason}); {hint} and run the same command again: shards that are finished are "
        "kept."
    )


@contextlib.contextmanager
def writing(path):
    """A new binary file that becomes `path` (`Path`) when all is written; otherwise nothing is left of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # hidden: readers of the folder do not see it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and error.errno is None:  # of data_dir, not of this file
            raise
        raise unwritable(path, error) from error
    finally:
        part.unlink(missing_ok=True)


@dataclass(frozen=True)
class Shard:
    """Samples `start` to `stop` (exclusive) of a raw split, in file `number` (from 0) of `total`."""

    split: str
    number: int
    total: int
    start: int
    stop: int

    @property
    def path(self):
        """Relative to the prepared folder (`str`), a name that `datasets` and the Hub understand."""
        return f"data/{self.split}-{self.number:05d}-of-{self.total:05d}.parquet"

    def __len__(self):
        return self.stop - self.start


def plan_shards(counts, size):
    """The shards (`list[Shard]`) of so many samples a split (`dict[str, int]`), each of `size` (`int`) samples."""
    shards = []
    for split, count in counts.items():
        total = -(-count // size)
        shards += [Shard(split, n, total, n * size, min((n + 1) * size, count)) for n in range(total)]
    return shards


@contextlib.contextmanager
def locked(folder):
    """Hold `folder` (`Path`), which is made, against a second preparation."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(folder / LOCK), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(f"another preparation is writing to {folder}; wait for it, or stop it.") from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def check_output(folder, manifest=None):
    """Raise an `OSError` or `ValueError` where a folder cannot be written to, or holds something else.

    Args:
        folder (`Path`), manifest (`dict`, *optional*): what is to be prepared; that of the folder must be equal.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing} is a file; choose another --output.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write in {existing}; choose another --output.")
    if not folder.is_dir():
        return
    if not prepared.is_prepared(folder):
        others = sorted(p.name for p in folder.iterdir() if p.name != LOCK and not p.name.endswith(".part"))
        if others:
            raise ValueError(f"{folder} holds something else, such as {others[0]}; choose an empty or new --output.")
    elif manifest is not None:
        there, here = ({**each, "shards": {}} for each in (prepared.read_manifest(folder), manifest))
        found = prepared.first_difference(there, here)
        if found is None:
            return
        key, there, here = found
        what = f"{key} = {there!r}, and now it is {here!r}"
        if key.partition(".")[0] in ("files", "samples"):
            what = "other files: those in data_dir have changed since, or are others"
        raise ValueError(
            f"{folder} was begun with {what}. The two must not be mixed: set it as it was, choose another --output, or "
            "delete the folder to begin again."
        )


class Preparation:
    """A benchmark on its way into a folder of shards.

    Args:
        folder (`Path`)
        benchmark (`str`), options (`dict`): name of the data set, and its options that differ from the defaults.
        raw (`datasets.DatasetDict`), data_dir (`str`, *optional*): as the benchmark was built.
        processor ([`LfmProcessor`]), columns (`dict[str, str]`): from a modality to its column.
        shard_size (`int`, *optional*): samples of a shard; about 256 MB of them, 1,000 at most, if not given.

    Raises:
        ValueError: no such column; the folder holds another preparation.

    Attributes:
        todo: the shards (`list[Shard]`) that [`begin`] found missing.
    """

    def __init__(self, folder, benchmark, options, raw, data_dir, processor, columns, shard_size=None):
        known = next(iter(raw.values())).column_names
        for name, column in columns.items():
            if column not in known:
                raise ValueError(
                    f"{benchmark} has no column {column!r} for the modality {name!r}; it has {', '.join(known)}. "
                    f"--columns.{name} COLUMN names it."
                )
        self.folder, self.raw, self.processor, self.columns = Path(folder), raw, processor, columns
        self.data_dir = None if data_dir is None else str(Path(data_dir).expanduser().resolve())
        label = datasets.ClassLabel(names=next(iter(raw.values())).features["label"].names)
        self.features = datasets.Features({**stored_features(processor, columns), "labels": label})
        self.sample_bytes = sample_bytes(processor, columns)
        size = shard_size or max(1, min(SHARD_SAMPLES, SHARD_BYTES // self.sample_bytes))
        self.manifest = prepared.describe_preparation(
            benchmark, options, raw, self.data_dir, processor, columns, self.features, size
        )
        check_output(self.folder, self.manifest)
        self.shards = plan_shards(self.manifest["samples"], size)
        self.todo = self.shards

    def begin(self, verify=False):
        """Write what the folder is to hold, and find the shards that are missing in it.

        Args:
            verify (`bool`): read the finished shards again, to find what has become of them.

        Raises:
            OSError: it cannot be written, or there is no room for what is missing.
        """
        if prepared.is_prepared(self.folder):
            self.manifest = prepared.read_manifest(self.folder)  # equal, but a duration of 3 may be one of 3.0 there
        self._write_manifest()
        try:
            self.processor.save_pretrained(self.folder / prepared.PROCESSOR)
        except OSError as error:
            raise unwritable(self.folder / prepared.PROCESSOR, error) from error
        self._remove_parts()
        self.todo = [shard for shard in self.shards if not self._is_finished(shard, verify)]
        needed, free = self.sample_bytes * sum(map(len, self.todo)), shutil.disk_usage(self.folder).free
        if free < needed / 2:  # compression saves less than that
            raise OSError(
                f"{self.folder} needs up to {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free; make room, "
                "or choose another --output."
            )

    def _is_finished(self, shard, verify):
        path, told = self.folder / shard.path, self.manifest["shards"].get(shard.path)
        try:
            rows, left_out = prepared.read_shard(self.folder, shard.path, self.manifest)
            whole = rows + len(left_out) == len(shard)
            if whole and told is None:  # killed before it was entered
                self._enter(shard, rows, prepared.digest_file(path))
            elif told is not None:
                whole &= rows == told["rows"] and not (verify and prepared.digest_file(path) != told["sha256"])
        except FileNotFoundError:
            return False
        except ValueError as error:
            logger.warning(f"{error} It is written again.")
            return False
        if not whole:
            logger.warning(f"{path} is damaged. It is written again.")
        return whole

    def _enter(self, shard, rows, checksum):
        self.manifest["shards"][shard.path] = {"split": shard.split, "rows": rows, "sha256": checksum}
        self._write_manifest()

    def _write_manifest(self):
        order = [shard.path for shard in self.shards if shard.path in self.manifest["shards"]]
        self.manifest["shards"] = {path: self.manifest["shards"][path] for path in order}
        self._write_text(prepared.MANIFEST, json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n")

    def _write_text(self, name, text):
        with writing(self.folder / name) as file:
            file.write(text.encode())

    def _remove_parts(self):
        """Remove what a killed preparation left half-written; only while no other one runs."""
        for part in [*self.folder.glob(".*.part"), *(self.folder / "data").glob(".*.part")]:
            part.unlink(missing_ok=True)

    def write(self, processes, on_progress):
        """Write the shards that are missing, each by one process.

        Args:
            processes (`int`, *optional*): at most; with one, this process does it. One a core if not given, 16 at most.
            on_progress: called now and then with the samples that are done (`int`).

        Raises:
            OSError: a shard cannot be written, or a process was killed; finished shards stay.
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = min(processes or min(cores, 16), len(self.todo))
        if processes > 1:
            return self._write_in_processes(processes, on_progress)
        count = itertools.count(1)
        for shard in self.todo:
            self._enter(shard, *self.write_shard(shard, lambda: on_progress(next(count))))

    def _write_in_processes(self, processes, on_progress):
        context = multiprocessing.get_context("spawn")  # a fork of a program with threads can hang
        done = context.Array("q", [-1] * len(self.todo), lock=False)  # samples of each; -1: not begun
        pool = ProcessPoolExecutor(processes, context, _start, (self, done))
        others = set(multiprocessing.active_children())
        try:
            futures = {pool.submit(_write, number): shard for number, shard in enumerate(self.todo)}
            pending = set(futures)
            while pending:
                finished, pending = wait(pending, timeout=POLL, return_when=FIRST_EXCEPTION)
                on_progress(sum(max(count, 0) for count in done))
                for future in finished:
                    self._enter(futures[future], *future.result())
        except BrokenProcessPool:
            raise ChildProcessError(self._tell_death(done)) from None
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._remove_parts()

    def _tell_death(self, done):
        names = [
            self.name(self.raw[shard.split][shard.start + count], shard.start + count)
            for shard, count in zip(self.todo, done, strict=True)
            if 0 <= count < len(shard)
        ]
        return (
            "a process ended while it prepared a shard: killed, short of memory, or crashed in a decoder. At work "
            f"were: {', '.join(names) or 'none'}. Finished shards are kept. Run the command again, with a smaller "
            "--num_proc if memory is short; if it happens again at the same file, move that file away."
        )

    def write_shard(self, shard, on_sample):
        """Write a shard, atomically, and call `on_sample` after each sample.

        Returns:
            `tuple[int, str]`: its samples, and its checksum.

        Raises:
            OSError: it cannot be written, such as on a full disk. FileNotFoundError: `data_dir` is gone.
        """
        raw, left_out, rows = self.raw[shard.split], [], []
        encode_label, _ = label_encoder(raw, "label", self.features["labels"].names)
        schema, group = self.features.arrow_schema, max(1, BATCH_BYTES // self.sample_bytes)
        # Dictionaries and statistics are for values that repeat or are compared; these are arrays.
        options = {"compression": "zstd", "compression_level": 1, "use_dictionary": False, "write_statistics": False}
        with writing(self.folder / shard.path) as file, pq.ParquetWriter(file, schema, **options) as writer:
            for index in range(shard.start, shard.stop):
                sample = raw[index]
                label = encode_label(sample["label"], index)
                try:
                    rows.append({**encode_sample(self.processor, self.columns, sample), "labels": label})
                except ImportError:
                    raise
                except Exception as error:  # whatever a decoder makes of a damaged file: the others go on
                    left_out.append([index, self.name(sample, index), self._reason(error)])
                if len(rows) == group or (rows and index == shard.stop - 1):
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                    rows = []
                on_sample()
            own = {"identity": prepared.digest_manifest(self.manifest), "path": shard.path, "left_out": left_out}
            writer.add_key_value_metadata({prepared.OWN: json.dumps(own).encode()})
        return len(shard) - len(left_out), prepared.digest_file(self.folder / shard.path)

    def name(self, sample, index):
        """What a raw sample is called (`str`): the path of its first media file."""
        for column in self.columns.values():
            if isinstance(sample[column], dict) and sample[column].get("path"):
                return self._relative(sample[column]["path"])
        return f"sample {index}"

    def _relative(self, text):
        return text.replace(f"{self.data_dir}/", "") if self.data_dir else text

    def _reason(self, error):
        if self.data_dir and not os.path.isdir(self.data_dir):  # or every sample to come would count as broken
            raise FileNotFoundError(f"{self.data_dir} is gone; bring it back and run the same command again.")
        text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return self._relative(" ".join(text.split()))

    def finish(self, report, strict=False):
        """Count what is in the shards, and write the report and the README of the folder.

        Args:
            report ([`DownloadReport`]): of the raw files; learns of the samples that were left out.
            strict (`bool`): let none be left out.

        Returns:
            Samples of each split (`dict[str, int]`).

        Raises:
            FileNotFoundError: `strict`, and something is missing. ValueError: a split is empty.
        """
        counts = dict.fromkeys(self.manifest["samples"], 0)
        for shard in self.shards:
            rows, left_out = prepared.read_shard(self.folder, shard.path, self.manifest)
            counts[shard.split] += rows
            for _, name, reason in left_out:
                report.leave_out(shard.split, name, reason)
        if strict:
            report.require_complete()
        for split, count in counts.items():
            if count == 0:
                raise ValueError(f"no sample of the split {split!r} can be read; {report.missing[-1].reason}")
        replace(report, data_dir="").save(self.folder / "report.json")  # of no concern to those who get the folder
        self._write_text("README.md", prepared.make_card(self, counts, report))
        return counts


_worker = None  # in a process of the pool: the preparation, and where it counts


def _start(preparation, done):
    """What a new process does first."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program itself is interrupted, and ends its processes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    _worker = (preparation, done)


def _end_with_parent():
    """End this process when the program is killed: it must not go on in the background."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _write(number):
    preparation, done = _worker
    done[number] = 0

    def on_sample():
        done[number] += 1

    return preparation.write_shard(preparation.todo[number], on_sample)
