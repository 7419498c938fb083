"""The modality gap: how far apart the modalities' features lie (Figure 2 of the LFM paper)."""

import copy
from itertools import combinations

import numpy as np
import torch
from transformers import set_seed

from ..fitting import unchanged_random_state
from ..plots import WIDTH, new_figure, styles, tidy
from .report import Section

DRAWN = 400  # samples in a scatter plot
METHOD = (
    "Liang et al., NeurIPS 2022: the gap between two modalities is the distance between the means of their features, "
    "each feature scaled to length 1; it lies between 0 and 2. The length of a mean tells how much the features of a "
    "modality point into one direction (1: all alike). Points are a PCA of the features of all modalities, for each "
    "model on its own; above by modality, and below by class (ten colours, in turn)."
)


def normalise(features):
    """Features `(N, d)` scaled to length 1; rows with NaN, where the modality is absent, are left out."""
    kept = features[np.isfinite(features).all(-1)]
    return kept / np.linalg.norm(kept, axis=-1, keepdims=True).clip(1e-12)


def centroid_distances(features):
    """|| mean(a / |a|) - mean(b / |b|) ||, the distance between the centroids of each pair of modalities (`dict` from
    `"a - b"`), of features by modality, `(N, d)`. A `ValueError` for a modality that no sample has."""
    units = {name: normalise(values) for name, values in features.items()}
    for name, found in units.items():
        if not len(found):
            raise ValueError(f"no sample has the modality {name!r}.")
    centres = {name: found.mean(0) for name, found in units.items()}
    return {f"{a} - {b}": float(np.linalg.norm(centres[a] - centres[b])) for a, b in combinations(centres, 2)}


def measure_gap(observed, seed=0):
    """The modality gap of [`Observations`], and the points of a scatter plot; `seed` is of the draw of samples shown.

    Returns:
        `dict`: `distances` by pair and their `mean`; the `lengths` of the centroids; `samples`; and of a PCA of all
        modalities' features together, scaled to length 1, the shares of variance (`axes`) and the `points`, by modality
        the `xy` of the samples drawn, and their `classes` (numbers; 0 for several labels).

    Raises:
        ValueError: a single modality.
    """
    from sklearn.decomposition import PCA

    if len(observed.names) < 2:
        raise ValueError("a model of one modality has no gap between modalities.")
    distances = centroid_distances(observed.features)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(observed.labels))[:DRAWN])
    rows = {name: drawn[observed.present(name)[drawn]] for name in observed.names}
    parts = {name: normalise(observed.features[name][rows[name]]) for name in observed.names}
    pca = PCA(2, svd_solver="full").fit(np.concatenate(list(parts.values())))
    labels = observed.labels * 0 if observed.multi_label else observed.labels
    return {
        "distances": distances,
        "mean": np.mean(list(distances.values())),
        "lengths": {name: np.linalg.norm(normalise(f).mean(0)) for name, f in observed.features.items()},
        "samples": len(observed.labels),
        "axes": pca.explained_variance_ratio_,
        "points": {
            name: {"xy": pca.transform(part) if len(part) else part[:, :2], "classes": labels[rows[name]]}
            for name, part in parts.items()
        },
    }


def explain_gap(states):
    """The [`Section`] on the modality gap of states of a model (`dict[str, Observations]`), such as runs.

    Its scatter plots are one column a state, coloured by modality and by class.
    """
    numbers = {state: measure_gap(observed) for state, observed in states.items()}
    figure = new_figure(max(WIDTH * 0.6, 2.3 * len(states) + 0.5), 5.6)
    grid = figure.subplots(2, len(states), squeeze=False, sharex=True, sharey=True)  # so that distances compare
    for (above, below), (state, found) in zip(grid.T, numbers.items(), strict=True):
        for name, style in styles(found["points"]).items():
            (x, y), classes = found["points"][name]["xy"].T, found["points"][name]["classes"]
            above.plot(x, y, label=name, linestyle="none", markeredgewidth=0, alpha=0.7, **style)
            if classes.ndim == 1:
                below.scatter(x, y, s=8, c=classes % 10, cmap="tab10", vmin=0, vmax=9, marker=style["marker"])
        above.set_title(f"{state}\ngap {found['mean']:.2f}", fontsize=9)
        for axes, part in ((above, "modality"), (below, "class")):
            axes.set(xlabel=f"PC 1 ({found['axes'][0]:.0%})", ylabel=f"PC 2 ({found['axes'][1]:.0%}), by {part}")
            axes.set_aspect("equal")
    figures = {"modality_gap": tidy(figure, grid.flat, grid="both", legend=True)}
    return Section("The gap between the modalities' features", figures, numbers, METHOD)


def make_initial(models, records):
    """The model from which the training of all `models` started: fresh weights of their seed, and pretrained towers.

    The random numbers are those of `train.py`: the same on the same release of torch, timm and transformers.

    Args:
        models (`dict[str, LfmForMultimodalClassification]`): left as they are.
        records (`dict[str, dict]`): by name what the run remembers: the `seed` of its `training`, and `pretrained`, by
            modality what its tower started from, a name on the Hub or, for a tower of transformers, a folder.

    Raises:
        ValueError: they started from different weights, or a run does not tell from which.
    """
    starts = []
    for name, model in models.items():
        seed, towers = records[name].get("training", {}).get("seed"), records[name].get("pretrained", {})
        starts.append((seed, towers, model.config.modalities, model.config.hidden_size))
    if seed is None or any(start != starts[0] for start in starts):
        raise ValueError("the runs do not tell their seed, or did not start from the same weights.")
    config = copy.deepcopy(model.config)
    for name, source in towers.items():
        if not source:
            raise ValueError(f"the tower of {name!r} started from pretrained weights, and the run does not tell which.")
        spec = config.modalities[name]
        spec |= {"pretrained": True} if spec["tower"] == "timm" else {"pretrained": True, "name": source}
    with unchanged_random_state(torch.device("cpu")):
        set_seed(seed)
        return type(model).from_towers(config)
