"""The model: outputs against their definition, and a round trip through files for each kind of tower."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from modeling_lfm import LfmConfig, LfmEnsemble, LfmForMultimodalClassification, LfmModel

from .towers import BERT, CLIP_TEXT, CLIP_VISION, TOWERS, model_inputs, tower_inputs


def make(names, **kwargs):
    kwargs = {"hidden_size": 16, "num_labels": 5, **kwargs}
    return LfmForMultimodalClassification(LfmConfig(modalities={n: TOWERS[n] for n in names}, **kwargs)).eval()


@pytest.mark.parametrize("name", TOWERS)
def test_round_trip_is_equal_to_the_bit(name, tmp_path):
    model = make([name])
    inputs = tower_inputs(name)
    model.save_pretrained(tmp_path)
    loaded, info = LfmForMultimodalClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    saved, state = model.state_dict(), loaded.state_dict()
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[key], state[key]) for key in saved)
    buffers = dict(loaded.named_buffers())
    assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers())
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())


@pytest.mark.parametrize("fusion", ["concat", "sum", "weight"])
def test_round_trip_keeps_the_order_of_modalities(fusion, tmp_path):
    names = ["text", "vit", "audio"]  # not alphabetical, as JSON files are
    model = make(names, fusion=fusion, id2label={i: f"class {i}" for i in range(5)})
    model.save_pretrained(tmp_path)
    loaded = LfmForMultimodalClassification.from_pretrained(tmp_path)
    inputs = model_inputs(names)
    with torch.no_grad():
        one, other = model(**inputs), loaded(**inputs)
    assert loaded.config.modality_names == tuple(names)
    assert torch.equal(one.logits, other.logits)
    assert all(torch.equal(a, b) for a, b in zip(one.modality_logits, other.modality_logits, strict=True))
    assert loaded.config.id2label[3] == "class 3"
    ours, theirs = model.config.to_dict(), loaded.config.to_dict()
    assert {**ours, "_name_or_path": ""} == {**theirs, "_name_or_path": ""}
    assert str(tmp_path) not in (tmp_path / "config.json").read_text()


def test_concat_is_its_formula_and_slices_add_up():
    model = make(["audio", "text"])
    output = model(**model_inputs(["audio", "text"]))
    weight, bias = model.fusion.head.weight, model.fusion.head.bias
    expected = output.features[0] @ weight[:, :16].T + output.features[1] @ weight[:, 16:].T + bias
    torch.testing.assert_close(output.logits, expected)
    torch.testing.assert_close(output.modality_logits[1], output.features[1] @ weight[:, 16:].T + bias / 2)
    torch.testing.assert_close(sum(output.modality_logits), output.logits)


def test_sum_and_weight_are_their_formulas():
    inputs = model_inputs(["audio", "vit", "text"])
    model = make(["audio", "vit", "text"], fusion="sum")
    output = model(**inputs)
    torch.testing.assert_close(output.logits, sum(output.modality_logits))
    model = make(["audio", "vit", "text"], fusion="weight")
    output = model(**inputs)
    score = [model.fusion.attention(z) for z in output.features]
    share = torch.cat(score, 1).softmax(1)
    expected = sum(share[:, m : m + 1] * output.modality_logits[m] for m in range(3))
    torch.testing.assert_close(output.logits, expected)


def test_frames_are_averaged():
    model = make(["vit"]).lfm
    values = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        frames = torch.stack([model.run_towers(vit_values=values[:, t])[0] for t in range(4)])
        torch.testing.assert_close(model.run_towers(vit_values=values)[0], frames.mean(0))


def test_text_pooling_ignores_padding():
    inputs = tower_inputs("text")
    longer = {
        "text_input_ids": nn.functional.pad(inputs["text_input_ids"], (0, 4)),
        "text_attention_mask": nn.functional.pad(inputs["text_attention_mask"], (0, 4)),
    }
    for pooling in ("mean", "cls"):
        spec = {**TOWERS["text"], "pooling": pooling}
        model = LfmModel(LfmConfig(modalities={"text": spec}, hidden_size=8)).eval()
        torch.testing.assert_close(model(**inputs).features[0], model(**longer).features[0])


def test_loss_is_plain_cross_entropy_and_multi_label_binary():
    inputs = model_inputs(["audio", "text"])
    labels = torch.tensor([0, 4, 2])
    model = make(["audio", "text"])
    output = model(**inputs, labels=labels)
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(output.logits, labels))
    model = make(["audio", "text"], problem_type="multi_label_classification")
    labels = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    output = model(**inputs, labels=labels)
    expected = nn.functional.binary_cross_entropy_with_logits(output.logits, labels.float())
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("names", [["audio"], ["audio", "vit", "text", "caption"]])
def test_any_number_of_modalities(names):
    for fusion in ("concat", "sum", "weight"):
        model = make(names, fusion=fusion)
        output = model(**model_inputs(names), labels=torch.tensor([0, 1, 2]))
        output.loss.backward()
        assert len(output.features) == len(output.modality_logits) == len(names)
        assert all(p.grad is not None for p in model.lfm.projections.parameters())


def test_frozen_tower_keeps_its_statistics():
    spec = {**TOWERS["audio"], "frozen": True}
    model = LfmForMultimodalClassification(LfmConfig(modalities={"audio": spec}, hidden_size=8, num_labels=2))
    before = {key: value.clone() for key, value in model.lfm.towers.state_dict().items()}
    model.train()
    model(**tower_inputs("audio"), labels=torch.tensor([0, 1, 1])).loss.backward()
    assert all(torch.equal(before[key], value) for key, value in model.lfm.towers.state_dict().items())
    assert all(p.grad is None for p in model.lfm.towers.parameters())
    assert all(p.grad is not None for p in model.head_parameters())


def test_attention_dtype_and_checkpointing_reach_the_towers(tmp_path):
    names = ["vit", "text", "picture", "caption"]
    model = make(names)
    model.save_pretrained(tmp_path)
    loaded = LfmForMultimodalClassification.from_pretrained(tmp_path, attn_implementation="eager", dtype="bfloat16")
    for name in ("text", "picture", "caption"):
        assert loaded.lfm.towers[name].encoder.config._attn_implementation == "eager"
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    model.set_attn_implementation("eager")
    assert model.lfm.towers["text"].encoder.config._attn_implementation == "eager"

    model.train()
    torch.manual_seed(0)
    inputs, labels = model_inputs(names), torch.tensor([0, 1, 2])
    plain = LfmForMultimodalClassification(model.config).train()
    plain.load_state_dict(model.state_dict())
    model._set_gradient_checkpointing(True)
    assert model.lfm.towers["vit"].encoder.grad_checkpointing
    assert model.lfm.towers["text"].encoder.encoder.layer[0].gradient_checkpointing
    for one in (model, plain):
        torch.manual_seed(1)  # the same dropout
        one(**inputs, labels=labels).loss.backward()
    for (key, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, msg=lambda text, key=key: f"{key}: {text}")


def test_pretrained_towers_are_loaded_from_a_folder(tmp_path):
    torch.manual_seed(0)
    bert = BertModel(BertConfig(**{k: v for k, v in BERT.items() if k != "model_type"}))
    bert.save_pretrained(tmp_path / "bert")
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP_VISION))
    clip.save_pretrained(tmp_path / "clip")
    audio = make(["audio"])
    save_file(audio.lfm.towers["audio"].encoder.state_dict(), tmp_path / "audio.safetensors")
    config = LfmConfig(
        modalities={
            "text": {"tower": "transformers", "name": str(tmp_path / "bert"), "pretrained": True},
            "short": {
                "tower": "transformers",
                "name": str(tmp_path / "bert"),
                "config": {"num_hidden_layers": 1},
                "pretrained": True,
            },
            "picture": {"tower": "clip_vision", "name": str(tmp_path / "clip"), "pretrained": True},
            "audio": {**TOWERS["audio"], "checkpoint": str(tmp_path / "audio.safetensors")},
        },
        hidden_size=8,
        num_labels=2,
    )
    with pytest.raises(ValueError, match="from_towers"):
        LfmForMultimodalClassification(config)
    model = LfmForMultimodalClassification.from_towers(config)
    towers = model.lfm.towers
    state = bert.state_dict()
    for key, value in towers["text"].encoder.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert len(towers["short"].encoder.encoder.layer) == 1
    assert torch.equal(
        towers["short"].encoder.embeddings.word_embeddings.weight, state["embeddings.word_embeddings.weight"]
    )
    assert torch.equal(towers["picture"].encoder.visual_projection.weight, clip.visual_projection.weight)
    saved = audio.lfm.towers["audio"].encoder.state_dict()
    assert all(torch.equal(saved[key], value) for key, value in towers["audio"].encoder.state_dict().items())
    model.save_pretrained(tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()
    assert json.loads((tmp_path / "model" / "config.json").read_text())["modality_order"][0] == "text"
    loaded = LfmForMultimodalClassification.from_pretrained(tmp_path / "model")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_new_labels_get_a_fresh_head(tmp_path):
    model = make(["audio", "text"])
    model.save_pretrained(tmp_path)
    loaded = LfmForMultimodalClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert loaded.fusion.head.weight.shape == (3, 32)
    bound = 1 / 32**0.5
    assert 0 < loaded.fusion.head.weight.abs().max() <= bound
    assert torch.equal(loaded.lfm.projections["audio"].weight, model.lfm.projections["audio"].weight)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"modalities": {"a b": TOWERS["audio"]}}, "a b"),
        ({"modalities": {"labels": TOWERS["audio"]}}, "reserved"),
        ({"modalities": {"audio": {"tower": "tim", "name": "x"}}}, "tim"),
        ({"modalities": {"audio": {"tower": "timm", "name": "resnet18", "chans": 1}}}, "chans"),
        ({"modalities": {"audio": {"tower": "timm"}}}, "name"),
        ({"modalities": {"text": {"tower": "transformers", "config": {"hidden_size": 8}}}}, "model_type"),
        ({"modalities": {"text": {**TOWERS["text"], "pooling": "max"}}}, "pooling"),
        ({"fusion": "addition"}, "addition"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"modality_dropout": 1.0}, "modality_dropout"),
        ({"modality_dropout": True}, "modality_dropout"),
        ({"problem_type": "regression"}, "regression"),
        ({"modalities": {"audio": TOWERS["audio"]}, "modality_order": ["audio", "text"]}, "modality_order"),
    ],
)
def test_a_wrong_configuration_is_named(kwargs, words):
    with pytest.raises(ValueError, match=words):
        LfmConfig(**kwargs)


def test_wrong_inputs_are_named():
    model = make(["audio", "text"])
    with pytest.raises(ValueError, match=r"text_input_ids is missing.*training needs every modality"):
        model.train()(**tower_inputs("audio"))
    with pytest.raises(ValueError, match="audio_values is missing"):
        model.eval()()
    with pytest.raises(ValueError, match="image_values"):
        model(**model_inputs(["audio", "text"]), image_values=torch.zeros(1))
    with pytest.raises(ValueError, match="empty"):
        LfmModel(LfmConfig())
    spec = {"tower": "timm", "name": "resnet1818"}
    with pytest.raises(ValueError, match="resnet1818"):
        LfmModel(LfmConfig(modalities={"image": spec}))


def test_two_text_modalities_and_clip_text():
    spec = {"tower": "clip_text", "config": CLIP_TEXT}
    config = LfmConfig(modalities={"headline": TOWERS["text"], "body": spec}, hidden_size=8, num_labels=2)
    model = LfmForMultimodalClassification(config).eval()
    head, body = tower_inputs("text"), tower_inputs("caption")
    output = model(
        headline_input_ids=head["text_input_ids"],  # a missing mask means nothing is padded
        body_input_ids=body["caption_input_ids"],
        body_attention_mask=body["caption_attention_mask"],
    )
    assert output.logits.shape == (3, 2)


def test_auto_classes_know_the_model(tmp_path):
    model = make(["audio", "text"])
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is LfmConfig
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is LfmForMultimodalClassification
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


@pytest.mark.parametrize("several", [False, True])
def test_an_ensemble_answers_by_the_mean_of_probabilities(several, tmp_path):
    """Fused and of each modality, where it is there; in half precision too."""
    kind = {"problem_type": "multi_label_classification"} if several else {}
    members = [make(["vit", "text"], fusion=fusion, **kind) for fusion in ("concat", "sum", "weight")]
    members[1].config.calibration = {"temperatures": {"fused": 2.0}}
    inputs, probabilities = model_inputs(["vit", "text"]), torch.sigmoid if several else lambda x: x.softmax(-1)
    inputs["text_present"] = torch.tensor([True, False, True])
    labels = torch.eye(5)[:3] if several else torch.arange(3)
    for dtype, exact in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        ensemble = LfmEnsemble(members).to(dtype)
        assert not any(module.training for module in ensemble.modules())
        with torch.no_grad():
            outputs = [member(**inputs) for member in members]
            found = ensemble(**inputs, labels=labels)
        parts = [(found.logits, [output.logits for output in outputs])]
        parts += [(found.modality_logits[m], [output.modality_logits[m] for output in outputs]) for m in (0, 1)]
        for logits, each in parts:
            mean = sum(probabilities(one.float()) for one in each) / 3
            torch.testing.assert_close(probabilities(logits), mean, rtol=0, atol=exact, equal_nan=True)
        assert found.modality_logits[1].isnan().any(-1).tolist() == [False, True, False]
        mean = sum(probabilities(output.logits.float()) for output in outputs) / 3
        log = nn.functional.binary_cross_entropy(mean, labels) if several else -mean.log()[range(3), range(3)].mean()
        torch.testing.assert_close(found.loss, log, rtol=exact, atol=exact)
        assert [feature.shape for feature in found.features] == [(3, 48), (3, 48)]
    assert ensemble.config.calibration is None
    assert ensemble(**inputs, return_dict=False)[0].shape == (3, 5)
    with pytest.raises(ValueError, match="save its members"):
        ensemble.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="train its members"):
        ensemble.train()


def test_members_that_do_not_go_together_are_refused():
    one, other = make(["vit", "text"]), make(["text", "vit"])
    with pytest.raises(ValueError, match=r"modalities of the members 0 and 2 differ: \['vit', 'text'\] and"):
        LfmEnsemble([one, one, other])
    with pytest.raises(ValueError, match="classes of the members 0 and 1 differ"):
        LfmEnsemble([one, make(["vit", "text"], id2label=dict(enumerate("abcde")))])
    with pytest.raises(ValueError, match="one model at least"):
        LfmEnsemble([])
