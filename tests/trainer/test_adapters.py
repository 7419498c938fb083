"""LoRA of towers: adapters are trained, checkpointed and resumed alone, and merged when the model is saved."""

import sys

import pytest
import torch
from safetensors.torch import load_file

from modeling_lfm import LfmConfig, LfmForMultimodalClassification
from modeling_lfm.scripts.common.settings import ModelArguments, read_arguments
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.adapters import add_adapters
from modeling_lfm.trainer.methods import list_methods
from tests.modeling.towers import BERT, CLIP_TEXT, CLIP_VISION, TOWERS

from .toy import SMOOTH, SaveAt, method_settings, method_towers, only, toy_data, toy_trainer

peft = pytest.importorskip("peft")
NAMES = [spec.name for spec in list_methods()]
LORA = {"text": {"r": 2}, "vit": {"r": 2}, "audio": {"r": 2, "target_modules": ["conv2"]}}
LORA["flow"] = LORA["audio"]


def make_trainer(folder, name, **kwargs):
    """A trainer on towers that the method can train, all of which have adapters."""
    towers = method_towers(name, normalised=True)
    for modality, entry in towers.items():
        convolutions = entry["name" if entry["tower"] == "timm" else "tower"] == "resnet10t"
        towers[modality] = {**entry, "lora": LORA["audio" if convolutions else modality]}
        if convolutions:  # a branch that starts from zero, and stays there, adapts nothing
            towers[modality]["model_args"] = {**entry["model_args"], "zero_init_last": False}
    settings = {"size": 24, "holdout": 8, "num_train_epochs": 2, **kwargs}
    return toy_trainer(folder, towers, method=method_settings(name), **settings)


def inputs_of(model, size=8):
    samples = only(toy_data(size, seed=5), model.config.modality_names)
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0] if key != "labels"}


@pytest.mark.parametrize("name", NAMES)
def test_every_method_trains_adapters(name, tmp_path, monkeypatch):
    """The base stays, statistics too; a resumed run equals an uninterrupted one to the bit; checkpoints hold what is
    trained; what is saved needs no peft, and answers as what was trained."""
    whole, resumed = (make_trainer(tmp_path, name) for _ in range(2))
    whole.add_callback(SaveAt(len(whole.get_train_dataloader())))
    before = {key: value.clone() for key, value in whole.model.state_dict().items()}
    whole.train()
    trained = {key for key, value in whole.model.named_parameters() if value.requires_grad}
    moved = {key for key, value in whole.model.state_dict().items() if not value.equal(before[key])}
    assert trained == moved
    inside = {key for key in trained if ".towers." in key}
    assert inside
    assert all("lora_" in key for key in inside)
    checkpoint = tmp_path / f"checkpoint-{whole.state.global_step // 2}"
    kept = load_file(checkpoint / "model.safetensors")
    assert {key for key in kept if ".towers." in key and not key.endswith("num_batches_tracked")} == inside
    resumed.train(resume_from_checkpoint=str(checkpoint))
    for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    whole.save_model(tmp_path / "saved")
    for module in [module for module in sys.modules if module.partition(".")[0] == "peft"]:
        monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    loaded = LfmForMultimodalClassification.from_pretrained(tmp_path / "saved")
    assert not any("lora" in key or "base_layer" in key for key in loaded.state_dict())
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, saved[key]) for key, value in loaded.state_dict().items())
    inputs = inputs_of(loaded)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, whole.model.eval()(**inputs).logits, rtol=1e-4, atol=1e-5)


TOWERS_OF_A_KIND = {
    "text": ({**TOWERS["text"], "config": BERT}, {"query", "value"}),
    "gpt": (
        {
            "tower": "transformers",
            "config": {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 100},
            "pooling": "mean",
        },
        {"c_attn"},
    ),
    "vit": (TOWERS["vit"], {"qkv"}),
    "picture": ({"tower": "clip_vision", "config": CLIP_VISION}, {"q_proj", "v_proj"}),
    "caption": ({"tower": "clip_text", "config": CLIP_TEXT}, {"q_proj", "v_proj"}),
}


@pytest.mark.parametrize("name", TOWERS_OF_A_KIND)
def test_what_is_adapted_if_nothing_is_said(name):
    entry, targets = TOWERS_OF_A_KIND[name]
    model = LfmForMultimodalClassification(LfmConfig({name: {**entry, "lora": {"r": 2}}}, hidden_size=8))
    args = LfmTrainingArguments("outputs", use_cpu=True)
    assert add_adapters(model, args) == [name]
    adapted = {key.partition(".lora_")[0].rpartition(".")[2] for key in model.state_dict() if ".lora_A" in key}
    assert adapted == targets
    count = len(list(model.parameters()))
    add_adapters(model, args)  # once
    assert len(list(model.parameters())) == count


def test_the_best_checkpoint_comes_back_and_trains_on(tmp_path, caplog):
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    trainer = make_trainer(tmp_path, "concat", num_train_epochs=3, metric_for_best_model="accuracy", **settings)
    trainer.train()
    best = load_file(f"{trainer.state.best_model_checkpoint}/model.safetensors")
    state = trainer.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in best.items())
    assert "missing keys" not in caplog.text
    trainer.save_model()
    loaded = LfmForMultimodalClassification.from_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path / "again")
    first, second = (load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    again = LfmTrainer(loaded, trainer.args, trainer.given[0], eval_dataset=trainer.eval_dataset)
    assert any("lora_A" in key for key in again.model.state_dict())


def test_what_cannot_be_is_refused(tmp_path):
    text = SMOOTH["text"]
    for lora, told in (
        ({"rank": 8}, r"modalities\.text\.lora.*rank"),
        ({"task_type": "SEQ_CLS"}, r"modalities\.text\.lora.*task_type"),
        ({"target_modules": ["nowhere"]}, r"modalities\.text\.lora.*nowhere"),
    ):
        with pytest.raises(ValueError, match=told):
            toy_trainer(tmp_path, {"text": {**text, "lora": lora}, "vit": SMOOTH["vit"]}, method="concat")
    with pytest.raises(ValueError, match=r"modalities\.audio\.lora.*target_modules, such as \['layer4"):
        toy_trainer(tmp_path, {"audio": {**TOWERS["audio"], "lora": {"r": 2}}, "vit": SMOOTH["vit"]}, method="concat")
    for entry, told in (({"lora": 8}, "lora=8"), ({"lora": {"r": 2}, "frozen": True}, "frozen has no place")):
        with pytest.raises(ValueError, match=told):
            LfmConfig({"text": {**text, **entry}})
    with pytest.raises(ValueError, match="hub_strategy: end"):
        make_trainer(tmp_path, "concat", push_to_hub=True)


def test_adapters_fit_the_weights_that_they_were_trained_on_and_no_model_alone(tmp_path):
    trainer = make_trainer(tmp_path, "concat", save_strategy="epoch", num_train_epochs=1)
    trainer.train()
    checkpoint = str(tmp_path / f"checkpoint-{trainer.state.global_step}")
    other = make_trainer(tmp_path, "concat")
    other.model.lfm.towers["text"].base_digest = "another"
    with pytest.raises(ValueError, match=r"lora_base\.text was"):
        other.train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="holds adapters alone"):
        LfmForMultimodalClassification.from_pretrained(checkpoint)


def test_from_the_command_line():
    argv = ["--modalities", "{text: {tower: transformers, name: bert}}", "--modalities.text.lora.r", "8"]
    argv += ["--modalities.text.lora.target_modules", "query", "value"]
    entry = LfmConfig(read_arguments(argv, "", ModelArguments).modalities).modalities["text"]
    assert entry["lora"] == {"r": 8, "target_modules": ["query", "value"]}
