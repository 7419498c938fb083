"""The metrics agree with scikit-learn (called here on its own terms), and refuse what they cannot score."""

import evaluate
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score
from sklearn.preprocessing import label_binarize
from transformers import EvalPrediction

from modeling_lfm.trainer.metrics import (
    Accuracy,
    MacroF1,
    MeanAveragePrecision,
    ModalityGap,
    compute_multimodal_metrics,
    logger,
)

N, K = 60, 4
NAMES = ("audio", "image")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def single_label(rng, modalities=2, n=N, k=K):
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    signal = 1.5 * np.eye(k)[labels]
    draw = [(rng.normal(size=(n, k)) + signal).astype(np.float32) for _ in range(modalities)]
    return EvalPrediction(predictions=(sum(draw), tuple(draw)), label_ids=labels)


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True), dtype=np.float64)
    return e / e.sum(1, keepdims=True)


def reference_single(logits, labels):
    binary = label_binarize(labels, classes=range(logits.shape[1]))
    probabilities = softmax(logits.astype(np.float64))
    return {
        "accuracy": accuracy_score(labels, logits.argmax(1)),
        "map": np.mean([average_precision_score(binary[:, c], probabilities[:, c]) for c in range(binary.shape[1])]),
        "f1": f1_score(labels, logits.argmax(1), average="macro"),
    }


def test_single_label_agrees_with_scikit_learn(rng):
    prediction = single_label(rng)
    metrics = compute_multimodal_metrics(prediction, NAMES)
    logits, alone = prediction.predictions
    expected = reference_single(logits, prediction.label_ids)
    for name, values in zip(NAMES, alone, strict=True):
        for key, value in reference_single(values, prediction.label_ids).items():
            expected[f"{name}_{key}"] = value
    expected["gap"] = abs(expected["audio_accuracy"] - expected["image_accuracy"])
    assert set(metrics) == set(expected)
    assert metrics == pytest.approx(expected, abs=1e-12)
    assert expected["gap"] > 0, "the draw should tell the modalities apart"
    assert all(type(value) is float for value in metrics.values())


def test_multi_label_agrees_with_scikit_learn(rng):
    labels = rng.integers(0, 2, (N, K))
    alone = tuple((rng.normal(size=(N, K)) + 2 * labels - 1).astype(np.float32) for _ in NAMES)
    logits = alone[0] + alone[1]
    prediction = EvalPrediction(predictions=(logits, alone), label_ids=labels.astype(np.float32))
    metrics = compute_multimodal_metrics(prediction, NAMES, "multi_label_classification")
    expected = {}
    for prefix, values in (("", logits), ("audio_", alone[0]), ("image_", alone[1])):
        expected[f"{prefix}accuracy"] = (np.all((values > 0) == labels, axis=1)).mean()
        expected[f"{prefix}map"] = average_precision_score(labels, 1 / (1 + np.exp(-values.astype(np.float64))))
        expected[f"{prefix}f1"] = f1_score(labels, values > 0, average="macro")
    expected["gap"] = abs(expected["audio_accuracy"] - expected["image_accuracy"])
    assert metrics == pytest.approx(expected, abs=1e-12)


def test_one_modality_has_no_gap(rng):
    metrics = compute_multimodal_metrics(single_label(rng, modalities=1), ["text"])
    assert metrics["gap"] == 0.0
    assert metrics["text_accuracy"] == metrics["accuracy"]


def test_gap_is_largest_minus_smallest_of_three():
    references = np.array([0, 1, 2, 3])
    predictions = np.array([[0, 0, 0], [1, 0, 1], [2, 0, 0], [3, 0, 0]])
    result = ModalityGap().compute(predictions=predictions, references=references)
    assert result == {"gap": 0.75, "accuracies": [1.0, 0.25, 0.5]}


def test_absent_classes_are_left_out_and_said(rng, caplog):
    logger.warning_once.cache_clear()
    logger.addHandler(caplog.handler)
    prediction = single_label(rng, k=3)
    wider = np.concatenate([prediction.predictions[0], np.zeros((N, 1), np.float32)], axis=1)
    result = MeanAveragePrecision().compute(predictions=softmax(wider), references=prediction.label_ids)
    binary = label_binarize(prediction.label_ids, classes=range(3))
    expected = average_precision_score(binary, softmax(wider)[:, :3])
    logger.removeHandler(caplog.handler)
    assert result["absent_classes"] == [3]
    assert "classes [3]" in caplog.text
    assert result["map"] == pytest.approx(expected, abs=1e-12)


def test_no_positive_at_all_is_an_error():
    metric = MeanAveragePrecision("multilabel")
    with pytest.raises(ValueError, match="no positive label"):
        metric.compute(predictions=np.full((3, 2), 0.5), references=np.zeros((3, 2), dtype=int))


def test_label_beyond_the_columns_is_an_error():
    with pytest.raises(ValueError, match="2 columns"):
        MeanAveragePrecision().compute(predictions=np.full((3, 2), 0.5), references=[0, 1, 2])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error_that_names_the_modality(rng, value):
    prediction = single_label(rng)
    prediction.predictions[1][1][7, 2] = value
    with pytest.raises(ValueError, match=r"'image'.* 1 of 60 samples \(first: 7\)"):
        compute_multimodal_metrics(prediction, NAMES)


def test_wrong_number_of_modalities_and_problem_type_are_errors(rng):
    prediction = single_label(rng)
    with pytest.raises(ValueError, match="2 modalities, but 3 are named"):
        compute_multimodal_metrics(prediction, ["a", "b", "c"])
    with pytest.raises(ValueError, match="regression"):
        compute_multimodal_metrics(prediction, NAMES, "regression")
    with pytest.raises(ValueError, match="pair"):
        compute_multimodal_metrics(EvalPrediction(prediction.predictions[0], prediction.label_ids), NAMES)


@pytest.mark.parametrize("metric", [Accuracy, MacroF1, MeanAveragePrecision, ModalityGap])
@pytest.mark.parametrize("config_name", [None, "multilabel"])
def test_classes_are_evaluate_metrics_that_describe_themselves(metric, config_name):
    made = metric(config_name)
    assert isinstance(made, evaluate.Metric)
    assert made.description
    assert "@" in made.citation
    assert made.inputs_description in made.compute.__doc__
    with pytest.raises(ValueError, match="config_name"):
        metric("other")


def test_metric_accumulates_batches():
    metric = MacroF1()
    metric.add_batch(predictions=[0, 1], references=[0, 1])
    metric.add_batch(predictions=[1, 1], references=[0, 1])
    assert metric.compute()["f1"] == pytest.approx(f1_score([0, 1, 0, 1], [0, 1, 1, 1], average="macro"))
