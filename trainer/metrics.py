"""Metrics of multimodal classification: `evaluate.Metric` classes that need no network, and the trainer's report."""

import warnings

import datasets
import evaluate
import numpy as np
from scipy.special import expit, softmax
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    roc_auc_score,
)
from transformers.utils import logging

from modeling_lfm.registry_lfm import Registry

from .holes import keep_present
from .methods.base import read_reference
from .methods.lfm import Lfm
from .objectives import is_multi_label

logger = logging.get_logger(__name__)

_SCIKIT_LEARN = read_reference("pedregosa2011scikit")


class _InMemoryMetric(evaluate.Metric):
    """An `evaluate.Metric` that keeps its inputs in memory. `config_name="multilabel"`: K 0/1 labels a sample."""

    inputs_text = "predictions: int array (N,) or (N, K). references: the same. Returns a dict."
    citation_text = _SCIKIT_LEARN
    prediction_feature = None
    """`datasets` feature of one sample's prediction, where it is not that of its label."""

    def __init__(self, config_name=None, keep_in_memory=True, **kwargs):
        super().__init__(config_name=config_name, keep_in_memory=keep_in_memory, **kwargs)

    def _info(self):
        if self.config_name not in ("default", "multilabel"):
            raise ValueError(f"config_name={self.config_name!r} is unknown; choose 'default' or 'multilabel'.")
        label = datasets.Value("int32")
        label = datasets.Sequence(label) if self.config_name == "multilabel" else label
        prediction = label if self.prediction_feature is None else self.prediction_feature(label)
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation=self.citation_text,
            inputs_description=self.inputs_text,
            features=datasets.Features({"predictions": prediction, "references": label}),
        )

    def _compute(self, predictions, references):
        return self.score(np.asarray(predictions), np.asarray(references))


class Accuracy(_InMemoryMetric):
    """Share of samples whose prediction is right; multi-label: whose K labels are all right (subset accuracy)."""

    def score(self, predictions, references):
        """Predictions and labels, (N,) or (N, K) if multi-label, to `{"accuracy": float}`."""
        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(_InMemoryMetric):
    """F1 of each class, averaged without weights; a class neither present nor predicted does not count.

    In a multi-label problem all K labels count, and one neither present nor predicted has F1 0, as in scikit-learn.
    """

    def score(self, predictions, references):
        """Predictions and labels, (N,) or (N, K) if multi-label, to `{"f1": float}`."""
        return {"f1": float(f1_score(references, predictions, average="macro", zero_division=0))}


class MeanAveragePrecision(_InMemoryMetric):
    """Average precision of each class against the rest, averaged over the classes that have a positive.

    Average precision is undefined for a class without one; such classes are left out, named in a warning, and listed
    under `absent_classes`.
    """

    inputs_text = (
        "predictions: float array (N, K), probabilities. references: int array (N,), or 0/1 (N, K) if multi-label."
    )

    def prediction_feature(self, label):
        return datasets.Sequence(datasets.Value("float64"))

    def score(self, scores, labels):
        """Probabilities (N, K) and labels to `{"map": float, "absent_classes": list of int}`."""
        if self.config_name != "multilabel":
            if labels.min() < 0 or labels.max() >= scores.shape[1]:
                raise ValueError(
                    f"references hold the classes {labels.min()} to {labels.max()}, but predictions have "
                    f"{scores.shape[1]} columns, one a class from 0 on."
                )
            labels = np.eye(scores.shape[1], dtype=np.int32)[labels]
        present = labels.any(axis=0)
        absent = np.flatnonzero(~present).tolist()
        if not present.any():
            raise ValueError("references hold no positive label at all, so average precision is undefined.")
        if absent:
            logger.warning_once(f"No sample has the classes {absent}: they are left out of the mean average precision.")
        value = average_precision_score(labels[:, present], scores[:, present], average="macro")
        return {"map": float(value), "absent_classes": absent}


class ModalityGap(_InMemoryMetric):
    """Accuracy of the best modality minus that of the worst, each predicting alone; 0 with a single modality."""

    inputs_text = (
        "predictions: int array (N, M) for M modalities, or (N, M, K) if multi-label. references: int array (N,) or "
        "(N, K)."
    )
    citation_text = Lfm.spec.bibtex

    def prediction_feature(self, label):
        return datasets.Sequence(label)

    def score(self, predictions, references):
        """Predictions (N, M) or (N, M, K), and labels, to `{"gap": float, "accuracies": list of M float}`."""
        accuracies = [float(accuracy_score(references, predictions[:, m])) for m in range(predictions.shape[1])]
        return {"gap": max(accuracies) - min(accuracies), "accuracies": accuracies}


METRICS = Registry("metric")
"""Further metrics, those of `args.metrics`: from probabilities (N, K), predictions and labels (both (N,), or 0/1 (N, K)
if multi-label) to a number. One of your own is a function with `@METRICS.register(name)`."""


@METRICS.register("balanced_accuracy")
def balanced_accuracy(probabilities, predicted, labels):
    """Recall of each class, averaged; multi-label: of yes and no, averaged over labels."""
    pairs = [(labels, predicted)] if labels.ndim == 1 else zip(labels.T, predicted.T, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class that is predicted, and has no sample
        return float(np.mean([balanced_accuracy_score(*pair) for pair in pairs]))


@METRICS.register("auroc")
def auroc(probabilities, predicted, labels):
    """Area under the ROC curve of each class against the rest, averaged over those with samples on both sides."""
    labels = np.eye(probabilities.shape[1], dtype=int)[labels] if labels.ndim == 1 else labels
    both = labels.any(0) & ~labels.all(0)
    return (
        float(roc_auc_score(labels[:, both], probabilities[:, both], average="macro")) if both.any() else float("nan")
    )


@METRICS.register("calibration_error")
def calibration_error(probabilities, predicted, labels, bins=15):
    """Expected calibration error: mean distance of confidence and accuracy over equal `bins` of confidence (Guo et al.,
    ICML 2017); multi-label: of the probability and the share of positive labels."""
    single = labels.ndim == 1
    sure = probabilities.max(1) if single else probabilities.ravel()
    right = (predicted == labels) if single else labels.ravel()
    places = np.minimum((sure * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(places, sure - right, bins)).sum() / len(sure))


@METRICS.register("micro_f1")
def micro_f1(probabilities, predicted, labels):
    """F1 over all samples and labels at once; the `f1` that is always there is the macro one."""
    return float(f1_score(labels, predicted, average="micro", zero_division=0))


def compute_multimodal_metrics(
    eval_prediction, modalities, problem_type="single_label_classification", absent=(), further=(), calibration=None
):
    """Metrics of the fused prediction, of each modality alone, and the gap between modalities.

    Args:
        eval_prediction (`transformers.EvalPrediction`): `predictions` is `(logits, modality_logits)`, with logits
            `(N, K)` and a tuple of M arrays `(N, K)`; `label_ids` are classes `(N,)`, or 0/1 labels `(N, K)` in a
            multi-label problem.
        modalities (`Sequence[str]`): the M names, in the model's order.
        problem_type (`str`): `single_label_classification` (mean average precision over softmax probabilities,
            one-vs-rest) or `multi_label_classification` (labels are predicted from a probability of 0.5 on, or from the
            thresholds of `calibration`; subset accuracy; mean average precision over sigmoid probabilities).
        absent (`Sequence[str]`): those of `modalities` that were left out and have no metrics.
        further (`Sequence[str]`): names in `METRICS`, which are computed likewise.
        calibration (`dict`, *optional*): that of [`LfmConfig`]. It adds `calibration_error_before` and `_after`, of the
            probabilities without and with the temperature; all else is of those without.

    Returns:
        `dict[str, float]`: `accuracy`, `map`, `f1`, `gap`, and for each modality `{name}_accuracy`, `{name}_map`,
        `{name}_f1`. All are between 0 and 1. Those of a modality are of the samples that have it; where some lack it
        (their logits are NaN), `{name}_samples` (`int`) tells of how many, and where all do, there is nothing else.

    Raises:
        ValueError: logits are not finite, or do not fit `modalities`.

    Example:

        ```python
        >>> import numpy as np
        >>> from transformers import EvalPrediction
        >>> from modeling_lfm.trainer import compute_multimodal_metrics
        >>> right, wrong = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([[2.0, 0.0], [2.0, 0.0]])
        >>> prediction = EvalPrediction((right, (right, wrong)), np.array([0, 1]))
        >>> metrics = compute_multimodal_metrics(prediction, ["sound", "sight"])
        >>> metrics["accuracy"], metrics["sight_accuracy"], metrics["gap"]
        (1.0, 0.5, 0.5)

        ```
    """
    logits, modality_logits = _split_predictions(eval_prediction.predictions, tuple(modalities))
    kept = {name: part for name, part in zip(modalities, modality_logits, strict=True) if name not in absent}
    multi_label = is_multi_label(problem_type)
    labels = np.asarray(eval_prediction.label_ids).astype(np.int32)
    # A modality is absent where all its logits are NaN, and did not spoil the fused prediction.
    there = {name: ~np.isnan(part).all(-1) | ~np.isfinite(logits).all(-1) for name, part in kept.items()}
    for name, part in kept.items():  # first, so that the modality is named that spoils the fused prediction
        _check_finite(part, f"the logits of modality {name!r}", there[name])
    _check_finite(logits, "the fused logits")
    metrics, right, every = {}, [], np.ones(len(labels), bool)
    for name, values in [(None, logits), *kept.items()]:
        rows, prefix = there.get(name, every), "" if name is None else f"{name}_"
        if not rows.all():
            metrics[f"{prefix}samples"] = int(rows.sum())
        if not rows.any():
            continue
        found = _measure(values[rows], labels[rows], multi_label, further, calibration, name or "fused")
        metrics |= {f"{prefix}{key}": value for key, value in found.items()}
        if name is not None:
            right.append(found["accuracy"])
    metrics["gap"] = max(right) - min(right)
    return metrics


def measure_calibration(values, labels, multi_label, calibration, name):
    """Of the logits (N, K) of the prediction `name`: probabilities without the temperature, what is predicted, and the
    calibration errors (`dict[str, float]`) without and with it, where `calibration` has one."""
    wide, temperature = values.astype(np.float64), calibration and calibration["temperatures"].get(name)
    plain, scaled = (expit(z) if multi_label else softmax(z, axis=-1) for z in (wide, wide / (temperature or 1.0)))
    thresholds = (calibration or {}).get("thresholds", {}).get(name, 0.5)
    predicted = (scaled >= np.asarray(thresholds)).astype(np.int32) if multi_label else values.argmax(-1)
    errors = {"before": plain, "after": scaled} if temperature else {}
    found = {f"calibration_error_{when}": calibration_error(z, predicted, labels) for when, z in errors.items()}
    return plain, predicted, found


def _measure(values, labels, multi_label, further, calibration, name):
    """Metrics (`dict[str, float]`) of the logits (N, K) of one prediction."""
    plain, predicted, errors = measure_calibration(values, labels, multi_label, calibration, name)
    metrics, config_name = {}, "multilabel" if multi_label else None
    for metric, predictions in (
        (Accuracy(config_name), predicted),
        (MeanAveragePrecision(config_name), plain),
        (MacroF1(config_name), predicted),
    ):
        result = metric.score(predictions, labels)  # `compute` would write them into an Arrow table first
        metrics |= {key: value for key, value in result.items() if isinstance(value, float)}
    return metrics | errors | {name: METRICS.find(name)(plain, predicted, labels) for name in further}


def _split_predictions(predictions, modalities):
    if not (isinstance(predictions, (tuple, list)) and len(predictions) == 2):
        raise ValueError("predictions must be the pair (logits, modality_logits) that an LFM model returns.")
    logits, modality_logits = np.asarray(predictions[0]), [np.asarray(values) for values in predictions[1]]
    if len(modality_logits) != len(modalities):
        raise ValueError(
            f"predictions hold the logits of {len(modality_logits)} modalities, but {len(modalities)} are named: "
            f"{', '.join(modalities)}."
        )
    return logits, modality_logits


def _check_finite(values, what, rows=True):
    bad = ~np.isfinite(values).all(axis=-1) & rows
    if bad.any():
        raise ValueError(
            f"{what} are not finite for {int(bad.sum())} of {len(values)} samples (first: {int(bad.argmax())}): "
            "training diverged, or an input is not finite. Lower the learning rate, or check the data."
        )


class ModalityMeter:
    """The part of [`LfmTrainer`] that evaluates each modality alone, and all without some of them, those `absent`."""

    absent = ()

    def _multimodal_metrics(self, eval_prediction):
        config = self.model.config
        return compute_multimodal_metrics(
            eval_prediction,
            config.modality_names,
            config.problem_type,
            self.absent,
            self.args.metrics or (),
            config.calibration,
        )

    def get_eval_dataloader(self, *args, **kwargs):
        """As in transformers, with every sample: `dataloader_drop_last` is for training."""
        return self._with_every_sample(super().get_eval_dataloader, *args, **kwargs)

    def get_test_dataloader(self, *args, **kwargs):
        """As in transformers, with every sample, as `get_eval_dataloader`."""
        return self._with_every_sample(super().get_test_dataloader, *args, **kwargs)

    def _with_every_sample(self, make, *args, **kwargs):
        dropped, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return make(*args, **kwargs)
        finally:
            self.args.dataloader_drop_last = dropped

    def prediction_step(self, model, inputs, *args, **kwargs):
        """As in transformers, without the inputs of the modalities `absent`."""
        towers = self.model.lfm.towers
        left_out = {
            f"{name}_{part}" for name in self.absent for part in (*towers[name].input_names, "vector", "present")
        }
        inputs = {key: value for key, value in inputs.items() if key not in left_out}
        return super().prediction_step(model, inputs, *args, **kwargs)

    def check_absent(self, absent):
        """Raise a `ValueError` if these modalities (names) cannot be left out."""
        names = self.model.config.modality_names
        unknown = sorted(set(absent) - set(names))
        if unknown or set(absent) == set(names):
            raise ValueError(
                f"cannot leave out {', '.join(unknown or absent)}: the modalities are {', '.join(names)}, one of which "
                "has to stay."
            )

    def predict_without(self, absent, dataset, **kwargs):
        """`predict` with modalities left out; metrics are those of the fused prediction and of the modalities kept, on
        the samples that have one of these.

        Args:
            absent (`Sequence[str]`): names of the modalities.
            dataset, kwargs: as in `predict`.

        Raises:
            ValueError: an unknown modality, or none is kept.
        """
        self.check_absent(absent)
        dataset = keep_present(dataset, [name for name in self.model.config.modality_names if name not in absent])
        self.absent = tuple(absent)
        try:
            return self.predict(dataset, **kwargs)
        finally:
            self.absent = ()

    def measure_absence(self, dataset, metric_key_prefix="test"):
        """How the fused prediction fares when each modality in turn is absent.

        Returns:
            `dict[str, float]`: `{prefix}_without_{modality}_accuracy`, `_map` and `_f1`, and `_samples` where some have
            no other; empty for a single modality.
        """
        names, metrics = self.model.config.modality_names, {}
        for name in names if len(names) > 1 else ():
            prefix = f"{metric_key_prefix}_without_{name}"
            kept = keep_present(dataset, [other for other in names if other != name])
            if len(kept) == 0:
                continue
            found = self.predict_without([name], kept, metric_key_prefix=prefix).metrics
            metrics |= {f"{prefix}_{key}": found[f"{prefix}_{key}"] for key in ("accuracy", "map", "f1")}
            if len(kept) < len(dataset):
                metrics[f"{prefix}_samples"] = len(kept)
        return metrics
