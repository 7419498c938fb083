"""How the modalities decide: where they agree, and how far their confidence can be trusted."""

from itertools import combinations

import numpy as np

from ..plots import COLOURS, FUSED_COLOUR, INK, MARKERS, MUTED, ON_DARK, ON_LIGHT, WIDTH, ink, new_panels, tidy
from .report import Picture, Section, Table, listing, percent, rounded

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
    """Agreement of the predictions of the modalities, of the fused one, and of the labels.

    Args:
        observed ([`Observations`])

    Returns:
        `dict`, ready for JSON: `names` (the modalities, `fused`, `label`), and `matrix`, the shares of samples, within
        0..1, on which two agree (None where they have no sample in common).
    """
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


def _square_width(count):
    """Inches for so many square panels side by side: without much between them."""
    return min(WIDTH, 2.7 * count + 0.9)


def draw_agreement(runs):
    """Heat maps of agreement, one panel a run.

    Args:
        runs (`dict[str, dict]`): by run what [`measure_agreement`] returns.

    Returns:
        `matplotlib.figure.Figure`
    """
    figure, panels = new_panels(len(runs), 3.1, width=_square_width(len(runs)), sharey=True)
    for axes, (run, numbers) in zip(panels, runs.items(), strict=True):
        names = numbers["names"]
        matrix = np.array([[np.nan if cell is None else 100 * cell for cell in row] for row in numbers["matrix"]])
        image = axes.imshow(matrix, vmin=0, vmax=100, cmap="cividis")
        for (row, column), cell in np.ndenumerate(matrix):
            text = "" if np.isnan(cell) else f"{cell:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=ON_LIGHT if cell > 55 else ON_DARK, fontsize=9)
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set_title(run, fontsize=10)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=panels, shrink=0.8)
    bar.set_label("same prediction (% of samples)")
    bar.outline.set_visible(False)
    return ink(figure)


def tell_agreement(runs):
    """Sentences (`list[str]`): whom the fused prediction follows, and how often the modalities agree."""
    text = []
    for run, numbers in runs.items():
        names, matrix = numbers["names"], numbers["matrix"]
        modalities, fused = names[:-2], len(names) - 2
        follows = {name: matrix[m][fused] for m, name in enumerate(modalities) if matrix[m][fused] is not None}
        most, least = max(follows, key=follows.get), min(follows, key=follows.get)
        line = f"{run}: the fused prediction is {most}'s in {percent(follows[most], 0)} of the samples"
        if least != most:
            line += f" and {least}'s in {percent(follows[least], 0)}"
            pairs = [matrix[a][b] for a, b in combinations(range(len(modalities)), 2) if matrix[a][b] is not None]
            line += f"; two modalities agree in {percent(float(np.mean(pairs)), 0)}" if pairs else ""
        text.append(f"{line}. The fused one is right in {percent(matrix[-1][fused])}.")
    return text


def explain_agreement(runs):
    """The section on agreement.

    Args:
        runs (`dict[str, Observations]`): by run.

    Returns:
        [`Section`]
    """
    numbers = {run: measure_agreement(observed) for run, observed in runs.items()}
    tables = [
        Table(
            f"Agreement in {run}, % of samples",
            ["", *found["names"]],
            [
                [name, *("-" if cell is None else f"{100 * cell:.1f}" for cell in row)]
                for name, row in zip(found["names"], found["matrix"], strict=True)
            ],
        )
        for run, found in numbers.items()
    ]
    caption = "How often two predictions are the same; the last row and column are the labels, so they show accuracy."
    return Section(
        name="agreement",
        title="Who agrees with whom",
        text=tell_agreement(numbers),
        pictures={"agreement": Picture(draw_agreement(numbers), caption)},
        numbers=numbers,
        tables=tables,
        method=AGREEMENT,
    )


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
    """Calibration of the fused prediction and of each modality.

    Args:
        observed ([`Observations`]), bins (`int`)

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


def draw_calibration(runs):
    """Reliability diagrams: accuracy against confidence, one panel a run, one line a prediction.

    Args:
        runs (`dict[str, dict]`): by run what [`measure_calibration`] returns.

    Returns:
        `matplotlib.figure.Figure`
    """
    figure, panels = new_panels(len(runs), 3.2, width=_square_width(len(runs)), sharex=True, sharey=True)
    for axes, (run, numbers) in zip(panels, runs.items(), strict=True):
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.9, linestyle=":")
        place = 0
        for name, found in numbers.items():
            colour, marker = (FUSED_COLOUR, "o") if name == "fused" else (COLOURS[place % 6], MARKERS[place % 6])
            place += name != "fused"
            x, y, samples = (
                np.array([row[key] for row in found["bins"]]) for key in ("confidence", "accuracy", "samples")
            )
            axes.plot(100 * x, 100 * y, color=colour, linewidth=0.8, alpha=0.6)
            size = 5 + 110 * samples / samples.sum()
            axes.scatter(100 * x, 100 * y, s=size, color=colour, marker=marker, linewidths=0)
            axes.plot([], [], color=colour, marker=marker, markersize=5, linewidth=0.8, label=name)
        errors = ", ".join(f"{name} {100 * found['ece']:.1f}" for name, found in numbers.items())
        axes.set_title(f"{run}\n", fontsize=10)
        axes.annotate(f"ECE: {errors}", (0.5, 1), (0, 5), "axes fraction", "offset points", ha="center", fontsize=7.5)
        axes.set(xlim=(0, 103), ylim=(0, 103), aspect="equal")
    figure.supylabel("accuracy (%)", fontsize=10, color=INK)
    figure.supxlabel("confidence: probability of the predicted class (%)", fontsize=10, color=INK)
    handles, names = max((axes.get_legend_handles_labels() for axes in panels), key=lambda pair: len(pair[1]))
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return tidy(figure, panels, grid="both")


def tell_calibration(runs):
    """Sentences (`list[str]`): how large the errors are, and whether too much or too little is promised."""
    text = []
    for run, numbers in runs.items():
        parts = []
        for name, found in numbers.items():
            excess = found["confidence"] - found["accuracy"]
            how = "too sure" if excess > 0.01 else "not sure enough" if excess < -0.01 else "about right on average"
            parts.append(f"{name} {100 * found['ece']:.1f} ({how})")
        text.append(f"{run}: expected calibration error in points: {listing(parts)}.")
    return text


def explain_calibration(runs):
    """The section on calibration.

    Args:
        runs (`dict[str, Observations]`): by run.

    Returns:
        [`Section`]
    """
    numbers = {run: measure_calibration(observed) for run, observed in runs.items()}
    rows = [
        [f"{run}, {name}", f"{100 * found['ece']:.2f}", percent(found["confidence"]), percent(found["accuracy"])]
        for run, heads in numbers.items()
        for name, found in heads.items()
    ]
    caption = (
        "Reliability: accuracy against confidence. On the dotted line a prediction is right as often as it promises; "
        "below it, less often. The larger a mark, the more samples."
    )
    return Section(
        name="calibration",
        title="How far confidence can be trusted",
        text=tell_calibration(numbers),
        pictures={"calibration": Picture(draw_calibration(numbers), caption)},
        numbers=numbers,
        tables=[Table("Calibration", ["run, prediction", "ECE (points)", "mean confidence", "accuracy"], rows)],
        method=CALIBRATION,
    )
