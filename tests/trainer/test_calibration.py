"""Temperatures and thresholds: against what is known of made logits, and from training to the pipeline's answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, softmax
from sklearn.metrics import f1_score
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import pipeline

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor, MultimodalClassificationPipeline
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.calibration import (
    LEAST_POSITIVES,
    fit_calibration,
    fit_stacking,
    fit_temperature,
    fit_thresholds,
    fold_weights,
)

from .cards import read_table

MULTI_LABEL = "multi_label_classification"
RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(30000, 3))
DRAWN = (softmax(LOGITS, -1).cumsum(1) > RNG.random((30000, 1))).argmax(1)  # labels by these probabilities
DRAWN_APART = (expit(LOGITS) > RNG.random((30000, 3))).astype(int)


@pytest.mark.parametrize("scale", [0.25, 1.0, 5.0])
def test_a_known_scaling_is_recovered(scale):
    assert fit_temperature(scale * LOGITS, DRAWN) == pytest.approx(scale, rel=0.03)
    assert fit_temperature(scale * LOGITS, DRAWN_APART, MULTI_LABEL) == pytest.approx(scale, rel=0.03)


def test_it_minimises_the_cross_entropy():
    """That of torch, by another optimiser."""
    logits, labels = torch.from_numpy(3 * LOGITS[:5000]), torch.from_numpy(DRAWN[:5000])
    best = minimize(lambda x: cross_entropy(logits / np.exp(x[0]), labels).item(), [0.0], method="Nelder-Mead")
    assert fit_temperature(logits.numpy(), labels.numpy()) == pytest.approx(np.exp(best.x[0]), rel=1e-3)


def test_what_has_no_finite_optimum_gets_one():
    right = 10 * np.eye(3)[DRAWN[:100]]
    assert 0.1 < fit_temperature(right, DRAWN[:100]) < 10
    assert fit_temperature(np.zeros((10, 3)), np.zeros(10, int)) == 1
    assert fit_temperature(np.ones((10, 1)), np.zeros(10, int)) == 1


def f1_at(threshold, labels, probabilities):
    """As of scikit-learn, which takes seconds for so many."""
    predicted = probabilities >= threshold
    return 2 * (labels & predicted).sum() / (labels.sum() + predicted.sum())


def test_thresholds_have_the_highest_f1():
    probabilities = RNG.random((160, 4))
    labels = (probabilities + 0.4 * RNG.normal(size=probabilities.shape) > [0.3, 0.6, 0.9, 2.0]).astype(int)
    labels[:, 3] = 0
    labels[0, 3] = 1  # rare
    found = fit_thresholds(probabilities, labels)
    candidates = np.linspace(0, 1, 401)
    for k in range(3):
        assert labels[:, k].sum() >= LEAST_POSITIVES
        best = max(f1_at(t, labels[:, k], probabilities[:, k]) for t in candidates)
        assert f1_score(labels[:, k], probabilities[:, k] >= found[k]) >= best
    pooled = [f1_at(t, labels.ravel(), probabilities.ravel()) for t in candidates]
    assert f1_score(labels.ravel(), probabilities.ravel() >= found[3]) >= max(pooled)
    assert fit_thresholds(probabilities, np.zeros_like(labels)) == [0.5] * 4


def test_a_modality_counts_where_it_is():
    holes = LOGITS.copy()
    holes[::2] = np.nan
    found = fit_calibration({"fused": LOGITS, "a": 2 * holes, "b": np.full_like(LOGITS, np.nan)}, DRAWN)
    assert list(found["temperatures"]) == ["fused", "a"]
    assert found["temperatures"]["a"] == fit_temperature(2 * LOGITS[1::2], DRAWN[1::2])


@pytest.mark.parametrize("several", [False, True])
def test_stacking_minimises_the_cross_entropy_of_the_weighted_sum(several):
    """That of torch, by another optimiser; the third modality contradicts the labels."""
    logits = np.stack([LOGITS, 0.5 * RNG.normal(size=LOGITS.shape), -LOGITS])[:, :200]
    labels = (DRAWN_APART if several else DRAWN)[:200]
    targets = torch.from_numpy(labels).double() if several else torch.from_numpy(labels)
    loss = binary_cross_entropy_with_logits if several else cross_entropy

    def objective(weights):
        fused = torch.from_numpy(np.tensordot(np.abs(weights), logits, 1))
        return loss(fused, targets, reduction="sum").item() + ((np.abs(weights) - 1) ** 2).sum() / 2

    settings = {"xatol": 1e-6, "fatol": 1e-9, "maxiter": 5000}
    best = minimize(objective, [0.5] * 3, method="Nelder-Mead", options=settings)
    found = fit_stacking(logits, labels, MULTI_LABEL if several else "single_label_classification")
    assert found == pytest.approx(np.abs(best.x), abs=1e-3)
    assert found[0] - found[2] > 0.8, "what it has in common with the first is taken back"
    assert fit_stacking(logits[:, :1] / 10, labels[:1], *[MULTI_LABEL] * several) == pytest.approx(1, abs=0.2)


# -- from training to answers --------------------------------------------------------------------------------------

KINDS = {name: {"type": "vector", "num_features": 3, "mean": [0.0] * 3, "std": [1.0] * 3} for name in "ab"}
TOWERS = {name: {"tower": "mlp", "in_features": 3} for name in "ab"}


def make_samples(size, several=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for number in range(size):
        noise = torch.randn(2, 3, generator=generator)
        label = torch.eye(3)[number % 3] + torch.eye(3)[number % 2]
        a, b = noise + (label if several else torch.eye(3)[number % 3])
        samples.append({"a_values": a, "b_values": b, "labels": label.clamp(max=1) if several else number % 3})
    return samples


def make_trainer(folder, several=False, evaluated=True, fusion="concat", **settings):
    kind = {"problem_type": MULTI_LABEL} if several else {}
    config = LfmConfig(TOWERS, hidden_size=8, fusion=fusion, id2label={0: "x", 1: "y", 2: "z"}, **kind)
    processor = LfmProcessor(KINDS)
    settings = {"method": "concat", "num_train_epochs": 3, "learning_rate": 3e-2, "use_cpu": True, **settings}
    data, held = make_samples(60, several), make_samples(90, several, seed=1)
    args = LfmTrainingArguments(str(folder), disable_tqdm=True, **settings)
    return LfmTrainer(config, args, data, held if evaluated else None, processing_class=processor)


@pytest.fixture(scope="module", params=[False, True], ids=["one label", "several labels"])
def trained(request, tmp_path_factory):
    trainer = make_trainer(tmp_path_factory.mktemp("run") / "model", request.param)
    trainer.train()
    trainer.evaluate(make_samples(90, request.param, seed=2), metric_key_prefix="test")
    trainer.save_model()
    return trainer


def logits_of(trainer, samples):
    with torch.no_grad():
        output = trainer.model.eval()(**{k: v for k, v in trainer.data_collator(samples).items() if k != "labels"})
    return {"fused": output.logits, "a": output.modality_logits[0], "b": output.modality_logits[1]}


def test_it_is_fitted_on_the_evaluation_set_at_the_end(trained):
    samples = trained.eval_dataset
    labels = np.array([np.asarray(sample["labels"]) for sample in samples]).astype(int)
    logits = {name: part.numpy() for name, part in logits_of(trained, samples).items()}
    config = trained.model.config
    expected = fit_calibration(logits, labels, config.problem_type)
    assert config.calibration["temperatures"] == pytest.approx(expected["temperatures"], rel=1e-3)
    assert ("thresholds" in config.calibration) == config.is_multi_label
    assert any(abs(value - 1) > 0.05 for value in expected["temperatures"].values())
    assert json.loads(json.dumps(config.to_dict()))["calibration"] == config.calibration


def test_the_pipeline_answers_by_it(trained):
    folder, samples = trained.args.output_dir, make_samples(20, seed=3)
    classifier, config = pipeline("multimodal-classification", model=folder, device="cpu"), trained.model.config
    logits = logits_of(trained, samples)
    raw = [{name: sample[f"{name}_values"].tolist() for name in "ab"} for sample in samples]
    for calibrated, answers in ((True, classifier(raw)), (False, classifier(raw, calibrated=False))):
        for number, answer in enumerate(answers):
            for name, part in {"fused": answer, **answer["modalities"]}.items():
                scaled = logits[name][number].double() / (config.calibration["temperatures"][name] if calibrated else 1)
                scores = scaled.sigmoid() if config.is_multi_label else scaled.softmax(-1)
                found = {entry["label"]: entry["score"] for entry in part["scores"]}
                assert [found[label] for label in "xyz"] == pytest.approx(scores.tolist(), abs=1e-5)
                if config.is_multi_label:
                    least = config.calibration["thresholds"][name] if calibrated else [0.5] * 3
                    assert set(part["labels"]) == {k for k, s, t in zip("xyz", scores, least, strict=True) if s >= t}
                else:
                    assert part["label"] == "xyz"[logits[name][number].argmax()]
    with pytest.raises(ValueError, match="calibrated='no'"):
        classifier(raw, calibrated="no")
    if config.is_multi_label:
        assert all(len(answer["labels"]) == 3 for answer in classifier(raw, threshold=0.0))


def test_the_card_tells_it(trained):
    text = Path(trained.args.output_dir, "README.md").read_text()
    rows, config = read_table(text, "prediction"), trained.model.config
    assert list(rows) == ["fused", "a alone", "b alone"]
    for name, cells in zip(("fused", "a", "b"), rows.values(), strict=True):
        prefix = "" if name == "fused" else f"{name}_"
        tested = next(entry for entry in trained.state.log_history if "test_accuracy" in entry)
        keys = [f"{prefix}calibration_error_{when}" for when in ("before", "after")]
        errors = [*(tested[f"test_{key}"] for key in keys), *(trained.calibrated_on[key] for key in keys)]
        assert cells == [f"{config.calibration['temperatures'][name]}", *(f"{100 * e:.1f}" for e in errors)]
    assert "fitted on 90 validation samples" in text
    assert "how well its scores are calibrated" not in text


def test_metrics_are_of_what_is_answered(trained):
    """Labels by the thresholds; all else of plain probabilities."""
    samples = make_samples(90, trained.model.config.is_multi_label, seed=2)
    config, kept = trained.model.config, trained.model.config.calibration
    found = trained.predict(samples, metric_key_prefix="test").metrics
    config.calibration = None
    plain = trained.predict(samples, metric_key_prefix="test").metrics
    config.calibration = kept
    assert set(found) - set(plain) == {
        f"test_{prefix}calibration_error_{when}" for prefix in ("", "a_", "b_") for when in ("before", "after")
    }
    same = [key for key in plain if key.endswith("_map" if config.is_multi_label else ("_map", "_f1", "_accuracy"))]
    assert {key: found[key] for key in same} == {key: plain[key] for key in same}
    if config.is_multi_label:
        labels = np.array([sample["labels"].numpy() for sample in samples])
        scores = (logits_of(trained, samples)["a"] / kept["temperatures"]["a"]).sigmoid().numpy()
        right = (scores >= kept["thresholds"]["a"]) == labels
        assert found["test_a_accuracy"] == pytest.approx(right.all(1).mean())


def test_without_validation_data_it_is_refused_or_left_out(tmp_path):
    trainer = make_trainer(tmp_path, evaluated=False, max_steps=1)
    trainer.train()
    assert trainer.model.config.calibration is None
    with pytest.raises(ValueError, match="calibrate: true needs validation data"):
        make_trainer(tmp_path, evaluated=False, max_steps=1, calibrate=True).train()
    trainer = make_trainer(tmp_path, max_steps=1, calibrate=False)
    trainer.train()
    assert trainer.model.config.calibration is None
    trainer.calibrate(trainer.eval_dataset)  # by hand
    assert trainer.model.config.calibration
    trainer.train()  # other weights
    assert trainer.model.config.calibration is None


def test_wrong_settings_are_named():
    for given, message in (
        ({"temperatures": {"fused": 0}}, "above 0"),
        ({"temperatures": {"c": 1.0}}, "unknown prediction 'c'"),
        ({"thresholds": {"a": [0.5]}}, "temperatures"),
        ({"temperatures": {"a": 1.0}, "thresholds": {"a": [2]}}, "within"),
        ({"temperature": 1.0}, "temperatures"),
        ("none", "temperatures"),
    ):
        with pytest.raises(ValueError, match=f"calibration.*{message}"):
            LfmConfig(TOWERS, calibration=given)
    calibration = {"temperatures": {"a": 1.0}, "thresholds": {"fused": [0.5]}}
    config = LfmConfig(TOWERS, problem_type=MULTI_LABEL, num_labels=3, calibration=calibration)
    processor = LfmProcessor(KINDS)
    classifier = MultimodalClassificationPipeline(LfmForMultimodalClassification(config), processor)
    with pytest.raises(ValueError, match="1 thresholds of 'fused', but there are 3 labels"):
        classifier({"a": [1.0, 2.0, 3.0]})


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_weights_become_part_of_the_head(fusion):
    torch.manual_seed(0)
    model = LfmForMultimodalClassification(LfmConfig(TOWERS, hidden_size=8, num_labels=3, fusion=fusion)).eval()
    inputs = {f"{name}_values": torch.randn(5, 3) for name in "ab"}
    with torch.no_grad():
        a, b = model(**inputs).modality_logits
        fold_weights(model.fusion, [2.0, 0.5])
        torch.testing.assert_close(model(**inputs).logits, 2 * a + b / 2)


def test_a_run_ends_with_stacking_where_it_is_asked_for(tmp_path):
    """Against the same run without: the same weights, but for those of the head; samples with holes are left out."""
    held, trainers = make_samples(90, seed=1), []
    for stack in (False, True):
        trainers.append(make_trainer(tmp_path, stack=stack, calibrate=True))
        trainers[-1].eval_dataset = [*held, {**held[0], "b_values": None}]
        trainers[-1].train()
    plain, stacked = trainers
    logged = next(entry for entry in stacked.state.log_history if "stacking_a" in entry)
    before, after = (logits_of(trainer, held) for trainer in (plain, stacked))
    labels = torch.tensor([sample["labels"] for sample in held])
    weights = fit_stacking(np.stack([before["a"], before["b"]]), labels.numpy())
    assert [logged["stacking_a"], logged["stacking_b"]] == pytest.approx(weights.tolist(), abs=1e-3)
    assert max(abs(weights - 1)) > 0.1
    torch.testing.assert_close(
        after["fused"], weights[0] * before["a"] + weights[1] * before["b"], atol=1e-2, rtol=1e-2
    )
    assert cross_entropy(after["fused"], labels) < cross_entropy(before["fused"], labels)
    assert stacked.model.config.calibration != plain.model.config.calibration, "of what stacking made"


def test_what_stacking_cannot_be_had_for_is_told(tmp_path):
    with pytest.raises(ValueError, match="stack: true needs validation data"):
        make_trainer(tmp_path, stack=True, evaluated=False).train()
    trainer = make_trainer(tmp_path, fusion="film", stack=True, method="film")
    with pytest.raises(ValueError, match="it needs fusion concat or sum"):
        trainer.train()
