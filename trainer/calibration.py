"""Probabilities that can be trusted: a temperature for each prediction, and thresholds of multi-label problems.

They are fitted on validation data and kept in the configuration, see `calibration` of [`LfmConfig`].
"""

from contextlib import contextmanager

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax
from transformers.utils import logging

from .fitting import unchanged_random_state
from .metrics import measure_calibration
from .objectives import is_multi_label

logger = logging.get_logger(__name__)
WIDEST = 100.0  # a temperature lies between this and its inverse
LEAST_POSITIVES = 10  # of a label, for a threshold of its own


def fit_temperature(logits, labels, problem_type="single_label_classification"):
    """The temperature T (`float`) that minimises the cross-entropy of `logits / T`, which is convex in 1 / T.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Of n labels that are told, a share of
    1 / (n + 2) counts as wrong, as in Platt (1999), or predictions that are all right would have no finite T.

    Args:
        logits (`np.ndarray`): `(N, K)`.
        labels (`np.ndarray`): `(N,)` int, or `(N, K)` 0/1 in a multi-label problem, whose loss is the binary
            cross-entropy of each label.

    Example:

        ```python
        >>> import numpy as np
        >>> from modeling_lfm.trainer.calibration import fit_temperature
        >>> rng = np.random.default_rng(0)
        >>> logits = rng.normal(size=(20000, 4))
        >>> labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # drawn from their softmax
        >>> round(fit_temperature(3 * logits, labels), 1)
        3.0

        ```
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    several, share = is_multi_label(problem_type), 1 / (labels.size + 2)
    if not several and logits.shape[1] < 2:
        return 1.0
    if several:
        targets = np.where(labels > 0, 1 - share, share)
    else:
        targets = np.full_like(logits, share / (logits.shape[1] - 1))
        targets[np.arange(len(labels)), labels] = 1 - share

    def loss(log_inverse):
        scaled = np.exp(log_inverse) * logits
        if several:
            return -(targets * log_expit(scaled) + (1 - targets) * log_expit(-scaled)).mean()
        return -(targets * log_softmax(scaled, -1)).sum(-1).mean()

    found = minimize_scalar(loss, bounds=(-np.log(WIDEST), np.log(WIDEST)), method="bounded", options={"xatol": 1e-6})
    return float(f"{np.exp(-found.x):.4g}") if found.fun < loss(0.0) else 1.0


def fit_thresholds(probabilities, labels):
    """The probability from which on each label counts (`list[float]`): that with the highest F1 of the label.

    Args:
        probabilities (`np.ndarray`), labels (`np.ndarray`): `(N, K)`, within [0, 1], and 0/1. Rare labels, with fewer
            than `LEAST_POSITIVES` samples, share one threshold, that with the highest F1 over all labels.
    """
    shared = _best_threshold(probabilities.ravel(), labels.ravel())
    return [
        _best_threshold(column, told) if told.sum() >= LEAST_POSITIVES else shared
        for column, told in zip(probabilities.T, labels.T, strict=True)
    ]


def _best_threshold(probabilities, labels):
    """Between the two neighbours (each `(N,)`) where F1 is highest; 0.5 without a positive."""
    if not labels.any():
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    sorted_down = probabilities[order]
    f1 = 2 * np.cumsum(labels[order]) / (np.arange(1, len(order) + 1) + labels.sum())
    below = np.append(sorted_down[1:], 0.0)
    f1[below == sorted_down] = -1  # no threshold lies between equals
    best = f1.argmax()
    return float(f"{(sorted_down[best] + below[best]) / 2:.4g}")


def fit_calibration(predictions, labels, problem_type="single_label_classification"):
    """What `calibration` of [`LfmConfig`] holds (`dict`), of the logits of samples that were not trained on.

    Args:
        predictions (`dict[str, np.ndarray]`): logits `(N, K)` of `fused` and each modality; NaN for samples that lack
            it, and a modality that none has gets nothing.
        labels (`np.ndarray`): `(N,)` int, or `(N, K)` 0/1 in a multi-label problem.
    """
    temperatures, thresholds = {}, {}
    for name, logits in predictions.items():
        there = np.isfinite(logits).all(-1)
        if not there.any():
            continue
        temperatures[name] = fit_temperature(logits[there], labels[there], problem_type)
        if is_multi_label(problem_type):
            thresholds[name] = fit_thresholds(expit(logits[there] / temperatures[name]), labels[there])
    return {"temperatures": temperatures, **({"thresholds": thresholds} if thresholds else {})}


@contextmanager
def _swapped(thing, **values):
    """Attributes of an object, or settings, with other values inside."""
    kept = {key: getattr(thing, key) for key in values}
    vars(thing).update(values)
    try:
        yield
    finally:
        vars(thing).update(kept)


class Calibrator:
    """The part of [`LfmTrainer`] that calibrates its model at the end of training."""

    calibrated_on = None
    """`dict`: number of `samples` that it was fitted on, and the calibration errors on these."""

    def check_calibration(self):
        """Raise a `ValueError` where `args.calibrate` asks for what there is no validation data for; whether to do it
        (`bool`)."""
        found = self.eval_dataset is not None and not isinstance(self.eval_dataset, dict)
        if self.args.calibrate and not found:
            raise ValueError("calibrate: true needs validation data, a single eval_dataset; give one, or leave it out.")
        return found and self.args.calibrate is not False

    def calibrate(self, dataset=None):
        """Fit temperatures and thresholds, and keep them in the configuration of the model.

        Args:
            dataset (*optional*): samples with labels, neither trained on nor to be tested on; the `eval_dataset` if not
                given.

        Returns:
            `dict`: see `calibration` of [`LfmConfig`]; None, with a warning, where logits are not finite.

        Raises:
            ValueError: samples without labels.
        """
        config, dataset = self.model.config, self.eval_dataset if dataset is None else dataset
        config.calibration = self.calibrated_on = None
        plain = {"prediction_loss_only": False, "batch_eval_metrics": False, "eval_do_concat_batches": True}
        with (
            unchanged_random_state(self.args.device),
            _swapped(self, compute_metrics=None, preprocess_logits_for_metrics=None),
            _swapped(self.args, **plain),
        ):
            trains = self.model.training
            found = self.predict(dataset)
            self.model.train(trains)
        if found.label_ids is None:
            raise ValueError("calibration needs samples with labels; set calibrate: false, or give others.")
        logits, modality_logits = found.predictions
        if not np.isfinite(logits).all():
            logger.warning("the model is not calibrated: its logits are not finite, as its training diverged.")
            return None
        labels, names = found.label_ids.astype(int), config.modality_names
        parts = {"fused": logits, **dict(zip(names, modality_logits, strict=True))}
        config.calibration = fit_calibration(parts, labels, config.problem_type)
        self.calibrated_on, several = {"samples": len(labels)}, is_multi_label(config.problem_type)
        for name in config.calibration["temperatures"]:
            there, prefix = np.isfinite(parts[name]).all(-1), "" if name == "fused" else f"{name}_"
            errors = measure_calibration(parts[name][there], labels[there], several, config.calibration, name)[-1]
            self.calibrated_on |= {f"{prefix}{key}": value for key, value in errors.items()}
        return config.calibration
