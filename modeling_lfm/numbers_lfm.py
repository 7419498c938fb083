"""Arrays of numbers: reading them from what people have, and their statistics over a data set."""

import io
import math
import os

import numpy as np

from .media_lfm import describe, is_array, open_media, to_array

try:
    from scipy.io import loadmat
except ImportError:  # only mat files need it
    loadmat = None

MAX_NUMBERS = 50_000_000  # of one sample
LARGEST = 1e30  # beyond, float32 or a square of it overflows; what is meant there is a mark of something missing
FILES = (".npy", ".npz", ".csv", ".tsv", ".txt", ".mat")


def read_numbers(value, key=None):
    """An array of numbers.

    Args:
        value: an array, tensor or nested list, or a path, bytes or `{"bytes", "path"}` of a file: npy, npz, mat
            (version 5), or csv (commas, tabs, semicolons or blanks; one line of names may stand above).
        key (`str`, *optional*): which array of an npz or mat file.

    Returns:
        `np.ndarray`, float64, NaN where a csv file has an empty cell.

    Raises:
        ValueError: no numbers, damaged, too large, or several arrays and no `key`. FileNotFoundError: no such file.
    """
    name = describe(value)
    array = to_array(value) if is_array(value) else _read_file(value, name, key)
    if array.dtype.kind not in "biuf" or not array.size:
        raise ValueError(f"{name}: numbers are expected, got {array.dtype} of shape {array.shape}")
    if array.size > MAX_NUMBERS:
        raise ValueError(f"{name} is refused: {array.size:,} numbers, the limit is {MAX_NUMBERS:,}")
    array = array.astype(np.float64)
    largest = np.max(np.abs(array), initial=0, where=np.isfinite(array))
    if largest > LARGEST:
        raise ValueError(f"{name} holds numbers up to {largest:.3g}; mend or rescale them")
    return array


def _read_file(value, name, key):
    source = open_media(value)
    if isinstance(source, (str, os.PathLike)):
        if os.path.getsize(source) > 8 * MAX_NUMBERS:
            raise ValueError(f"{name} is refused: {os.path.getsize(source):,} bytes")
        with open(source, "rb") as file:
            source = io.BytesIO(file.read())
    head = source.getvalue()[:8]
    try:
        if head.startswith(b"\x93NUMPY"):
            return np.load(source, allow_pickle=False)
        if head.startswith(b"PK"):
            with np.load(source, allow_pickle=False) as arrays:
                return arrays[_choose(list(arrays.files), key, name)]
        if head.startswith(b"MATLAB"):
            if loadmat is None:
                raise ImportError("mat files need SciPy: pip install scipy")
            arrays = {k: v for k, v in loadmat(source).items() if not k.startswith("__")}
            return np.asarray(arrays[_choose(list(arrays), key, name)])
        return _read_text(source.getvalue().decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is none of {', '.join(FILES)}, or a text that is not UTF-8") from error
    except Exception as error:  # whatever a damaged file leads these readers to
        raise ValueError(f"{name} cannot be read as numbers: {str(error)[:300]}") from error


def _choose(names, key, name):
    if key is None and len(names) == 1:
        return names[0]
    if key not in names:
        raise ValueError(f"it holds {', '.join(names) or 'nothing'}; choose one by 'key' in the processor's settings")
    return key


def _read_text(text, name):
    """Rows of numbers; a first line without any is a line of names."""
    lines = [line for line in text.splitlines() if line.strip()]
    mark = next((mark for mark in (",", "\t", ";") if lines and mark in lines[0]), None)
    rows = [[cell.strip() for cell in line.split(mark)] for line in lines]
    if rows and not any(_is_number(cell) for cell in rows[0]):
        rows = rows[1:]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("its lines have different numbers of cells")
    return np.array([[float(cell) if cell else math.nan for cell in row] for row in rows])


def _is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


# -- statistics ----------------------------------------------------------------------------------------------------


class Moments:
    """Mean and standard deviation of the rows (n, d) that are added, by Chan's update (one pass, no cancellation)."""

    def __init__(self):
        self.count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, rows):
        count, mean = len(rows), rows.mean(axis=0)
        total, step = self.count + count, mean - self._mean
        self._squares = self._squares + ((rows - mean) ** 2).sum(axis=0) + step**2 * self.count * count / total
        self._mean, self.count = self._mean + step * count / total, total

    @property
    def mean(self):
        return np.asarray(self._mean).tolist()

    @property
    def std(self):
        """Standard deviation of each of the d numbers (`list[float]`); 1 where nothing varies."""
        std = np.sqrt(np.asarray(self._squares) / max(self.count, 1))
        return np.where(std > 1e-12, std, 1.0).tolist()
