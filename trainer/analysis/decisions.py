"""How the modalities decide: where they agree, and how far their confidence can be trusted."""

import numpy as np
import pandas as pd
from scipy.special import expit, softmax

from ..plots import MUTED, new_figure, styles, tidy
from .report import Section

BINS = 15
AGREEMENT = (
    "Share of samples for which two predictions are the same class (multi-label: share of labels on which they agree). "
    "The last row is the agreement with the label, which is accuracy."
)
CALIBRATION = (
    "Guo et al., ICML 2017: samples are put into 15 bins by the probability of the predicted class; the expected "
    "calibration error (ECE) is the mean distance between a bin's confidence and its accuracy, weighted by samples. "
    "In a multi-label problem every label of every sample counts, with the probability that it is there."
)


def measure_agreement(observed):
    """Agreement of the predictions of the modalities, of the fused one, and of the labels, in [`Observations`].

    Returns:
        `dict`: `names` (the modalities, `fused`, `label`), and `matrix`, the shares of samples, within 0..1, on which
        two agree (NaN where they have no sample in common).

    Raises:
        ValueError: a single modality.
    """
    if len(observed.names) < 2:
        raise ValueError("a model of one modality has nobody to agree with.")
    decided = {name: observed.decide(logits).astype(float) for name, logits in observed.modality_logits.items()}
    for name, decisions in decided.items():
        decisions[~observed.present(name)] = np.nan
    decided |= {"fused": observed.decide(observed.logits), "label": observed.labels}
    table = pd.DataFrame({name: np.ravel(decisions) for name, decisions in decided.items()})
    matrix = table.corr(lambda one, other: (one == other).mean())  # of those that both have
    return {"names": list(decided), "matrix": matrix.to_numpy(), "samples": len(observed.labels)}


def explain_agreement(runs):
    """The [`Section`] on agreement in `runs` (`dict[str, Observations]`)."""
    from sklearn.metrics import ConfusionMatrixDisplay

    numbers = {run: measure_agreement(observed) for run, observed in runs.items()}
    figure = new_figure(2.5 * len(runs) + 0.9, 3.2)
    for axes, (run, found) in zip(figure.subplots(1, len(runs), squeeze=False)[0], numbers.items(), strict=True):
        display = ConfusionMatrixDisplay(100 * found["matrix"], display_labels=found["names"])
        display.plot(ax=axes, cmap="Blues", values_format=".0f", colorbar=False, xticks_rotation=35)
        axes.set(title=run, xlabel="", ylabel="")
    return Section("Who agrees with whom (%)", {"agreement": figure}, numbers, AGREEMENT)


def expected_calibration_error(confidence, correct, bins=BINS):
    """Expected calibration error, sum_b n_b / N |accuracy_b - confidence_b|, and its bins.

    Args:
        confidence (`np.ndarray`): `(N,)` probabilities; the bins are ((b - 1) / bins, b / bins], the first with 0.
        correct (`np.ndarray`): `(N,)` bool, whether that came true.
        bins (`int`): of equal width.

    Returns:
        `float`, and a `list` of `dict` for the bins that hold samples: `samples`, and the means `confidence` and
        `accuracy`.

    Raises:
        ValueError: no sample, or numbers outside 0..1.
    """
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    if not len(confidence) or confidence.shape != correct.shape:
        raise ValueError(f"confidence {confidence.shape} and correct {correct.shape} must be of the same samples.")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("confidences must be probabilities, from 0 to 1.")
    table = pd.DataFrame({"confidence": confidence, "accuracy": correct})
    groups = table.groupby(np.ceil(confidence * bins).clip(1, bins))
    found = groups.mean().assign(samples=groups.size())
    error = ((found.accuracy - found.confidence).abs() * found.samples).sum() / len(confidence)
    return float(error), found.to_dict("records")


def measure_calibration(observed, bins=BINS):
    """Calibration of the fused prediction and of each modality in [`Observations`].

    Returns:
        `dict`: by prediction (`fused` and the modalities) its `ece`, mean `confidence` and `accuracy`, and `bins`.
    """
    alone = observed.modality_logits if len(observed.names) > 1 else {}
    result = {}
    for name, logits in {"fused": observed.logits, **alone}.items():
        there = np.isfinite(logits).all(-1)
        if not there.any():
            continue
        logits, labels = logits[there], observed.labels[there]
        if observed.multi_label:
            confidence, correct = expit(logits).ravel(), labels.ravel() == 1
        else:
            confidence, correct = softmax(logits, -1).max(-1), logits.argmax(-1) == labels
        error, found = expected_calibration_error(confidence, correct, bins)
        result[name] = {"ece": error, "confidence": confidence.mean(), "accuracy": correct.mean(), "bins": found}
    return result


def explain_calibration(runs):
    """The [`Section`] on calibration in `runs` (`dict[str, Observations]`)."""
    numbers = {run: measure_calibration(observed) for run, observed in runs.items()}
    figure = new_figure(2.7 * len(runs) + 0.9, 3.2)
    panels = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (run, found) in zip(panels, numbers.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":")
        for name, style in styles(found).items():
            bins, label = pd.DataFrame(found[name]["bins"]), f"{name}, ECE {100 * found[name]['ece']:.1f} %"
            axes.plot(bins.confidence, bins.accuracy, label=label, **style)
        axes.set(title=run, aspect="equal", xlabel="confidence", ylabel="accuracy")
        axes.legend(frameon=False, fontsize=7)
    figures = {"calibration": tidy(figure, panels, grid="both")}
    return Section("How far confidence can be trusted", figures, numbers, CALIBRATION)
