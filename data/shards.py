"""Prepared samples as Parquet shards: each is written whole or not at all, so that a preparation can stop and go on."""

import errno
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from .labels import label_encoder
from .preparation import BATCH_BYTES, encode_sample, sample_bytes, stored_features

SHARD_BYTES = 2**28  # of samples, before compression; a kill costs each process so much work at most
SHARD_SAMPLES = 1000
LEFT_OUT, IDENTITY = b"lfm.left_out", b"lfm.manifest"  # keys of what a shard tells beside its samples

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The preparation was told to stop; nothing is wrong with the shard."""


def unwritable(path, error):
    """An `OSError` that tells how to mend that a file or folder (`Path`) could not be written."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "mend that"
    return OSError(
        f"{path} cannot be written ({reason}); {hint} and run the same command again: shards that are finished are "
        "kept."
    )


@dataclass(frozen=True)
class Shard:
    """Samples `start` to `stop` (exclusive) of a raw split, in one file.

    Args:
        split (`str`), number (`int`, from 0), total (`int`): which of how many of the split.
        start (`int`), stop (`int`)
    """

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


@dataclass(frozen=True)
class LeftOut:
    """A sample that cannot be read: its split, its index in the raw data, its name and why."""

    split: str
    index: int
    name: str
    reason: str


def default_shard_size(processor, columns):
    """Samples of a shard (`int`): about 256 MB of them, 1,000 at most."""
    return max(1, min(SHARD_SAMPLES, SHARD_BYTES // sample_bytes(processor, columns)))


def plan_shards(counts, size):
    """The shards of a data set, which depend on nothing but their arguments.

    Args:
        counts (`dict[str, int]`): raw samples of each split. size (`int`): samples of a shard.

    Returns:
        `list[Shard]`
    """
    shards = []
    for split, count in counts.items():
        total = -(-count // size)
        shards += [Shard(split, n, total, n * size, min((n + 1) * size, count)) for n in range(total)]
    return shards


class ShardWriter:
    """Encodes raw samples and writes them, for any number of shards.

    Args:
        folder (`Path`): of the prepared data.
        raw (`datasets.DatasetDict`), processor ([`LfmProcessor`])
        columns (`dict[str, str]`): from a modality to its column.
        data_dir (`str`, *optional*): of the raw files; names are told relative to it.
        identity (`str`): of the preparation, kept in each shard.
    """

    def __init__(self, folder, raw, processor, columns, data_dir, identity):
        self.folder, self.raw, self.processor, self.columns = Path(folder), raw, processor, columns
        self.data_dir, self.identity = data_dir, identity
        self.features = prepared_features(raw, processor, columns)
        self.row_group = max(1, BATCH_BYTES // sample_bytes(processor, columns))

    def write(self, shard, on_sample):
        """Write a shard, atomically.

        Args:
            shard ([`Shard`])
            on_sample: called without arguments after each sample; what it raises ends the shard.

        Raises:
            OSError: it cannot be written, such as on a full disk. FileNotFoundError: `data_dir` is gone.
        """
        path = self.folder / shard.path
        part = path.with_name(f".{path.name}.{os.getpid()}.part")  # hidden: readers of the folder do not see it
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                self._write(file, shard, on_sample)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and error.errno is None:  # of data_dir, not of the shard
                raise
            raise unwritable(path, error) from error
        finally:
            part.unlink(missing_ok=True)

    def _write(self, file, shard, on_sample):
        raw, left_out, rows = self.raw[shard.split], [], []
        encode_label, _ = label_encoder(raw, "label", self.features["labels"].names)
        schema = self.features.arrow_schema
        # Dictionaries and statistics are for values that repeat or are compared; these are arrays.
        options = {"compression": "zstd", "compression_level": 1, "use_dictionary": False, "write_statistics": False}
        with pq.ParquetWriter(file, schema, **options) as writer:
            for index in range(shard.start, shard.stop):
                sample = raw[index]
                label = encode_label(sample["label"], index)
                try:
                    rows.append({**encode_sample(self.processor, self.columns, sample), "labels": label})
                except ImportError:
                    raise
                except Exception as error:  # whatever a decoder makes of a damaged file: the others go on
                    left_out.append([index, self.name(sample, index), self._reason(error)])
                if len(rows) == self.row_group:
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                    rows = []
                on_sample()
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            writer.add_key_value_metadata({LEFT_OUT: json.dumps(left_out).encode(), IDENTITY: self.identity.encode()})

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


def prepared_features(raw, processor, columns):
    """Features (`datasets.Features`) of prepared samples: the stored modalities, and `labels` with its class names."""
    names = next(iter(raw.values())).features["label"].names
    return datasets.Features({**stored_features(processor, columns), "labels": datasets.ClassLabel(names=names)})


def read_shard(folder, shard, identity):
    """What a finished shard holds.

    Args:
        folder (`Path`), shard ([`Shard`]), identity (`str`): as it was written with.

    Returns:
        Samples (`int`), bytes of the file (`int`) and those that are left out (`list[LeftOut]`); or None where there is
        no such file, or it is damaged or of another preparation, so that it has to be written again.
    """
    path = Path(folder) / shard.path
    if not path.is_file():
        return None
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        logger.warning(f"{path} is damaged ({error}) and is written again.")
        return None
    told = metadata.metadata or {}
    if told.get(IDENTITY) != identity.encode():
        logger.warning(f"{path} is not of this preparation and is written again.")
        return None
    left_out = [LeftOut(shard.split, *entry) for entry in json.loads(told[LEFT_OUT])]
    return metadata.num_rows, path.stat().st_size, left_out


def remove_parts(folder):
    """Remove what a killed preparation left half-written; only while no other one runs."""
    for part in (Path(folder) / "data").glob(".*.part"):
        part.unlink(missing_ok=True)
