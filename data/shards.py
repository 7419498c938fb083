"""Writing a prepared folder: shard by shard, each whole or not at all, so that it can be stopped and go on."""

import contextlib
import errno
import json
import logging
import os
import shutil
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from . import prepared
from .holes import present_key
from .labels import LabelEncoder
from .preparation import BATCH_BYTES, check_columns, encode_sample, sample_bytes, stored_features
from .sources import find_source

SHARD_BYTES = 2**28  # of samples, before compression; a kill costs each process so much work at most
SHARD_SAMPLES = 1000
CARD = Path(__file__).with_name("dataset_card.md")

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def naming(path):
    """Let an error of the disk name what was written, `path` (`Path`), and how to go on."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and error.errno is None:  # of data_dir, not of this file
            raise
        reason = os.strerror(error.errno) if error.errno else str(error)
        hint = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "mend that"
        raise OSError(
            f"{path} cannot be written ({reason}); {hint} and run the same command again: shards that are finished "
            "are kept."
        ) from error


@contextlib.contextmanager
def writing(path):
    """A new binary file that becomes `path` (`Path`) when all is written; otherwise nothing is left of it."""
    part = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")  # hidden from readers, and no other process's
    with naming(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def check_output(folder):
    """Raise an `OSError` or `ValueError` where a folder (`Path`) cannot be written to, or holds something else."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing} is a file; choose another --output.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write in {existing}; choose another --output.")
    if folder.is_dir() and not prepared.is_prepared(folder):
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith((".", "_")))
        if others:
            raise ValueError(f"{folder} holds something else, such as {others[0]}; choose an empty or new --output.")


class Preparation:
    """A benchmark on its way into a folder of shards.

    Args:
        folder (`Path`)
        benchmark (`str`), options (`dict`): name of the data set, and its options that differ from the defaults.
        raw (`datasets.DatasetDict`), data_dir (`str`, *optional*): as the benchmark was built.
        processor ([`LfmProcessor`]), columns (`dict[str, str]`): from a modality to its column.
        shard_size (`int`, *optional*): samples of a shard; about 256 MB of them, 1,000 at most, if not given.
        missing (`str`): what becomes of samples that lack modalities, see [`prepare_dataset`].

    Raises:
        ValueError: no such column; the folder holds another preparation.

    Attributes:
        todo: the shards (`list[Shard]`) that [`begin`] found missing.
    """

    def __init__(self, folder, benchmark, options, raw, data_dir, processor, columns, shard_size=None, missing="error"):
        columns = check_columns(columns, next(iter(raw.values())), processor)
        self.folder, self.raw, self.processor, self.columns = Path(folder), raw, processor, columns
        self.missing = missing
        self.data_dir = None if data_dir is None else str(Path(data_dir).expanduser().resolve())
        label = next(iter(raw.values())).features["label"]
        if not isinstance(label, datasets.ClassLabel):
            raise ValueError(f"{benchmark} has several labels a sample, which shards do not hold: train on its files.")
        self.features = datasets.Features({**stored_features(processor, columns, missing), "labels": label})
        self.sample_bytes = sample_bytes(processor, columns)
        size = shard_size or max(1, min(SHARD_SAMPLES, SHARD_BYTES // self.sample_bytes))
        self.manifest = prepared.describe_preparation(
            benchmark, options, raw, self.data_dir, processor, columns, self.features, size
        )
        if prepared.is_prepared(self.folder):
            there = prepared.read_manifest(self.folder)
            prepared.check_equal(self.folder, {**there, "shards": {}}, self.manifest)
            self.manifest = there  # equal, but a duration of 3 may be one of 3.0 there
        self.digest = prepared.digest({**self.manifest, "shards": {}})
        self.shards = self.todo = prepared.plan_shards(self.manifest)
        self.alone = True  # no other process writes into the folder

    def begin(self, verify=False, part=slice(None)):
        """Write what the folder is to hold, and find the shards that are missing in it (`verify`: or damaged).

        Args:
            part (`slice`): of the shards that this process writes, where others write the rest at the same time.

        Raises:
            OSError: it cannot be written, or there is no room for what is missing.
        """
        self._write_manifest()
        with naming(self.folder / prepared.PROCESSOR):
            self.processor.save_pretrained(self.folder / prepared.PROCESSOR)
        self.alone = part == slice(None)
        self._remove_unfinished()
        self.todo = [shard for shard in self.shards[part] if not self._is_finished(shard, verify)]
        needed, free = self.sample_bytes * sum(map(len, self.todo)), shutil.disk_usage(self.folder).free
        if free < needed / 2:  # compression saves less than that
            raise OSError(
                f"{self.folder} needs up to {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free; make room, "
                "or choose another --output."
            )

    def _remove_unfinished(self):
        """What processes that were killed, of this preparation or an earlier one, have begun to write."""
        for file in self.folder.glob("**/.*.part") if self.alone else ():
            file.unlink(missing_ok=True)

    def _is_finished(self, shard, verify):
        file = self.folder / shard.path
        try:
            if shard.path not in self.manifest["shards"]:  # then another process may have written it
                told = prepared.read_footer(file).metadata or {}
                if told.get(b"preparation") != self.digest.encode():
                    return False
                self._enter(shard, json.loads(told[b"left_out"]))
            prepared.check_shard(self.folder, shard.path, self.manifest, verify)
        except FileNotFoundError:
            return False
        except ValueError as error:
            logger.warning(f"{error} It is written again.")
            return False
        return True

    def _enter(self, shard, left_out):
        told = {"rows": len(shard) - len(left_out), "sha256": prepared.digest_file(self.folder / shard.path)}
        self.manifest["shards"][shard.path] = {**told, "left_out": left_out}
        self._write_manifest()

    def _write_manifest(self):
        order = [shard.path for shard in self.shards if shard.path in self.manifest["shards"]]
        self.manifest["shards"] = {path: self.manifest["shards"][path] for path in order}
        with writing(self.folder / prepared.MANIFEST) as file:
            file.write((json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n").encode())

    def write(self, run=None):
        """Write the shards that are missing.

        Args:
            run (*optional*): what spreads them, such as
                [`Local.run`][modeling_lfm.scripts.common.executor.Local]: of a function, its first argument, and many
                second ones, it yields each of those with the result or the `Exception`. One by one here, if not given.

        Yields:
            [`Shard`]: each that is finished.

        Raises:
            OSError: a shard cannot be written, or a process was killed; finished shards stay.
        """
        numbers = range(len(self.todo))
        outcomes = run(Preparation.write_shard, self, numbers) if run else ((n, self.write_shard(n)) for n in numbers)
        with contextlib.closing(outcomes):  # ends what is at work, where an error ends this
            yield from self._take(outcomes)
        self._remove_unfinished()

    def _take(self, outcomes):
        for number, outcome in outcomes:
            if isinstance(outcome, BrokenExecutor):
                raise ChildProcessError(
                    f"{outcome} At work were: {', '.join(self._at_work()) or 'none'}. Finished shards are kept. Run "
                    "the command again, with a smaller --num_proc if memory is short; if it happens again at the same "
                    "file, move that file away."
                )
            if isinstance(outcome, Exception):
                raise outcome
            self._enter(self.todo[number], outcome)
            yield self.todo[number]

    def _at_work(self):
        """Names (`list[str]`) of the samples that were read when processes ended."""
        marks = [(shard, self._mark(shard)) for shard in self.todo]
        found = [(shard, int(mark.read_text() or shard.start)) for shard, mark in marks if mark.is_file()]
        return [self.name(self.raw[shard.split][index], index) for shard, index in found]

    def _mark(self, shard):
        path = self.folder / shard.path
        return path.with_name(f".{path.name}.sample.part")

    def write_shard(self, number):
        """Write a shard of [`todo`], whole or not at all; name of each sample that cannot be read, and why (`list`).

        Raises:
            OSError: it cannot be written, such as on a full disk. FileNotFoundError: `data_dir` is gone.
        """
        shard, rows, left_out = self.todo[number], [], []
        schema, group = self.features.arrow_schema, max(1, BATCH_BYTES // self.sample_bytes)
        # Dictionaries and statistics are for values that repeat or are compared; these are arrays.
        options = {"compression": "zstd", "compression_level": 1, "use_dictionary": False, "write_statistics": False}
        with writing(self.folder / shard.path) as file, pq.ParquetWriter(file, schema, **options) as writer:
            for row in self._encode(shard, left_out):
                rows.append(row)
                if len(rows) == group:
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                    rows.clear()
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            # The file tells all that is known of it, so that nothing is lost where it is not entered any more.
            writer.add_key_value_metadata({"preparation": self.digest, "left_out": json.dumps(left_out)})
        return left_out

    def _encode(self, shard, left_out):
        """The samples of a shard that can be read (`dict`), one by one; the others are added to `left_out`."""
        raw, mark = self.raw[shard.split], self._mark(shard)
        encode_label = LabelEncoder(raw, "label", self.features["labels"].names)
        try:
            with mark.open("wb", buffering=0) as file:  # tells where a process ended, if it ends
                for index in range(shard.start, shard.stop):
                    os.pwrite(file.fileno(), b"%20d" % index, 0)
                    sample = raw[index]
                    label = encode_label(sample["label"], index)
                    try:
                        row = encode_sample(self.processor, self.columns, sample, self.missing)
                        if not any(row.get(present_key(name), True) for name in self.columns):
                            raise ValueError("it has no modality")
                    except ImportError:
                        raise
                    except Exception as error:  # whatever a decoder makes of a damaged file: the others go on
                        left_out.append([self.name(sample, index), self._reason(error)])
                        continue
                    yield {**row, "labels": label}
        finally:
            mark.unlink(missing_ok=True)

    def name(self, sample, index):
        """What a raw sample is called (`str`): the path of its first media file."""
        for column in self.columns.values():
            value = sample[column]
            path = value.get("path") if isinstance(value, dict) else value
            if isinstance(path, str) and Path(path).is_absolute():
                return self._relative(path)
        return f"sample {index}"

    def _relative(self, text):
        return text.replace(f"{self.data_dir}/", "") if self.data_dir else text

    def _reason(self, error):
        if self.data_dir and not os.path.isdir(self.data_dir):  # or every sample to come would count as broken
            raise FileNotFoundError(f"{self.data_dir} is gone; bring it back and run the same command again.")
        text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return self._relative(" ".join(text.split()))

    def finish(self, report, strict=False):
        """Write report and README of the folder; samples of each split (`dict[str, int]`).

        Args:
            report ([`DownloadReport`]): of the raw files; learns of the samples that were left out.
            strict (`bool`): let none be left out.

        Raises:
            FileNotFoundError: `strict`, and something is missing. ValueError: a split is empty.
        """
        counts = dict.fromkeys(self.manifest["samples"], 0)
        for shard in self.shards:
            told = self.manifest["shards"][shard.path]
            counts[shard.split] += told["rows"]
            for name, reason in told["left_out"]:
                report.leave_out(shard.split, name, reason)
        if strict:
            report.require_complete()
        for split, count in counts.items():
            if count == 0:
                raise ValueError(f"no sample of the split {split!r} can be read; {report.missing[-1].reason}")
        replace(report, data_dir="").save(self.folder / "report.json")  # of no concern to those who get the folder
        with writing(self.folder / "README.md") as file:
            file.write(f"{self._make_card(counts, len(report.missing))}\n".encode())
        return counts

    def _make_card(self, counts, missing):
        source = find_source(self.manifest["benchmark"])
        # The files of each split by name, so that those of another preparation beside them are not read too.
        totals = {shard.split: shard.total for shard in self.shards}
        files = [{"split": name, "path": f"data/{name}-*-of-{total:05d}.parquet"} for name, total in totals.items()]
        header = DatasetCardData(
            pretty_name=f"{source.title}, prepared",
            license=source.hub_licence,
            tags=["multimodal", "classification", *source.modalities],
            configs=[{"config_name": "default", "data_files": files}],
        )
        facts = {"source": source, "processor": self.processor, "counts": counts, "missing": missing}
        return DatasetCard.from_template(header, str(CARD), **facts, dtype=np.dtype)
