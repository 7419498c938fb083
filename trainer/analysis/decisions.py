"""How the modalities decide: where they agree, and how far their confidence can be trusted."""

import numpy as np
import pandas as pd
from scipy.special import expit, softmax

from ..metrics import calibration_error
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
    "In a multi-label problem every label of every sample counts, with the probability that it is there. Probabilities "
    "are plain: without the temperatures of the model."
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


def measure_calibration(observed):
    """Calibration of the fused prediction and of each modality in [`Observations`].

    Returns:
        `dict`: by prediction (`fused` and the modalities) its `ece`, mean `confidence` and `accuracy`, and `bins`: of
        those that hold samples `samples`, and the means `confidence` and `accuracy`.
    """
    alone = observed.modality_logits if len(observed.names) > 1 else {}
    result = {}
    for name, logits in {"fused": observed.logits, **alone}.items():
        there = np.isfinite(logits).all(-1)
        if not there.any():
            continue
        labels, decided = observed.labels[there], observed.decide(logits[there])
        if observed.multi_label:
            probabilities = expit(logits[there])
            confidence, correct = probabilities.ravel(), labels.ravel() == 1
        else:
            probabilities = softmax(logits[there], -1)
            confidence, correct = probabilities.max(-1), decided == labels
        table = pd.DataFrame({"confidence": confidence, "accuracy": correct})
        groups = table.groupby(np.minimum((confidence * BINS).astype(int), BINS - 1))
        result[name] = {
            "ece": calibration_error(probabilities, decided, labels, BINS),
            **{"confidence": confidence.mean(), "accuracy": correct.mean()},
            "bins": groups.mean().assign(samples=groups.size()).to_dict("records"),
        }
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
