"""How the modalities decide: where they agree, and how far their confidence can be trusted."""

from itertools import combinations

import numpy as np

from ..plots import MUTED, add_legend, new_figure, styles, tidy
from .report import Section, rounded

BINS = 15
LABEL = "label"
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
        `dict`, ready for JSON: `names` (the modalities, `fused`, `label`), and `matrix`, the shares of samples, within
        0..1, on which two agree (None where they have no sample in common).

    Raises:
        ValueError: a single modality.
    """
    if len(observed.names) < 2:
        raise ValueError("a model of one modality has nobody to agree with.")
    decisions = {name: observed.decide(logits) for name, logits in observed.modality_logits.items()}
    there = {name: observed.present(name) for name in decisions}
    everywhere = np.ones(len(observed.labels), bool)
    decisions |= {"fused": observed.decide(observed.logits), LABEL: observed.labels}
    there |= {"fused": everywhere, LABEL: everywhere}
    names, matrix = list(decisions), np.eye(len(decisions))
    for a, b in combinations(range(len(names)), 2):
        both = there[names[a]] & there[names[b]]
        same = (decisions[names[a]] == decisions[names[b]])[both]
        matrix[a, b] = matrix[b, a] = same.mean() if both.any() else np.nan
    return rounded({"names": names, "matrix": matrix, "samples": len(observed.labels)})


def explain_agreement(runs):
    """The [`Section`] on agreement in `runs` (`dict[str, Observations]`)."""
    from sklearn.metrics import ConfusionMatrixDisplay

    numbers, text = {run: measure_agreement(observed) for run, observed in runs.items()}, []
    figure = new_figure(2.5 * len(runs) + 0.9, 3.2)
    for axes, (run, found) in zip(figure.subplots(1, len(runs), squeeze=False)[0], numbers.items(), strict=True):
        names, matrix = found["names"], 100 * np.array(found["matrix"], dtype=float)
        display = ConfusionMatrixDisplay(matrix, display_labels=names)
        display.plot(ax=axes, cmap="Blues", values_format=".0f", colorbar=False, xticks_rotation=35)
        axes.set(title=run, xlabel="", ylabel="")
        *modalities, _, label = zip(names, matrix[-2], strict=True)
        parts = ", ".join(f"{name}'s in {share:.0f} %" for name, share in modalities)
        text.append(f"{run}: of the samples, the fused prediction is {parts}, and right in {label[1]:.1f} %.")
    return Section("agreement", "Who agrees with whom", text, {"agreement": figure}, numbers, AGREEMENT)


def expected_calibration_error(confidence, correct, bins=BINS):
    """Expected calibration error, sum_b n_b / N |accuracy_b - confidence_b|, and its bins.

    Args:
        confidence (`np.ndarray`): `(N,)` probabilities; the bins are ((b - 1) / bins, b / bins], the first with 0.
        correct (`np.ndarray`): `(N,)` bool, whether that came true.
        bins (`int`): of equal width.

    Returns:
        `float`, and a `list` of `dict` for the bins that hold samples: `low`, `high`, `samples`, and the means
        `confidence` and `accuracy`.

    Raises:
        ValueError: no sample, or numbers outside 0..1.
    """
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    if not len(confidence) or confidence.shape != correct.shape:
        raise ValueError(f"confidence {confidence.shape} and correct {correct.shape} must be of the same samples.")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("confidences must be probabilities, from 0 to 1.")
    place = np.ceil(confidence * bins).clip(1, bins).astype(int) - 1
    found = []
    for b in np.unique(place).tolist():
        inside = place == b
        means = {"confidence": confidence[inside].mean(), "accuracy": correct[inside].mean()}
        found.append({"low": b / bins, "high": (b + 1) / bins, "samples": int(inside.sum()), **means})
    error = sum(row["samples"] * abs(row["accuracy"] - row["confidence"]) for row in found) / len(confidence)
    return float(error), found


def measure_calibration(observed, bins=BINS):
    """Calibration of the fused prediction and of each modality in [`Observations`].

    Returns:
        `dict`, ready for JSON: by prediction (`fused` and the modalities) its `ece`, mean `confidence` and `accuracy`,
        and `bins`.
    """
    result = {}
    for name, logits in observed.heads().items():
        there = np.isfinite(logits).all(-1)
        if not there.any():
            continue
        probabilities, labels = observed.probabilities(logits[there]), observed.labels[there]
        if observed.multi_label:
            confidence, correct = probabilities.ravel(), labels.ravel() == 1
        else:
            confidence, correct = probabilities.max(-1), probabilities.argmax(-1) == labels
        error, found = expected_calibration_error(confidence, correct, bins)
        result[name] = {"ece": error, "confidence": confidence.mean(), "accuracy": correct.mean(), "bins": found}
    return rounded(result)


def explain_calibration(runs):
    """The [`Section`] on calibration in `runs` (`dict[str, Observations]`)."""
    numbers, text = {run: measure_calibration(observed) for run, observed in runs.items()}, []
    figure = new_figure(2.5 * len(runs) + 0.9, 3.2)
    panels = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (run, found) in zip(panels, numbers.items(), strict=True):
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.9, linestyle=":")
        for name, style in styles(found).items():
            x, y = np.array([[100 * row["confidence"], 100 * row["accuracy"]] for row in found[name]["bins"]]).T
            axes.plot(x, y, label=name, linewidth=0.8, **style)
        axes.set(title=run, xlim=(0, 103), ylim=(0, 103), aspect="equal", xlabel="confidence (%)")
        errors = ", ".join(f"{name} {100 * entry['ece']:.1f}" for name, entry in found.items())
        text.append(f"{run}: expected calibration error in points: {errors}.")
    panels[0].set_ylabel("accuracy (%)")
    add_legend(figure, panels[0])
    figures = {"calibration": tidy(figure, panels, grid="both")}
    return Section("calibration", "How far confidence can be trusted", text, figures, numbers, CALIBRATION)
