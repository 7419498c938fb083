"""UMT: the distance to frozen teachers, and where the teachers come from."""

import copy
import shutil

import pytest
import torch
from torch.nn import functional as F

from modeling_lfm.trainer import LfmTrainer
from modeling_lfm.trainer.methods import make_method

from ..toy import SMOOTH, only, shallow_resnet, toy_model, toy_trainer
from .steps import ONE_STEP, assert_one_step, twin

TOWERS = {"audio": shallow_resnet(1), **SMOOTH}  # the first differs between training and evaluation


def save_teachers(folder, names, **kwargs):
    """Untrained teachers in folders; returns a `dict` from each modality to its model and the setting `teachers`."""
    teachers = {name: toy_model({name: TOWERS[name]}, seed=7, **kwargs) for name in names}
    for name, teacher in teachers.items():
        teacher.save_pretrained(folder / name)
    return teachers, {name: str(folder / name) for name in names}


@pytest.mark.parametrize(("names", "weight"), [(("audio", "text"), 10.0), (("text", "audio", "vit"), 3.0)])
def test_one_step(names, weight, tmp_path):
    teachers, folders = save_teachers(tmp_path, names)
    method = {"name": "umt", "teachers": folders, "weight": weight}
    trainer = toy_trainer(tmp_path, {name: TOWERS[name] for name in names}, method=method, **ONE_STEP)
    model, batch = twin(trainer)
    labels, distance = batch.pop("labels"), 0
    output = model(**batch)
    for name, z in zip(names, output.features, strict=True):
        with torch.no_grad():
            target = teachers[name].eval()(**{k: v for k, v in batch.items() if k.startswith(f"{name}_")}).features[0]
        distance = distance + ((z - target) ** 2).sum() / z.numel()
    loss_cls = F.cross_entropy(output.logits, labels)
    (loss_cls + weight * distance).backward()
    trainer.train()
    assert_one_step(trainer.model, model)
    entry = trainer.state.log_history[0]
    assert entry["loss_cls"] == pytest.approx(loss_cls.item(), rel=1e-5)
    assert entry["loss_teachers"] == pytest.approx(distance.item(), rel=1e-5)
    assert entry["loss"] == pytest.approx((loss_cls + weight * distance).item(), rel=1e-5)


def test_teachers_are_trained_alone_from_the_towers_of_the_model(tmp_path):
    """As somebody would who had only that modality; the model starts unchanged, and the teachers stay as they are."""
    settings = {"optim": "sgd", "learning_rate": 0.1, "num_train_epochs": 1, "size": 20}
    trainer = toy_trainer(tmp_path, TOWERS, method={"name": "umt", "teacher_epochs": 2}, **settings)
    start = copy.deepcopy(trainer.model)
    trainer.method.on_train_begin()
    for one, other in zip(trainer.model.state_dict().values(), start.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    for name in TOWERS:
        alone = toy_model({name: TOWERS[name]}, seed=trainer.args.seed)
        alone.lfm.towers[name].load_state_dict(start.lfm.towers[name].state_dict())
        alone.lfm.projections[name].load_state_dict(start.lfm.projections[name].state_dict())
        args = copy.copy(trainer.args)
        args.method, args.num_train_epochs = {"name": "concat"}, 2
        LfmTrainer(alone, args, only(trainer.train_dataset, [name])).train()
        teacher = trainer.method.teachers[name]
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(teacher.state_dict()[key], value, msg=lambda text, key=key: f"{key}: {text}")
        weight, first = teacher.lfm.projections[name].weight, start.lfm.projections[name].weight
        assert (weight - first).abs().max() > 1e-3
    before = copy.deepcopy(trainer.method.state_dict())
    trainer.train()
    assert same_teachers(before, trainer.method.state_dict())
    for teacher in trainer.method.teachers.values():
        assert not teacher.training
        assert not any(p.requires_grad for p in teacher.parameters())
    assert not set(trainer.model.parameters()) & {p for t in trainer.method.teachers.values() for p in t.parameters()}


def same_teachers(one, other):
    return one.keys() == other.keys() and all(
        one[name]["config"] == other[name]["config"]
        and all(torch.equal(w, other[name]["weights"][key]) for key, w in one[name]["weights"].items())
        for name in one
    )


def test_frozen_and_other_towers_and_fusions(tmp_path):
    """A teacher of a frozen tower trains the rest; any fusion will do; one teacher is given, the other trained."""
    _, folders = save_teachers(tmp_path, ["text"])
    towers = {"audio": {**shallow_resnet(1), "frozen": True}, "text": SMOOTH["text"]}
    trainer = toy_trainer(tmp_path, towers, method={"name": "umt", "teachers": folders}, **ONE_STEP)
    settings = make_method("umt").config_settings(towers)
    model = toy_model(**{**settings, "fusion": "sum"})
    trainer = LfmTrainer(model, trainer.args, trainer.train_dataset)
    trainer.train()
    teachers = trainer.method.teachers
    for one, other in zip(
        teachers["audio"].lfm.towers.parameters(), model.lfm.towers["audio"].parameters(), strict=True
    ):
        assert torch.equal(one, other)
    fresh = toy_model({"text": TOWERS["text"]}, seed=7)
    assert torch.equal(teachers["text"].fusion.head.weight, fresh.fusion.head.weight)


def test_a_resumed_run_needs_no_folder(tmp_path, monkeypatch):
    """Teachers are in the checkpoint: they are neither read again nor trained again."""
    _, folders = save_teachers(tmp_path, ["text"])
    settings = {"method": {"name": "umt", "teachers": folders, "teacher_epochs": 1}, "num_train_epochs": 2, "size": 16}
    towers = {name: TOWERS[name] for name in ("audio", "text")}
    whole = toy_trainer(tmp_path / "whole", towers, save_strategy="epoch", **settings)
    whole.train()
    shutil.rmtree(tmp_path / "text")
    monkeypatch.setattr(LfmTrainer, "train_apart", lambda *args: pytest.fail("a teacher is trained again"))
    resumed = toy_trainer(tmp_path / "resumed", towers, save_strategy="epoch", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert same_teachers(whole.method.state_dict(), resumed.method.state_dict())
    for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_multi_label(tmp_path):
    _, folders = save_teachers(tmp_path, list(SMOOTH), problem_type="multi_label_classification")
    trainer = toy_trainer(tmp_path, SMOOTH, method={"name": "umt", "teachers": {"vit": folders["vit"]}}, **ONE_STEP)
    model = toy_model(SMOOTH, problem_type="multi_label_classification")
    data = [{**sample, "labels": F.one_hot(sample["labels"], 4).float()} for sample in trainer.train_dataset]
    trainer = LfmTrainer(model, trainer.args, data)
    trainer.train()
    assert trainer.method.teachers["text"].config.problem_type == "multi_label_classification"


def test_what_does_not_fit_is_named(tmp_path):
    save_teachers(tmp_path, ["text", "vit"])
    toy_model(SMOOTH).save_pretrained(tmp_path / "both")
    toy_model({"text": TOWERS["text"]}, hidden_size=8).save_pretrained(tmp_path / "narrow")
    (tmp_path / "empty").mkdir()
    cases = {
        r"\.text='.*gone' is not the folder of a saved model": "gone",
        r"\.text='.*empty' is not the folder of a saved model": "empty",
        r"\.text='.*both' must hold a model of the modality text alone; it is one of vit, text": "both",
        r"\.text='.*vit' must hold a model of the modality text alone; it is one of vit": "vit",
        r"\.text='.*narrow' has hidden_size=8, and the model to be trained has 16": "narrow",
    }
    for message, folder in cases.items():
        method = {"name": "umt", "teachers": {"text": str(tmp_path / folder)}}
        trainer = toy_trainer(tmp_path, SMOOTH, method=method, **ONE_STEP)
        with pytest.raises(ValueError, match=rf"method\.teachers{message}"):
            trainer.train()
    with pytest.raises(ValueError, match=r"method\.teachers names \['audio'\]; the modalities are vit, text"):
        toy_trainer(tmp_path, SMOOTH, method={"name": "umt", "teachers": {"audio": "x"}})


def test_wrong_settings_are_named():
    for key, value in (("weight", -1.0), ("teacher_epochs", 0.0)):
        with pytest.raises(ValueError, match=rf"method\.{key}={value} must"):
            make_method({"name": "umt", key: value})
    with pytest.raises(ValueError, match=r"method\.teachers\.audio=3 must be a folder"):
        make_method({"name": "umt", "teachers": {"audio": 3}})
