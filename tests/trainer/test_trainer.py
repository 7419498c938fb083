"""The trainer: its objective, and that resuming and accumulating do not change what it computes."""

from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from accelerate.utils.versions import compare_versions
from sklearn.metrics import f1_score
from torch import nn

from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.holdout import split_holdout

from .toy import NORMALISED, SMOOTH, SaveAt, only, toy_data, toy_model, toy_trainer

TIMES = ("runtime", "per_second")


def training_log(trainer):
    return [
        {k: v for k, v in entry.items() if not any(part in k for part in TIMES)}
        for entry in trainer.state.log_history
        if "train_runtime" not in entry
    ]


def assert_same_to_the_bit(resumed, whole):
    """Log, weights, optimizer and method of a run that went on are those of one that was never stopped."""
    assert training_log(resumed) == training_log(whole)
    for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    one, other = whole.optimizer.state_dict()["state"], resumed.optimizer.state_dict()["state"]
    assert all(torch.equal(one[i][key], other[i][key]) for i in one for key in one[i])
    assert resumed.method_callback.full_state() == whole.method_callback.full_state()


def test_one_step_is_sgd_on_the_objective(tmp_path):
    """Against the two losses written out in plain torch."""
    trainer = toy_trainer(
        tmp_path,
        SMOOTH,
        size=8,
        num_train_epochs=1,
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        method={"alpha": "constant", "alpha_value": 0.8},
    )
    model = toy_model(SMOOTH).train()
    batch = {key: torch.stack([s[key] for s in trainer.train_dataset]) for key in trainer.train_dataset[0]}
    output = model(**batch)
    p, q = (logits.softmax(1) for logits in output.modality_logits)
    m = (p + q) / 2
    divergence = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean() / 2
    cross_entropy = nn.functional.cross_entropy(output.logits, batch["labels"])
    (cross_entropy + 0.8 / 0.2 * divergence).backward()
    trainer.train()
    for one, other in zip(trainer.model.parameters(), model.parameters(), strict=True):
        expected = other if other.grad is None else other - 0.1 * other.grad
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-6)
    entry = trainer.state.log_history[0]
    assert entry["loss_cls"] == pytest.approx(cross_entropy.item(), rel=1e-5)
    assert entry["loss_mm"] == pytest.approx(divergence.item(), rel=1e-4)
    assert entry["loss"] == pytest.approx(entry["loss_cls"] + 4 * entry["loss_mm"], rel=1e-4)
    assert entry["alpha"] == 0.8


@pytest.mark.parametrize("alpha", ["learned", "lookahead"])
def test_resumed_run_equals_uninterrupted_one(alpha, tmp_path):
    """Bit for bit, from an epoch's end (4 steps) and from the middle of the next."""
    settings = {"method": {"alpha": alpha}, "holdout": 16, "size": 48}
    whole = toy_trainer(tmp_path / "whole", NORMALISED, **settings)
    whole.add_callback(SaveAt(4, 6))
    whole.train()
    for step in (4, 6):
        resumed = toy_trainer(tmp_path / f"from-{step}", NORMALISED, **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert_same_to_the_bit(resumed, whole)
    assert len({entry["alpha"] for entry in training_log(whole) if "loss_cls" in entry}) > 1


@pytest.mark.parametrize("method", [{"alpha": "lookahead"}, {"alpha": "learned", "alpha_every": 1}])
def test_accumulated_small_batches_equal_a_big_one_where_alpha_moves(method, tmp_path):
    """L_CLS and JS are means over samples, so 16 x 1 and 4 x 4 agree to rounding."""
    settings = {"num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.05}
    settings |= {"method": method, "size": 48, "holdout": 16}
    big = toy_trainer(tmp_path, SMOOTH, per_device_train_batch_size=16, **settings)
    small = toy_trainer(tmp_path, SMOOTH, per_device_train_batch_size=4, gradient_accumulation_steps=4, **settings)
    big.train()
    small.train()
    for one, other in zip(training_log(big), training_log(small), strict=True):
        for key in ("loss", "loss_cls", "loss_mm", "alpha"):
            if key in one:
                assert one[key] == pytest.approx(other[key], rel=1e-3), key
    for one, other in zip(big.model.parameters(), small.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("alpha", ["learned", "lookahead"])
def test_bf16_autocast_with_a_learned_alpha(alpha, tmp_path):
    method = {"alpha": alpha, "alpha_start": 0.5}
    trainer = toy_trainer(tmp_path, NORMALISED, method=method, bf16=True, num_train_epochs=2, size=24, holdout=8)
    seen = []
    hook = trainer.model.fusion.register_forward_hook(
        lambda module, args, output: seen.append((module.training, output[0].dtype))
    )
    trainer.train()
    hook.remove()
    assert (True, torch.bfloat16) in seen  # training steps are under autocast
    if alpha == "learned":
        assert (False, torch.float32) in seen  # the hypergradient is not
    entries = [entry for entry in trainer.state.log_history if "loss_cls" in entry]
    assert np.isfinite([entry["loss"] for entry in entries]).all()
    assert entries[0]["alpha"] != entries[-1]["alpha"]


@pytest.mark.parametrize("alpha", ["learned", "lookahead"])
def test_update_of_alpha_leaves_no_trace(alpha, tmp_path):
    """Weights, buffers, optimizer, gradients, modes and random numbers are as before."""
    trainer = toy_trainer(tmp_path, NORMALISED, method={"alpha": alpha}, num_train_epochs=1, size=32, holdout=16)
    trainer.train()
    trainer.model.train()
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    moments = [{k: v.clone() for k, v in s.items()} for s in trainer.optimizer.state_dict()["state"].values()]
    random_state = torch.get_rng_state()
    schedule = trainer.method.schedule = trainer.method.make_schedule(4)
    trainer.method.update_alpha(2)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(before[key], value) for key, value in trainer.model.state_dict().items())
    for one, other in zip(moments, trainer.optimizer.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert all(module.training for module in trainer.model.modules())
    assert all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())
    assert schedule.updates == 1


@pytest.mark.parametrize(("parameters", "modalities"), [("head", NORMALISED), ("all", SMOOTH)])
def test_products_agree_on_a_real_model(parameters, modalities, tmp_path):
    """Attention included, and batch normalisation before the head; the gradient of ReLU towers itself has jumps."""
    method = {"alpha_parameters": parameters, "alpha_iterations": 3}
    trainer = toy_trainer(tmp_path, modalities, method=method, holdout=16, num_train_epochs=1)
    trainer.train()
    found, settings = [], trainer.method.settings
    for product in ("double_backward", "central_difference"):
        trainer.method.settings = replace(settings, alpha_product=product)
        trainer.method.schedule = trainer.method.make_schedule(4)
        trainer.method.update_alpha(2)
        found.append(trainer.state.log_history[-1]["hypergradient"])
    assert found[0] != 0
    assert found[0] == pytest.approx(found[1], rel=2e-2)


def test_evaluation_reports_each_modality_and_plain_cross_entropy(tmp_path):
    constant = {"alpha": "constant", "alpha_value": 0.9}
    last = {"dataloader_drop_last": True, "per_device_eval_batch_size": 7}  # dropped in training only
    trainer = toy_trainer(tmp_path, NORMALISED, num_train_epochs=1, method=constant, **last)
    trainer.train()
    metrics = trainer.evaluate()
    model, data = trainer.model.eval(), trainer.eval_dataset
    batch = {key: torch.stack([s[key] for s in data]) for key in data[0]}
    with torch.no_grad():
        output = model(**batch)
    labels = batch["labels"]
    assert metrics["eval_loss"] == pytest.approx(nn.functional.cross_entropy(output.logits, labels).item(), rel=1e-4)
    accuracy = [(logits.argmax(1) == labels).float().mean().item() for logits in output.modality_logits]
    assert metrics["eval_audio_accuracy"] == pytest.approx(accuracy[0])
    assert metrics["eval_text_accuracy"] == pytest.approx(accuracy[1])
    assert metrics["eval_gap"] == pytest.approx(abs(accuracy[0] - accuracy[1]))
    for key in ("map", "f1", "audio_map", "audio_f1", "text_map", "text_f1"):
        assert 0 <= metrics[f"eval_{key}"] <= 1


def test_one_modality_and_multi_label_train(tmp_path):
    trainer = toy_trainer(tmp_path, {"text": NORMALISED["text"]}, num_train_epochs=2, method={"alpha": "constant"})
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss_cls" in entry]
    assert all(entry["loss_mm"] == 0 for entry in entries)
    assert entries[-1]["loss"] < entries[0]["loss"]

    data = only(toy_data(48), NORMALISED)
    for sample in data:
        sample["labels"] = nn.functional.one_hot(sample["labels"], 4).float()
    model = toy_model(NORMALISED, problem_type="multi_label_classification")
    args = LfmTrainingArguments(output_dir=str(tmp_path), num_train_epochs=2, use_cpu=True, disable_tqdm=True)
    trainer = LfmTrainer(model=model, args=args, train_dataset=data, eval_dataset=data)
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_map"] <= 1


def test_holdout_is_stratified_and_apart():
    labels = [0] * 60 + [1] * 30 + [2] * 9 + [3]
    dataset = datasets.Dataset.from_dict({"labels": labels, "number": list(range(100))})
    rest, held = split_holdout(dataset, 0.2, seed=3)
    assert len(held) == 20
    assert not set(rest["number"]) & set(held["number"])
    assert np.bincount(held["labels"], minlength=4).tolist() == [12, 6, 2, 0]
    again = split_holdout(dataset, 20, seed=3)[1]
    assert again["number"][:] == held["number"][:]
    plain = [{"labels": torch.tensor(label)} for label in labels]
    assert len(split_holdout(plain, 10, seed=0)[0]) == 90


def test_bad_settings_are_named(tmp_path):
    def arguments(**kwargs):
        return LfmTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **kwargs)

    for name, value in {"matching_loss": "kl", "alpha": "magic", "alpha_solver": "lu", "total": "sum"}.items():
        with pytest.raises(ValueError, match=f"method.{name}='{value}'"):
            arguments(method={name: value})
    for name, value in {"alpha_value": 1.5, "temperature": 0.0, "alpha_damping": -1.0, "lookahead_steps": 0}.items():
        with pytest.raises(ValueError, match=name):
            arguments(method={name: value})
    with pytest.raises(ValueError, match="holdout=-1"):
        arguments(holdout=-1)
    with pytest.raises(ValueError, match="remove_unused_columns"):
        arguments(remove_unused_columns=True)
    with pytest.raises(ValueError, match="label_smoothing_factor"):
        arguments(label_smoothing_factor=1.1)
    with pytest.raises(ValueError, match="eval_strategy"):
        arguments(early_stopping_patience=2)
    data = only(toy_data(8), SMOOTH)
    with pytest.raises(ValueError, match="holdout=8"):
        LfmTrainer(model=toy_model(SMOOTH), args=arguments(holdout=8), train_dataset=data)
    with pytest.raises(ValueError, match="holdout=0"):
        LfmTrainer(model=toy_model(SMOOTH), args=arguments(holdout=0), train_dataset=data)
    trainer = LfmTrainer(model=toy_model(SMOOTH), args=arguments(holdout=0), train_dataset=data, eval_dataset=data[:4])
    assert len(trainer.holdout_dataset) == 4
    assert len(trainer.train_dataset) == 8
    with pytest.raises(ValueError, match="'labels'"):
        LfmTrainer(model=toy_model(SMOOTH), args=arguments(), train_dataset=[{"vit_values": torch.zeros(1)}] * 9)
    with pytest.raises(ValueError, match="holdout_dataset"):
        LfmTrainer(model=toy_model(SMOOTH), args=arguments(), train_dataset=iter(data))


def test_momentum_is_never_left_out_in_silence(tmp_path):
    """SGD of transformers reads `optim_args` from release 5.3 on."""
    trainer = toy_trainer(tmp_path, SMOOTH, optim="sgd", optim_args="momentum=0.9")
    if compare_versions("transformers", ">=", "5.3"):
        assert trainer.create_optimizer().defaults["momentum"] == 0.9
    else:
        with pytest.raises(ValueError, match=r"does not read optim_args='momentum=0.9' of optim=sgd"):
            trainer.create_optimizer()


def test_metrics_without_a_modality(tmp_path):
    """Those of the subset's own logits, from a plain forward pass over the samples."""
    trainer = toy_trainer(tmp_path, SMOOTH, method="concat", size=40, num_train_epochs=1)
    trainer.train()
    samples = toy_data(40)
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in ("text_input_ids", "text_attention_mask")}
    with torch.no_grad():
        output = trainer.model.eval()(**batch)
    labels = np.array([int(sample["labels"]) for sample in samples])
    data = only(samples, SMOOTH)
    found = trainer.measure_absence(data, metric_key_prefix="eval")
    predicted = output.logits.argmax(-1).numpy()
    assert found["eval_without_vit_accuracy"] == pytest.approx((predicted == labels).mean())
    assert found["eval_without_vit_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    kept = trainer.predict_without(["vit"], data).metrics
    assert kept["test_accuracy"] == found["eval_without_vit_accuracy"]
    assert kept["test_gap"] == 0
    assert kept["test_text_accuracy"] == pytest.approx((output.modality_logits[1].argmax(-1).numpy() == labels).mean())
    assert not any("vit" in key for key in kept)
    assert trainer.evaluate()["eval_vit_accuracy"] >= 0  # nothing is left out afterwards
    for absent, words in ((["sound"], "cannot leave out sound"), (["vit", "text"], "one of which has to stay")):
        with pytest.raises(ValueError, match=words):
            trainer.predict_without(absent, data)


def test_data_without_a_modality_is_told(tmp_path):
    """In training an error at the first batch; in evaluation no metrics of the modality but that it has no samples."""
    trainer = toy_trainer(tmp_path, SMOOTH, method="concat", size=16)
    trainer.train_dataset = only(toy_data(16), ["text"])
    with pytest.raises(ValueError, match=r"vit_values is missing.*training needs every modality"):
        trainer.train()
    metrics = trainer.evaluate(only(toy_data(16), ["text"]))
    assert metrics["eval_vit_samples"] == 0
    assert metrics["eval_text_accuracy"] >= 0
    assert "eval_vit_accuracy" not in metrics
