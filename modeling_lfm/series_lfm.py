"""Series of vectors, each of its own length: the type of input `sequence`."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from .inputs_lfm import KINDS, check_positive
from .media_lfm import describe
from .numbers_lfm import read_numbers, standardizer
from .tables_lfm import Vector


@KINDS.register("sequence")
@dataclass
class Sequence(Vector):
    """A series of vectors of its own length T; `encode` gives (T, num_features) float32, and `stack` standardises it.

    A batch is padded with zeros, the mean, to its longest; the mask `{modality}_attention_mask` tells the tower which
    steps are there. What it reads: an array, tensor or nested list (T, D), (T,) or of more dimensions, which are
    flattened but for time, or an npy, npz, csv or mat file. Nothing is averaged.

    Args:
        time_axis (`int`): which axis of the array is time; -1 for (joints, 3, T).
        max_length (`int`): steps; what comes later is cut off.
        stride (`int`): of the steps every so many is read.
        length (`int`, *optional*): resample each series to so many steps, by linear interpolation.
        num_features, mean, std, standardize, key: as in [`Vector`][modeling_lfm.tables_lfm.Vector]; D, and over all
            steps of training.
        gaps (`str`): what becomes of NaN: `"error"`, or `"interpolate"` over time (0 where a feature is never there).
    """

    time_axis: int = 0
    max_length: int = 1024
    stride: int = 1
    length: int | None = None
    gaps: str = "error"
    parts: ClassVar = ("values", "attention_mask")
    unit: ClassVar = "features a step (is time_axis right?)"

    def __post_init__(self):
        check_positive(self, "max_length", "stride", *(["length"] if self.length is not None else []))
        if self.gaps not in ("error", "interpolate"):
            raise ValueError(f"gaps={self.gaps!r} must be 'error' or 'interpolate'")
        super().__post_init__()

    @property
    def shape(self):
        return (-1, self.num_features)

    def read(self, sample):
        """The steps of a raw input (`np.ndarray` `(T, D)`, float64)."""
        values = read_numbers(sample, self.key)
        if not -values.ndim <= self.time_axis < values.ndim:
            raise ValueError(f"{describe(sample)} has the shape {values.shape}, so no time_axis {self.time_axis}")
        values = np.moveaxis(values, self.time_axis, 0)
        values = values.reshape(len(values), -1)[:: self.stride]
        if not np.isfinite(values).all():
            values = self._fill(values, describe(sample))
        if self.length is not None:
            places = np.linspace(0, len(values) - 1, self.length)
            values = np.stack([np.interp(places, np.arange(len(values)), column) for column in values.T], axis=1)
        return values[: self.max_length]

    def _fill(self, values, name):
        if self.gaps == "error":
            step, place = (int(part[0]) for part in np.nonzero(~np.isfinite(values)))
            raise ValueError(
                f"{name}: step {step}, feature {place} is {values[step, place]}; mend it, or set gaps: interpolate"
            )
        steps, filled = np.arange(len(values)), np.zeros_like(values)
        for number, column in enumerate(values.T):
            there = np.isfinite(column)
            if there.any():
                filled[:, number] = np.interp(steps, steps[there], column[there])
        return filled

    def stack(self, rows):
        """`values` (B, T, D) float32 and `attention_mask` (B, T) int64, as a `dict`."""
        change = standardizer(self) or (lambda row: row)
        longest = max(len(row) for row in rows)
        values = torch.zeros(len(rows), longest, rows[0].shape[1])
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        for place, here, row in zip(values, mask, rows, strict=True):
            place[: len(row)] = change(row.float().clone())
            here[: len(row)] = 1
        return {"values": values, "attention_mask": mask}
