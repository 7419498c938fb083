"""`torch.compile` of the models: one graph, and the numbers of the model that is not compiled."""

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from modeling_lfm.fusions_lfm import FUSIONS

from ..trainer.toy import toy_model
from .fusions import SHALLOW, Fusions, fusion_inputs, vit
from .towers import TOWERS, model_inputs


@pytest.fixture(autouse=True)
def fresh():
    """No graphs of other tests."""
    torch._dynamo.reset()
    counters.clear()


def pictures(batch=4):
    return {f"{name}_values": torch.randn(batch, 1, 32, 32) for name in ("one", "two")}


def assert_same(found, expected):
    assert type(found) is type(expected)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-5)
    for one, other in zip(found.modality_logits, expected.modality_logits, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5, equal_nan=True)


def test_fusions_are_one_graph():
    """But for the LSTM's, where torch breaks it."""
    inputs = fusion_inputs()
    for names in ([name for name in FUSIONS if name != "lstm"], ["lstm"]):
        model = Fusions(names)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=names != ["lstm"])
        with torch.no_grad():
            found, expected = compiled(**inputs), model(**inputs)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=name)
        if names != ["lstm"]:
            assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize(
    ("names", "fusion"), [(("vit", "text", "picture", "caption"), "concat"), (("audio", "flow"), "mmtm")]
)
def test_models_are_one_graph(names, fusion):
    """Vision and text transformers, CLIP, and ResNets that exchange what they see; the first is absent somewhere."""
    towers = {**TOWERS, "audio": SHALLOW, "flow": SHALLOW, "vit": vit(32, 3, depth=1)}
    for name in ("text", "picture", "caption"):  # to trace a second layer takes as long, and tells no more
        towers[name] = {**towers[name], "config": {**towers[name]["config"], "num_hidden_layers": 1}}
    model = toy_model({name: towers[name] for name in names}, fusion=fusion).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    inputs = model_inputs(name for name in names if name != "flow")
    inputs[f"{names[0]}_present"] = torch.tensor([True, False, True])
    if "flow" in names:
        inputs["flow_values"] = inputs["audio_values"].flip(0)
    for key in inputs:
        if key.endswith("attention_mask"):
            inputs[key][0, 4:] = 0
    with torch.no_grad():
        assert_same(compiled(**inputs), model(**inputs))
    assert counters["stats"]["unique_graphs"] == 1


def test_gradients_of_a_training_step():
    model = toy_model({"one": vit(32), "two": vit(32)}, modality_dropout=0.3).train()
    inputs, labels = pictures(), torch.arange(4)
    gradients = []
    for forward in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(0)  # which modalities are hidden
        model.zero_grad()
        forward(**inputs, labels=labels).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) > 5
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles with g++")
def test_inductor(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    monkeypatch.setattr(torch._inductor.config, "cpp_cache_precompile_headers", False)  # for one file
    # Each set of instructions that the processor tells of would be tried by a file that is compiled, too.
    monkeypatch.setattr(torch._inductor.config.cpp, "vec_isa_ok", True)
    model = toy_model({"one": {"tower": "mlp", "in_features": 4}}).eval()
    inputs = {"one_values": torch.randn(4, 4)}
    with torch.no_grad():
        assert_same(torch.compile(model, fullgraph=True)(**inputs), model(**inputs))
    assert list(tmp_path.rglob("*.so"))
