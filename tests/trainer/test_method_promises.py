"""What the trainer promises of every method in the registry: a new one is tested without anyone writing a test."""

import copy

import pytest
import torch
from torch.nn import functional as F

from modeling_lfm import LfmForMultimodalClassification
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.methods import METHODS, list_methods, make_method

from .test_trainer import training_log
from .toy import (
    SaveAt,
    assert_same_but_for_rounding,
    method_settings,
    method_towers,
    only,
    smallest_towers,
    toy_data,
    toy_trainer,
)

SPECS = list_methods()
NAMES = [spec.name for spec in SPECS]
MULTI = [spec.name for spec in SPECS if spec.max_modalities is None and not spec.name.startswith("unimodal")]


def make_trainer(folder, name, smallest=False, number=2, frozen=None, **kwargs):
    """A trainer on towers that the method can train, with settings that let every part of it act in a short run."""
    towers = smallest_towers(name) if smallest else method_towers(name, number=number)
    if frozen is not None:
        place = list(towers)[frozen]
        towers = {**towers, place: {**towers[place], "frozen": True}}
    return toy_trainer(folder, towers, method=method_settings(name), per_device_eval_batch_size=32, **kwargs)


def batch_of(trainer, samples):
    keys = [key for key in samples[0] if key == "labels" or key in trainer.model.lfm.input_names]
    return {key: torch.stack([sample[key] for sample in samples]) for key in keys}


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_a_resumed_run_equals_the_uninterrupted_one(name, tmp_path):
    """On a problem that can be learned; bit for bit, stopped at an epoch's end and in the middle of the next. Every
    trainable weight moves, each modality is measured, and what is saved is what was trained."""
    settings = {"size": 40, "holdout": 8, "num_train_epochs": 3, "lr_scheduler_type": "cosine", "learning_rate": 2e-2}
    settings |= {"eval_strategy": "steps", "eval_steps": 8, "optim": "adamw_torch_fused", "calibrate": True}
    whole = make_trainer(tmp_path / "whole", name, **settings)
    before = {key: value.clone() for key, value in whole.model.named_parameters() if value.requires_grad}
    steps = 2 * len(whole.get_train_dataloader())
    whole.add_callback(SaveAt(steps))
    whole.train()
    first = make_trainer(tmp_path / "part", name, **settings)
    data = batch_of(whole, whole.given[0])
    with torch.no_grad():
        untrained = first.model.eval()(**data).loss
    first.add_callback(SaveAt(steps + 1, stop=True))
    first.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{steps}"))
    resumed = make_trainer(tmp_path / "rest", name, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "part" / f"checkpoint-{steps + 1}"))
    assert training_log(resumed) == training_log(whole)
    for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    measured = next(entry for entry in whole.state.log_history if "eval_gap" in entry)
    for modality in whole.model.config.modality_names:
        assert {f"eval_{modality}_{metric}" for metric in ("accuracy", "map", "f1")} <= set(measured)
    assert before.keys() == {
        key for key, value in whole.model.named_parameters() if key in before and not value.equal(before[key])
    }

    whole.save_model(tmp_path / "saved")
    # Weights in a mapped file are not aligned as those in memory, which can change the last bit: compare a copy.
    loaded = copy.deepcopy(LfmForMultimodalClassification.from_pretrained(tmp_path / "saved")).eval()
    with torch.no_grad():
        expected, found = whole.model.eval()(**data), loaded(**data)
    loss, right = expected.loss, expected.logits.argmax(-1) == data["labels"]
    assert loss < untrained
    assert right.float().mean() > 0.4  # chance is 0.25
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=0)
    torch.testing.assert_close(found.modality_logits, expected.modality_logits, rtol=0, atol=0)
    assert len(found.modality_logits) == len(whole.model.config.modalities)
    # Whatever trained it, a trainer that knows nothing of that evaluates it, as eval.py does.
    plain = LfmTrainer(loaded, LfmTrainingArguments(str(tmp_path), use_cpu=True))
    assert plain.evaluate(whole.given[0])["eval_loss"] == pytest.approx(whole.evaluate(whole.given[0])["eval_loss"])


@pytest.mark.parametrize("name", NAMES)
def test_accumulated_small_batches_equal_a_big_one(name, tmp_path):
    """Different samples where the loss is a mean over samples; else equal batches, whose statistics are the same."""
    settings = {"num_train_epochs": 2, "learning_rate": 0.01, "holdout": 24, "size": 48}
    settings |= {"optim": "sgd", "optim_args": "momentum=0.9"}
    settings |= {"smallest": True, "in_order": METHODS[name].spec.batch_statistics}
    big = make_trainer(tmp_path, name, per_device_train_batch_size=24, **settings)
    small = make_trainer(tmp_path, name, per_device_train_batch_size=8, gradient_accumulation_steps=3, **settings)
    if METHODS[name].spec.batch_statistics:
        data = only(toy_data(8), big.model.config.modality_names)
        for trainer, copies in ((big, 1), (small, 3)):
            trainer.train_dataset = Repeated(data, copies)
            trainer.args.per_device_train_batch_size = 8
    big.train()
    small.train()
    assert_same_but_for_rounding(big, small)


class Repeated(torch.utils.data.Dataset):
    """The same samples several times over, with the positions of the first where a method asks for positions."""

    def __init__(self, samples, copies):
        self.samples, self.copies = samples, copies

    def __len__(self):
        return len(self.samples) * self.copies

    def __getitem__(self, index):
        return {**self.samples[index % len(self.samples)], "sample_ids": index % len(self.samples)}


@pytest.mark.parametrize("name", NAMES)
def test_bf16_three_modalities_modality_dropout_and_a_frozen_tower(name, tmp_path):
    """At once where a method has them; what it has not is refused. The optimizer keeps its own scale, also where a
    parameter has its first gradient later than another, as in methods that train a part at a time; and the frozen tower
    stays as it is, its statistics too."""
    settings = {"size": 24, "holdout": 8, "num_train_epochs": 2, "bf16": True, "frozen": 0, "optim": "adafactor"}
    spec, number = METHODS[name].spec, 3 if name in MULTI else 2
    if spec.max_modalities == 2:
        with pytest.raises(ValueError, match=rf"{name}.* 2 .*3"):
            make_trainer(tmp_path, name, number=3)
    elif number == 2:
        method = make_method(method_settings(name))
        assert len(method.config_settings(method_towers(name, True, 3))["modalities"]) == 1
    if not spec.modality_dropout:
        with pytest.raises(ValueError, match=r"modality_dropout=0\.4 has no place in it"):
            make_trainer(tmp_path, name, modality_dropout=0.4, **settings)
    dropout = 0.4 if spec.modality_dropout else 0.0
    trainer = make_trainer(tmp_path, name, number=number, modality_dropout=dropout, learning_rate=1e-3, **settings)
    names = trainer.model.config.modality_names
    assert len(names) == (3 if name in MULTI else 1 if spec.max_modalities != 2 else 2)
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    towers = {
        m: trainer.model.lfm.towers[m] for m, given in trainer.model.config.modalities.items() if "frozen" in given
    }
    frozen = copy.deepcopy({m: tower.state_dict() for m, tower in towers.items()})
    assert len(towers) == (name not in ("unimodal_2", "unimodal_3"))
    seen = []
    projections = trainer.model.lfm.projections
    hook = next(iter(projections.values())).register_forward_hook(lambda m, a, output: seen.append(output.dtype))
    trainer.train()
    hook.remove()
    assert torch.bfloat16 in seen
    losses = torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses.isfinite().all()
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    moved = {key for key, value in trainer.model.named_parameters() if not value.equal(before[key])}
    assert {key for key, value in trainer.model.named_parameters() if value.requires_grad} == moved
    for modality, tower in towers.items():
        assert all(torch.equal(value, frozen[modality][key]) for key, value in tower.state_dict().items())
    absence = trainer.model.fusion.absence
    assert (absence is not None) == (dropout > 0 and trainer.model.fusion.joint and len(names) > 1)
    metrics = trainer.evaluate() | trainer.measure_absence(trainer.eval_dataset)
    assert all(f"eval_{modality}_accuracy" in metrics for modality in names)
    without = {f"test_without_{m}_{key}" for m in names for key in ("accuracy", "map", "f1") if len(names) > 1}
    assert {key for key in metrics if key.startswith("test_")} == without


def adapt(trainer):
    """The model of a trainer as one of PEFT: adapters in its towers, or in the projections of those without attention;
    what stands behind the towers is trained whole."""
    peft, model = pytest.importorskip("peft"), trainer.model
    names = [name for name, _ in model.named_modules()]
    targets = [n for n in names if n.endswith((".query", ".value", ".qkv"))]
    projections = [f"lfm.projections.{name}" for name in model.config.modalities]
    whole = [
        "fusion",
        *(n for n in names if n in ("lfm.exchange", *(f"unimodal_heads.{m}" for m in model.config.modalities))),
    ]
    whole += projections if targets else []
    return peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=targets or projections, modules_to_save=whole)
    )


def make_adapted(folder, name, loss=None, **kwargs):
    """A trainer of adapters with a user's loss, and the model without them."""
    settings = {"size": 24, "holdout": 8, "num_train_epochs": 2, "smallest": True, **kwargs}
    plain = make_trainer(folder, name, **settings)
    base = copy.deepcopy(plain.model)
    given = {"eval_dataset": plain.eval_dataset, "compute_loss_func": loss}
    return LfmTrainer(adapt(plain), plain.args, plain.given[0], **given), base


@pytest.mark.parametrize("name", NAMES)
def test_peft_and_a_loss_of_the_user(name, tmp_path):
    """Adapters and heads learn, the base stays, and what is saved is what was trained; the loss is that of training and
    evaluation, or refused."""
    calls = []

    def loss(outputs, labels, num_items_in_batch=None):
        calls.append(len(labels))
        return F.cross_entropy(outputs.logits, labels)

    own = METHODS[name].spec.own_loss
    if own:
        with pytest.raises(ValueError, match=f"{name} has losses of its own"):
            make_adapted(tmp_path, name, loss)
    whole, base = make_adapted(tmp_path, name, None if own else loss)
    before = {key: value.clone() for key, value in whole.model.state_dict().items()}
    whole.train()
    trained = {key for key, value in whole.model.named_parameters() if value.requires_grad}
    assert trained == {key for key, value in whole.model.state_dict().items() if not value.equal(before[key])}
    assert any("lora_" in key for key in trained)
    assert any("fusion" in key for key in trained)
    assert own or len(calls) >= 2
    calls.clear()
    whole.evaluate(whole.given[0])
    assert sum(calls) == (0 if own else 24)
    whole.save_model(tmp_path / "saved")
    loaded = pytest.importorskip("peft").PeftModel.from_pretrained(base, tmp_path / "saved").eval()
    batch = batch_of(whole, toy_data(8, seed=5))
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, whole.model.eval()(**batch).logits)


@pytest.mark.parametrize("name", ["lfm", "reconboost", "umt"])
def test_peft_resumed(name, tmp_path):
    """To the bit, where a method has most to go on with; `test_adapters` resumes every method's own adapters."""
    (whole, _), (resumed, _) = (make_adapted(tmp_path, name, save_strategy=kind) for kind in ("epoch", "no"))
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{whole.state.global_step // 2}"))
    for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_peft_without_a_head_to_train_is_refused_where_a_method_needs_it(tmp_path):
    peft = pytest.importorskip("peft")
    for name, method in (("mla", "mla"), ("alpha_parameters", "lfm")):
        trainer = make_trainer(tmp_path, method, smallest=True)
        model = peft.get_peft_model(trainer.model, peft.LoraConfig(target_modules=["query"]))
        with pytest.raises(ValueError, match=rf"{name}.*frozen.*modules_to_save"):
            LfmTrainer(model, trainer.args, trainer.given[0])


def test_statistics_that_no_adapter_keeps_are_told(tmp_path, caplog):
    peft = pytest.importorskip("peft")
    for frozen, told in ((None, True), (0, False)):
        trainer, adapters = make_trainer(tmp_path, "concat", frozen=frozen), peft.LoraConfig(target_modules=["query"])
        caplog.clear()
        LfmTrainer(peft.get_peft_model(trainer.model, adapters), trainer.args, trainer.given[0])
        assert ("towers.audio" in caplog.text and "modules_to_save" in caplog.text) == told
