"""Learning rates of towers, lower ones for deeper layers, and towers that are frozen in part."""

import copy
import re
from pathlib import Path

import pytest
import timm.optim
import torch
import yaml

from modeling_lfm import LfmConfig, LfmForMultimodalClassification
from modeling_lfm.scripts.common.settings import ModelArguments, SettingsParser, read_arguments
from modeling_lfm.trainer import LfmTrainer
from modeling_lfm.trainer.rates import describe_training
from tests.modeling.towers import BERT, CLIP_TEXT, CLIP_VISION, TOWERS, resnet

from .toy import SMOOTH, toy_data, toy_trainer

RATES = {"text": {**TOWERS["text"], "learning_rate": 2e-4, "layer_decay": 0.5}, "vit": SMOOTH["vit"]}


def rates_of(trainer):
    """The learning rate of every trained parameter (`dict` by name)."""
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    return {names[p]: group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}


def test_a_tower_learns_at_its_own_rate_which_falls_from_layer_to_layer(tmp_path):
    trainer = toy_trainer(tmp_path, RATES, method="concat", lr_scheduler_type="constant", num_train_epochs=1)
    trainer.train()
    rates = rates_of(trainer)
    assert set(rates) == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    bert = "lfm.towers.text.encoder."
    assert rates[bert + "encoder.layer.1.output.dense.weight"] == 2e-4
    assert rates[bert + "encoder.layer.0.output.dense.bias"] == pytest.approx(1e-4)
    assert rates[bert + "embeddings.word_embeddings.weight"] == pytest.approx(5e-5)
    assert {rate for name, rate in rates.items() if not name.startswith(bert)} == {2e-3}
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert (entry["learning_rate"], entry["learning_rate_text"]) == (2e-3, 2e-4)
    assert describe_training(trainer.model, trainer.args)[0].endswith(
        "trained at the rate 0.0002, 0.5 of it a layer down"
    )


@pytest.mark.parametrize("name", ["test_vit", "resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_layers_are_those_of_timm(name, tmp_path):
    arguments = {"resnet10t": {"channels": [8, 8, 16, 16]}, "convnext_atto": {"dims": [8, 8, 8, 8]}}.get(name, {})
    tower = {"tower": "timm", "name": name, "model_args": arguments, "layer_decay": 0.7}
    trainer = toy_trainer(tmp_path, {"vit": tower, "audio": resnet(1)}, method="concat")
    trainer.create_optimizer()
    encoder = trainer.model.lfm.towers["vit"].encoder
    names = {parameter: f"lfm.towers.vit.encoder.{key}" for key, parameter in encoder.named_parameters()}
    expected = {
        names[parameter]: 2e-3 * group["lr_scale"]
        for group in timm.optim.param_groups_layer_decay(encoder, layer_decay=0.7)
        for parameter in group["params"]
    }
    found = {key: rate for key, rate in rates_of(trainer).items() if key in expected}
    assert found == pytest.approx(expected)
    assert len(set(expected.values())) > 3


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor"])
def test_a_resumed_run_equals_an_uninterrupted_one(optim, tmp_path):
    settings = {"size": 24, "num_train_epochs": 2, "save_strategy": "epoch", "optim": optim, "method": "mslr"}
    towers = {"text": {**RATES["text"], "frozen": 1}, "vit": {**RATES["vit"], "learning_rate": 5e-4}}
    whole = toy_trainer(tmp_path, towers, **settings)
    resumed = toy_trainer(tmp_path, towers, **settings)
    whole.train()
    step = whole.state.global_step // 2
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert rates_of(whole) == rates_of(resumed)
    assert whole.state.log_history[-2] == resumed.state.log_history[-2]


LAYERED = {
    "vit": {**TOWERS["vit"], "frozen": 2},
    "audio": {**resnet(1), "frozen": 2},
    "text": {**TOWERS["text"], "config": BERT, "frozen": 1},
    "picture": {"tower": "clip_vision", "config": CLIP_VISION, "frozen": 1},
    "caption": {"tower": "clip_text", "config": CLIP_TEXT, "frozen": 1},
}
STILL = {  # what of a tower is frozen
    "vit": ("cls_token", "pos_embed", "patch_embed.", "norm_pre.", "blocks.0.", "blocks.1."),
    "audio": ("conv1.", "bn1.", "layer1.0.", "layer2.0."),
    "text": ("embeddings.", "encoder.layer.0."),
    "picture": ("embeddings.", "vision_model.embeddings.", "pre_layrnorm.", "vision_model.pre_layrnorm."),
    "caption": ("embeddings.", "text_model.embeddings."),
}


@pytest.mark.parametrize("name", LAYERED)
def test_frozen_up_to_a_layer(name):
    """Stem and first layers have no gradient and stay in evaluation mode; the rest is trained; it survives a copy."""
    config = LfmConfig({name: LAYERED[name]}, hidden_size=8)
    for model in (LfmForMultimodalClassification(config), copy.deepcopy(LfmForMultimodalClassification(config))):
        tower = model.train().lfm.towers[name]
        layers = ("vision_model.encoder.layers.0.", "text_model.encoder.layers.0.", "encoder.layers.0.")
        still = STILL[name] + (layers if name in ("picture", "caption") else ())
        for key, parameter in tower.encoder.named_parameters():
            assert parameter.requires_grad != key.startswith(still), key
        modules = {f"{key}.": module for key, module in tower.encoder.named_modules() if list(module.parameters())}
        modes = {module.training for key, module in modules.items() if key.startswith(still)}
        assert modes == {False}
        assert tower.training
        assert not model.eval().lfm.towers[name].training
    whole = LfmConfig({name: {**LAYERED[name], "frozen": True}}, hidden_size=8)
    assert not LfmForMultimodalClassification(whole).train().lfm.towers[name].training


def test_what_cannot_be_is_refused(tmp_path):
    for entry, told in (
        ({"frozen": 3}, "frozen=3, but it has 2 layers"),
        ({"frozen": -1}, "frozen=-1"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"layer_decay": 1.5}, "layer_decay=1.5"),
        ({"learning_rate": 1e-3, "frozen": True}, "learning_rate has no place"),
    ):
        with pytest.raises(ValueError, match=f"'text'.*{told}"):
            LfmForMultimodalClassification(LfmConfig({"text": {**TOWERS["text"], **entry}}))
    mlp = {"tower": "mlp", "in_features": 3}
    with pytest.raises(ValueError, match=r"'a'.*has 0 layers"):
        LfmForMultimodalClassification(LfmConfig({"a": {**mlp, "frozen": 1}}))
    trainer = toy_trainer(tmp_path, RATES, method="concat")
    optimizer = torch.optim.SGD(trainer.model.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"modalities\.text.*leave the optimizer"):
        LfmTrainer(trainer.model, trainer.args, toy_data(8), optimizers=(optimizer, None))


def test_the_page_says_what_is_understood():
    page = Path(__file__).resolve().parents[2] / "trainer" / "README.md"
    block = re.search(r"```yaml\n(modalities:.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    towers = LfmConfig(SettingsParser(ModelArguments).parse_dict(yaml.safe_load(block))[0].modalities).modalities
    assert (towers["text"]["learning_rate"], towers["image"]["lora"]) == (2e-5, {"r": 8, "lora_alpha": 16})


def test_from_the_command_line():
    argv = ["--modalities", "{text: {tower: transformers, name: bert}}", "--modalities.text.learning_rate", "2e-5"]
    argv += ["--modalities.text.layer_decay", "0.8", "--modalities.text.frozen", "3"]
    entry = LfmConfig(read_arguments(argv, "", ModelArguments).modalities).modalities["text"]
    assert (entry["learning_rate"], entry["layer_decay"], entry["frozen"]) == (2e-5, 0.8, 3)
