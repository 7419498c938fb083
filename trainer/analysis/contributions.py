"""What each modality contributes to a prediction: exact Shapley values over all subsets of the modalities."""

import numpy as np
import pandas as pd
from scipy.special import expit, softmax

from ..objectives import shapley_values
from ..plots import MUTED, WIDTH, new_figure, styles, tidy
from .report import Section

SHOWN_CLASSES = 12
METHOD = (
    "Shapley (1953): a modality's share is the change that it makes when it joins the others, averaged over all orders "
    "in which they can join; here exactly, over all subsets. The shares add up to the difference between the "
    "prediction from all modalities and the baseline. The model has no answer to no modality at all, so the baseline "
    "is the share of each class in the data. Drawn are the means, over all samples and by class."
)


def coalition_values(coalitions, prior=None, multi_label=False):
    """The fused prediction's probability of every class, `(N, K)`, with the modalities outside each subset absent
    (`dict` by `frozenset`, the empty one too), for [`shapley_values`].

    Args:
        coalitions (`dict[frozenset, np.ndarray]`): `(N, K)`, see [`coalition_logits`]; NaN where there is no answer.
        prior (`np.ndarray`, *optional*): `(K,)`, the probabilities there; those of zero logits if not given.
    """
    shape = next(iter(coalitions.values())).shape
    if prior is None:
        prior = 0.5 if multi_label else 1 / shape[1]
    found = {kept: expit(logits) if multi_label else softmax(logits, axis=-1) for kept, logits in coalitions.items()}
    found = {kept: np.where(np.isnan(values), prior, values) for kept, values in found.items()}
    return {frozenset(): np.full(shape, prior), **found}


def measure_contributions(observed):
    """Contributions of the modalities to the probability of the true class, in [`Observations`] with coalitions.

    Returns:
        `dict`: of each of `modalities` its `mean` contribution, `p10` and `p90` over the samples, and the share of
        samples to which it gives the most (`largest`); of each of `classes` the number of `samples`, the `baseline`
        (the share of the class in the data), the mean `prediction` and the mean contributions; and `per_sample` the
        same of each. Samples of a multi-label problem count the mean over their labels.

    Raises:
        ValueError: a single modality.
    """
    names = observed.names
    if len(names) < 2:
        raise ValueError("a model of one modality has no contributions to compare.")
    labels = observed.labels if observed.multi_label else np.eye(len(observed.class_names))[observed.labels]
    values = coalition_values(observed.coalitions, labels.mean(0), observed.multi_label)
    rows = {"baseline": values[frozenset()], "prediction": values[frozenset(names)]}
    rows |= zip(names, shapley_values(values, names), strict=True)
    sample, true = np.nonzero(labels)
    table = pd.DataFrame({key: row[sample, true] for key, row in rows.items()})  # one row a label of a sample
    by_sample, by_class = table.groupby(sample).mean(), table.groupby(true)
    classes = by_class.mean().assign(samples=by_class.size())
    alone = by_sample[names]
    modalities = {"mean": alone.mean(), "p10": alone.quantile(0.1), "p90": alone.quantile(0.9)}
    modalities["largest"] = (alone.idxmax(axis=1).to_numpy()[:, None] == names).mean(0)
    decided = observed.decide(observed.logits)
    by_sample.insert(0, "label", [observed.name(observed.labels[n]) for n in by_sample.index])
    by_sample.insert(1, "predicted", [observed.name(decided[n]) for n in by_sample.index])
    return {
        "modalities": pd.DataFrame(modalities, names).to_dict("index"),
        "classes": classes.set_axis([observed.class_names[k] for k in classes.index]).to_dict("index"),
        "per_sample": by_sample.rename_axis("sample").reset_index().to_dict("records"),
    }


def explain_contributions(runs):
    """The [`Section`] on contributions in `runs` (`dict[str, Observations]`): means over all samples and by class."""
    numbers = {run: measure_contributions(observed) for run, observed in runs.items()}
    tables = {run: pd.DataFrame(found["classes"]).T for run, found in numbers.items()}
    first = next(iter(tables.values()))
    labels = [label for label in first.index if label in first.samples.nlargest(SHOWN_CLASSES).index]
    figure = new_figure(max(WIDTH, 2.5 * len(runs)), 1.4 + 0.24 * len(labels))
    panels = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (run, found) in zip(panels, numbers.items(), strict=True):
        for name, style in styles(found["modalities"]).items():
            shares = [found["modalities"][name]["mean"], *tables[run][name].reindex(labels)]
            axes.plot(100 * np.array(shares), ["all samples", *labels], linestyle="none", label=name, **style)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_title(run, fontsize=10)
    panels[0].invert_yaxis()
    figure.supxlabel("mean contribution to the true class (points of probability)", fontsize=10)
    figures = {"contributions": tidy(figure, panels, grid="x", legend=True)}
    return Section("What each modality contributes", figures, numbers, METHOD)
