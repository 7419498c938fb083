"""What towers of pictures make of clips: the mean of the frames' vectors, or what reads them in their order."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from modeling_lfm import LfmConfig, LfmForMultimodalClassification
from modeling_lfm.temporal_lfm import TimeEncoder
from tests.trainer.toy import toy_trainer

from .towers import BERT, CLIP_TEXT, CLIP_VISION, TOWERS, resnet

VIT = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT |= {"intermediate_size": 64, "image_size": 32, "patch_size": 8}
KINDS = {
    "timm": TOWERS["vit"],
    "resnet": resnet(3),
    "vit": {"tower": "transformers", "config": VIT},
    "clip": {"tower": "clip_vision", "config": CLIP_VISION},
}


def make(kind, temporal, **kwargs):
    torch.manual_seed(0)
    spec = {**KINDS[kind], **({} if temporal is None else {"temporal": temporal})}
    return LfmForMultimodalClassification(
        LfmConfig({"lips": spec}, **{"hidden_size": 16, "num_labels": 3, **kwargs})
    ).eval()


@pytest.mark.parametrize(
    ("kind", "temporal"), [*((kind, "gru") for kind in KINDS), ("timm", None), ("timm", "mean"), ("timm", "attention")]
)
def test_the_order_of_frames_counts_where_it_is_asked_for(kind, temporal, tmp_path):
    model, clip = make(kind, temporal), torch.randn(2, 5, 3, 32, 32)
    with torch.no_grad():
        one, other = model(lips_values=clip).logits, model(lips_values=clip.flip(1)).logits
    assert torch.allclose(one, other, atol=1e-6) == (temporal in (None, "mean"))
    with torch.no_grad():
        frames = model(lips_values=clip[:, 0]).logits  # a single picture is a clip of one
        torch.testing.assert_close(frames, model(lips_values=clip[:, :1]).logits)
    model.save_pretrained(tmp_path)
    loaded = copy.deepcopy(LfmForMultimodalClassification.from_pretrained(tmp_path))  # aligned as in memory
    assert (tmp_path / "temporal_lfm.py").is_file()
    assert model.state_dict().keys() == load_file(tmp_path / "model.safetensors").keys()
    with torch.no_grad():
        torch.testing.assert_close(loaded(lips_values=clip).logits, one, rtol=0, atol=0)
    model.train()(lips_values=clip, labels=torch.tensor([0, 2])).loss.backward()
    assert all(p.grad is not None for p in model.lfm.towers["lips"].parameters())


def test_the_vector_is_that_of_the_encoder_over_time():
    model, clip = make("timm", "gru"), torch.randn(2, 5, 3, 32, 32)
    tower = model.lfm.towers["lips"]
    with torch.no_grad():
        vectors = torch.stack([tower.encoder(clip[:, t]) for t in range(5)], 1)
        torch.testing.assert_close(tower(clip), tower.temporal(vectors))
    added = sum(p.numel() for p in tower.temporal.parameters())
    assert added < 300_000


def test_the_encoder_over_time_is_its_parts():
    """Two convolutions, GELU, a GRU both ways, and the mean over the steps that are there."""
    encoder = TimeEncoder(6, "gru", width=16, num_layers=1).eval()
    values = torch.randn(2, 7, 6)
    states = values
    for convolution in encoder.stem:
        states = nn.functional.gelu(convolution(states.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(encoder(values), encoder.encoder(states)[0].mean(1))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    for kind in ("gru", "attention"):
        encoder = TimeEncoder(6, kind, width=16).eval()
        masked = encoder(values, mask)
        torch.testing.assert_close(masked[0], encoder(values[:1])[0])
        torch.testing.assert_close(masked[1], encoder(values[1:, :4])[0])


@pytest.mark.parametrize("temporal", ["attention", "gru"])
def test_it_trains_with_towers_that_run_together(temporal, tmp_path):
    towers = {"vit": {**resnet(3), "temporal": temporal}, "audio": resnet(1)}
    trainer = toy_trainer(tmp_path, towers, method="mmtm", size=16, num_train_epochs=1)
    before = [p.clone() for p in trainer.model.lfm.towers["vit"].temporal.parameters()]
    for sample in trainer.train_dataset:
        sample["vit_values"] = torch.stack([sample["vit_values"], sample["vit_values"].flip(-1)])
    trainer.train()
    after = trainer.model.lfm.towers["vit"].temporal.parameters()
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_what_cannot_be_is_refused():
    for spec, told in (
        ({**KINDS["timm"], "temporal": "lstm"}, "temporal='lstm' must be one of mean, attention, gru"),
        ({**KINDS["timm"], "temporal": "gru", "frozen": True}, "frozen: 6, all layers"),
        ({"tower": "transformers", "config": BERT, "temporal": "gru"}, "temporal is for encoders of single pictures"),
        ({"tower": "clip_text", "config": CLIP_TEXT, "temporal": "gru"}, "unknown key 'temporal'"),
    ):
        with pytest.raises(ValueError, match=f"'lips'.*{told}"):
            LfmForMultimodalClassification(LfmConfig({"lips": spec}))


def test_an_encoder_that_is_frozen_leaves_what_reads_the_frames_to_train():
    model = LfmForMultimodalClassification(LfmConfig({"lips": {**KINDS["vit"], "temporal": "gru", "frozen": 3}}))
    tower = model.lfm.towers["lips"]
    assert not any(p.requires_grad for p in tower.encoder.parameters())
    assert all(p.requires_grad for p in tower.temporal.parameters())
    assert json.loads(model.config.to_json_string())["modalities"]["lips"]["temporal"] == "gru"


def test_an_exported_gru_reads_both_ways_as_a_packed_one(monkeypatch):
    torch.manual_seed(0)
    encoder, values = TimeEncoder(3, width=16).eval(), torch.randn(4, 7, 3)
    mask = (torch.arange(7) < torch.tensor([[7], [3], [1], [5]])).long()
    with torch.no_grad():
        packed = encoder(values, mask)
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        torch.testing.assert_close(encoder(values, mask), packed)
