"""Fusions that mix features before the last layer, against the same written out in plain torch."""

import pytest
import torch
from torch.nn import functional as F

from modeling_lfm import LfmConfig, LfmForMultimodalClassification

from ..trainer.toy import SMOOTH, shallow_resnet, toy_model

NAMES = ("audio", "vit", "flow")
RESNETS = {name: shallow_resnet(channels) for name, channels in zip(NAMES, (1, 3, 2), strict=True)}


def features(number, batch=5):
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(batch, 16, generator=generator) for _ in range(number))


def images(number, frames=None, batch=3):
    """Inputs of the first `number` towers; the second reads clips if `frames` is given."""
    generator = torch.Generator().manual_seed(4)
    shapes = {"audio": (1, 33, 32), "vit": (3, 32, 32), "flow": (2, 32, 32)}
    inputs = {}
    for name in NAMES[:number]:
        clip = (frames,) if frames and name == "vit" else ()
        inputs[f"{name}_values"] = torch.randn(batch, *clip, *shapes[name], generator=generator)
    return inputs


def towers(number):
    return {name: RESNETS[name] for name in NAMES[:number]}


def film(weights, vectors):
    hidden = vectors[0]
    for place, vector in enumerate(vectors[1:]):
        both = hidden @ weights[f"conditions.{place}.weight"].T + weights[f"conditions.{place}.bias"]
        hidden = both[:, :16] * vector + both[:, 16:]
    return hidden @ weights["head.weight"].T + weights["head.bias"]


def lstm(weights, vectors):
    """The equations of an LSTM, layer after layer."""
    sequence = list(vectors)
    for layer in range(2):
        hidden, cell = torch.zeros_like(vectors[0]), torch.zeros_like(vectors[0])
        for step, vector in enumerate(sequence):
            both = vector @ weights[f"lstm.weight_ih_l{layer}"].T + weights[f"lstm.bias_ih_l{layer}"]
            both = both + hidden @ weights[f"lstm.weight_hh_l{layer}"].T + weights[f"lstm.bias_hh_l{layer}"]
            enter, forget, new, out = both.chunk(4, dim=-1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = out.sigmoid() * cell.tanh()
            sequence[step] = hidden
    return sequence[-1] @ weights["head.weight"].T + weights["head.bias"]


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize(("name", "formula"), [("film", film), ("lstm", lstm)])
def test_joint_fusions(name, formula, number):
    fusion = toy_model(towers(number), fusion=name).fusion
    vectors = features(number)
    logits, alone = fusion(vectors)
    weights = fusion.state_dict()
    torch.testing.assert_close(logits, formula(weights, vectors))
    assert len(alone) == number
    for place, found in enumerate(alone):
        silent = [v if m == place else torch.zeros_like(v) for m, v in enumerate(vectors)]
        torch.testing.assert_close(found, formula(weights, silent))


def test_number_of_layers_is_checked():
    with pytest.raises(ValueError, match="num_layers=0 must be a positive integer"):
        toy_model(towers(2), fusion="lstm", fusion_args={"num_layers": 0})
    assert toy_model(towers(2), fusion="lstm", fusion_args={"num_layers": 1}).fusion.lstm.num_layers == 1


def mmtm_reference(model, inputs, names):
    """Vectors of ResNets that exchange channels, in evaluation mode; clips have a leading dimension of frames."""
    blocks, maps, frames = model.lfm.exchange.blocks, {}, {}
    for name in names:
        net, values = model.lfm.towers[name].encoder, inputs[f"{name}_values"]
        frames[name] = values.shape[1] if values.dim() == 5 else 1
        values = values.reshape(-1, *values.shape[-3:])
        maps[name] = net.layer1(net.maxpool(net.act1(net.bn1(net.conv1(values)))))
    for stage in ("layer2", "layer3", "layer4"):
        for name in names:
            maps[name] = getattr(model.lfm.towers[name].encoder, stage)(maps[name])
        squeezed = []
        for name in names:
            means = maps[name].flatten(2).mean(2)
            squeezed.append(torch.stack([group.mean(0) for group in means.split(frames[name])]))
        weights = blocks[stage].state_dict()
        shared = F.relu(F.linear(torch.cat(squeezed, 1), weights["squeeze.weight"], weights["squeeze.bias"]))
        for name in names:
            gate = F.linear(shared, weights[f"excite.{name}.weight"], weights[f"excite.{name}.bias"])
            gate = (2 / (1 + torch.exp(-gate))).repeat_interleave(frames[name], 0)
            maps[name] = maps[name] * gate.reshape(*gate.shape, 1, 1)
    return [torch.stack([g.mean(0) for g in maps[name].mean((2, 3)).split(frames[name])]) for name in names]


@pytest.mark.parametrize(("number", "frames"), [(2, None), (3, None), (2, 2)])
def test_mmtm_exchanges_channels(number, frames):
    model = toy_model(towers(number), fusion="mmtm").eval()
    inputs = images(number, frames)
    with torch.no_grad():
        output = model(**inputs)
        vectors = mmtm_reference(model, inputs, NAMES[:number])
        for place, (name, vector) in enumerate(zip(NAMES, vectors, strict=False)):
            feature = model.lfm.projections[name](vector)
            torch.testing.assert_close(output.features[place], feature, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(output.modality_logits[place], model.fusion.heads[place](output.features[place]))
        torch.testing.assert_close(output.logits, sum(output.modality_logits) / number)
        inputs["audio_values"] = inputs["audio_values"] + 1
        moved = model(**inputs).modality_logits[1]
    assert (moved - output.modality_logits[1]).abs().max() > 1e-6  # what one hears changes what the other sees


def test_mmtm_survives_saving(tmp_path):
    model = toy_model(towers(2), fusion="mmtm", fusion_args={"ratio": 2}).eval()
    model.save_pretrained(tmp_path)
    loaded = LfmForMultimodalClassification.from_pretrained(tmp_path).eval()
    assert loaded.lfm.exchange.blocks["layer2"].squeeze.out_features == 16  # 2 (8 + 8) / 2
    with torch.no_grad():
        torch.testing.assert_close(loaded(**images(2)).logits, model(**images(2)).logits, rtol=0, atol=0)


def test_mmtm_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = toy_model(towers(2), fusion="mmtm").train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**images(2)).logits.square().sum().backward()
        gradients.append([p.grad for p in model.lfm.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_mmtm_needs_feature_maps():
    with pytest.raises(ValueError, match=r"modality 'text' \(transformers\).*ResNet of timm"):
        toy_model({"audio": RESNETS["audio"], "text": SMOOTH["text"]}, fusion="mmtm")
    with pytest.raises(ValueError, match=r"modality 'vit' \(test_vit\)"):
        toy_model({"audio": RESNETS["audio"], "vit": SMOOTH["vit"]}, fusion="mmtm")
    with pytest.raises(ValueError, match="ratio=0 must be a positive integer"):
        toy_model(towers(2), fusion="mmtm", fusion_args={"ratio": 0})
    with pytest.raises(ValueError, match="fusion mmtm run together"):
        toy_model(towers(2), fusion="mmtm").lfm.feature_of("audio", **images(2))
    model = LfmForMultimodalClassification(LfmConfig(towers(2), fusion="mmtm", hidden_size=16, num_labels=4))
    with pytest.raises(ValueError, match=r"frames \(B, T, C, H, W\), got \(3, 33, 32\)"):
        model(**{**images(2), "audio_values": torch.zeros(3, 33, 32)})
