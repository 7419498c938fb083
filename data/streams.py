"""Prepared samples as a stream: read shard by shard while training, from a folder, an object store or the Hub."""

import datasets
import fsspec
import pyarrow.parquet as pq
from torch.utils.data import IterableDataset, get_worker_info

from .augmentation import AugmentedDataset
from .preparation import Decoder

BUFFER = 1000  # samples among which the next one is drawn
READ = 64  # samples of a shard that are unpacked at once


def _read(files, columns):
    """The rows (`dict`) of Parquet files. Where `datasets` itself reads them, a pass ends in a wait of 5 seconds."""
    for path in files:
        with fsspec.open(path, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(READ, columns=list(columns)):
                yield from batch.to_pylist()


class PreparedStream(IterableDataset):
    """Prepared samples as they come, decoded and augmented; only a buffer of them is in memory.

    Shards are shuffled, and samples within a buffer, anew in each pass, by seed and pass alone: a resumed run reads the
    same samples. Workers share the shards. Its length is that of a pass, so that training counts in epochs.

    Args:
        files (`list[str]`): of Parquet, paths or addresses.
        features (`datasets.Features`): of the columns that are read.
        rows (`int`): samples of all files.
        processor ([`LfmProcessor`]): decodes them, and says how they are augmented.
        seed (`int`)
    """

    def __init__(self, files, features, rows, processor, seed=0):
        parts = {"files": files, "columns": tuple(features)}  # the list is what is shuffled and shared out
        stored = datasets.IterableDataset.from_generator(_read, gen_kwargs=parts)
        self.stored = stored.shuffle(seed=seed, buffer_size=BUFFER)
        self.features, self.column_names, self._rows = features, list(features), rows
        self._decode = Decoder(processor, processor.modalities)
        self._augmented = AugmentedDataset((), processor, seed)

    def __len__(self):
        return self._rows

    def __iter__(self):
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number, row in enumerate(self.stored):
            batch = self._decode({key: [value] for key, value in row.items()})
            yield self._augmented.vary({key: value[0] for key, value in batch.items()}, first + number * step)

    def set_epoch(self, epoch):
        """Shuffle and draw anew, by the number of the pass (`int`, from 0); the trainer calls it as each begins."""
        self.stored.set_epoch(epoch)
        self._augmented.set_epoch(epoch)
