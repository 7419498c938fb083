"""The modality gap: how far apart the modalities' features lie (Figure 2 of the LFM paper)."""

import copy
from collections import Counter
from itertools import combinations

import numpy as np
import torch
from transformers import set_seed

from ..plots import MARKERS, MUTED, WIDTH, add_legend, new_figure, styles, tidy
from ..trainer import unchanged_random_state
from .report import Picture, Section, rounded, shorten

PROJECTIONS = ("pca", "umap")
DRAWN = 400  # samples in a scatter plot
NARROWEST = 1.4  # inches of one
METHOD = (
    "Liang et al., NeurIPS 2022: the gap between two modalities is the distance between the means of their features, "
    "each feature scaled to length 1; it lies between 0 and 2. The length of a mean tells how much the features of a "
    "modality point into one direction (1: all alike)."
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


def check_projection(name):
    """Raise a `ValueError` for an unknown projection, or for UMAP where it is not installed."""
    if name not in PROJECTIONS:
        raise ValueError(f"projection={name!r} is unknown; choose one of {', '.join(PROJECTIONS)}.")
    if name == "umap":
        try:
            import umap  # noqa: F401
        except ImportError as error:
            raise ValueError("projection 'umap' needs the package umap-learn: pip install umap-learn.") from error


def project(points, name="pca", seed=0):
    """Points to the plane.

    Args:
        points (`np.ndarray`): `(N, d)`.
        name (`str`): `"pca"`, or `"umap"` (McInnes et al. 2018; needs umap-learn).
        seed (`int`): of UMAP.

    Returns:
        `np.ndarray` `(N, 2)`, and the names of the two axes.
    """
    check_projection(name)
    if name == "umap":
        import umap

        reducer = umap.UMAP(n_components=2, n_neighbors=min(15, len(points) - 1), random_state=seed, n_jobs=1)
        return reducer.fit_transform(points), ("UMAP 1", "UMAP 2")
    from sklearn.decomposition import PCA

    reducer = PCA(2, svd_solver="full").fit(points)
    shares = reducer.explained_variance_ratio_
    return reducer.transform(points), tuple(f"PC {i + 1} ({100 * share:.0f} %)" for i, share in enumerate(shares))


def measure_gap(observed, projection="pca", seed=0):
    """The modality gap of one model, and the points of a scatter plot.

    Args:
        observed ([`Observations`])
        projection (`str`): see [`project`]; of all modalities' features together, scaled to length 1.
        seed (`int`): of the draw of samples to be shown, and of UMAP.

    Returns:
        `dict`, ready for JSON: `distances` by pair and their `mean`; the `lengths` of the centroids; `axes`; and
        `points`, by modality the `xy` of the samples drawn, and their `classes` (None for several labels).

    Raises:
        ValueError: a single modality.
    """
    if len(observed.names) < 2:
        raise ValueError("a model of one modality has no gap between modalities.")
    distances = centroid_distances(observed.features)
    lengths = {name: float(np.linalg.norm(normalise(f).mean(0))) for name, f in observed.features.items()}
    size = len(observed.labels)
    drawn = np.sort(np.random.default_rng(seed).permutation(size)[:DRAWN])
    drawn = {name: drawn[observed.present(name)[drawn]] for name in observed.names}
    parts = {name: normalise(observed.features[name][rows]) for name, rows in drawn.items()}
    xy, axes = project(np.concatenate(list(parts.values())), projection, seed)
    pieces = np.split(xy, np.cumsum([len(part) for part in parts.values()])[:-1])
    classes = {
        name: None if observed.multi_label else [observed.class_names[k] for k in observed.labels[rows]]
        for name, rows in drawn.items()
    }
    return rounded(
        {
            "distances": distances,
            "mean": float(np.mean(list(distances.values()))),
            "lengths": lengths,
            "samples": size,
            "projection": projection,
            "axes": list(axes),
            "points": {
                name: {"xy": piece, "classes": classes[name]} for name, piece in zip(parts, pieces, strict=True)
            },
        },
        4,
    )


def _draw(states, class_names):
    """Scatter plots of the features, one column a state of the model, coloured by modality and by class."""
    first = next(iter(states.values()))
    labels = [label for part in first["points"].values() for label in part["classes"] or []]
    side, is_pca = max(min(2.5, (WIDTH - 0.5) / len(states)), NARROWEST), first["projection"] == "pca"
    rows = 2 if labels else 1
    figure = new_figure(max(WIDTH * 0.6, side * len(states) + 0.5), (side - 0.3) * rows + 1.3)
    # One scale, so that distances can be compared; UMAP has none.
    grid = figure.subplots(rows, len(states), squeeze=False, sharex=is_pca, sharey=is_pca)
    for column, (state, numbers) in zip(grid.T, states.items(), strict=True):
        _scatter_modalities(column[0], numbers["points"], is_pca)
        column[0].set_title(f"{state}\ngap {numbers['mean']:.2f}", fontsize=9)
        if labels:
            _scatter_classes(column[1], numbers["points"], pick_colours(labels, class_names))
        column[-1].set_xlabel(numbers["axes"][0], fontsize=8)
        for axes in column:
            axes.set_ylabel(numbers["axes"][1], fontsize=8, labelpad=1)
            axes.tick_params(labelsize=7)
            if is_pca:
                axes.set_aspect("equal")
    add_legend(figure, grid[0, 0], markerscale=2)
    if labels:
        longest = max(len(label) for label in grid[1, 0].get_legend_handles_labels()[1])
        columns = max(1, int(figure.get_figwidth() / (0.065 * longest + 0.4)))
        add_legend(figure, grid[1, 0], "outside lower center", ncols=columns, fontsize=8, handletextpad=0.2)
    return tidy(figure, grid.flat, grid="both")


def pick_colours(labels, class_names):
    """By class its colour, of the ten most frequent ones of `labels`; of the others together grey."""
    from matplotlib import colormaps

    frequent = {label for label, _ in Counter(labels).most_common(10)}
    colours = dict(zip([name for name in class_names if name in frequent], colormaps["tab10"].colors, strict=False))
    return colours | ({None: MUTED} if set(labels) - frequent else {})


def _scatter_modalities(axes, points, centroids):
    for name, style in styles(points).items():
        x, y = np.array(points[name]["xy"]).reshape(-1, 2).T
        axes.scatter(x, y, s=7, alpha=0.7, linewidths=0, color=style["color"], marker=style["marker"], label=name)
        # Few samples may have the modality, and none of those drawn. UMAP's plane has no place for a centroid.
        if len(x) and centroids:
            axes.plot(x.mean(), y.mean(), **{**style, "markersize": 9}, markeredgecolor="black", markeredgewidth=1.2)


def _scatter_classes(axes, points, colours):
    for (name, part), marker in zip(points.items(), MARKERS * len(points), strict=False):
        xy = np.array(part["xy"]).reshape(-1, 2)
        classes = [label if label in colours else None for label in part["classes"]]
        for label, colour in colours.items():
            rows = [place for place, found in enumerate(classes) if found == label]
            text = ("others" if label is None else shorten(label, 24)) if name == next(iter(points)) else None
            axes.scatter(*xy[rows].T, s=8, color=colour, alpha=0.75, linewidths=0, marker=marker, label=text)


def explain_gap(states, projection="pca", before=None):
    """The [`Section`] on the modality gap.

    Args:
        states (`dict[str, Observations]`): by state of a model, such as before and after training.
        projection (`str`): see [`project`].
        before (`str`, *optional*): which of them is the one before training.
    """
    numbers, text = {state: measure_gap(observed, projection) for state, observed in states.items()}, []
    start = f" (before training {numbers[before]['mean']:.2f})" if before else ""
    for state, found in numbers.items():
        parts = ", ".join(f"{pair} {distance:.2f}" for pair, distance in found["distances"].items())
        text += [f"{state}: distance of the centroids: {parts}{start}."] if state != before else []
    how = "PCA" if projection == "pca" else "UMAP, which keeps neighbours and not distances,"
    caption = f"Features scaled to length 1, projected by {how} for each state on its own; above by modality, the "
    picture = Picture(
        _draw(numbers, next(iter(states.values())).class_names),
        caption + "large marks their centroids, and below by class.",
    )
    title = "The gap between the modalities' features"
    return Section("modality_gap", title, text, {"modality_gap": picture}, numbers, METHOD)


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
