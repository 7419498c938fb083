"""A small encoder over time: of series, and of the vectors of a clip's frames, whose order it reads."""

import math

import torch
from torch import nn

ORDERS = ("attention", "gru")  # what reads the frames of a clip, beside their mean


class TimeEncoder(nn.Module):
    """Series (B, T, in_features) to their mean over time (B, width), after two convolutions over time and an encoder.

    The encoder is a GRU that reads both ways, or a transformer (`"attention"`, `"transformer"`) with sinusoidal
    positions, as in "Attention Is All You Need".

    Args:
        in_features (`int`): numbers a step. encoder (`str`): `"gru"`, or `"attention"`.
        width (`int`): of what it gives. num_layers (`int`): of the encoder. dropout (`float`)
    """

    def __init__(self, in_features, encoder="gru", width=128, num_layers=2, dropout=0.1):
        super().__init__()
        self.stem = nn.ModuleList(nn.Conv1d(channels, width, 5, padding=2) for channels in (in_features, width))
        self.dropout = nn.Dropout(dropout)
        if encoder == "gru":
            inner = dropout if num_layers > 1 else 0.0
            self.encoder = nn.GRU(width, width // 2, num_layers, batch_first=True, bidirectional=True, dropout=inner)
        else:
            layer = nn.TransformerEncoderLayer(
                width, width // 8 if width < 64 else 8, 2 * width, dropout, "gelu", batch_first=True, norm_first=True
            )
            self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.num_features = width

    def forward(self, values, mask=None):
        """`mask` (B, T), *optional*: 1 for the steps that are there; the others change nothing."""
        here = values.new_ones(1) if mask is None else mask.unsqueeze(-1).to(values.dtype)
        states = values * here
        for convolution in self.stem:
            states = nn.functional.gelu(convolution(states.mT).mT) * here
        states = self.dropout(states)
        if not isinstance(self.encoder, nn.GRU):
            hidden = None if mask is None else mask == 0
            states = self.encoder(states + _positions(states), src_key_padding_mask=hidden)
        elif mask is None:
            states = self.encoder(states)[0]
        else:
            states = self._run_both_ways(states, mask)
        return states.mean(1) if mask is None else (states * here).sum(1) / here.sum(1).clamp(min=1)

    def _run_both_ways(self, states, mask):
        if getattr(torch.compiler, "is_exporting", bool)():  # no exported graph packs
            return self._run_unpacked(states, mask)
        lengths = mask.sum(1).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(states, lengths, batch_first=True, enforce_sorted=False)
        output, _ = self.encoder(packed)
        return nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=mask.shape[1])[0]

    def _run_unpacked(self, states, mask):
        """The same by a GRU for each layer and way: the second reads each series from its own end."""
        steps, lengths = torch.arange(mask.shape[1], device=mask.device), mask.sum(1, keepdim=True)
        turned = torch.where(steps < lengths, lengths - 1 - steps, steps).unsqueeze(-1)
        for layer in range(self.encoder.num_layers):
            ways = []
            for way in ("", "_reverse"):
                series = states.gather(1, turned.expand_as(states)) if way else states
                one = nn.GRU(series.shape[-1], self.encoder.hidden_size, batch_first=True, device="meta")
                weights = {
                    name: getattr(self.encoder, f"{name[:-1]}{layer}{way}") for name, _ in one.named_parameters()
                }
                found = torch.func.functional_call(one, weights, (series,))[0]
                ways.append(found.gather(1, turned.expand_as(found)) if way else found)
            states = torch.cat(ways, -1)
        return states


def _positions(states):
    """Sines and cosines of the steps (T, width)."""
    steps, width = states.shape[1:]
    rates = torch.exp(torch.arange(0, width, 2, device=states.device) * (-math.log(10_000.0) / width))
    angles = torch.arange(steps, device=states.device).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(states.dtype)
