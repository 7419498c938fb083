"""Vectors, and series of them, each of its own length: the types of input `vector` and `sequence`."""

import math
from dataclasses import dataclass
from numbers import Number
from typing import ClassVar

import numpy as np
import torch

from .inputs_lfm import KINDS, InputKind, check_positive, stack_rows
from .media_lfm import describe
from .numbers_lfm import Moments, read_numbers
from .tables_lfm import is_empty, to_number


@KINDS.register("vector")
@dataclass
class Vector(InputKind):
    """A feature vector of fixed length; `encode` gives (num_features,) float32, and `stack` standardises it.

    What it reads: an array, tensor or list of numbers, a mapping from columns to numbers, or an npy, npz, csv or mat
    file. All of its numbers have to be there.

    Args:
        num_features (`int`, *optional*): its length; [`LfmProcessor.fit`] finds it.
        mean, std (`list[float]`, *optional*): one for each number, subtracted and divided by; those of the training
            data, which `fit` finds.
        standardize (`bool`): False leaves the numbers as they are.
        key (`str`, *optional*): the array of an npz or mat file that holds several.
    """

    num_features: int | None = None
    mean: list | None = None
    std: list | None = None
    standardize: bool = True
    key: str | None = None
    read_only: ClassVar = ("mean", "std", "standardize")
    unit: ClassVar = "numbers"  # of what it has so many, in messages

    def __post_init__(self):
        for key in ("mean", "std"):
            values = getattr(self, key)
            if values is None:
                continue
            values = [values] if isinstance(values, Number) else list(values)
            finite = all(isinstance(value, Number) and math.isfinite(value) for value in values)
            if not finite or (key == "std" and min(values) <= 0):
                raise ValueError(f"{key}={values[:5]} must be finite numbers (std above 0)")
            setattr(self, key, values)
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together")

    @classmethod
    def is_absent(cls, sample):
        """A vector without any number is absent, too."""
        if isinstance(sample, dict) and not {"bytes", "path"} & set(sample):
            sample = list(sample.values())
        if isinstance(sample, (list, tuple)):
            return bool(sample) and all(np.ndim(cell) == 0 and is_empty(cell) for cell in sample)
        if isinstance(sample, np.ndarray) and sample.dtype.kind == "f":
            return sample.size > 0 and bool(np.isnan(sample).all())
        return super().is_absent(sample)

    @property
    def is_fitted(self):
        return self.num_features is not None and (self.mean is not None or not self.standardize)

    @property
    def shape(self):
        return (self.num_features,)

    @property
    def tower_keys(self):
        """What the tower has to know (`dict`)."""
        return {"in_features": self.num_features}

    def read(self, sample):
        """The numbers of a raw input (`np.ndarray` `(num_features,)`, float64)."""
        if isinstance(sample, dict) and not {"bytes", "path"} & set(sample):
            sample = [to_number(value, name) for name, value in sample.items()]
        values = read_numbers(sample, self.key).reshape(-1)
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"{describe(sample)}: number {place} of the vector is {values[place]}; mend the sample")
        return values

    def fit(self, samples):
        """Find number, mean and standard deviation of the numbers of raw training samples (an iterable)."""
        moments = Moments()
        for sample in samples:
            rows = np.atleast_2d(self.read(sample))
            self.num_features = self.num_features or rows.shape[1]
            self._check_width(rows, sample)
            moments.add(rows)
        if self.standardize and self.mean is None:
            self.mean, self.std = moments.mean, moments.std

    def encode(self, sample, sampling_rate=None):
        values = self.read(sample)
        self._check_width(values, sample)
        return values.astype(np.float32)

    def _check_width(self, values, sample):
        if values.shape[-1] != self.num_features:
            raise ValueError(f"{describe(sample)}: {values.shape[-1]} {self.unit}, but others have {self.num_features}")

    def stack(self, rows):
        return stack_rows(rows, self._standardizer())

    def _standardizer(self):
        """What standardises one row in place (a function), or None."""
        if not self.standardize:
            return None
        mean, std = (torch.tensor(part).float() for part in (self.mean, self.std))
        return lambda row: row.sub_(mean).div_(std)


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
        num_features, mean, std, standardize, key: as in [`Vector`]; D, and over all steps of training.
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
        return (-1 if self.length is None else min(self.length, self.max_length), self.num_features)

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
        change = self._standardizer() or (lambda row: row)
        longest = max(len(row) for row in rows)
        values = torch.zeros(len(rows), longest, rows[0].shape[1])
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        for place, here, row in zip(values, mask, rows, strict=True):
            place[: len(row)] = change(row.float().clone())
            here[: len(row)] = 1
        return {"values": values, "attention_mask": mask}
