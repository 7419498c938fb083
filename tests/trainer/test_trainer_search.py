"""A search over hyper-parameters: each trial has its own method, settings and hold-out."""

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

from modeling_lfm import LfmConfig
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments

from .toy import SMOOTH, only, toy_data, toy_model

METHODS = [("concat", 0.1), ("qmf", 0.1), ("mslr", 8), ("lfm", 4), ("lfm", 8)]


def test_every_trial_trains_what_it_asks_for(tmp_path):
    optuna = pytest.importorskip("optuna")
    seen, data = [], only(toy_data(40), SMOOTH)

    class Watched(LfmTrainer):
        def training_step(self, *args, **kwargs):
            held = 0 if self.holdout_dataset is None else len(self.holdout_dataset)
            seen.append((self.method.spec.name, held, len(self.train_dataset), self.args.learning_rate))
            seen[-1] += (getattr(self.method.settings, "alpha_start", None),)
            return super().training_step(*args, **kwargs)

    def space(trial):
        name, holdout = METHODS[trial.number]
        asked = {"method": name, "holdout": holdout, "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3)}
        return asked | ({"method.alpha_start": 0.5 + holdout / 100} if name == "lfm" else {})

    def make(trial):
        fusion = {"qmf": "qmf", "mslr": "sum"}.get(METHODS[trial.number if trial else 0][0], "concat")
        return toy_model(SMOOTH, fusion=fusion)

    args = LfmTrainingArguments(
        str(tmp_path), num_train_epochs=1, method="concat", use_cpu=True, disable_tqdm=True, save_strategy="no",
        metric_for_best_model="accuracy", greater_is_better=True,
    )  # fmt: skip
    trainer = Watched(model_init=make, args=args, train_dataset=data, eval_dataset=data[:16])
    sampler = optuna.samplers.RandomSampler(seed=0)
    best = trainer.hyperparameter_search(space, n_trials=len(METHODS), sampler=sampler)
    trials = list(dict.fromkeys(seen))
    assert [trial[:3] for trial in trials] == [
        ("concat", 0, 40), ("qmf", 0, 40), ("mslr", 8, 32), ("lfm", 4, 36), ("lfm", 8, 32),
    ]  # fmt: skip
    assert [trial[4] for trial in trials[3:]] == [0.54, 0.58]
    assert len({trial[3] for trial in trials}) == len(trials)
    assert 0.25 < best.objective <= 1  # an accuracy, the highest


def test_a_configuration_is_searched_and_a_wrong_setting_named(tmp_path):
    pytest.importorskip("optuna")
    args = LfmTrainingArguments(str(tmp_path), max_steps=1, method="concat", use_cpu=True, disable_tqdm=True)
    data = only(toy_data(16), SMOOTH)
    config = LfmConfig(SMOOTH, hidden_size=16, num_labels=4)
    trainer = LfmTrainer(config, args, data, data)
    with pytest.raises(ValueError, match="method concat has no setting 'alpha_start'"):
        trainer.hyperparameter_search(lambda trial: {"method.alpha_start": 0.5}, n_trials=1)


def test_weights_and_classes_of_a_configuration(tmp_path):
    """Drawn from `args.seed`, whatever was drawn before; named after the data."""
    names = ["a", "b", "c", "d"]
    rows = [{"labels": place % 4, "text_input_ids": [3, 4], "text_attention_mask": [1, 1]} for place in range(8)]
    features = Features({"labels": ClassLabel(names=names)} | {k: [Value("int64")] for k in list(rows[0])[1:]})
    data = Dataset.from_list(rows, features=features)
    towers, weights = {"text": SMOOTH["text"]}, []
    for seed, drawn in ((1, 0), (1, 5), (2, 0)):
        torch.rand(drawn)
        args = LfmTrainingArguments(str(tmp_path), method="concat", use_cpu=True, seed=seed)
        config = LfmConfig(towers, hidden_size=16)
        trainer = LfmTrainer(config, args, data)
        weights.append(trainer.model.fusion.head.weight)
        assert trainer.model.config.id2label == dict(enumerate(names))
        assert config.num_labels == 2
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    model = LfmTrainer(toy_model(towers), args, data).model
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert (
        toy_model(towers, num_labels=3).config.id2label
        == LfmTrainer(toy_model(towers, num_labels=3), args, data).model.config.id2label
    )


def test_a_model_of_model_init_must_fit_the_method(tmp_path):
    args = LfmTrainingArguments(str(tmp_path), method="concat", use_cpu=True)
    data = only(toy_data(16), SMOOTH)
    with pytest.raises(ValueError, match="unimodal_heads"):
        LfmTrainer(model_init=lambda: toy_model(SMOOTH, unimodal_heads=True), args=args, train_dataset=data)
    trainer = LfmTrainer(toy_model(SMOOTH, unimodal_heads=True), args)
    trainer.train_dataset = data
    with pytest.raises(ValueError, match="unimodal_heads"):
        trainer.train()
