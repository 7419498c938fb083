"""What a tower's own processor, or timm's data, says of its inputs; waveforms."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
import yaml
from transformers import WhisperFeatureExtractor

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.preprocessing_lfm import complete_inputs
from tests.data.media import tone, wav_bytes

from .test_encoders import make_checkpoint


def read(kind, tower, **settings):
    return LfmProcessor.from_towers({"a": {"type": kind, **settings}}, {"a": tower}).modalities["a"]


def test_siglip_gets_its_own_mean_and_not_that_of_imagenet(tmp_path):
    make_checkpoint("siglip", tmp_path)
    tower = {"tower": "transformers", "name": str(tmp_path)}
    found = read("image", tower)
    assert (found["size"], found["mean"], found["std"], found["crop"]) == ([32, 32], [0.4] * 3, [0.3] * 3, False)
    assert read("image", tower, mean=[0.1] * 3)["mean"] == [0.1] * 3  # what is given stays
    assert read("image", tower, num_channels=1)["mean"] == [0.5]
    image = np.full((32, 32, 3), 255, np.uint8)
    values = LfmProcessor.from_towers({"a": {"type": "image"}}, {"a": tower})(a=[image])["a_values"]
    torch.testing.assert_close(values, torch.full((1, 3, 32, 32), (1 - 0.4) / 0.3))


def test_clip_crops_as_it_did(tmp_path):
    make_checkpoint("clip", tmp_path)
    for tower in ("transformers", "clip_vision"):
        found = read("image", {"tower": tower, "name": str(tmp_path)})
        assert (found["size"], found["crop"], found["mean"]) == ([32, 32], True, [0.48, 0.46, 0.41])


def test_texts_are_no_longer_than_the_tower_has_positions(tmp_path):
    for name in ("clip text", "siglip text"):
        make_checkpoint(name, tmp_path / name)
        for tower in ("transformers", "clip_text")[: 2 if name == "clip text" else 1]:
            entry = {"tower": tower, "name": str(tmp_path / name)}
            assert read("text", entry)["max_length"] == 16
            assert read("text", entry, max_length=9)["max_length"] == 9
    words = str(tmp_path / "clip text")
    for config, length in (({"model_type": "bert"}, 128), ({"model_type": "clip_text_model"}, 77)):
        entry = {"a": {"tower": "transformers", "config": config}}
        assert LfmProcessor.from_towers({"a": {"type": "text"}}, entry, words).kinds["a"].max_length == length


def test_the_frames_of_videomae_are_known_and_a_wrong_number_is_told(tmp_path):
    make_checkpoint("videomae", tmp_path)
    tower = {"tower": "transformers", "name": str(tmp_path)}
    found = read("video", tower)
    assert (found["num_frames"], found["stored_frames"], found["size"]) == (4, 4, [32, 32])
    model = LfmForMultimodalClassification.from_towers(LfmConfig({"a": tower}))
    with pytest.raises(ValueError, match="num_frames: 4"):
        model(a_values=torch.zeros(1, 3, 3, 32, 32))


def test_timm_tells_of_weights_that_are_asked_for():
    tower = {"tower": "timm", "name": "tf_efficientnet_lite0", "pretrained": True}
    data = timm.get_pretrained_cfg("tf_efficientnet_lite0")
    found = read("image", tower)
    assert (found["mean"], found["std"], found["size"]) == ([0.5] * 3, [0.5] * 3, list(data.input_size[1:]))
    fresh = read("image", {**tower, "pretrained": False})
    assert fresh["mean"] == [0.485, 0.456, 0.406]  # nothing was trained on anything
    vit = {"tower": "timm", "name": "vit_base_patch16_224", "pretrained": True, "model_args": {"img_size": 96}}
    assert read("image", vit)["size"] == [96, 96]
    assert complete_inputs({"a": {"type": "image"}}, {}) == {"a": {"type": "image"}}


def test_a_name_means_its_weights(tmp_path):
    whole = make_checkpoint("vit", tmp_path)
    for pretrained, same in ((None, True), (True, True), (False, False)):
        spec = {
            "tower": "transformers",
            "name": str(tmp_path),
            **({} if pretrained is None else {"pretrained": pretrained}),
        }
        model = LfmForMultimodalClassification.from_towers(LfmConfig({"a": spec}))
        state = model.lfm.towers["a"].encoder.state_dict()
        assert all(torch.equal(state[key], whole.state_dict()[key]) for key in state if key.endswith("weight")) == same
        assert (model.pretrained_towers == {}) != same


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    make_checkpoint("bert", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"'a'.*lacks the weights encoder\.layer\.2"):
        LfmForMultimodalClassification.from_towers(LfmConfig({"a": {"tower": "transformers", "name": str(tmp_path)}}))


def test_which_half_has_to_be_known(tmp_path):
    make_checkpoint("clip", tmp_path)
    spec = {"tower": "transformers", "name": str(tmp_path)}
    with pytest.raises(ValueError, match="halves text, vision: say which, such as half: text"):
        LfmForMultimodalClassification.from_towers(LfmConfig({"a": spec}))
    with pytest.raises(ValueError, match="half='left'"):
        LfmConfig({"a": {**spec, "half": "left"}})
    model = LfmForMultimodalClassification.from_towers(LfmConfig({"a": {**spec, "half": "vision"}}))
    assert model.config.modalities["a"]["config"]["model_type"] == "clip_vision_model"
    assert "half" not in model.config.modalities["a"]


def test_what_would_be_constant_is_refused_and_padding_changes_nothing():
    gpt = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 40}
    with pytest.raises(ValueError, match="pooling=cls is constant in a causal model"):
        LfmForMultimodalClassification(LfmConfig({"a": {"tower": "transformers", "config": gpt, "pooling": "cls"}}))
    model = LfmForMultimodalClassification(LfmConfig({"a": {"tower": "transformers", "config": gpt}})).eval()
    ids, mask = torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.long)
    pad = torch.nn.functional.pad
    with torch.no_grad():
        plain = model(a_input_ids=ids, a_attention_mask=mask).logits
        padded = model(a_input_ids=pad(ids, (0, 4)), a_attention_mask=pad(mask, (0, 4))).logits
        other = model(a_input_ids=torch.tensor([[5, 6, 8]]), a_attention_mask=mask).logits
    torch.testing.assert_close(plain, padded)
    assert not torch.allclose(plain, other)
    bert = {"model_type": "distilbert", "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "vocab_size": 40}
    model = LfmForMultimodalClassification(
        LfmConfig({"a": {"tower": "transformers", "config": bert, "pooling": "pooler"}})
    )
    with pytest.raises(ValueError, match="distilbert has no such vector"):
        model(a_input_ids=ids, a_attention_mask=mask)


def test_the_page_says_what_is_understood():
    page = (Path(__file__).resolve().parents[2] / "data" / "README.md").read_text(encoding="utf-8")
    block = yaml.safe_load(re.search(r"```yaml\n(modalities:\n  picture.*?)```", page, re.DOTALL)[1])
    assert list(LfmConfig(block["modalities"]).modalities) == list(LfmProcessor(block["processor"]).modalities)


# -- waveforms ---------------------------------------------------------------------------------------------------------


def test_waveforms_are_what_the_feature_extractor_makes():
    samples = [wav_bytes(tone(300, 0.4, 16000), 16000), wav_bytes(tone(500, 0.9, 16000), 16000)]
    processor = LfmProcessor({"a": {"type": "waveform"}})
    batch = processor(a=samples)
    reader = transformers.Wav2Vec2FeatureExtractor()
    waves = [processor.encode("a", sample) for sample in samples]
    expected = reader(waves, sampling_rate=16000, padding=True, return_attention_mask=True, return_tensors="pt")
    torch.testing.assert_close(batch["a_values"], expected["input_values"])
    assert batch["a_attention_mask"].sum(1).tolist() == [6400, 14400]
    whisper = WhisperFeatureExtractor(chunk_length=1).to_dict()
    processor = LfmProcessor({"a": {"type": "waveform", "extractor": whisper}})
    batch = processor(a=samples)
    assert batch["a_values"].shape == (2, 80, 100)
    assert batch["a_attention_mask"].sum(1).tolist() == [40, 90]


def test_waveforms_of_one_length_and_short_ones(tmp_path):
    processor = LfmProcessor({"a": {"type": "waveform", "duration": 0.5}})
    assert processor.shape("a") == (8000,)
    wave = tone(300, 0.2, 16000)
    np.testing.assert_allclose(processor.encode("a", wave), np.tile(wave, 3)[:8000], atol=1e-6)
    short = LfmProcessor({"a": {"type": "waveform"}})
    assert len(short.encode("a", wave[:10])) == 1600
    processor.save_pretrained(tmp_path)
    assert LfmProcessor.from_pretrained(tmp_path).modalities == processor.modalities
    assert (tmp_path / "waveform_lfm.py").is_file()


@pytest.mark.parametrize("name", ["ViTImageProcessor", "os", "PreTrainedModel", 3])
def test_no_other_class_is_made(name):
    with pytest.raises(ValueError, match="is no feature extractor"):
        LfmProcessor({"a": {"type": "waveform", "extractor": {"feature_extractor_type": name}}})
