"""Spectrograms inside the model against librosa's, and models that read waveforms."""

import io

import numpy as np
import pytest
import soundfile
import torch

from modeling_lfm import LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.frontend_lfm import LogSpectrogram
from tests.data.media import tone

from ..trainer.toy import shallow_resnet, toy_model
from .towers import TOWERS

SETTINGS = [
    {},
    {"sampling_rate": 8000, "n_fft": 128, "hop_length": 125, "duration": 0.64, "floor": 1e-3, "normalize": True},
    {"preset": "released", "duration": 1.0},
    {"mean": -4.0, "std": 2.5, "duration": 1.0},
]


def speech_like(seconds=1.5, rate=16000):
    """Tones, noise that fades, and a stretch of silence, in which rounding shows first."""
    rng, time = np.random.default_rng(0), np.arange(round(seconds * rate)) / rate
    wave = 0.4 * np.sin(2 * np.pi * 440 * time) + 0.2 * rng.standard_normal(len(time)) * np.exp(-4 * time)
    wave[len(wave) // 2 : len(wave) // 2 + 4000] = 0
    return wave.astype(np.float32)


@pytest.mark.parametrize("settings", SETTINGS)
def test_spectrograms_of_the_model_are_librosas(settings):
    settings = {"type": "spectrogram", **settings}
    outside = LfmProcessor({"audio": settings})
    inside = LfmProcessor({"audio": {**settings, "in_model": True}})
    rate = inside.modalities["audio"]["sampling_rate"]
    waves = [speech_like(), tone(300, 0.8, 16000).astype(np.float32)]
    expected = outside(audio=waves, sampling_rate=16000)["audio_values"]
    given = inside(audio=waves, sampling_rate=16000)["audio_values"]
    assert given.shape == (2, round(inside.modalities["audio"]["duration"] * rate))
    assert tuple(given.shape[1:]) == inside.shape("audio")
    found = LogSpectrogram(inside.kinds["audio"].frontend)(given)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_model_of_waveforms_travels_and_predicts_the_same(tmp_path):
    settings = {"type": "spectrogram", "sampling_rate": 8000, "n_fft": 128, "hop_length": 125, "duration": 0.5}
    outside = LfmProcessor({"audio": settings})
    inside = LfmProcessor({"audio": {**settings, "in_model": True}})
    plain = toy_model({"audio": shallow_resnet(1)}).eval()
    model = toy_model({"audio": {**shallow_resnet(1), "frontend": inside.kinds["audio"].frontend}}).eval()
    model.save_pretrained(tmp_path)
    inside.save_pretrained(tmp_path)
    model, inside = LfmForMultimodalClassification.from_pretrained(tmp_path), LfmProcessor.from_pretrained(tmp_path)
    file = io.BytesIO()
    soundfile.write(file, speech_like(0.7, 8000), 8000, format="wav")
    with torch.no_grad():
        expected = plain(**outside(audio=file.getvalue())).logits
        torch.testing.assert_close(model(**inside(audio=file.getvalue())).logits, expected, rtol=1e-4, atol=1e-5)
        half = model.to(torch.bfloat16)(**inside(audio=file.getvalue()))
        spectrogram = outside(audio=file.getvalue())["audio_values"]
        torch.testing.assert_close(half.logits, plain.to(torch.bfloat16)(audio_values=spectrogram).logits)
    assert half.logits.dtype == torch.bfloat16


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="in_model needs a duration"):
        LfmProcessor({"audio": {"type": "spectrogram", "in_model": True, "duration": None}})
    with pytest.raises(ValueError, match=r"unknown settings \['hop'\]"):
        toy_model({"audio": {**shallow_resnet(1), "frontend": {"hop": 3}}})
    processor = LfmProcessor({"text": {"type": "spectrogram", "in_model": True}})
    with pytest.raises(ValueError, match=r"processor\.text: in_model needs a timm tower"):
        processor.complete_towers({"text": TOWERS["text"]})
    assert LfmProcessor({"audio": {"type": "spectrogram"}}).kinds["audio"].frontend is None
