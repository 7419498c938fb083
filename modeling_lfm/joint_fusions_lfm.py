"""Fusions whose prediction cannot be split into shares of the modalities."""

import torch
from torch import nn

from .fusion_base_lfm import Fusion


class JointFusion(Fusion):
    """F = `fuse`(z_1, ..., z_M), with an absence feature in place of each z_m that is absent.

    What a modality predicts alone is F with all others absent.
    """

    joint = True

    def fuse(self, features):
        """The fused logits (B, K) of M features (B, d)."""
        raise NotImplementedError(f"{type(self).__name__} must define fuse")

    def forward(self, features, present=None):
        absent = [self.absence_feature(place, feature) for place, feature in enumerate(features)]
        alone = tuple(
            self.fuse([feature if place == m else absent[place] for place in range(len(features))])
            for m, feature in enumerate(features)
        )
        return self.fuse(self.fill(features, present)), alone


class FilmFusion(JointFusion):
    """F = W h_M + b, where each feature is scaled and shifted by what came before it: h_m = gamma_m * z_m + beta_m.

    [gamma_m; beta_m] = W_m h_{m-1} + b_m (2 d numbers) and h_1 = z_1: with two modalities the first conditions the
    second, as audio conditions video in the table of the LFM paper. The chain for more than two is our derivation.

    Source: Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018, equation 2; gamma is
    predicted as it is, without adding 1.
    """

    def __init__(self, config):
        super().__init__(config)
        d = config.hidden_size
        self.conditions = nn.ModuleList(nn.Linear(d, 2 * d) for _ in range(self.num_modalities - 1))
        self.head = nn.Linear(d, config.num_labels)

    def fuse(self, features):
        hidden = features[0]
        for condition, feature in zip(self.conditions, features[1:], strict=True):
            scale, shift = condition(hidden).chunk(2, dim=-1)
            hidden = scale * feature + shift
        return self.head(hidden)


class LstmFusion(JointFusion):
    """F = W h + b, h the last hidden state of an LSTM that reads the features as a sequence of M steps.

    `fusion_args`: `num_layers` of the LSTM. An interpretation of ML-LSTM (Nie et al., Multimedia Tools and Applications
    2021, 10.1007/s11042-020-08796-8), whose abstract tells of an LSTM that fuses modalities while it learns; no code of
    it is public.

    Raises:
        ValueError: `num_layers` is not a positive integer.
    """

    def __init__(self, config):
        super().__init__(config)
        layers, d = config.fusion_arg("num_layers"), config.hidden_size
        if not isinstance(layers, int) or isinstance(layers, bool) or layers < 1:
            raise ValueError(f"fusion_args num_layers={layers!r} must be a positive integer.")
        self.lstm = nn.LSTM(d, d, num_layers=layers, batch_first=True)
        self.head = nn.Linear(d, config.num_labels)

    def fuse(self, features):
        states, _ = self.lstm(torch.stack(tuple(features), dim=1))
        return self.head(states[:, -1])
