"""The outer loss of the bi-level problem: how well a model does on held-out data, apart from its confidence.

The matching loss lowers confidence while accuracy rises, so raw held-out cross-entropy would blame it for what a
single temperature mends. The calibrated loss fits that temperature first ("On Calibration of Modern Neural
Networks", Guo et al., ICML 2017), and counts each modality's own prediction beside the fused one.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit
from torch import Tensor

from ..objectives import classification_loss, full_precision, is_multi_label, no_autocast

OUTER_LOSSES = ("calibrated", "plain")
INVERSE_TEMPERATURES = (1e-3, 1e3)
"""Bounds of the fitted inverse temperature: it is infinite for separable logits, and zero for useless ones."""
LAST_STEP = 1e-7
"""Of Newton's method for it, relative: what is left after it is about the square."""

Derivatives = Callable[[float], tuple[float, float]]


def outer_loss(
    name: str,
    logits: Tensor,
    modality_logits: Sequence[Tensor],
    labels: Tensor,
    problem_type: str = "single_label_classification",
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    present: Tensor | None = None,
) -> Tensor:
    """The outer loss J by name: `"calibrated"`, or `"plain"`, L_CLS, which is the paper's.

    The calibrated one is cCE(fused) / 2 + mean over the modalities of cCE(m) / 2; see `calibrated_cross_entropy`.

    Args:
        logits (`(B, K)`): of the fused prediction.
        modality_logits: M tensors `(B, K)`; `"plain"` does not read them.
        labels: `(B,)` int64, or `(B, K)` zeros and ones for multi-label problems.
        loss (*optional*): of logits and labels, in place of the (binary) cross-entropy.
        present (`(M, B)` bool, *optional*): which samples have which modality; cCE(m) is over those that have m, and
            the mean over the modalities that a sample has.

    Returns:
        scalar, float32.
    """
    if name not in OUTER_LOSSES:
        raise ValueError(f"outer loss must be one of {', '.join(OUTER_LOSSES)}, got {name!r}.")
    if name == "plain":
        return classification_loss(logits, labels, problem_type) if loss is None else loss(logits, labels)
    if len(modality_logits) == 0:
        raise ValueError("the calibrated outer loss takes the logits of at least one modality, got none.")
    pairs = [(m, labels) for m in modality_logits]
    if present is not None:
        pairs = [(m[rows], labels[rows]) for m, rows in zip(modality_logits, present, strict=True) if rows.any()]
    fused, *parts = [calibrated_cross_entropy(*pair, problem_type, loss) for pair in [(logits, labels), *pairs]]
    return 0.5 * fused + 0.5 * torch.stack(parts).mean()


def calibrated_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    problem_type: str = "single_label_classification",
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """cCE(o) = min over b of CE(b o, y), one inverse temperature b for all B samples; `loss` may stand for CE.

    b is fitted on detached logits: by the envelope theorem the gradient of the minimum is that at fixed b. This
    holds for the first derivative only.

    Returns:
        scalar, float32.
    """
    if loss is None:
        scale = fit_inverse_temperature(logits, labels, problem_type)
        with no_autocast(logits):
            return classification_loss(full_precision(logits) * scale, labels, problem_type)
    with no_autocast(logits):
        logits = full_precision(logits)
        with torch.no_grad():
            bounds = [math.log(bound) for bound in INVERSE_TEMPERATURES]
            x = minimize_scalar(lambda x: float(loss(logits * math.exp(x), labels)), bounds=bounds, method="bounded").x
        return loss(logits * math.exp(x), labels)


@torch.no_grad()
def fit_inverse_temperature(
    logits: Tensor,
    labels: Tensor,
    problem_type: str = "single_label_classification",
    offset: Tensor | float = 0.0,
) -> float:
    """The b in `INVERSE_TEMPERATURES` that minimises the (binary) cross-entropy of b `logits` + `offset` (`(K,)`).

    The loss is convex in b, so b is the root of its derivative: Newton's method from 1 in float64. Each b that was
    tried is a bound of the next ones; the geometric mean of the bounds stands in for a step that leaves them or is not
    half as long as the last.
    """
    if labels.shape[:1] != logits.shape[:1] or logits.numel() == 0:
        raise ValueError(
            f"one label per sample is needed and at least one sample, got logits {tuple(logits.shape)} and "
            f"labels {tuple(labels.shape)}."
        )
    outputs, truth = logits.detach().cpu().double().numpy(), labels.cpu().double().numpy()
    if not np.isfinite(outputs).all():
        raise FloatingPointError("the logits of the outer loss are not finite; the model has diverged.")
    shift = offset.cpu().double().numpy() if isinstance(offset, Tensor) else offset
    derivatives = (_of_labels if is_multi_label(problem_type) else _of_classes)(outputs, truth, shift)
    lowest, highest = INVERSE_TEMPERATURES
    if derivatives(lowest)[0] >= 0:
        return lowest
    if derivatives(highest)[0] <= 0:
        return highest
    b, last = 1.0, math.inf
    for _ in range(100):
        slope, curvature = derivatives(b)
        lowest, highest = (lowest, b) if slope > 0 else (b, highest)
        new = b - slope / curvature if curvature > 0 else lowest
        if not (lowest < new < highest and abs(new - b) < last / 2):
            new = math.sqrt(lowest * highest)
        elif abs(new - b) <= LAST_STEP * b:
            return float(new)
        b, last = new, abs(new - b)
    return b


def _of_classes(outputs: np.ndarray, labels: np.ndarray, offset: np.ndarray | float) -> Derivatives:
    """The first two derivatives in b of the mean cross-entropy of b `outputs` + `offset`."""
    rows = np.arange(len(labels))[:, None]
    # against the true class before averaging: the slope may be tiny beside the logits
    outputs, count = outputs - outputs[rows, labels.astype(int)[:, None]], len(labels)

    def derivatives(b):
        scores = b * outputs + offset
        odds = np.exp(scores - scores.max(1, keepdims=True))
        totals, weighted = odds.sum(1), odds * outputs
        mean = weighted.sum(1) / totals
        return mean.sum() / count, ((weighted * outputs).sum(1) / totals - mean * mean).sum() / count

    return derivatives


def _of_labels(outputs: np.ndarray, labels: np.ndarray, offset: np.ndarray | float) -> Derivatives:
    """The same for the mean binary cross-entropy."""
    sign = 2 * labels - 1
    margins = sign * outputs

    def derivatives(b):
        wrong = expit(-(b * margins + sign * offset))
        return -(wrong * margins).mean(), (wrong * (1 - wrong) * margins * margins).mean()

    return derivatives
