"""Absent modalities: the rule of each fusion in plain torch, batches in which some are absent, and modality dropout."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from modeling_lfm import LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.fusions_lfm import FUSIONS

from ..trainer.toy import shallow_resnet, toy_model
from .towers import TOWERS, make_tokenizer, tower_inputs

NAMES = ("audio", "vit", "flow")
RESNETS = {name: shallow_resnet(channels) for name, channels in zip(NAMES, (1, 3, 2), strict=True)}  # which MMTM needs
SHAPES = {"audio": (1, 33, 32), "vit": (3, 32, 32), "flow": (2, 32, 32)}
PERCEPTRONS = {name: {"tower": "mlp", "in_features": 4} for name in NAMES}
SUBSETS = [(True, False, True), (False, True, False), (True, True, True), (False, False, True)]
JOINT = ("concat", "film", "lstm", "etmc")


def make(fusion, **kwargs):
    """A model of three towers whose biases and absence features, if any, are not zero."""
    model = toy_model(towers_of(fusion), fusion=fusion, **kwargs).eval()
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("fusion.", "lfm.projections")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def towers_of(fusion):
    return RESNETS if fusion == "mmtm" else PERCEPTRONS


def make_inputs(fusion, batch=4):
    generator = torch.Generator().manual_seed(4)
    shapes = SHAPES if fusion == "mmtm" else dict.fromkeys(NAMES, (4,))
    return {f"{name}_values": torch.randn(batch, *shapes[name], generator=generator) for name in NAMES}


def subset_inputs(inputs, there):
    return {key: value for key, value in inputs.items() if there[NAMES.index(key.split("_")[0])]}


def dempster(views):
    """Evidence of views (list of (B, K)) by the rule in terms of beliefs, not simplified."""
    total = views[0]
    for evidence in views[1:]:
        k = total.shape[1]
        s1, s2 = total.sum(1, keepdim=True) + k, evidence.sum(1, keepdim=True) + k
        b1, b2, u1, u2 = total / s1, evidence / s2, k / s1, k / s2
        conflict = b1.sum(1, keepdim=True) * b2.sum(1, keepdim=True) - (b1 * b2).sum(1, keepdim=True)
        belief = (b1 * b2 + b1 * u2 + b2 * u1) / (1 - conflict)
        uncertainty = u1 * u2 / (1 - conflict)
        total = belief * k / uncertainty
    return total


def expected(model, vectors, there):
    """The fused logits of one subset, from its features alone, by the formulas of the docstrings."""
    fusion, config = model.fusion, model.config
    kept = [place for place, flag in enumerate(there) if flag]
    z = model.lfm.project(vectors)
    absence = torch.zeros(3, 16) if fusion.absence is None else fusion.absence
    filled = [z[m] if there[m] else absence[m].expand_as(z[m]) for m in range(3)]
    name = config.fusion
    if name in ("sum", "mmtm", "qmf", "weight", "domfn", "etmc"):
        f = [F.linear(z[m], fusion.heads[m].weight, fusion.heads[m].bias) for m in range(3)]
    if name == "concat":
        return F.linear(torch.cat(filled, 1), fusion.head.weight, fusion.head.bias)
    if name == "sum":
        return sum(f[m] for m in kept)
    if name == "mmtm":
        return sum(f[m] for m in kept) / len(kept)
    if name == "weight":
        scores = torch.cat([fusion.attention(z[m]) for m in kept], 1).exp()
        return sum(scores[:, [i]] / scores.sum(1, keepdim=True) * f[m] for i, m in enumerate(kept))
    if name == "qmf":
        return sum(f[m].exp().sum(1, keepdim=True).log() / 10 * f[m] for m in kept)
    if name == "domfn":
        q = [part.sigmoid() for part in f]
        if len(kept) == 3:
            return fusion([*z])[0]
        return torch.stack([max((q[m][b] for m in kept), key=lambda row: row.max()) for b in range(len(z[0]))])
    if name == "etmc":
        pseudo = F.linear(torch.cat(filled, 1), fusion.pseudo_head.weight, fusion.pseudo_head.bias)
        return (dempster([F.softplus(v) for v in [*(f[m] for m in kept), pseudo]]) + 1).log()
    if name == "mla":
        f = [F.linear(z[m], fusion.head.weight, fusion.head.bias) for m in kept]
        if config.fusion_args.get("weights"):
            weights = [config.fusion_args["weights"][m] for m in kept]
            return sum(w / sum(weights) * part for w, part in zip(weights, f, strict=True))
        p = [part.softmax(1) for part in f]
        sure = [(part * part.log()).sum(1, keepdim=True).exp() for part in p]
        return sum(s / sum(sure) * part for s, part in zip(sure, f, strict=True))
    if name == "reconboost":
        return fusion.boost_rate * sum(fusion.head(z[m]) for m in kept)
    return fusion.fuse(filled)  # film and lstm, tested by themselves in test_fusions.py


CASES = [(name, {}, rate) for name in FUSIONS for rate in ((0.0, 0.5) if name in JOINT else (0.0,))]
CASES.append(("mla", {"weights": [0.5, 0.3, 0.2]}, 0.0))


@pytest.mark.parametrize(("fusion", "args", "rate"), CASES)
def test_each_fusion_follows_its_rule(fusion, args, rate):
    """For every subset alone, and for all of them mixed in one batch whose absent inputs hold other values."""
    model = make(fusion, fusion_args=args, modality_dropout=rate)
    assert (model.fusion.absence is not None) == (rate > 0)
    inputs, singles = make_inputs(fusion), []
    with torch.no_grad():
        for row, there in enumerate(SUBSETS):
            output = model(**subset_inputs(inputs, there))
            vectors = model.lfm.run_towers(**subset_inputs(inputs, there))
            torch.testing.assert_close(output.logits, expected(model, vectors, there), rtol=1e-4, atol=1e-5)
            for m in range(3):
                assert output.modality_logits[m].isnan().all() == (not there[m])
                assert output.features[m].isnan().all() == (not there[m])
            singles.append(output.logits[row])
        marks = {f"{name}_present": torch.tensor([there[m] for there in SUBSETS]) for m, name in enumerate(NAMES)}
        mixed = model(**inputs, **marks)
        torch.testing.assert_close(mixed.logits, torch.stack(singles), rtol=1e-4, atol=1e-5)
        noise = {
            key: value + 1e3 * ~marks[key[:-6] + "present"].view(-1, *[1] * (value.dim() - 1))
            for key, value in inputs.items()
        }
        again = model(**noise, **marks)
        torch.testing.assert_close(again.logits, mixed.logits, rtol=1e-5, atol=1e-6)
    for m in range(3):
        there = marks[f"{NAMES[m]}_present"]
        assert mixed.modality_logits[m][there].isfinite().all()
        assert mixed.modality_logits[m][~there].isnan().all()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_nothing_changes_where_all_are_present(fusion):
    """Marks that say so give the same logits, and those of the model without modality dropout."""
    model, inputs = make(fusion), make_inputs(fusion)
    with torch.no_grad():
        plain = model(**inputs)
        marked = model(**inputs, **{f"{name}_present": torch.ones(4, dtype=torch.bool) for name in NAMES})
    torch.testing.assert_close(marked.logits, plain.logits, rtol=1e-6, atol=1e-6)
    for one, other in zip(marked.modality_logits, plain.modality_logits, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    dropping = toy_model(towers_of(fusion), fusion=fusion, modality_dropout=0.4).eval()
    dropping.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(dropping(**inputs).logits, plain.logits, rtol=0, atol=0)


def test_a_modality_alone_is_the_rest_absent():
    """What joint fusions call the prediction of a modality alone is the fused one with the others absent."""
    for fusion in ("film", "lstm"):
        model, inputs = make(fusion, modality_dropout=0.5), make_inputs(fusion)
        with torch.no_grad():
            alone = model(**inputs).modality_logits[1]
            fused = model(vit_values=inputs["vit_values"]).logits
        torch.testing.assert_close(alone, fused)


def test_wrong_marks_are_named():
    model, inputs = make("sum"), make_inputs("sum")
    for mark in (torch.ones(3, dtype=torch.bool), torch.ones(4)):
        with pytest.raises(ValueError, match="vit_present must be bool"):
            model(**inputs, vit_present=mark)
    gone = torch.tensor([True, True, False, True])
    with pytest.raises(ValueError, match="sample 2 of the batch has no modality"):
        model(**inputs, **{f"{name}_present": gone for name in NAMES})
    with pytest.raises(ValueError, match="audio_values is missing"):
        model(audio_present=gone)


@pytest.mark.parametrize("fusion", JOINT)
def test_dropout_trains_what_stands_for_an_absent_modality(fusion, tmp_path):
    model = toy_model(PERCEPTRONS, fusion=fusion, modality_dropout=0.5).train()
    assert model.fusion.absence.abs().sum() == 0
    model(**make_inputs(fusion, 16), labels=torch.arange(16) % 4).loss.backward()
    assert (model.fusion.absence.grad.abs().sum(1) > 0).all()
    with torch.no_grad():
        model.fusion.absence.normal_()
    model.eval().save_pretrained(tmp_path)
    loaded = LfmForMultimodalClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.fusion.absence, model.fusion.absence)
    inputs = {"audio_values": make_inputs(fusion)["audio_values"]}
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)


def test_a_checkpoint_without_absence_features_starts_from_zeros(tmp_path):
    toy_model(PERCEPTRONS).save_pretrained(tmp_path)
    loaded = LfmForMultimodalClassification.from_pretrained(tmp_path, modality_dropout=0.3)
    assert torch.equal(loaded.fusion.absence, torch.zeros(3, 16))


def test_dropout_hides_each_modality_as_often_as_asked_and_never_all():
    model = toy_model(PERCEPTRONS, modality_dropout=0.6)
    torch.manual_seed(0)
    seen = model.hide_modalities(None, 20000, torch.device("cpu"))
    assert seen.any(0).all()
    # Hidden with 0.6, but for the third of the cases without any in which it is the one that is kept.
    assert seen.float().mean(1).tolist() == pytest.approx([0.4 + 0.6**3 / 3] * 3, abs=0.015)
    counts = seen.sum(0).bincount(minlength=4) / 20000
    assert counts.tolist() == pytest.approx([0, 3 * 0.4 * 0.36 + 0.6**3, 3 * 0.16 * 0.6, 0.4**3], abs=0.015)
    present = torch.tensor([[True], [False], [True]]).expand(3, 2000)
    seen = model.hide_modalities(present, 2000, torch.device("cpu"))
    assert not seen[1].any()
    assert seen.any(0).all()


def test_dropout_touches_the_fused_prediction_in_training_alone():
    model, inputs = toy_model(PERCEPTRONS, fusion="sum", modality_dropout=0.7), make_inputs("sum")
    model.eval()
    plain = model(**inputs)
    torch.testing.assert_close(model(**inputs).logits, plain.logits, rtol=0, atol=0)
    model.training = True
    trained = model(**inputs)
    assert not torch.allclose(trained.logits, plain.logits)
    for one, other in zip(trained.modality_logits, plain.modality_logits, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    alone = toy_model({"vit": TOWERS["vit"]}, modality_dropout=0.7).train()
    assert alone.fusion.absence is None
    torch.testing.assert_close(alone(**tower_inputs("vit")).logits.isfinite().all(), torch.tensor(True))


def test_processor_marks_what_is_absent(tmp_path):
    processor = LfmProcessor(
        {"picture": {"type": "image", "size": [8, 8]}, "text": {"type": "text"}, "sound": {"type": "spectrogram"}},
        tokenizer=make_tokenizer(tmp_path),
    )
    picture, sound = np.full((9, 9, 3), 200, np.uint8), np.ones(16000, np.float32)
    batch = processor(
        picture=[picture, None, picture], text=["good", "the cat", None], sound=[None] * 3, sampling_rate=16000
    )
    assert sorted(batch) == [
        "picture_present",
        "picture_values",
        "text_attention_mask",
        "text_input_ids",
        "text_present",
    ]
    assert batch["picture_present"].tolist() == [True, False, True]
    assert batch["text_present"].tolist() == [True, True, False]
    assert batch["text_input_ids"].shape[0] == 3
    alone = processor(picture=picture)
    assert torch.equal(batch["picture_values"][2:], alone["picture_values"])
    assert sorted(processor(sound=sound, picture=None, sampling_rate=16000)) == ["sound_values"]
    assert processor(picture=[picture, None], text=["a", "b"], return_tensors="np")["picture_present"].dtype == bool
    with pytest.raises(ValueError, match="sample 1 has no modality"):
        processor(picture=[picture, None], text=["good", None])
    with pytest.raises(ValueError, match="sample 0 has no modality"):
        processor(picture=None)
