"""What each modality contributes to a prediction: exact Shapley values over all subsets of the modalities."""

from itertools import combinations
from math import factorial

import numpy as np
from scipy.special import expit, softmax

from ..plots import COLOURS, INK, MARKERS, MUTED, new_panels, tidy
from .report import Picture, Section, Table, listing, percent, points, rounded, shorten

VALUES = ("probability", "logit")
SHOWN_CLASSES = 12
LEFT_TO_ONE = 0.9
CLEAR_LEAD = 0.05  # of a share, to be worth a word
METHOD = (
    "Shapley (1953): a modality's share is the change that it makes when it joins the others, averaged over all orders "
    "in which they can join; here exactly, over all subsets. The shares add up to the difference between the "
    "prediction from all modalities and the baseline. The model has no answer to no modality at all, so the baseline "
    "is the share of each class in the data."
)


def shapley_values(values):
    """Exact Shapley values of a game of M players.

    phi_m = sum over the subsets S without m of |S|! (M - |S| - 1)! / M! (v(S + m) - v(S)).

    Args:
        values (`np.ndarray`): `(2**M, ...)`, v of every subset; bit m of the index tells whether player m is in it.

    Returns:
        `np.ndarray` `(M, ...)`; their sum is v(all) - v(none).

    Raises:
        ValueError: the number of subsets is no power of two.
    """
    values = np.asarray(values, dtype=float)
    players = int(values.shape[0]).bit_length() - 1
    if values.shape[0] != 2**players:
        raise ValueError(f"{values.shape[0]} values are not those of all subsets: their number is a power of two.")
    shares = np.zeros((players, *values.shape[1:]))
    for m in range(players):
        others = [player for player in range(players) if player != m]
        for size in range(players):
            weight = factorial(size) * factorial(players - size - 1) / factorial(players)
            for members in combinations(others, size):
                subset = sum(1 << player for player in members)
                shares[m] += weight * (values[subset | 1 << m] - values[subset])
    return shares


def coalition_values(coalitions, value="probability", prior=None, multi_label=False):
    """The value function v(S) of every subset S of the modalities, for every class.

    `"probability"`: the fused prediction's probability with the modalities outside S absent. v of nothing, to which the
    model has no answer, is `prior`; without one that of zero logits: 1 / K, or a half in a multi-label problem.
    `"logit"`: the fused logit; v of nothing is 0. A fusion that adds up the modalities' logits then gives each
    modality its own logit.

    Args:
        coalitions (`np.ndarray`): `(2**M, N, K)`, see [`coalition_logits`]; NaN where the model has no answer.
        value (`str`): `"probability"` or `"logit"`.
        prior (`np.ndarray`, *optional*): `(K,)`, probabilities of the classes for who knows nothing.
        multi_label (`bool`)

    Returns:
        `np.ndarray` `(2**M, N, K)`

    Raises:
        ValueError: an unknown value, or a prior that does not fit.
    """
    if value not in VALUES:
        raise ValueError(f"value={value!r} is unknown; choose one of {', '.join(VALUES)}.")
    number = coalitions.shape[-1]
    if prior is not None:
        prior = np.asarray(prior, dtype=float)
        if value == "logit":
            raise ValueError("a prior belongs to value='probability'; the logit of nothing is 0.")
        wrong_sum = not multi_label and abs(prior.sum() - 1) > 1e-6
        if prior.shape != (number,) or (prior < 0).any() or (prior > 1).any() or wrong_sum:
            raise ValueError(f"prior must be {number} probabilities of the classes, got {prior}.")
    if value == "logit":
        return np.where(np.isnan(coalitions), 0.0, coalitions)
    if prior is None:
        prior = np.full(number, 0.5 if multi_label else 1 / number)
    probabilities = expit(coalitions) if multi_label else softmax(coalitions, axis=-1)
    return np.where(np.isnan(coalitions), prior, probabilities)


def class_shares(observed):
    """Share of the samples that have each class, `(K,)`."""
    if observed.multi_label:
        return observed.labels.mean(0)
    return np.bincount(observed.labels, minlength=observed.logits.shape[-1]) / len(observed.labels)


def measure_contributions(observed, value="probability", prior=None):
    """Contributions of the modalities to the probability (or logit) of the true class.

    Args:
        observed ([`Observations`]): with coalitions.
        value (`str`), prior (`np.ndarray`, *optional*): see [`coalition_values`]; the shares of the classes in the data
            if not given.

    Returns:
        `dict`, ready for JSON: of each of `modalities` its `mean` contribution, `p10` and `p90` over the samples, and
        the share of samples to which it gives the most (`largest`); of `all` and each of `classes` the `baseline`, the
        mean `prediction` and the mean contributions; and `per_sample` the same of each. Samples of a multi-label
        problem count the mean over their labels.

    Raises:
        ValueError: a single modality.
    """
    names = observed.names
    if len(names) < 2:
        raise ValueError("a model of one modality has no contributions to compare.")
    if prior is None and value == "probability":
        prior = class_shares(observed)
    values = coalition_values(observed.coalitions, value, prior, observed.multi_label)
    shares = shapley_values(values)
    kinds = len(observed.class_names)
    weights = observed.labels if observed.multi_label else np.eye(kinds)[observed.labels]
    weights = weights.astype(float)
    rows = {"baseline": values[0], "prediction": values[-1], **dict(zip(names, shares, strict=True))}
    counted = weights.sum(-1) > 0
    with np.errstate(invalid="ignore"):
        per_sample = {key: (row * weights).sum(-1) / weights.sum(-1) for key, row in rows.items()}
    classes = {
        label: {"samples": int(weights[:, k].sum())}
        | {key: float((row[:, k] * weights[:, k]).sum() / weights[:, k].sum()) for key, row in rows.items()}
        for k, label in enumerate(observed.class_names)
        if weights[:, k].any()
    }
    ranked = np.stack([per_sample[name][counted] for name in names])
    decided = observed.decide(observed.logits)
    modalities = {
        name: {
            "mean": ranked[m].mean(),
            "p10": np.quantile(ranked[m], 0.1),
            "p90": np.quantile(ranked[m], 0.9),
            "largest": (ranked.argmax(0) == m).mean(),
        }
        for m, name in enumerate(names)
    }
    everything = {"samples": int(counted.sum())} | {key: row[counted].mean() for key, row in per_sample.items()}
    return rounded(
        {
            "value": value,
            "of": "the true class",
            "modalities": modalities,
            "all": everything,
            "classes": classes,
            "per_sample": [
                {"sample": n, "label": _name(observed, observed.labels[n]), "predicted": _name(observed, decided[n])}
                | {key: row[n] for key, row in per_sample.items()}
                for n in np.flatnonzero(counted).tolist()
            ],
        }
    )


def _name(observed, label):
    """The name of a class, or the names of a sample's labels (`list[str]`)."""
    if observed.multi_label:
        return [observed.class_names[k] for k in np.flatnonzero(label)]
    return observed.class_names[int(label)]


def draw_contributions(runs):
    """Mean contribution of each modality, over all samples and for each class, one panel a run.

    Args:
        runs (`dict[str, dict]`): by run what [`measure_contributions`] returns.

    Returns:
        `matplotlib.figure.Figure`
    """
    first = next(iter(runs.values()))
    frequent = sorted(first["classes"], key=lambda label: -first["classes"][label]["samples"])[:SHOWN_CLASSES]
    labels = [label for label in first["classes"] if label in frequent]
    rows = ["all", *labels]
    figure, panels = new_panels(len(runs), 1.1 + 0.24 * len(rows), sharex=True, sharey=True)
    scale = 100 if first["value"] == "probability" else 1
    for axes, (run, numbers) in zip(panels, runs.items(), strict=True):
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
        for m, (name, whole) in enumerate(numbers["modalities"].items()):
            found = [numbers["all"], *(numbers["classes"].get(label, {}) for label in labels)]
            x = [scale * entry.get(name, np.nan) for entry in found]
            style = {"color": COLOURS[m % len(COLOURS)], "marker": MARKERS[m % len(MARKERS)], "linestyle": "none"}
            y = 0.3 * (m / (len(numbers["modalities"]) - 1) - 0.5)  # the first row's bars side by side
            axes.plot([scale * whole["p10"], scale * whole["p90"]], [y, y], color=style["color"], linewidth=1.5)
            axes.plot(
                x,
                [y, *range(1, len(rows))],
                markersize=6,
                markeredgecolor=INK,
                markeredgewidth=0.4,
                label=name,
                **style,
            )
        axes.set_title(run, fontsize=10)
        axes.set_yticks(range(len(rows)), ["all samples", *(shorten(label, 24) for label in labels)])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    unit = "points of probability" if scale == 100 else "logit"
    figure.supxlabel(f"mean contribution to the true class ({unit})", fontsize=10, color=INK)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return tidy(figure, panels, grid="x")


def draw_spread(runs):
    """How the contributions to single samples are spread, as histograms; one panel a run.

    Args:
        runs (`dict[str, dict]`): as for [`draw_contributions`].

    Returns:
        `matplotlib.figure.Figure`
    """
    figure, panels = new_panels(len(runs), 2.8, sharex=True, sharey=True)
    scale = 100 if next(iter(runs.values()))["value"] == "probability" else 1
    values = {
        run: {name: [scale * row[name] for row in numbers["per_sample"]] for name in numbers["modalities"]}
        for run, numbers in runs.items()
    }
    everything = np.concatenate([row for found in values.values() for row in found.values()])
    edges = np.linspace(min(everything.min(), 0), max(everything.max(), 0) + 1e-9, 31)
    for axes, (run, found) in zip(panels, values.items(), strict=True):
        for m, (name, row) in enumerate(found.items()):
            style = {"color": COLOURS[m % len(COLOURS)], "linestyle": ("-", "--", "-.", ":")[m % 4]}
            counts = 100 * np.histogram(row, edges)[0] / len(row)
            axes.stairs(counts, edges, label=name, linewidth=1.8, **style)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_title(run, fontsize=10)
    figure.supylabel("samples (%)", fontsize=10, color=INK)
    unit = "points of probability" if scale == 100 else "logit"
    figure.supxlabel(f"contribution to the true class of a sample ({unit})", fontsize=10, color=INK)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return tidy(figure, panels)


def tell_contributions(runs):
    """Sentences (`list[str]`) on what contributes most, and in which run the modalities share the work most evenly."""
    text, weakest = [], {}
    for run, numbers in runs.items():
        found = {name: entry["mean"] for name, entry in numbers["modalities"].items()}
        scale, unit = (100, " points") if numbers["value"] == "probability" else (1, "")
        strong = max(found, key=found.get)
        parts = listing(f"{name} {points(mean * scale / 100)}" for name, mean in found.items())
        text.append(
            f"{run}: on average the true class gets {parts}{unit} from the modalities; {strong} gives the most for "
            f"{percent(numbers['modalities'][strong]['largest'], 0)} of the samples."
        )
        total = sum(max(mean, 0) for mean in found.values())
        weakest[run] = max(min(found.values()), 0) / total if total else 0.0
        alone = [label for label, entry in numbers["classes"].items() if _is_left_to_one(entry, found)]
        text.append(
            f"{run}: {len(alone)} of {len(numbers['classes'])} classes are left to one modality, which brings more "
            f"than {percent(LEFT_TO_ONE, 0)} of what all bring."
        )
    if len(runs) > 1:
        shares = {run: percent(share, 0) for run, share in weakest.items()}
        parts = listing(f"{share} in {run}" for run, share in shares.items())
        ranked = sorted(weakest, key=weakest.get, reverse=True)
        lead = weakest[ranked[0]] - weakest[ranked[1]]
        end = f"; the work is most even in {ranked[0]}" if lead >= CLEAR_LEAD else ""
        text.append(f"The weakest modality brings {parts} of what all bring{end}.")
    return text


def _is_left_to_one(entry, names):
    """Whether one modality brings nearly all that the modalities bring to a class."""
    gains = [max(entry[name], 0) for name in names]
    return max(gains) > LEFT_TO_ONE * sum(gains)


def explain_contributions(runs):
    """The section on contributions.

    Args:
        runs (`dict[str, Observations]`): by run.

    Returns:
        [`Section`]
    """
    numbers = {run: measure_contributions(observed) for run, observed in runs.items()}
    names = list(next(iter(runs.values())).names)
    head = ["run, class", "samples", "baseline", *names, "prediction"]
    rows = [
        [f"{run}, {label}", str(entry["samples"]), percent(entry["baseline"])]
        + [points(entry[name]) for name in names]
        + [percent(entry["prediction"])]
        for run, found in numbers.items()
        for label, entry in {"all": found["all"], **found["classes"]}.items()
    ]
    mean = "Mean contribution of each modality to the probability of the true class, over all samples and by class."
    return Section(
        name="contributions",
        title="What each modality contributes",
        text=tell_contributions(numbers),
        pictures={
            "contributions": Picture(
                draw_contributions(numbers), mean + " The bar spans the middle 80 % of all samples."
            ),
            "contributions_samples": Picture(
                draw_spread(numbers), "The same for single samples: how many get how much from each modality."
            ),
        },
        numbers=numbers,
        tables=[Table("Mean contributions, in points of the true class's probability", head, rows)],
        method=METHOD,
    )
