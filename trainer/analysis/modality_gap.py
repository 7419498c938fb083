"""The modality gap: how far apart the modalities' features lie (Figure 2 of the LFM paper)."""

import copy
from itertools import combinations

import numpy as np
import torch
from transformers import set_seed

from ..fitting import unchanged_random_state
from ..plots import WIDTH, add_legend, new_figure, styles, tidy
from .report import Section, rounded

DRAWN = 400  # samples in a scatter plot
METHOD = (
    "Liang et al., NeurIPS 2022: the gap between two modalities is the distance between the means of their features, "
    "each feature scaled to length 1; it lies between 0 and 2. The length of a mean tells how much the features of a "
    "modality point into one direction (1: all alike). Points are a PCA of the features of all modalities, for each "
    "model on its own; above by modality, the large marks their centroids, and below by class (ten colours, in turn)."
)


def normalise(features):
    """Features `(N, d)` scaled to length 1; rows with NaN, where the modality is absent, are left out."""
    kept = features[np.isfinite(features).all(-1)]
    return kept / np.linalg.norm(kept, axis=-1, keepdims=True).clip(1e-12)


def centroid_distances(features):
    """Distance between the centroids of each pair of modalities.

    Args:
        features (`dict[str, np.ndarray]`): by modality `(N, d)`.

    Returns:
        `dict` from `"a - b"` to || mean(a / |a|) - mean(b / |b|) ||.

    Raises:
        ValueError: a modality that no sample has.
    """
    for name, values in features.items():
        if not np.isfinite(values).all(-1).any():
            raise ValueError(f"no sample has the modality {name!r}.")
    centres = {name: normalise(values).mean(0) for name, values in features.items()}
    return {f"{a} - {b}": float(np.linalg.norm(centres[a] - centres[b])) for a, b in combinations(centres, 2)}


def measure_gap(observed, seed=0):
    """The modality gap of one model, and the points of a scatter plot.

    Args:
        observed ([`Observations`])
        seed (`int`): of the draw of samples to be shown.

    Returns:
        `dict`, ready for JSON: `distances` by pair and their `mean`; the `lengths` of the centroids; `samples`; and of
        a PCA of all modalities' features together, scaled to length 1, the `axes` and the `points`, by modality the
        `xy` of the samples drawn, and their `classes` (None for several labels).

    Raises:
        ValueError: a single modality.
    """
    from sklearn.decomposition import PCA

    if len(observed.names) < 2:
        raise ValueError("a model of one modality has no gap between modalities.")
    distances = centroid_distances(observed.features)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(observed.labels))[:DRAWN])
    drawn = {name: drawn[observed.present(name)[drawn]] for name in observed.names}
    parts = {name: normalise(observed.features[name][rows]) for name, rows in drawn.items()}
    pca = PCA(2, svd_solver="full").fit(np.concatenate(list(parts.values())))
    points = {}
    for name, part in parts.items():
        classes = [observed.class_names[k] for k in observed.labels[drawn[name]]] if not observed.multi_label else None
        points[name] = {"xy": pca.transform(part) if len(part) else [], "classes": classes}
    return rounded(
        {
            "distances": distances,
            "mean": float(np.mean(list(distances.values()))),
            "lengths": {name: np.linalg.norm(normalise(f).mean(0)) for name, f in observed.features.items()},
            "samples": len(observed.labels),
            "axes": [f"PC {i + 1} ({100 * share:.0f} %)" for i, share in enumerate(pca.explained_variance_ratio_)],
            "points": points,
        },
        4,
    )


def _draw(states, class_names):
    """Scatter plots of the features, one column a state of the model, coloured by modality and by class."""
    classes = {name: place % 10 for place, name in enumerate(class_names)}
    figure = new_figure(max(WIDTH * 0.6, 2.3 * len(states) + 0.5), 5.6)
    grid = figure.subplots(2, len(states), squeeze=False, sharex=True, sharey=True)  # so that distances compare
    for column, (state, numbers) in zip(grid.T, states.items(), strict=True):
        for (name, part), style in zip(numbers["points"].items(), styles(numbers["points"]).values(), strict=True):
            x, y = np.array(part["xy"]).reshape(-1, 2).T
            column[0].scatter(x, y, s=7, linewidths=0, color=style["color"], marker=style["marker"], label=name)
            if len(x):  # few samples may have the modality, and none of those drawn
                column[0].plot(x.mean(), y.mean(), **{**style, "markersize": 9}, markeredgecolor="black")
            if part["classes"]:
                style = {"c": [classes[label] for label in part["classes"]], "marker": style["marker"]}
                column[1].scatter(x, y, s=8, cmap="tab10", vmin=0, vmax=9, linewidths=0, **style)
        column[0].set_title(f"{state}\ngap {numbers['mean']:.2f}", fontsize=9)
        column[1].set_xlabel(numbers["axes"][0], fontsize=8)
        for axes in column:
            axes.set_ylabel(numbers["axes"][1], fontsize=8, labelpad=1)
            axes.tick_params(labelsize=7)
            axes.set_aspect("equal")
    add_legend(figure, grid[0, 0], markerscale=2)
    return tidy(figure, grid.flat, grid="both")


def explain_gap(states):
    """The [`Section`] on the modality gap of states of a model (`dict[str, Observations]`), such as runs."""
    numbers = {state: measure_gap(observed) for state, observed in states.items()}
    text = []
    for state, found in numbers.items():
        parts = ", ".join(f"{pair} {distance:.2f}" for pair, distance in found["distances"].items())
        text.append(f"{state}: distance of the centroids: {parts}.")
    figures = {"modality_gap": _draw(numbers, next(iter(states.values())).class_names)}
    return Section("modality_gap", "The gap between the modalities' features", text, figures, numbers, METHOD)


def initial_model(config, seed, pretrained=None):
    """A model with the weights that a run started from: fresh ones of the same seed, and the pretrained towers.

    The random numbers are those of `train.py`: the same on the same release of torch, timm and transformers.

    Args:
        config ([`LfmConfig`]): of the trained model; left as it is.
        seed (`int`): of the run.
        pretrained (`dict[str, str]`, *optional*): by modality what its tower started from, a name on the Hub or, for a
            tower of transformers, a folder.

    Returns:
        `LfmForMultimodalClassification` in evaluation mode.

    Raises:
        ValueError: `pretrained` does not tell what a tower started from.
    """
    from modeling_lfm import LfmForMultimodalClassification

    config = copy.deepcopy(config)
    for name, source in (pretrained or {}).items():
        if not source:
            raise ValueError(f"the tower of {name!r} started from pretrained weights, and the run does not tell which.")
        spec = config.modalities[name]
        spec |= {"pretrained": True} if spec["tower"] == "timm" else {"pretrained": True, "name": source}
    with unchanged_random_state(torch.device("cpu")):
        set_seed(seed)
        return LfmForMultimodalClassification.from_towers(config)


def make_initial(models, records):
    """The model from which the training of all `models` (`dict` by name) started, see [`initial_model`].

    Args:
        records (`dict[str, dict]`): by name what the run remembers: the `seed` of its `training`, and `pretrained`.

    Raises:
        ValueError: they started from different weights, or a run does not tell from which.
    """
    starts = []
    for name, model in models.items():
        seed, towers = records[name].get("training", {}).get("seed"), records[name].get("pretrained", {})
        starts.append((seed, towers, model.config.modalities, model.config.hidden_size))
    if seed is None or any(start != starts[0] for start in starts):
        raise ValueError("the runs do not tell their seed, or did not start from the same weights.")
    return initial_model(model.config, seed, towers)
