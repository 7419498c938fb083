"""What each modality contributes to a prediction: exact Shapley values over all subsets of the modalities."""

import numpy as np
from scipy.special import expit, softmax

from ..objectives import shapley_values
from ..plots import MUTED, WIDTH, add_legend, new_figure, styles, tidy
from .report import Section, rounded

SHOWN_CLASSES = 12
LEFT_TO_ONE = 0.9
METHOD = (
    "Shapley (1953): a modality's share is the change that it makes when it joins the others, averaged over all orders "
    "in which they can join; here exactly, over all subsets. The shares add up to the difference between the "
    "prediction from all modalities and the baseline. The model has no answer to no modality at all, so the baseline "
    "is the share of each class in the data. Drawn are the means, over all samples and by class; the bar spans the "
    "middle 80 % of all samples."
)


def shapley_shares(values):
    """Shapley values of M modalities, see [`shapley_values`].

    Args:
        values (`np.ndarray`): `(2**M, ...)`, v of every subset; bit m of the index tells whether modality m is in it.

    Returns:
        `np.ndarray` `(M, ...)`; their sum is v(all) - v(none).
    """
    number = len(values).bit_length() - 1
    subsets = (frozenset(m for m in range(number) if place >> m & 1) for place in range(2**number))
    return np.stack(shapley_values(dict(zip(subsets, values, strict=True)), range(number)))


def coalition_values(coalitions, prior=None, multi_label=False):
    """The fused prediction's probability of every class with the modalities outside each subset absent.

    Args:
        coalitions (`np.ndarray`): `(2**M, N, K)`, see [`coalition_logits`]; NaN where the model has no answer.
        prior (`np.ndarray`, *optional*): `(K,)`, the probabilities there; those of zero logits if not given: 1 / K, or
            a half in a multi-label problem.
        multi_label (`bool`)

    Returns:
        `np.ndarray` `(2**M, N, K)`
    """
    if prior is None:
        prior = np.full(coalitions.shape[-1], 0.5 if multi_label else 1 / coalitions.shape[-1])
    probabilities = expit(coalitions) if multi_label else softmax(coalitions, axis=-1)
    return np.where(np.isnan(coalitions), prior, probabilities)


def measure_contributions(observed):
    """Contributions of the modalities to the probability of the true class.

    Args:
        observed ([`Observations`]): with coalitions.

    Returns:
        `dict`, ready for JSON: of each of `modalities` its `mean` contribution, `p10` and `p90` over the samples, and
        the share of samples to which it gives the most (`largest`); of `all` and each of `classes` the `baseline` (the
        share of the class in the data), the mean `prediction` and the mean contributions; and `per_sample` the same of
        each. Samples of a multi-label problem count the mean over their labels.

    Raises:
        ValueError: a single modality.
    """
    names = observed.names
    if len(names) < 2:
        raise ValueError("a model of one modality has no contributions to compare.")
    labels = observed.labels if observed.multi_label else np.eye(len(observed.class_names))[observed.labels]
    values = coalition_values(observed.coalitions, labels.mean(0), observed.multi_label)
    rows = dict(zip(names, shapley_shares(values), strict=True))
    rows = {"baseline": values[0], "prediction": values[-1], **rows}
    counted = np.flatnonzero(labels.any(-1))
    per_sample = {key: (row * labels).sum(-1)[counted] / labels.sum(-1)[counted] for key, row in rows.items()}
    ranked = np.stack([per_sample[name] for name in names])
    modalities = {
        name: {
            "mean": ranked[m].mean(),
            "p10": np.quantile(ranked[m], 0.1),
            "p90": np.quantile(ranked[m], 0.9),
            "largest": (ranked.argmax(0) == m).mean(),
        }
        for m, name in enumerate(names)
    }
    classes = {
        observed.class_names[k]: {"samples": int(labels[:, k].sum())}
        | {key: (row * labels)[:, k].sum() / labels[:, k].sum() for key, row in rows.items()}
        for k in np.flatnonzero(labels.any(0))
    }
    decided = observed.decide(observed.logits)
    samples = [
        {"sample": n, "label": observed.name(observed.labels[n]), "predicted": observed.name(decided[n])}
        | {key: row[place] for key, row in per_sample.items()}
        for place, n in enumerate(counted.tolist())
    ]
    everything = {"samples": len(counted)} | {key: row.mean() for key, row in per_sample.items()}
    found = {"value": "probability", "of": "the true class", "modalities": modalities, "all": everything}
    return rounded({**found, "classes": classes, "per_sample": samples})


def _draw(runs):
    """Mean contribution of each modality, over all samples and for each class, one panel a run."""
    first = next(iter(runs.values()))["classes"]
    frequent = sorted(first, key=lambda label: -first[label]["samples"])[:SHOWN_CLASSES]
    labels = [label for label in first if label in frequent]
    rows = range(len(labels) + 1)
    figure = new_figure(max(WIDTH, 2.5 * len(runs)), 1.2 + 0.24 * len(rows))
    panels = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (run, numbers) in zip(panels, runs.items(), strict=True):
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
        for m, (name, style) in enumerate(styles(numbers["modalities"]).items()):
            whole, top = numbers["modalities"][name], 0.3 * (m / (len(numbers["modalities"]) - 1) - 0.5)
            axes.plot([100 * whole["p10"], 100 * whole["p90"]], [top, top], color=style["color"])
            found = [numbers["all"], *(numbers["classes"].get(label, {}) for label in labels)]
            x = [100 * entry.get(name, np.nan) for entry in found]
            axes.plot(x, [top, *rows[1:]], linestyle="none", label=name, **style)
        axes.set_title(run, fontsize=10)
        axes.set_yticks(rows, ["all samples", *(label[:24] for label in labels)])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel("mean contribution to the true class (points of probability)", fontsize=10)
    add_legend(figure, panels[0])
    return tidy(figure, panels, grid="x")


def explain_contributions(runs):
    """The [`Section`] on contributions in `runs` (`dict[str, Observations]`)."""
    numbers, text = {run: measure_contributions(observed) for run, observed in runs.items()}, []
    for run, found in numbers.items():
        parts = ", ".join(f"{name} {100 * entry['mean']:+.1f}" for name, entry in found["modalities"].items())
        gains = [[max(entry[name], 0) for name in found["modalities"]] for entry in found["classes"].values()]
        alone = sum(max(gain) > LEFT_TO_ONE * sum(gain) for gain in gains)
        text.append(
            f"{run}: on average the true class gets {parts} points; {alone} of {len(gains)} classes are left to one "
            f"modality, which brings more than {LEFT_TO_ONE:.0%} of what all bring."
        )
    figures = {"contributions": _draw(numbers)}
    return Section("contributions", "What each modality contributes", text, figures, numbers, METHOD)
