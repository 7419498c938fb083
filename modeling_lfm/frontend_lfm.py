"""Waveforms to log-spectrograms inside the model: in batches, on the device that it runs on."""

import torch
from torch import nn

SETTINGS = {"n_fft": 512, "hop_length": 159, "floor": 1e-7, "normalize": False, "mean": 0.0, "std": 1.0}
SETTINGS |= {"center": False, "clip": False}


class LogSpectrogram(nn.Module):
    """What [`Spectrogram`] of the processor computes, to 1e-5, of waveforms (B, samples): (B, 1, bins, frames).

    It is computed in float64, as librosa does (float32 where a device has none, with errors where there is silence),
    and returned in the type of the waveforms, which should be float32.

    Args:
        settings (`dict`): any of `n_fft`, `hop_length`, `floor`, `normalize`, `mean`, `std`, `center`, `clip`, as in
            [`Spectrogram`], with its defaults.

    Raises:
        ValueError: an unknown setting.
    """

    def __init__(self, settings):
        super().__init__()
        unknown = sorted(set(settings) - set(SETTINGS))
        if unknown:
            raise ValueError(f"frontend has the unknown settings {unknown}; it has {', '.join(SETTINGS)}.")
        self.settings = {**SETTINGS, **settings}

    def forward(self, waves):
        s = self.settings
        with torch.autocast(device_type=waves.device.type, enabled=False):
            exact = waves.float() if waves.device.type == "mps" else waves.double()
            exact = exact.clamp(-1, 1) if s["clip"] else exact
            window = torch.hann_window(s["n_fft"], dtype=exact.dtype, device=exact.device)
            spectrum = torch.stft(
                exact,
                s["n_fft"],
                s["hop_length"],
                window=window,
                center=s["center"],
                pad_mode="constant",
                return_complex=True,
            )
            values = (spectrum.abs() + s["floor"]).log()
            if s["normalize"]:
                spread, mean = torch.std_mean(values, dim=(1, 2), keepdim=True, correction=0)
                values = (values - mean) / spread.clamp(min=1e-6)
            else:
                values = (values - s["mean"]) / s["std"]
            return values.unsqueeze(1).to(waves.dtype)
