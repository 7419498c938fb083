"""The processor: exact shapes and values against torch and PIL, every form of input, round trips, clear errors."""

import io
import os

import librosa
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import AutoProcessor

from modeling_lfm import LfmProcessor
from tests.data.media import image_bytes, tone, wav_bytes

from .towers import make_tokenizer

PAPER = {"type": "spectrogram"}
SMALL = {"type": "spectrogram", "sampling_rate": 8000, "n_fft": 128, "hop_length": 125, "duration": 0.5}
GREY = {"type": "image", "size": [8, 8], "num_channels": 1, "mean": 0.0, "std": 1.0}
VIDEO = {"type": "video", "size": [48, 64], "mean": 0.0, "std": 1.0}
FLOW = {"type": "flow", "size": [48, 64]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("vocab"))


def reference_spectrogram(wave, n_fft, hop_length, floor=1e-7):
    spectrum = torch.stft(
        torch.as_tensor(wave), n_fft, hop_length, window=torch.hann_window(n_fft), center=False, return_complex=True
    )
    return (spectrum.abs() + floor).log()


@pytest.mark.parametrize(("seconds", "frames"), [(3.0, 299), (10.0, 1004)])
def test_spectrogram_of_the_paper_agrees_with_torch(seconds, frames):
    wave = np.random.default_rng(0).normal(0, 0.1, round(16000 * seconds)).astype(np.float32)
    processor = LfmProcessor({"audio": {**PAPER, "duration": seconds}})
    values = processor(audio=[wave], sampling_rate=16000)["audio_values"]
    assert values.shape == (1, 1, 257, frames)
    assert values.dtype == torch.float32
    assert processor.shape("audio") == (1, 257, frames)
    torch.testing.assert_close(values[0, 0], reference_spectrogram(wave, 512, 159), rtol=0, atol=2e-4)


def test_spectrogram_of_the_released_code(tmp_path):
    """Against the steps of `dataset/CREMA.py` in github.com/njustkmg/NeurIPS24-LFM."""
    wave = (1.2 * np.random.default_rng(0).normal(0, 0.4, 40000)).clip(-1, 1).astype(np.float32)
    path = tmp_path / "a.wav"
    soundfile.write(path, wave, 16000)
    samples, _ = librosa.load(path, sr=22050)
    assert np.abs(samples).max() > 1
    repeated = np.tile(samples, 20)[: 22050 * 20]
    repeated[repeated > 1.0] = 1.0
    repeated[repeated < -1.0] = -1.0
    expected = np.log(np.abs(librosa.stft(repeated, n_fft=512, hop_length=353)) + 1e-7)
    processor = LfmProcessor({"audio": {"type": "spectrogram", "preset": "released"}})
    values = processor(audio=path)["audio_values"]
    assert values.shape == (1, 1, 257, 1250)
    assert processor.shape("audio") == (1, 257, 1250)
    torch.testing.assert_close(values[0, 0], torch.from_numpy(expected), rtol=0, atol=1e-4)
    processor.save_pretrained(tmp_path / "saved")
    loaded = LfmProcessor.from_pretrained(tmp_path / "saved")
    assert loaded.modalities == processor.modalities
    assert torch.equal(loaded(audio=path)["audio_values"], values)


def test_presets_give_way_to_settings():
    settings = {"type": "spectrogram", "preset": "released", "duration": 10.0}
    assert LfmProcessor({"audio": settings}).shape("audio") == (1, 257, 625)
    paper = LfmProcessor({"audio": {"type": "spectrogram", "preset": "paper"}})
    assert paper.modalities == LfmProcessor({"audio": PAPER}).modalities
    with pytest.raises(ValueError, match="preset 'other' is unknown; choose one of paper, released"):
        LfmProcessor({"audio": {"type": "spectrogram", "preset": "other"}})
    with pytest.raises(ValueError, match=r"unknown setting 'preset'"):
        LfmProcessor({"image": {"type": "image", "preset": "paper"}})


def test_short_audio_is_repeated_and_long_audio_cut():
    wave = np.random.default_rng(1).normal(0, 0.1, 1500).astype(np.float32)
    processor = LfmProcessor({"audio": SMALL})
    short, long = processor(audio=[wave, np.tile(wave, 5)])["audio_values"]
    repeated = np.concatenate([wave, wave, wave[:1000]])
    assert torch.equal(short, long)
    torch.testing.assert_close(short[0], reference_spectrogram(repeated, 128, 125), rtol=0, atol=2e-4)


def test_spectrogram_scaling():
    wave = tone(440)
    plain = LfmProcessor({"audio": SMALL})(audio=wave)["audio_values"]
    scaled = LfmProcessor({"audio": {**SMALL, "mean": -2.0, "std": 3.0}})(audio=wave)["audio_values"]
    torch.testing.assert_close(scaled, (plain + 2) / 3)
    normalised = LfmProcessor({"audio": {**SMALL, "normalize": True}})(audio=wave)["audio_values"]
    torch.testing.assert_close(normalised, (plain - plain.mean()) / plain.std(correction=0), rtol=0, atol=1e-4)


def test_audio_without_duration_is_padded_with_silence():
    processor = LfmProcessor({"audio": {**SMALL, "duration": None, "mean": 1.0, "std": 2.0}})
    wave = np.random.default_rng(2).normal(0, 0.1, 3200).astype(np.float32)
    values = processor(audio=[wave[:800], wave, wave[:100]])["audio_values"]
    assert values.shape == (3, 1, 65, 25)
    assert processor.shape("audio") == (1, 65, -1)
    for row, heard in ((0, wave[:800]), (1, wave), (2, np.concatenate([wave[:100], wave[:28]]))):  # one window at least
        reference = (reference_spectrogram(heard, 128, 125) - 1) / 2
        frames = reference.shape[1]
        assert frames == 1 + (len(heard) - 128) // 125
        torch.testing.assert_close(values[row, 0, :, :frames], reference, rtol=0, atol=2e-3)
        silence = torch.full((65, 25 - frames), (np.log(1e-7) - 1) / 2)
        torch.testing.assert_close(values[row, 0, :, frames:], silence)


def test_audio_is_resampled_and_mixed_to_mono():
    low, high = tone(440, rate=8000), tone(440, rate=16000)
    processor = LfmProcessor({"audio": {**SMALL, "floor": 1e-2}})
    same = processor(audio=low)["audio_values"]
    resampled = processor(audio=high, sampling_rate=16000)["audio_values"]
    assert (same - resampled).abs().mean() < 0.05
    assert (same - processor(audio=high, sampling_rate=8000)["audio_values"]).abs().mean() > 0.3
    stereo = np.stack([low + 0.1, low - 0.1])
    torch.testing.assert_close(processor(audio=stereo)["audio_values"], same, rtol=0, atol=1e-3)


def test_every_form_of_audio_gives_the_same(tmp_path):
    wave = (np.round(tone(700) * 32767) / 32768).astype(np.float32)  # what 16 bits hold
    content = wav_bytes(np.round(wave * 32768).astype(np.int16))
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    soundfile.write(tmp_path / "stereo.flac", np.stack([wave, wave], axis=1), 8000)
    forms = [
        wave,
        torch.from_numpy(wave),
        wave.astype(np.float64),
        (wave * 32768).astype(np.int16),
        {"array": wave.tolist(), "sampling_rate": 8000},
        str(path),
        path,
        content,
        {"bytes": content, "path": "elsewhere.wav"},
        {"bytes": None, "path": str(path)},
        tmp_path / "stereo.flac",
    ]
    values = LfmProcessor({"audio": SMALL})(audio=forms)["audio_values"]
    for row in values[1:]:
        torch.testing.assert_close(row, values[0], rtol=0, atol=1e-3)


def test_every_form_of_image_gives_the_same(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    content = image_bytes(pixels)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    forms = [pixels, Image.fromarray(pixels), str(path), path, content, {"bytes": content, "path": None}]
    forms.append({"bytes": None, "path": str(path)})
    values = LfmProcessor({"image": {"type": "image", "size": [10, 12]}})(image=forms)["image_values"]
    assert values.shape == (7, 3, 10, 12)
    assert all(torch.equal(row, values[0]) for row in values)


def test_image_values_against_pil():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    settings = {"type": "image", "size": [10, 10], "mean": mean, "std": std}
    image = Image.fromarray(pixels)
    short_side = image.resize((20, 10), Image.Resampling.BICUBIC).crop((5, 0, 15, 10))
    stretched = image.resize((10, 10), Image.Resampling.BICUBIC)
    for crop, expected in ((True, short_side), (False, stretched)):
        values = LfmProcessor({"image": {**settings, "crop": crop}})(image=image)["image_values"][0]
        reference = (torch.tensor(np.asarray(expected)).permute(2, 0, 1) / 255 - torch.tensor(mean)[:, None, None]) / (
            torch.tensor(std)[:, None, None]
        )
        # crop and resize in one step differ from two steps by rounding, at most a grey value or two
        torch.testing.assert_close(values, reference, rtol=0, atol=0.02 if crop else 1e-6)


def test_grey_images_and_transparency():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    forms = [pixels, pixels[:, :, None], np.repeat(pixels[:, :, None], 3, axis=2), Image.fromarray(pixels)]
    rgba = np.dstack([pixels, pixels, pixels, np.full_like(pixels, 255)])
    values = LfmProcessor({"image": GREY})(image=[*forms, rgba])["image_values"]
    for row in values:
        torch.testing.assert_close(row[0], torch.tensor(pixels) / 255)
    colour = LfmProcessor({"image": {**GREY, "num_channels": 3}})(image=[pixels])["image_values"]
    assert colour.shape == (1, 3, 8, 8)
    assert torch.equal(colour[0, 0], colour[0, 2])


def test_photographs_are_turned_as_their_exif_tells():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8] = 200
    content = image_bytes(pixels, "JPEG", exif=exif, quality=95)
    values = LfmProcessor({"image": GREY})(image=content)["image_values"][0, 0]
    assert values[:, 5:].min() > 0.7
    assert values[:, :3].max() < 0.1


def test_two_text_modalities(tokenizer):
    settings = {
        "headline": {"type": "text", "max_length": 4},
        "body": {"type": "text", "max_length": 8, "padding": "max_length"},
    }
    processor = LfmProcessor(settings, tokenizer=tokenizer)
    batch = processor(headline=["the cat sat on the mat", "cat"], body=["the cat", "dog"])
    assert batch["headline_input_ids"].tolist() == [[2, 5, 6, 3], [2, 6, 3, 0]]
    assert batch["headline_attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["body_input_ids"].tolist() == [[2, 5, 6, 3, 0, 0, 0, 0], [2, 1, 3, 0, 0, 0, 0, 0]]
    assert batch["body_attention_mask"].sum(1).tolist() == [4, 3]
    assert set(batch) == set(processor.model_input_names)


def test_numpy_and_single_samples():
    processor = LfmProcessor({"audio": SMALL, "image": GREY})
    single = processor(audio=tone(440), image=np.zeros((8, 8), np.uint8), return_tensors="np")
    batch = processor(audio=[tone(440)], image=[np.zeros((8, 8), np.uint8)])
    assert isinstance(single["audio_values"], np.ndarray)
    for key, value in batch.items():
        np.testing.assert_array_equal(single[key], value.numpy())


@pytest.mark.parametrize("with_text", [False, True])
def test_round_trip(tmp_path, tokenizer, with_text):
    augment = {"scale": [0.5, 1], "flip": 0.25}
    settings = {
        "audio": SMALL,
        "image": {**GREY, "augment": augment},
        "video": VIDEO,
        "flow": {**FLOW, "augment": True},
    }
    settings |= {"text": {"type": "text", "max_length": 6}} if with_text else {}
    processor = LfmProcessor(settings, tokenizer=tokenizer if with_text else None)
    settings_before = processor.to_dict()
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer_config.json").is_file() == with_text
    loaded = LfmProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == settings_before
    assert loaded.kinds["image"].augment == {"scale": [0.5, 1.0], "ratio": [0.75, 4 / 3], "flip": 0.25}
    assert loaded.varies
    inputs = {"audio": [tone(300), tone(900)], "image": [np.full((9, 9), 50 * i, np.uint8) for i in range(2)]}
    clips = np.random.default_rng(0).integers(0, 256, (2, 12, 40, 50, 3), dtype=np.uint8)
    inputs |= {"video": list(clips), "flow": list(clips)}
    if with_text:
        inputs["text"] = ["the cat", "sat on the mat on the mat"]
    before, after = processor(**inputs), loaded(**inputs)
    assert before.keys() == after.keys() == set(loaded.model_input_names)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(name in repr(loaded) for name in settings)
    changed = LfmProcessor.from_pretrained(tmp_path, modalities={"image": GREY} if not with_text else settings)
    assert set(changed.modalities) == ({"image"} if not with_text else set(settings))


def test_push_counts_the_tokenizer_among_the_files(tmp_path, tokenizer, monkeypatch):
    """With push_to_hub, what changed since the call began is uploaded: that must be all files."""
    uploaded = []
    monkeypatch.setattr("transformers.processing_utils.hf_api", lambda: _Hub())
    monkeypatch.setattr(
        LfmProcessor,
        "_upload_modified_files",
        lambda self, folder, repo, before, **kwargs: uploaded.extend(set(os.listdir(folder)) - set(before)),
    )
    LfmProcessor({"text": {"type": "text"}}, tokenizer=tokenizer).save_pretrained(str(tmp_path), push_to_hub=True)
    assert {"processor_config.json", "tokenizer.json", "tokenizer_config.json"} <= set(uploaded)


class _Hub:
    def create_repo(self, repo_id, **kwargs):
        return type("Repo", (), {"repo_id": repo_id})


def test_auto_processor_knows_it(tmp_path):
    LfmProcessor({"image": GREY}).save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is LfmProcessor


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ({}, "modalities must map names"),
        ({"image": {"size": [8, 8]}}, "'image' needs a 'type', one of spectrogram, image, text"),
        ({"image": {"type": "movie"}}, "image"),
        ({"image": {"type": "image", "sise": 3}}, r"'sise'; did you mean 'size'"),
        ({"image": {"type": "image", "size": [0, 8]}}, "size="),
        ({"image": {"type": "image", "size": [100_000, 100_000]}}, "size="),
        ({"audio": {"type": "spectrogram", "duration": 1e6}}, "duration="),
        ({"image": {"type": "image", "num_channels": 2}}, "num_channels=2 must be 1 or 3"),
        ({"image": {"type": "image", "mean": [0.5, 0.5]}}, "mean="),
        ({"image": {"type": "image", "std": 0}}, "std="),
        ({"audio": {**SMALL, "n_fft": 0}}, "n_fft=0 must be a whole number above 0"),
        ({"audio": {**SMALL, "hop_length": 1.5}}, "hop_length=1.5 must be a whole number"),
        ({"audio": {**SMALL, "sampling_rate": "8k"}}, "sampling_rate='8k'"),
        ({"audio": {**SMALL, "duration": 0.01}}, "must be from one window"),
        ({"video": {**VIDEO, "num_frames": 11}}, "num_frames=11 must not be above 10"),
        ({"video": {**VIDEO, "stored_frames": 0}}, "stored_frames=0 must be a whole number above 0"),
        ({"video": {**VIDEO, "num_frames": 2.5}}, "num_frames=2.5 must be a whole number"),
        ({"video": {**VIDEO, "num_channels": 2}}, "num_channels=2 must be 1 or 3"),
        ({"flow": {**FLOW, "num_frames": 10}}, "num_frames=10 must not be above 9"),
        ({"flow": {**FLOW, "stored_frames": 1}}, "must not be above 0"),
        ({"flow": {**FLOW, "bound": 0}}, "bound=0 must be a number above 0"),
        ({"flow": {**FLOW, "size": 8}}, "must be 16 pixels at least"),
        ({"flow": {**FLOW, "num_channels": 2}}, r"unknown setting 'num_channels'"),
        ({"image": {**GREY, "augment": {"crop": 1}}}, "must be true, false, or a mapping with scale, ratio, flip"),
        ({"image": {**GREY, "augment": 1.5}}, "must be true, false, or a mapping"),
        ({"image": {**GREY, "augment": {"scale": [0.5, 2]}}}, "scale=.* two ascending numbers above 0 and up to 1"),
        ({"video": {**VIDEO, "augment": {"ratio": [2, 1]}}}, "ratio=.* two ascending numbers"),
        ({"video": {**VIDEO, "augment": {"flip": 2}}}, "flip=2 must be a probability"),
        ({"text": {"type": "text"}}, "needs a tokenizer"),
        ({"return_tensors": GREY}, "modality name 'return_tensors'"),
        ({"a b": GREY}, "modality name 'a b'"),
    ],
)
def test_wrong_settings_are_refused(modalities, message):
    with pytest.raises(ValueError, match=message):
        LfmProcessor(modalities)


def test_wrong_parts_are_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="no modality has the type 'text'"):
        LfmProcessor({"image": GREY}, tokenizer=tokenizer)
    with pytest.raises(TypeError, match="tokenizer"):
        LfmProcessor({"text": {"type": "text"}}, tokenizer="bert-base-uncased")
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(OSError, match="holds no LfmProcessor"):
        LfmProcessor.from_pretrained(tmp_path)


def test_wrong_calls_are_refused(tokenizer):
    processor = LfmProcessor({"audio": SMALL, "image": GREY, "text": {"type": "text"}}, tokenizer=tokenizer)
    picture = np.zeros((8, 8), np.uint8)
    for inputs, message in [
        ({}, "no input; this processor reads audio, image, text"),
        ({"video": [1]}, r"unknown modalities \['video'\]; this processor reads audio, image, text"),
        ({"image": [picture], "text": ["a", "b"]}, "the same number of samples"),
        ({"image": []}, "one at least"),
        ({"image": [picture], "return_tensors": "tf"}, "'pt' or 'np'"),
        ({"text": [5]}, "a text is expected, got an input of type int"),
        ({"text": [None]}, "sample 0 has no modality"),
        ({"image": [3]}, "got int"),
        ({"image": [picture.astype(np.float32) - 1]}, "range"),
        ({"image": [Image.new("I;16", (8, 8))]}, "range"),
        ({"image": [b"no image"]}, "cannot be read as an image"),
        ({"audio": [b"no sound"]}, "cannot be read as audio"),
        ({"audio": [{"bytes": None, "path": None}]}, "sample 0 has no modality"),
        ({"audio": [np.zeros(0, np.float32)]}, "no audio samples"),
        ({"audio": [np.full(9, np.nan, np.float32)]}, "not finite"),
        ({"audio": [np.zeros((800, 20), np.float32)]}, r"\(channels, samples\)"),
        ({"audio": [0.5, 0.25]}, "got float"),
        ({"audio": [np.zeros(9, np.uint8)]}, "signed integers"),
    ]:
        with pytest.raises(ValueError, match=message):
            processor(**inputs)


def test_damaged_and_missing_files_are_named(tmp_path):
    processor = LfmProcessor({"audio": SMALL, "image": GREY})
    whole = image_bytes(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bad.wav").write_bytes(b"RIFF no more")
    with pytest.raises(ValueError, match=r"cut\.png cannot be read as an image"):
        processor(image=tmp_path / "cut.png")
    with pytest.raises(ValueError, match=r"far\.png cannot be read as an image"):
        processor(image={"bytes": whole[:200], "path": "far.png"})
    with pytest.raises(ValueError, match=r"bad\.wav cannot be read as audio"):
        processor(audio=str(tmp_path / "bad.wav"))
    for modality in ("audio", "image"):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            processor(**{modality: [str(tmp_path / "nowhere")]})


@pytest.mark.parametrize("limit", [1000, 2500])  # more than twice, and less than twice as many pixels as allowed
def test_decompression_bombs_are_refused(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, format="PNG")
    with pytest.raises(ValueError, match=r"bomb\.png is refused"):
        LfmProcessor({"image": GREY})(image={"bytes": file.getvalue(), "path": "bomb.png"})
