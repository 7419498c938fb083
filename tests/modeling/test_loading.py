"""Ways to load a model: number types, devices, shards; pickled weights are refused, and no path is saved."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmModel, LfmProcessor
from modeling_lfm.fusions_lfm import FUSIONS
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments

from .hub_server import serving_models
from .towers import BERT, CLIP_VISION, TOWERS, make_tokenizer, model_inputs, resnet

NAMES = list(TOWERS)


def make(towers, **kwargs):
    torch.manual_seed(0)
    config = LfmConfig(towers, **{"hidden_size": 16, "num_labels": 3, **kwargs})
    return LfmForMultimodalClassification(config).eval()


def outputs(model, inputs):
    """Logits, fused and of each modality (`list[torch.Tensor]`)."""
    with torch.no_grad():
        output = model(**inputs)
    return [output.logits, *output.modality_logits]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of a model with a tower of every kind, inputs (float32), and what it answers."""
    folder = tmp_path_factory.mktemp("every tower")
    model, inputs = make(TOWERS), model_inputs(NAMES)
    model.save_pretrained(folder)
    return folder, inputs, outputs(model, inputs)


# -- number types, devices, shards -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, "auto"])
def test_dtype(saved, dtype):
    """The inputs stay float32, as processors give them."""
    folder, inputs, expected = saved
    model = AutoModel.from_pretrained(folder, dtype=dtype)
    wanted = {"bfloat16": torch.bfloat16, "auto": torch.float32}.get(dtype, dtype)
    assert {tensor.dtype for tensor in model.parameters()} == {wanted}
    tolerance = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 0}[wanted]
    for found, true in zip(outputs(model, inputs), expected, strict=True):
        torch.testing.assert_close(found.float(), true, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"device_map": "auto"},
        {"device_map": {"": "cpu"}, "dtype": torch.float32},
        # where memory is short, what is last in the model is offloaded
        {"device_map": "auto", "max_memory": {"cpu": "2MB"}},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_devices_and_memory(saved, tmp_path, settings):
    folder, inputs, expected = saved
    model = AutoModel.from_pretrained(folder, offload_folder=tmp_path, **settings)
    assert ("disk" in getattr(model, "hf_device_map", {}).values()) == ("max_memory" in settings)
    assert all(torch.equal(*pair) for pair in zip(outputs(model, inputs), expected, strict=True))


def test_shards(saved, tmp_path):
    folder, inputs, expected = saved
    model = LfmForMultimodalClassification.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size="500KB")
    assert len(list(tmp_path.glob("model-0000*.safetensors"))) > 2
    assert not (tmp_path / "model.safetensors").exists()
    for settings in ({}, {"device_map": {"lfm": "cpu", "fusion": "disk"}}):
        loaded = AutoModel.from_pretrained(tmp_path, offload_folder=tmp_path / "offload", **settings)
        assert all(torch.equal(*pair) for pair in zip(outputs(loaded, inputs), expected, strict=True))


@pytest.mark.parametrize(("fusion", "dropout"), [*((name, 0.0) for name in FUSIONS), ("concat", 0.5), ("film", 0.5)])
def test_every_fusion_works_offloaded(tmp_path, fusion, dropout):
    """Weights that are offloaded are there only while their module is called."""
    small = {"tower": "mlp", "in_features": 4}
    towers = {"audio": resnet(1), "image": resnet(3)} if fusion == "mmtm" else {"audio": small, "image": small}
    model = make(towers, fusion=fusion, modality_dropout=dropout, unimodal_heads=dropout > 0)
    if model.fusion.absence is not None:
        torch.nn.init.normal_(model.fusion.absence)
    model.save_pretrained(tmp_path)
    device_map = {"lfm.towers": "disk", "lfm.projections": "cpu", "fusion": "disk"}
    device_map |= {"unimodal_heads": "disk"} if dropout else {}
    device_map |= {"lfm.exchange": "cpu"} if fusion == "mmtm" else {}
    loaded = AutoModel.from_pretrained(tmp_path, device_map=device_map, offload_folder=tmp_path / "offload")
    shapes = ((1, 33, 32), (3, 32, 32)) if fusion == "mmtm" else ((4,), (4,))
    inputs = {f"{name}_values": torch.randn(2, *shape) for name, shape in zip(towers, shapes, strict=True)}
    for call in (inputs, {**inputs, "image_present": torch.tensor([True, False])}):
        for found, true in zip(outputs(loaded, call), outputs(model, call), strict=True):
            torch.testing.assert_close(found, true, equal_nan=True)


# -- pickled weights ---------------------------------------------------------------------------------------------------


class Bomb:
    """Leaves a file `exploded` in the working directory when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory, where nothing explodes."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "exploded").exists()


def pickle_weights(folder):
    """Put pickled weights in place of the safetensors of a folder."""
    (folder / "model.safetensors").unlink()
    torch.save(Bomb(), folder / "pytorch_model.bin")


@pytest.mark.parametrize("load", [LfmForMultimodalClassification, LfmModel, AutoModel])
def test_pickled_weights_are_refused(here, load):
    make({"image": resnet(1)}).save_pretrained(here / "model")
    pickle_weights(here / "model")
    for settings in ({}, {"weights_only": False}, {"use_safetensors": None}, {"use_safetensors": False}):
        with pytest.raises(ValueError, match=r"pickled weights .* are refused. Convert .*safetensors"):
            load.from_pretrained(here / "model", **settings)
    with pytest.raises(ValueError, match=r"pytorch_model.bin: pickled"):
        load.from_pretrained(here / "model")
    (here / "model" / "pytorch_model.bin").rename(here / "model" / "pytorch_model-00001-of-00001.bin")
    (here / "model" / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(ValueError, match="pickled"):
        load.from_pretrained(here / "model")


def test_no_way_around(here):
    model = make({"image": resnet(1)})
    model.save_pretrained(here / "model")
    shutil.copytree(here / "model", here / "part" / "model")
    pickle_weights(here / "part" / "model")
    with pytest.raises(ValueError, match="pickled"):
        LfmForMultimodalClassification.from_pretrained(here / "part", subfolder="model")
    torch.save(Bomb(), here / "weights.bin")
    with pytest.raises(ValueError, match=r"weights.bin: pickled"):
        LfmForMultimodalClassification.from_pretrained(here / "weights.bin", config=model.config)
    settings = json.loads((here / "model" / "config.json").read_text())
    (here / "model" / "config.json").write_text(json.dumps({**settings, "transformers_weights": "adapter_model.bin"}))
    torch.save(Bomb(), here / "model" / "adapter_model.bin")
    with pytest.raises(ValueError, match="transformers_weights"):
        LfmForMultimodalClassification.from_pretrained(here / "model")
    settings = json.loads((here / "part" / "model" / "config.json").read_text())
    del settings["dtype"]  # then transformers looks for it in the first shard
    (here / "part" / "model" / "config.json").write_text(json.dumps(settings))
    index = here / "part" / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"fusion.head.bias": "pytorch_model.bin"}}))
    with pytest.raises(ValueError, match=r"index\.json names 'pytorch_model\.bin'"):
        LfmForMultimodalClassification.from_pretrained(here / "part" / "model", weights_only=False)
    index.unlink()
    (here / "part" / "model" / "pytorch_model.bin").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):  # none at all is another error
        LfmForMultimodalClassification.from_pretrained(here / "part" / "model")


def test_towers_are_not_made_of_pickled_weights(here):
    BertModel(BertConfig(**{key: value for key, value in BERT.items() if key != "model_type"})).save_pretrained("bert")
    CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP_VISION)).save_pretrained("clip")
    for name, kind in (("bert", "transformers"), ("clip", "clip_vision")):
        pickle_weights(here / name)
        config = LfmConfig({"one": {"tower": kind, "name": str(here / name), "pretrained": True}}, num_labels=2)
        with pytest.raises(ValueError, match=rf"{name}.pytorch_model.bin: pickled .*safetensors"):
            LfmForMultimodalClassification.from_towers(config)
    torch.save(Bomb(), "weights.pth")
    for file, error, message in (
        ("weights.pth", ValueError, "weights.pth: pickled .*safetensors"),
        ("nowhere.safetensors", FileNotFoundError, "no file at nowhere.safetensors"),
    ):
        with pytest.raises(error, match=message):
            LfmForMultimodalClassification.from_towers(LfmConfig({"a": {**resnet(1), "checkpoint": file}}))
    save_file({"conv": torch.zeros(1)}, "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors does not hold the weights of the tower resnet10t"):
        LfmForMultimodalClassification.from_towers(LfmConfig({"a": {**resnet(1), "checkpoint": "other.safetensors"}}))
    for name in ("hf-hub:timm/resnet18.a1_in1k", f"local-dir:{here}"):
        with pytest.raises(ValueError, match="must be a timm architecture"):
            LfmConfig({"a": {"tower": "timm", "name": name}})


def test_a_file_of_weights_may_have_a_classifier(here):
    spec = resnet(1)
    whole = timm.create_model(spec["name"], in_chans=1, num_classes=7, **spec["model_args"])
    save_file(whole.state_dict(), "whole.safetensors")
    config = LfmConfig({"a": {**spec, "checkpoint": "whole.safetensors"}})
    found = LfmForMultimodalClassification.from_towers(config).lfm.towers["a"].encoder.state_dict()
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in found.items())


@pytest.fixture
def hub(here, monkeypatch):
    """A Hub that this process asks, with an empty cache."""
    monkeypatch.setenv("DISABLE_SAFETENSORS_CONVERSION", "1")  # transformers would ask a service to convert pickles
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(here / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serving_models() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


def test_pickled_weights_of_the_hub_are_refused(here, hub):
    model = make({"image": resnet(1)})
    model.save_pretrained(here / "model")
    hub.commit("me/model", here / "model", "safe")
    pickle_weights(here / "model")
    hub.commit("me/model", here / "model", "main")
    loaded = LfmForMultimodalClassification.from_pretrained("me/model", revision="safe")
    loaded.save_pretrained(here / "again")
    assert "me/model" not in (here / "again" / "config.json").read_text()  # the code is in the folder, not there
    assert all(torch.equal(*pair) for pair in zip(loaded.parameters(), model.parameters(), strict=True))
    for load in (LfmForMultimodalClassification, AutoModel):
        with pytest.raises(ValueError, match=r"me/model has no weights in safetensors; pickled .*refused"):
            load.from_pretrained("me/model")
    BertModel(BertConfig(**{key: value for key, value in BERT.items() if key != "model_type"})).save_pretrained("bert")
    pickle_weights(here / "bert")
    hub.commit("me/bert", here / "bert", "main")
    config = LfmConfig({"text": {"tower": "transformers", "name": "me/bert", "pretrained": True}}, num_labels=2)
    with pytest.raises(ValueError, match="me/bert has no weights in safetensors"):
        LfmForMultimodalClassification.from_towers(config)
    assert not any(request.startswith("GET") and request.endswith(".bin") for request in hub.requests)


def test_pretrained_timm_towers_come_from_safetensors(here, hub, monkeypatch):
    """The Hub's weights are adapted to one channel; of a repository without safetensors nothing is read."""
    name, tower = "timm/resnet10t.c3_in1k", resnet(1)
    source = make({"image": resnet(3)}).lfm.towers["image"].encoder
    save_file(source.state_dict(), here / "model.safetensors")
    content = (here / "model.safetensors").read_bytes()
    hub.commit(name, {"model.safetensors": content}, "main")
    config = LfmConfig({"image": {**tower, "name": "resnet10t.c3_in1k", "pretrained": True}}, num_labels=2)
    encoder = LfmForMultimodalClassification.from_towers(config).lfm.towers["image"].encoder
    assert torch.equal(encoder.layer4[0].conv1.weight, source.layer4[0].conv1.weight)
    torch.testing.assert_close(encoder.conv1[0].weight, source.conv1[0].weight.sum(1, keepdim=True))
    torch.save(Bomb(), here / "pytorch_model.bin")
    hub.commit("timm/resnet18.a1_in1k", {"pytorch_model.bin": (here / "pytorch_model.bin").read_bytes()}, "main")
    for other in ("resnet18", "gcvit_tiny"):  # the weights of the latter are on no Hub
        config = LfmConfig({"image": {"tower": "timm", "name": other, "pretrained": True}}, num_labels=2)
        with pytest.raises(ValueError, match=f"timm has no weights of '{other}' in safetensors"):
            LfmForMultimodalClassification.from_towers(config)
    config = LfmConfig({"image": {"tower": "timm", "name": "resnet10t.none", "pretrained": True}}, num_labels=2)
    with pytest.raises(ValueError, match=r"no weights 'resnet10t\.none'; choose one of resnet10t\.c3_in1k"):
        LfmForMultimodalClassification.from_towers(config)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    config = LfmConfig({"image": {"tower": "timm", "name": "resnet34", "pretrained": True}}, num_labels=2)
    with pytest.raises(OSError, match="connect"):
        LfmForMultimodalClassification.from_towers(config)


# -- paths -------------------------------------------------------------------------------------------------------------

TRAINING_ONLY = {
    "trainer_state.json",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "method.pt",
}


def test_no_saved_file_holds_a_path(tmp_path):
    """Towers, weights and tokenizer come from folders, and nothing of that is in what a run leaves."""
    BertModel(BertConfig(**{k: v for k, v in BERT.items() if k != "model_type"})).save_pretrained(tmp_path / "bert")
    make_tokenizer(tmp_path).save_pretrained(tmp_path / "bert")
    CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP_VISION)).save_pretrained(tmp_path / "clip")
    save_file(make({"a": resnet(3)}).lfm.towers["a"].encoder.state_dict(), tmp_path / "weights.safetensors")
    towers = {
        "text": {"tower": "transformers", "name": str(tmp_path / "bert"), "pretrained": True},
        "photo": {"tower": "clip_vision", "name": str(tmp_path / "clip"), "pretrained": True},
        "sketch": {**resnet(3), "checkpoint": str(tmp_path / "weights.safetensors")},
    }
    model = LfmForMultimodalClassification.from_towers(LfmConfig(towers, hidden_size=16, num_labels=2))
    image = {"type": "image", "size": [32, 32]}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bert")
    processor = LfmProcessor({"text": {"type": "text"}, "photo": image, "sketch": image}, tokenizer=tokenizer)
    picture = np.zeros((8, 8, 3), np.uint8)
    sample = {key: value[0] for key, value in processor(text="the cat", photo=picture, sketch=picture).items()}
    arguments = LfmTrainingArguments(
        str(tmp_path / "run"),
        method={"name": "concat"},
        max_steps=1,
        save_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = LfmTrainer(
        model, arguments, [{**sample, "labels": 0}, {**sample, "labels": 1}], processing_class=processor
    )
    trainer.train()
    trainer.save_model()
    # what is loaded from a path, and what was never fetched, saves no path either
    LfmForMultimodalClassification.from_pretrained(tmp_path / "run").save_pretrained(tmp_path / "run" / "again")
    LfmProcessor.from_pretrained(tmp_path / "run").save_pretrained(tmp_path / "run" / "again")
    make({"sketch": towers["sketch"]}).save_pretrained(tmp_path / "run" / "unfetched")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name not in TRAINING_ONLY]
    assert len({path.parent for path in files}) == 4
    for path in files:
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content, path
        assert str(Path.home()).encode() not in content, path
    assert "local" not in (tmp_path / "run" / "tokenizer_config.json").read_text()
