"""Grad-CAM finds what the tower sees, rollout is the product of the attention, and pictures have their axes."""

import numpy as np
import pytest
import torch

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.trainer.analysis import explain_maps
from modeling_lfm.trainer.analysis.maps import choose_samples, measure_maps, view_input
from modeling_lfm.trainer.analysis.saliency import attention_rollout, find_layer, grad_cam, rollout
from tests.modeling.towers import TOWERS, make_tokenizer, model_inputs, resnet

SIZE = 96


def make_model(towers, seed=0, **kwargs):
    torch.manual_seed(seed)
    return LfmForMultimodalClassification(LfmConfig(towers, hidden_size=16, num_labels=4, **kwargs)).eval()


def enlarge(maps):
    return torch.nn.functional.interpolate(maps[:, None], (SIZE, SIZE), mode="bilinear")[:, 0]


def see_only(model, name, rows, columns):
    """Make the tower of a modality blind but for a patch, and let all that it finds there speak for every class."""
    mask = torch.zeros(SIZE, SIZE)
    mask[rows, columns] = 1
    model.lfm.towers[name].encoder.register_forward_pre_hook(lambda _, inputs: (inputs[0] * mask,))
    for weights in (model.lfm.projections[name].weight, model.fusion.head.weight):
        weights.data.abs_()


@pytest.mark.parametrize("corner", [(slice(8, 24), slice(64, 80)), (slice(70, 86), slice(10, 26))])
def test_grad_cam_lights_up_at_the_only_patch_that_the_tower_sees(corner):
    pytest.importorskip("captum")
    model = make_model({"image": resnet(3), "audio": resnet(1)})
    see_only(model, "image", *corner)
    inputs = {"image_values": torch.randn(3, 3, SIZE, SIZE), "audio_values": torch.randn(3, 1, 33, 32)}
    for decision in ("fused", "image"):
        maps = grad_cam(model, inputs, "image", decision)
        lit = enlarge(maps)
        assert (lit.flatten(1).amax(1) > 0).all()
        centre = [(part.start + part.stop) / 2 for part in corner]
        for picture in lit:
            brightest = np.unravel_index(int(picture.argmax()), picture.shape)
            assert np.abs(np.subtract(brightest, centre)).max() < 16
            assert picture[corner[0], corner[1]].mean() > 3 * picture.mean()


def test_a_class_that_the_patch_speaks_against_stays_dark():
    pytest.importorskip("captum")
    model = make_model({"image": resnet(3)})
    see_only(model, "image", slice(8, 24), slice(64, 80))
    model.fusion.head.weight.data[1].neg_()
    inputs = {"image_values": torch.randn(2, 3, SIZE, SIZE)}
    assert grad_cam(model, inputs, "image", classes=torch.tensor([0, 0])).amax() > 0
    dark = grad_cam(model, inputs, "image", classes=torch.tensor([1, 1]))
    assert dark.abs().amax() == 0


def test_grad_cam_is_its_formula():
    pytest.importorskip("captum")
    model = make_model({"audio": resnet(1), "image": resnet(3)}, fusion="sum")
    inputs = {"audio_values": torch.randn(2, 1, 64, 80), "image_values": torch.randn(2, 3, 32, 32)}
    kept = {}
    encoder = model.lfm.towers["audio"].encoder
    hook = encoder.layer3.register_forward_hook(lambda m, i, output: kept.update(maps=output))
    classes = torch.tensor([2, 0])
    logits = model(**inputs).modality_logits[0]
    (gradient,) = torch.autograd.grad(logits[torch.arange(2), classes].sum(), kept["maps"])
    hook.remove()
    expected = (gradient.mean((2, 3), keepdim=True) * kept["maps"]).sum(1).relu().detach()
    torch.testing.assert_close(grad_cam(model, inputs, "audio", "audio", classes), expected)
    # The fused logit of a sum has the same gradient for the same class.
    torch.testing.assert_close(grad_cam(model, inputs, "audio", "fused", classes), expected)


def test_grad_cam_of_frames_of_frozen_towers_and_of_towers_that_run_together():
    pytest.importorskip("captum")
    clip = {**resnet(3), "frozen": True}
    model = make_model({"clip": clip, "audio": resnet(1)})
    inputs = {"clip_values": torch.randn(2, 3, 3, 64, 64), "audio_values": torch.randn(2, 1, 64, 80)}
    maps = grad_cam(model, inputs, "clip")
    assert maps.shape == (2, 3, 4, 4)
    together = make_model({"clip": resnet(3), "audio": resnet(1)}, fusion="mmtm")
    assert grad_cam(together, inputs, "clip", "audio").shape == (2, 3, 4, 4)
    assert not any(parameter.grad is not None for parameter in together.parameters())


def test_the_layer_is_the_last_stage_that_is_large_enough():
    encoder = make_model({"image": resnet(3)}).lfm.towers["image"].encoder
    names = {layer: name for name, layer in encoder.named_modules()}
    found = [find_layer(encoder, lambda side=side: encoder(torch.randn(1, 3, side, 400))) for side in (224, 64, 32)]
    assert [names[layer] for layer in found] == ["layer4", "layer3", "layer2"]


def test_which_map_a_tower_gets():
    model = make_model(TOWERS)
    inputs, kinds = model_inputs(TOWERS), {}
    for name in TOWERS:
        try:
            kinds[name] = list(measure_maps(model, inputs, name))
        except ValueError as error:
            kinds[name] = str(error)
    assert "'swin' ends in no feature map" in kinds.pop("swin")
    assert kinds.pop("audio") == ["fused", "alone"], "Grad-CAM of each decision"
    assert kinds == {name: ["fused"] for name in ("vit", "text", "picture", "caption")}, "a rollout belongs to none"


def test_captum_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    model = make_model({"image": resnet(3)})
    with pytest.raises(ValueError, match="pip install captum"):
        grad_cam(model, {"image_values": torch.randn(1, 3, 32, 32)}, "image")


def plain_rollout(attentions):
    """Equation 1 of Abnar & Zuidema in plain numpy, sample by sample."""
    samples = []
    for b in range(len(attentions[0])):
        result = np.eye(attentions[0].shape[-1])
        for layer in attentions:
            mixed = 0.5 * layer[b].mean(0) + 0.5 * np.eye(layer.shape[-1])
            result = (mixed / mixed.sum(1, keepdims=True)) @ result
        samples.append(result)
    return np.stack(samples)


def test_rollout_is_the_product_of_the_mixed_attention():
    attentions = torch.rand(3, 2, 4, 5, 5).softmax(-1)
    found = rollout(attentions)
    np.testing.assert_allclose(found, plain_rollout(attentions.numpy()), atol=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)


def test_rollout_of_texts_is_pooled_as_the_tower_does_and_gives_padding_nothing():
    model = make_model({name: TOWERS[name] for name in ("text", "caption")})
    inputs = model_inputs(("text", "caption"))
    inputs["text_attention_mask"][1, 4:] = 0
    encoder = model.lfm.towers["text"].encoder
    before = encoder.config._attn_implementation
    shares = attention_rollout(model, inputs, "text").numpy()
    assert encoder.config._attn_implementation == before
    encoder.set_attn_implementation("eager")
    raw = encoder(inputs["text_input_ids"], inputs["text_attention_mask"], output_attentions=True).attentions
    spread = plain_rollout([part.detach().numpy() for part in raw])
    np.testing.assert_allclose(shares[0], spread[0].mean(0), atol=1e-6)
    pooled = spread[1, :4].mean(0)[:4]
    np.testing.assert_allclose(shares[1], [*(pooled / pooled.sum()), 0, 0, 0], atol=1e-6)

    caption = attention_rollout(model, inputs, "caption").numpy()
    encoder = model.lfm.towers["caption"].encoder
    encoder.set_attn_implementation("eager")
    raw = encoder(inputs["caption_input_ids"], output_attentions=True).attentions
    np.testing.assert_allclose(caption, plain_rollout([p.detach().numpy() for p in raw])[:, -1], atol=1e-6)


def test_rollout_of_pictures_is_that_of_their_patches():
    model = make_model({name: TOWERS[name] for name in ("vit", "picture")})
    inputs = model_inputs(("vit", "picture"))
    encoder = model.lfm.towers["picture"].encoder
    shares = attention_rollout(model, inputs, "picture").numpy()
    encoder.set_attn_implementation("eager")
    raw = encoder(inputs["picture_values"], output_attentions=True).attentions
    row = plain_rollout([part.detach().numpy() for part in raw])[:, 0, 1:]
    np.testing.assert_allclose(shares, (row / row.sum(1, keepdims=True)).reshape(3, 4, 4), atol=1e-6)

    vit = model.lfm.towers["vit"].encoder
    shares = attention_rollout(model, inputs, "vit").numpy()
    assert shares.shape == (3, 2, 2, 2)
    assert all(block.attn.fused_attn for block in vit.blocks), "the fast attention is back"
    attentions, states = [], vit.norm_pre(vit._pos_embed(vit.patch_embed(inputs["vit_values"].flatten(0, 1))))
    for block in vit.blocks:  # the attention worked out from its queries and keys
        attn, x = block.attn, block.norm1(states)
        qkv = attn.qkv(x).reshape(len(x), -1, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
        weights = (attn.q_norm(qkv[0]) @ attn.k_norm(qkv[1]).transpose(-1, -2) * attn.scale).softmax(-1)
        attentions.append(weights.detach().numpy())
        states = block(states)
    spread = plain_rollout(attentions)
    row = spread[:, 0, 1:] if vit.global_pool == "token" else spread[:, vit.num_prefix_tokens :, -4:].mean(1)
    np.testing.assert_allclose(shares.reshape(6, 4), row / row.sum(1, keepdims=True), atol=1e-5)


def test_towers_without_a_map_are_refused():
    model = make_model({"swin": TOWERS["swin"], "audio": TOWERS["audio"]})
    inputs = model_inputs(("swin", "audio"))
    with pytest.raises(ValueError, match="'swin' is no transformer with attention over its whole input"):
        attention_rollout(model, inputs, "swin")
    pytest.importorskip("captum")
    with pytest.raises(ValueError, match="'swin' ends in no feature map"):
        grad_cam(model, inputs, "swin")


def test_a_tower_whose_maps_have_their_channels_last_is_told_and_the_others_are_drawn():
    pytest.importorskip("captum")
    last = {"tower": "timm", "name": "test_mambaout"}
    model = make_model({"photo": last, "sketch": resnet(3)})
    processor = LfmProcessor({name: {"type": "image", "size": [64, 64]} for name in ("photo", "sketch")})
    sample = {f"{name}_values": torch.randn(3, 64, 64) for name in ("photo", "sketch")}
    dataset = [{**sample, "labels": 0}] * 3
    section = explain_maps({"one": model}, dataset, processor)
    assert list(section.figures) == ["maps_sketch"]
    assert section.notes[0].startswith("photo has no map: ")
    assert section.numbers["sketch"]["samples"] == [0]


def test_samples_are_the_first_of_classes_spread_over_all():
    labels = np.array([5, 5, 0, 1, 2, 3, 4, 5])
    assert choose_samples(labels, count=3) == [2, 4, 0]  # of the classes 0, 2 and 5
    assert choose_samples(np.array([1, 1, 0, 1]), count=4) == [2, 0]
    assert choose_samples(np.eye(3), count=2) == [0, 1]


def test_spectrograms_have_seconds_and_kilohertz():
    settings = {"type": "spectrogram", "sampling_rate": 8000, "n_fft": 128, "hop_length": 125, "duration": 0.5}
    kind = LfmProcessor({"audio": settings}).kinds["audio"]
    pixels, extent = view_input(kind, torch.randn(1, 65, 31))
    assert pixels.shape == (65, 31)
    assert extent == pytest.approx((0, 31 * 125 / 8000, 0, 4))


def test_pictures_are_shown_as_they_were_before_scaling():
    kinds = LfmProcessor(
        {"photo": {"type": "image", "size": [4, 6]}, "clip": {"type": "video", "size": [4, 6], "num_channels": 1}}
    ).kinds
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 6), dtype=np.uint8)
    seen, extent = view_input(kinds["photo"], kinds["photo"].stack([torch.as_tensor(pixels)])[0])
    np.testing.assert_allclose(seen, pixels.transpose(1, 2, 0) / 255, atol=1e-6)
    assert extent is None
    middle, _ = view_input(kinds["clip"], torch.tensor([-9.0, 0, 9]).reshape(3, 1, 1, 1).expand(3, 1, 4, 6))
    assert middle.shape == (4, 6)
    assert 0 < middle[0, 0] < 1


def test_section_of_a_model_with_sound_and_text(tmp_path):
    pytest.importorskip("captum")
    tokenizer = make_tokenizer(tmp_path)
    audio = {"type": "spectrogram", "sampling_rate": 8000, "n_fft": 128, "hop_length": 125, "duration": 0.5}
    processor = LfmProcessor({"audio": audio, "text": {"type": "text"}}, tokenizer=tokenizer)
    model = make_model({"audio": resnet(1), "text": TOWERS["text"]})
    waves = [np.random.default_rng(n).normal(size=4000) for n in range(2)]
    sounds = processor(audio=waves, sampling_rate=8000)["audio_values"]
    texts = [tokenizer(text)["input_ids"] for text in ("the cat sat", "the mat")]
    labels = [[1, 0, 0, 0], [0, 1, 1, 0]]
    rows = zip(sounds, texts, labels, strict=True)
    dataset = [{"audio_values": sound, "text_input_ids": ids, "labels": truth} for sound, ids, truth in rows]
    models = {"one": model, "two": make_model(dict(model.config.modalities), 1)}
    section = explain_maps(models, dataset, processor)
    assert set(section.figures) == {"maps_audio", "maps_text"}
    axes = section.figures["maps_audio"].axes
    assert len(axes) == 2 * 5  # two samples; the input, and two maps of two models
    decided = section.numbers["audio"]["runs"]["one"]["fused"]
    assert f"{decided['class'][0]} ({100 * decided['probability'][0]:.0f}" in axes[1].get_title()
    assert axes[0].get_title() == "label: LABEL_0"
    truth = [["LABEL_0"], ["LABEL_1", "LABEL_2"]]
    right = [name in names for name, names in zip(decided["class"], truth, strict=True)]
    assert section.numbers["audio"]["labels"] == truth
    assert ["\N{CHECK MARK}" in figure.get_title() for figure in (axes[1], axes[6])] == right
    panels = section.figures["maps_text"].axes
    words = [[label.get_text() for label in axes.get_yticklabels()] for axes in panels]
    assert words == [["the", "cat", "sat"]] * 3 + [["the", "mat"]] * 3
    shares = section.numbers["text"]["runs"]["two"]["fused"]["map"]
    bars = [bar.get_width() for bar in panels[2].patches]
    assert bars == pytest.approx([100 * share for share in shares[0][1:4]], abs=1e-2)
    assert section.notes == []
    # The text of the first sample only: the sound of the other, none of it for the second.
    dataset[0]["audio_values"] = dataset[1]["text_input_ids"] = None
    shown = explain_maps({"one": model}, dataset, processor).numbers
    assert (shown["audio"]["labels"], shown["audio"]["samples"]) == ([["LABEL_1", "LABEL_2"]], [1])
    assert (shown["text"]["labels"], shown["text"]["samples"]) == ([["LABEL_0"]], [0])


def test_a_model_that_computes_spectrograms_itself_has_the_same_maps():
    pytest.importorskip("captum")
    settings = {"type": "spectrogram", "sampling_rate": 8000, "n_fft": 128, "hop_length": 125, "duration": 0.5}
    outside, inside = (LfmProcessor({"audio": {**settings, "in_model": flag}}) for flag in (False, True))
    waves = [np.random.default_rng(n).normal(size=4000).astype(np.float32) for n in range(2)]
    batches = [processor(audio=waves, sampling_rate=8000) for processor in (outside, inside)]
    towers = [resnet(1), {**resnet(1), "frontend": inside.kinds["audio"].frontend}]
    models = [make_model({"audio": tower}) for tower in towers]
    maps = [grad_cam(model, batch, "audio") for model, batch in zip(models, batches, strict=True)]
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-3, atol=1e-5)
    kinds = [processor.kinds["audio"] for processor in (outside, inside)]
    views = [view_input(kind, batch["audio_values"][0]) for kind, batch in zip(kinds, batches, strict=True)]
    np.testing.assert_allclose(views[1][0], views[0][0], atol=1e-4)
    assert views[1][1] == views[0][1]
