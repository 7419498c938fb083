"""What a checkpoint may not make the loader do, and what is no answer."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmModel, LfmProcessor
from modeling_lfm import MultimodalClassificationPipeline as Answering

from .towers import BERT, TOWERS, resnet

IMAGE = {"type": "image", "size": [32, 32], "num_channels": 1}


def make(**kwargs):
    towers = {"left": resnet(1), "right": resnet(1)}
    return LfmForMultimodalClassification(LfmConfig(towers, hidden_size=8, num_labels=2, **kwargs)).eval()


@pytest.fixture
def folder(tmp_path):
    make().save_pretrained(tmp_path)
    return tmp_path


def change(folder, edit):
    settings = json.loads((folder / "config.json").read_text())
    edit(settings)
    (folder / "config.json").write_text(json.dumps(settings))


# -- configurations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("checkpoint_path", "weights.pth"),
        ("pretrained", True),
        ("pretrained_cfg", {"file": "weights.pth"}),
        ("pretrained_cfg_overlay", {"url": "http://127.0.0.1/weights"}),
        ("cache_dir", "elsewhere"),
        ("scriptable", True),
        ("norm_layer", "../layer"),
        ("act_layer", "http://127.0.0.1/x"),
        ("channels", [8, "a/b"]),
        ("drop_rate", float("nan")),
        ("block_args", {"a": 1}),
    ],
)
def test_timm_gets_arguments_of_architectures_alone(folder, key, value):
    change(folder, lambda settings: settings["modalities"]["left"]["model_args"].update({key: value}))
    for load in (LfmForMultimodalClassification.from_pretrained, AutoModel.from_pretrained, LfmConfig.from_pretrained):
        with pytest.raises(ValueError, match=rf"'left'.*model_args.*{key}"):
            load(folder)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"_attn_implementation": "someone/kernel"}, "attn_implementation"),
        ({"attn_implementation": "someone/kernel"}, "attn_implementation"),
        ({"model_type": "timm_wrapper", "model_args": {"checkpoint_path": "weights.pth"}}, "timm_wrapper"),
        ({"inner": {"backbone": "someone/model"}}, "backbone"),
    ],
)
def test_nested_configurations_fetch_and_run_nothing(change, key):
    with pytest.raises(ValueError, match=rf"'text'.*{key}"):
        LfmConfig({"text": {"tower": "transformers", "config": {**BERT, **change}}})


def test_the_code_that_a_nested_configuration_names_is_forgotten():
    remote = {"auto_map": {"AutoModel": "someone/model--code.Model"}, "_name_or_path": "someone/model"}
    remote["id2label"] = {0: "a"}  # keys need not be words
    config = LfmConfig({"text": {"tower": "transformers", "config": {**BERT, **remote}}})
    assert "someone" not in config.to_json_string()
    with pytest.raises(ValueError, match="someone/kernel"):
        LfmConfig({"text": TOWERS["text"]}, attn_implementation="someone/kernel")


def test_a_misspelt_setting_is_refused_and_an_old_one_forgotten(folder):
    with pytest.raises(ValueError, match=r"'hiden_size'.*'hidden_size'"):
        LfmConfig({"image": resnet(1)}, hiden_size=9)
    change(folder, lambda settings: settings.update(was_once=1))
    assert not hasattr(LfmConfig.from_pretrained(folder), "was_once")


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard", ["../other.safetensors", "/etc/hosts", "link.safetensors", "weights.bin", 3])
def test_a_list_of_shards_stays_in_its_folder(folder, shard):
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    os.symlink(folder.parent / "other.safetensors", folder / "link.safetensors")
    index = {"metadata": {}, "weight_map": {"fusion.head.bias": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index\.json names"):
        LfmForMultimodalClassification.from_pretrained(folder)


def test_shards_load(tmp_path):
    model = make()
    model.save_pretrained(tmp_path, max_shard_size="20kB")
    assert not (tmp_path / "model.safetensors").exists()
    loaded = LfmForMultimodalClassification.from_pretrained(tmp_path)
    assert all(torch.equal(*pair) for pair in zip(loaded.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("edit", [{"fusion": "film"}, {"towers": [100_000] * 4}])
def test_sizes_that_no_memory_holds_are_refused(folder, edit):
    def enlarge(settings):
        settings.update(hidden_size=100_000, fusion=edit.get("fusion", "concat"))
        settings["modalities"]["left"]["model_args"]["channels"] = edit.get("towers", [8, 8, 16, 16])

    change(folder, enlarge)
    with pytest.raises(ValueError, match=r"8,000,000,000 parameters"):
        LfmForMultimodalClassification.from_pretrained(folder)


def test_weights_of_another_model_are_refused_before_memory_is_taken(folder):
    change(folder, lambda settings: settings.update(hidden_size=100_000))
    with pytest.raises(ValueError, match=r"fusion\.head\.weight.*\(2, 16\).*\(2, 200000\)"):
        LfmForMultimodalClassification.from_pretrained(folder)
    change(folder, lambda settings: settings.update(hidden_size=8, fusion="sum"))
    with pytest.raises(ValueError, match=r"fusion\.heads\.0\.bias"):
        LfmForMultimodalClassification.from_pretrained(folder)


@pytest.mark.parametrize("kept", [0, 9, -100])
def test_a_cut_file_of_weights_is_named(folder, kept):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        LfmForMultimodalClassification.from_pretrained(folder)


def test_missing_weights_are_no_random_ones(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "towers.left" in name)
    save_file({key: value for key, value in weights.items() if key != name}, folder / "model.safetensors")
    for load in (LfmForMultimodalClassification.from_pretrained, AutoModel.from_pretrained, LfmModel.from_pretrained):
        with pytest.raises(ValueError, match=name.removeprefix("lfm.").replace(".", r"\.")):
            load(folder)
    save_file({}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"fusion\.head\.bias"):
        LfmForMultimodalClassification.from_pretrained(folder)


def test_a_head_may_be_added_to_towers_without_one(tmp_path):
    make().lfm.save_pretrained(tmp_path)
    assert LfmForMultimodalClassification.from_pretrained(tmp_path).fusion is not None


# -- answers -----------------------------------------------------------------------------------------------------------


def test_nan_is_no_answer():
    model, picture = make(fusion="sum"), np.zeros((32, 32), np.uint8)
    answering = Answering(model, LfmProcessor({"left": IMAGE, "right": IMAGE}))
    assert answering({"left": picture})["label"]  # what is absent says NaN, which does not count
    with torch.no_grad():
        model.lfm.projections["right"].bias[0] = torch.nan
    assert answering({"left": picture})["label"]
    for sample in ({"right": picture}, {"left": picture, "right": picture}):
        with pytest.raises(ValueError, match=r"NaN or infinite \(right\)"):
            answering(sample)


def test_sound_that_is_too_loud_for_its_numbers_is_no_answer(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "loud.wav", np.array([3e38, -3e38] * 2000, np.float32), 8000, subtype="FLOAT")
    audio = {"type": "spectrogram", "sampling_rate": 8000, "n_fft": 128, "hop_length": 125, "duration": 0.5}
    config = LfmConfig({"audio": resnet(1)}, hidden_size=8, num_labels=2)
    answering = Answering(LfmForMultimodalClassification(config), LfmProcessor({"audio": audio}))
    with pytest.raises(ValueError, match=r"'audio'.*loud\.wav"):
        answering({"audio": str(tmp_path / "loud.wav")})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["mean", "std"])
def test_settings_of_a_processor_are_numbers(tmp_path, key, value):
    LfmProcessor({"image": IMAGE}).save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["modalities"]["image"][key] = [value]
    file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=rf"'image'.*{key}="):
        LfmProcessor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"'audio'.*{key}="):
        LfmProcessor({"audio": {"type": "spectrogram", key: value}})


@pytest.mark.parametrize("size", [5.5, True, [5], [0, 5], ["a", 3], [10**5, 10**5], None])
def test_a_size_that_is_none(size):
    with pytest.raises(ValueError, match=r"'image'.*size="):
        LfmProcessor({"image": {**IMAGE, "size": size}})


@pytest.mark.parametrize(("key", "value"), [("norm_layer", "x"), ("act_layer", 3), ("layers", [1]), ("channels", "a")])
def test_arguments_of_which_timm_makes_nothing(key, value):
    spec = {"tower": "timm", "name": "resnet10t", "model_args": {key: value}}
    with pytest.raises(ValueError, match=f"resnet10t.*{key}"):
        LfmForMultimodalClassification(LfmConfig({"image": spec}, hidden_size=8, num_labels=2))
