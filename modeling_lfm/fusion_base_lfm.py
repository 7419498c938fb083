"""What every fusion is."""

from typing import ClassVar

import torch
from torch import nn

from .registry_lfm import Registry

FUSIONS = Registry("fusion")


def full_precision(tensor):
    """`tensor` in float32, in which losses are computed whatever the model computes in; float64 is kept."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def blank_absent(tensors, present, value=torch.nan):
    """The tensors (tuple of M (B, d)), `value` where their modality is absent by `present` (bool (M, B) or None)."""
    if present is None:
        return tensors
    return tuple(
        tensor.masked_fill(~there.unsqueeze(-1).to(tensor.device), value)
        for tensor, there in zip(tensors, present, strict=True)
    )


def check_finite(logits, names, present=None):
    """Refuse an answer that is not a number.

    Args:
        logits (`torch.Tensor` `(B, 1 + M, K)`): fused, and of each modality.
        names (iterable of M `str`): the modalities.
        present (`torch.BoolTensor` `(B, M)`, *optional*): those that are there; what the others say is not looked at.

    Raises:
        ValueError: NaN or infinite ones; the message names the modality.
    """
    wrong = ~logits.isfinite().all(-1)
    if present is not None:
        wrong = torch.cat((wrong[:, :1], wrong[:, 1:] & present), 1)
    if wrong.any():
        found = [name for name, bad in zip(names, wrong[:, 1:].any(0).tolist(), strict=True) if bad]
        raise ValueError(
            f"the model's answer is NaN or infinite ({', '.join(found) or 'only the fused prediction'}): its weights, "
            "the input, or mean and std of the processor are no numbers, or far too large. Replace what is damaged."
        )


class Fusion(nn.Module):
    """One way to combine modalities.

    `forward(features, present)` takes a tuple of M tensors (B, d) in the order of `config.modalities` and, where some
    modality is absent, which are there: `present`, a bool tensor (M, B), or None if all are. It returns the fused
    logits (B, K), which do not depend on absent features, and a tuple of M logits (B, K), each a prediction from one
    modality alone.

    A late fusion leaves absent modalities out. A joint one (`joint = True`) reads an absence feature a_m (d,) in their
    place: zeros, or learned, from zeros on, where `config.modality_dropout` is above 0.

    Attributes:
        defaults (`dict`): its settings (`config.fusion_args`), each with its default.
        joint (`bool`): see above.
        exchange (`type`, *optional*): a module by which towers exchange what they see before their last layer:
            `run(towers, tensors, present)` takes the ModuleDict of towers and a dict from each modality to its tower's
            inputs, and returns the towers' vectors.

    Example: see "A fusion" in CONTRIBUTING.md.
    """

    defaults: ClassVar = {}
    joint = False
    exchange = None

    def __init__(self, config):
        super().__init__()
        self.num_modalities = len(config.modalities)
        self.absence = None
        if self.joint and config.modality_dropout > 0 and self.num_modalities > 1:
            self.absence = nn.Parameter(torch.zeros(self.num_modalities, config.hidden_size))

    def reset_parameters(self):
        """a_m = 0, in a model whose checkpoint lacks it; layers initialise themselves."""
        if self.absence is not None:
            nn.init.zeros_(self.absence)

    def absence_feature(self, place, like):
        """a_m of the modality number `place`, expanded to `like` (B, d)."""
        return torch.zeros_like(like) if self.absence is None else self.absence[place].to(like).expand_as(like)

    def fill(self, features, present):
        """The features (tuple of M (B, d)) with a_m in place of absent ones."""
        if present is None:
            return features
        return tuple(
            torch.where(there.unsqueeze(-1), feature, self.absence_feature(place, feature))
            for place, (feature, there) in enumerate(zip(features, present, strict=True))
        )

    @staticmethod
    def stack_present(values, present, absent=0.0):
        """M tensors (B, ...) as one (M, B, ...), with the number `absent` in place of those of absent modalities."""
        values = torch.stack(tuple(values))
        if present is None:
            return values
        return values.masked_fill(~present.view(*present.shape, *[1] * (values.dim() - 2)), absent)

    def forward(self, features, present=None):
        raise NotImplementedError(f"{type(self).__name__} must define forward")


class SplitFusion(Fusion):
    """A fusion with a linear classifier for each modality: f_m = W_m z_m + b_m."""

    def __init__(self, config):
        super().__init__(config)
        self.heads = nn.ModuleList(nn.Linear(config.hidden_size, config.num_labels) for _ in range(self.num_modalities))

    def predict(self, features):
        """f_m (B, K) of each feature (B, d): a tuple of M."""
        return tuple(head(feature) for head, feature in zip(self.heads, features, strict=True))
