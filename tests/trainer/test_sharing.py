"""What a trainer sends to the Hub: of its folder, what belongs to a model."""

import json

import pytest
import torch

from modeling_lfm import LfmForMultimodalClassification, LfmProcessor

from ..scripts.hub_stub import TOKEN, serving_hub
from .toy import shallow_resnet, toy_trainer

TOWERS = {"audio": shallow_resnet(1), "vit": shallow_resnet(3)}
PROCESSOR = {"audio": {"type": "spectrogram"}, "vit": {"type": "image"}}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def make_trainer(folder, **kwargs):
    kwargs = {"save_strategy": "epoch", "num_train_epochs": 2, "size": 16, "logging_strategy": "epoch", **kwargs}
    trainer = toy_trainer(folder, TOWERS, push_to_hub=True, hub_model_id="me/toy", hub_private_repo=True, **kwargs)
    trainer.processor = LfmProcessor(PROCESSOR)
    return trainer


def plant(folder):
    """Much that is for nobody else."""
    for name in (".env", "notes.txt", "train.py", "data.parquet", "runs/events.out.tfevents.1", "logs.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{TOKEN} /home/me/data")


def test_a_trainer_sends_the_model_while_training_and_its_card_in_the_end(tmp_path, hub):
    folder = tmp_path / "toy"
    plant(folder)
    best = {"eval_strategy": "epoch", "load_best_model_at_end": True, "save_total_limit": 1}
    trainer = make_trainer(folder, hub_always_push=True, **best)
    trainer.train()
    trainer.save_state()
    trainer.push_to_hub(license="mit", tags="mine")
    assert {"training_args.bin", "checkpoint-4"} <= {file.name for file in folder.iterdir()}
    assert (folder / "checkpoint-4" / "optimizer.pt").is_file()
    code = {file.name for file in folder.glob("*.py")} - {"train.py"}
    model = {"model.safetensors", "config.json", "processor_config.json"} | code
    assert [commit["message"] for commit in hub.pushed] == [
        "Training in progress, step 2",
        "Training in progress, step 4",
        "End of training",
    ]
    assert hub.pushed[0]["added"] == model
    page = {"README.md", "lfm_run.json", "trainer_state.json"}
    plots = {"accuracy.png", "gap.png", "alpha.png"}
    assert set(hub.files("me/toy")) == model | page | plots
    assert hub.private["me/toy"]
    best = trainer.state.best_model_checkpoint  # named without its folder, a path of this machine
    assert best.startswith(str(tmp_path))
    assert json.loads(hub.files("me/toy")["trainer_state.json"])["best_model_checkpoint"] == best.rpartition("/")[2]
    card = hub.files("me/toy")["README.md"].decode()
    assert "license: mit\n" in card
    assert "- mine\n" in card
    assert 'model="me/toy"' in card
    content = b"".join(hub.files("me/toy").values())
    assert str(tmp_path).encode() not in content
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    for name, data in hub.files("me/toy").items():
        (arrived / name).write_bytes(data)
    loaded = LfmForMultimodalClassification.from_pretrained(arrived).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in trainer.model.state_dict().items())


def test_a_trainer_sends_nothing_private(tmp_path, hub, caplog):
    folder = tmp_path / "toy"
    trainer = make_trainer(folder)
    trainer.model.config.source = "/home/me/models"
    trainer.train()  # goes on
    assert hub.pushed == []
    with pytest.raises(ValueError, match=r"config\.json, line \d+: the path /home/me of this machine"):
        trainer.push_to_hub()
    assert hub.pushed == []


def test_a_model_and_a_processor_send_themselves_alone(tmp_path, hub):
    trainer = toy_trainer(tmp_path, TOWERS)
    trainer.model.push_to_hub("me/toy")
    LfmProcessor(PROCESSOR).push_to_hub("me/toy")
    assert len(hub.pushed) == 2
    names = set(hub.files("me/toy"))
    assert {"model.safetensors", "config.json", "processor_config.json", "modeling_lfm.py"} < names
    assert {name.rpartition(".")[2] for name in names} == {"safetensors", "json", "py", "md"}
    assert str(tmp_path).encode() not in b"".join(hub.files("me/toy").values())
    assert json.loads(hub.files("me/toy")["config.json"])["auto_map"]["AutoConfig"] == "configuration_lfm.LfmConfig"
