"""What a model is given, made visible: pictures, frames, optical flow and spectrograms with their axes."""

from dataclasses import dataclass

import numpy as np

from modeling_lfm.frontend_lfm import LogSpectrogram

GAP = 1 / 32  # white between the frames of a clip, a pixel at least, in widths of a frame


@dataclass
class View:
    """One sample of a modality as a picture.

    Args:
        pixels (`np.ndarray`): `(H, W)` or `(H, W, 3)`, within 0..1; the frames of a clip side by side.
        extent (`tuple`, *optional*): left, right, bottom and top of the axes; none for pictures.
        labels (`tuple[str, str]`, *optional*): of the x and the y axis.
        frame (`tuple[int, int]`, *optional*): height and width of one frame of a clip.
    """

    pixels: np.ndarray
    extent: tuple | None = None
    labels: tuple | None = None
    frame: tuple | None = None

    @property
    def grey(self):
        """The same without colour, `(H, W)`, over which a map is laid."""
        return self.pixels if self.pixels.ndim == 2 else self.pixels @ np.array([0.299, 0.587, 0.114])


def view_input(kind, values):
    """What the model reads of one sample, as a picture.

    Args:
        kind: the processor's type of the modality (`processor.kinds[name]`): spectrogram, image, video or flow.
        values (`torch.Tensor`): as the model gets them, `(C, H, W)`, frames `(T, C, H, W)`, or the waveform
            `(samples,)` of a model that computes spectrograms itself.

    Returns:
        [`View`]
    """
    values = values.detach().cpu().float()
    if getattr(kind, "frontend", None) is not None:
        values = LogSpectrogram(kind.frontend)(values[None])[0]
    values = values.numpy()
    if hasattr(kind, "hop_length"):
        return View(_stretch(values[0]), spectrogram_extent(kind, values.shape[-1]), ("time (s)", "frequency (kHz)"))
    frames = values if values.ndim == 4 else values[None]
    if hasattr(kind, "bound"):  # flow: how far things move
        return View(join_frames(_stretch(np.linalg.norm(frames, axis=1))), frame=frames.shape[-2:])
    mean, std = (np.reshape(part, (1, -1, 1, 1)) for part in (kind.mean, kind.std))
    pixels = (frames * std + mean).clip(0, 1).transpose(0, 2, 3, 1)
    return View(join_frames(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), frame=frames.shape[-2:])


def spectrogram_extent(kind, frames):
    """Seconds and kilohertz at the edges of a spectrogram (left, right, bottom, top), a pixel around each centre.

    Args:
        kind ([`Spectrogram`]), frames (`int`)
    """
    first = 0 if kind.center else kind.n_fft / 2
    step, width = kind.hop_length / kind.sampling_rate, kind.sampling_rate / kind.n_fft
    left = first / kind.sampling_rate - step / 2
    bins = kind.n_fft // 2 + 1
    return left, left + frames * step, -width / 2000, (bins - 0.5) * width / 1000


def join_frames(frames, between=1.0):
    """Frames `(T, H, W)` or `(T, H, W, 3)` side by side, and columns of the value `between` (`float`) between them."""
    parts = []
    for number, frame in enumerate(frames):
        if number:
            gap = max(round(GAP * frame.shape[1]), 1)
            parts.append(np.full((frame.shape[0], gap, *frame.shape[2:]), between))
        parts.append(frame)
    return np.concatenate(parts, axis=1)


def join_maps(maps):
    """Maps `(H, W)`, or of frames `(T, H, W)` side by side, to fit what [`join_frames`] makes."""
    return maps if maps.ndim == 2 else join_frames(maps, 0.0)


def _stretch(values):
    """Values from their 1st to their 99th percentile as 0..1."""
    low, high = np.percentile(values, (1, 99))
    return ((values - low) / max(high - low, 1e-12)).clip(0, 1)
