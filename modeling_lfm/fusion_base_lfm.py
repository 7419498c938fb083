"""What every fusion is."""

import torch
from torch import nn


def full_precision(tensor):
    """`tensor` in float32; float64 is kept."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class Fusion(nn.Module):
    """One way to combine modalities.

    `forward(features)` takes a tuple of M tensors (B, d) in the order of `config.modalities` and returns the fused
    logits (B, K) and a tuple of M logits (B, K), each a prediction from one modality alone.
    """

    def __init__(self, config):
        super().__init__()
        self.num_modalities = len(config.modalities)

    def forward(self, features):
        raise NotImplementedError(f"{type(self).__name__} must define forward")
