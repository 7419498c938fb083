"""Small towers that are trained from scratch: `mlp` on vectors and tables, `sequence` on series."""

from itertools import pairwise

import torch
from torch import nn

from .temporal_lfm import TimeEncoder
from .towers_lfm import TOWERS, Tower


class OneHot(nn.Module):
    """Categories (B,) int64 to `size` numbers each, of which one is 1."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, categories):
        return nn.functional.one_hot(categories, self.size)


@TOWERS.register("mlp")
class MlpTower(Tower):
    """A multi-layer perceptron on vectors and rows of tables: `values` (B, in_features), `categories` (B, C) int64.

    Keys of its entry: `in_features` (numbers) and `cardinalities` (how many values each category has), which the
    processor tells; `hidden_sizes` (`list[int]`, [128, 128]), `dropout` (0.1). Categories are embedded in
    min(50, (cardinality + 1) // 2) numbers each. With `hidden_sizes: []` there is nothing to learn: the vector is the
    numbers and a one for each category, in the place of its value.
    """

    keys = ("in_features", "cardinalities", "hidden_sizes", "dropout")

    @classmethod
    def check(cls, spec):
        sizes = spec.get("hidden_sizes", [1])
        if not isinstance(sizes, (list, tuple)) or not all(isinstance(s, int) and s > 0 for s in sizes):
            raise ValueError(f"hidden_sizes={sizes!r} must be whole numbers above 0")

    def __init__(self, spec, config):
        super().__init__()
        check_told(spec, "mlp")
        self.count = spec["in_features"]
        cardinalities = spec.get("cardinalities") or []
        self.input_names = ("values", "categories") if cardinalities else ("values",)
        hidden = spec.get("hidden_sizes", (128, 128))
        widths = [min(50, (size + 1) // 2) if hidden else size for size in cardinalities]
        self.embeddings = nn.ModuleList(
            nn.Embedding(size, d) if hidden else OneHot(size) for size, d in zip(cardinalities, widths, strict=True)
        )
        sizes = [self.count + sum(widths), *hidden]
        layers = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU(), nn.Dropout(spec.get("dropout", 0.1))]
        self.encoder = nn.Sequential(*layers)
        self.num_features = sizes[-1]

    def forward(self, values, categories=None):
        embedded = [
            embedding(categories[:, number]).to(values.dtype) for number, embedding in enumerate(self.embeddings)
        ]
        return self.encoder(torch.cat([values, *embedded], dim=1))


@TOWERS.register("sequence")
class SequenceTower(TimeEncoder, Tower):
    """A small encoder of series: `values` (B, T, in_features) and `attention_mask` (B, T) to their mean over time.

    It is a [`TimeEncoder`]. Steps that the mask hides change nothing.

    Keys of its entry: `in_features`, which the processor tells; `encoder` (`"gru"` or `"transformer"`), `width` (128),
    `num_layers` (2; of the encoder), `dropout` (0.1).
    """

    keys = ("in_features", "encoder", "width", "num_layers", "dropout")
    input_names = ("values", "attention_mask")

    @classmethod
    def check(cls, spec):
        if spec.get("encoder", "gru") not in ("gru", "transformer"):
            raise ValueError(f"encoder={spec['encoder']!r} must be gru or transformer")
        width = spec.get("width", 128)
        if not isinstance(width, int) or width < 8 or width % 8:
            raise ValueError(f"width={width!r} must be a multiple of 8")

    def __init__(self, spec, config):
        check_told(spec, "sequence")
        super().__init__(**{key: spec[key] for key in self.keys if key in spec})

    def forward(self, values, mask):
        return super().forward(values, mask if mask.dim() == 2 else mask[..., 0].long())  # ones where none was given


def check_told(spec, tower):
    """Raise a `ValueError` unless the entry of a tower says how many numbers it reads."""
    if not isinstance(spec.get("in_features"), int) or spec["in_features"] < 0:
        raise ValueError(
            f"the tower {tower!r} needs in_features, which a fitted processor tells: "
            "processor.complete_towers(modalities), after processor.fit(train)."
        )
