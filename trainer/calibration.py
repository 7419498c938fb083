"""What is fitted on validation data when training has ended: weights of modalities (stacking), if asked for, and for
probabilities that can be trusted a temperature for each prediction, and thresholds of multi-label problems.

Weights become part of the head; the rest is kept in the configuration, see `calibration` of [`LfmConfig`].
"""

from contextlib import contextmanager

import numpy as np
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax
from transformers.utils import logging

from .fitting import unchanged_random_state
from .metrics import measure_calibration
from .objectives import is_multi_label
from .prior import LINEAR_FUSIONS

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


def fit_stacking(modality_logits, labels, problem_type="single_label_classification"):
    """The weights w >= 0 of modalities, `(M,)` float64, that minimise the (binary) cross-entropy of sum_m w_m f_m.

    To its sum over the samples (w_m - 1)^2 / 2 is added, so that few samples change little; it is convex in w.

    Source: Wolpert, "Stacked Generalization", Neural Networks 1992; here with one number a modality.

    Args:
        modality_logits (`np.ndarray`): f, `(M, N, K)`, of samples that have every modality.
        labels (`np.ndarray`): `(N,)` int, or `(N, K)` 0/1 in a multi-label problem.

    Example:

        ```python
        >>> import numpy as np
        >>> from modeling_lfm.trainer.calibration import fit_stacking
        >>> rng = np.random.default_rng(0)
        >>> logits = rng.normal(size=(2, 20000, 4))
        >>> labels = (2 * logits[0] + rng.gumbel(size=logits[0].shape)).argmax(1)  # the second has nothing to say
        >>> fit_stacking(logits, labels).round(1) + 0.0
        array([2., 0.])

        ```
    """
    logits, several = np.asarray(modality_logits, np.float64), is_multi_label(problem_type)
    targets = labels if several else np.eye(logits.shape[-1])[labels]

    def objective(weights):
        fused = np.tensordot(weights, logits, 1)
        if several:
            loss, wrong = -(targets * log_expit(fused) + (1 - targets) * log_expit(-fused)), expit(fused) - targets
        else:
            loss, wrong = -targets * log_softmax(fused, -1), softmax(fused, -1) - targets
        return loss.sum() + ((weights - 1) ** 2).sum() / 2, (logits * wrong).sum((1, 2)) + weights - 1

    start = np.ones(len(logits))
    return minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start)).x


@torch.no_grad()
def fold_weights(fusion, weights):
    """Change the head of a fusion of `LINEAR_FUSIONS` so that its logits are sum_m w_m f_m, of `weights` w, `(M,)`."""
    if hasattr(fusion, "head"):  # whose bias is that of all
        for part, weight in zip(fusion.head.weight.chunk(len(weights), 1), weights, strict=True):
            part *= weight
        fusion.head.bias *= sum(weights) / len(weights)
    else:
        for head, weight in zip(fusion.heads, weights, strict=True):
            head.weight *= weight
            head.bias *= weight


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
    """The part of [`LfmTrainer`] that stacks and calibrates its model at the end of training."""

    calibrated_on = None
    """`dict`: number of `samples` that it was fitted on, and the calibration errors on these."""

    def check_calibration(self):
        """Raise a `ValueError` where what is to be fitted cannot be, such as without validation data; whether to
        calibrate (`bool`)."""
        found = self.eval_dataset is not None and not isinstance(self.eval_dataset, dict)
        for name in ("calibrate", "linear_probe", "stack"):
            if getattr(self.args, name) and not found:
                raise ValueError(
                    f"{name}: true needs validation data, a single eval_dataset; give one, or leave it out."
                )
        if self.args.stack:
            self._check_stacking()
        return found and self.args.calibrate is not False

    def fit_on_validation(self, calibrates):
        """Probe or stack, and calibrate where `calibrates`, when training has ended; a model that is not one of the
        log's is evaluated in between, and told as the chosen one."""
        if self.args.linear_probe:
            self.fit_probe()
        if self.args.stack:
            self.stack()
        changed = self.args.linear_probe or self.args.stack or self.args.average_epochs
        if changed and self.eval_dataset is not None:
            metrics, name = self.evaluate(), self.args.metric_for_best_model
            if name is not None:
                found = metrics.get(name if name.startswith("eval_") else f"eval_{name}")
                self.state.best_metric, self.state.best_global_step = found, self.state.global_step
        if calibrates:
            self.calibrate()

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
        config = self.model.config
        config.calibration = self.calibrated_on = None
        found = self._predict_plainly(dataset)
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

    def _predict_plainly(self, dataset):
        """Predictions for a data set, the `eval_dataset` if None, whatever is set for evaluations."""
        plain = {"prediction_loss_only": False, "batch_eval_metrics": False, "eval_do_concat_batches": True}
        with (
            unchanged_random_state(self.args.device),
            _swapped(self, compute_metrics=None, preprocess_logits_for_metrics=None),
            _swapped(self.args, **plain),
        ):
            trains = self.model.training
            found = self.predict(self.eval_dataset if dataset is None else dataset)
            self.model.train(trains)
        return found

    def _check_stacking(self):
        if self.model.config.fusion not in LINEAR_FUSIONS:
            known = " or ".join(LINEAR_FUSIONS)
            raise ValueError(f"stack: true weighs what modalities add up to: it needs fusion {known}.")
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("stack: true needs the whole head: train without FSDP and DeepSpeed.")

    def stack(self, dataset=None):
        """Give each modality the weight in the fused prediction that fits other samples, see [`fit_stacking`], by a
        change of the head; calibrate afterwards.

        Args:
            dataset (*optional*): samples with labels, neither trained on nor to be tested on; the `eval_dataset` if not
                given. Those that lack a modality are left out.

        Returns:
            `dict[str, float]`: the weights, by modality; None, with a warning, where no sample has all or logits are
            not finite.

        Raises:
            ValueError: samples without labels; a fusion that is no sum of what modalities say.
        """
        self._check_stacking()
        found, config = self._predict_plainly(dataset), self.model.config
        if found.label_ids is None:
            raise ValueError("stacking needs samples with labels; set stack: false, or give others.")
        logits = np.stack(found.predictions[1])
        there = np.isfinite(logits).all((0, 2))
        if not there.any():
            logger.warning("the model is not stacked: no sample has logits of every modality.")
            return None
        weights = fit_stacking(logits[:, there], found.label_ids[there].astype(int), config.problem_type)
        fold_weights(self.model.fusion, weights.tolist())
        weights = {name: round(float(weight), 4) for name, weight in zip(config.modality_names, weights, strict=True)}
        self.log({f"stacking_{name}": weight for name, weight in weights.items()})
        return weights
