"""The modality gap: how far apart the modalities' features lie (Figure 2 of the LFM paper)."""

import copy
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from transformers import set_seed

from ..plots import CLASS_COLOURS, COLOURS, INK, MARKERS, OTHER_COLOUR, WIDTH, new_figure, tidy
from ..trainer import unchanged_random_state
from .report import Picture, Section, Table, rounded, shorten

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


def draw_gap(states, class_names):
    """Scatter plots of the features, one column a state of the model, coloured by modality and by class.

    Args:
        states (`dict[str, dict]`): by state what [`measure_gap`] returns.
        class_names (`list[str]`): all, in their order.

    Returns:
        `matplotlib.figure.Figure`
    """
    first = next(iter(states.values()))["points"]
    with_classes = all(part["classes"] is not None for part in first.values())
    rows, side = 1 + with_classes, max(min(2.5, (WIDTH - 0.5) / len(states)), NARROWEST)
    figure = new_figure(max(WIDTH * 0.6, side * len(states) + 0.5), (side - 0.25) * rows + 1.3)
    grid = figure.subplots(rows, len(states), squeeze=False)
    counts = {}
    for label in (label for part in first.values() for label in part["classes"] or []):
        counts[label] = counts.get(label, 0) + 1
    frequent = sorted(counts, key=lambda label: -counts[label])[: len(CLASS_COLOURS)]
    colours = dict(zip([n for n in class_names if n in frequent], CLASS_COLOURS, strict=False))
    for column, (state, numbers) in enumerate(states.items()):
        _scatter_modalities(grid[0, column], numbers)
        grid[0, column].set_title(f"{state}\ngap {numbers['mean']:.2f}", fontsize=9)
        if with_classes:
            _scatter_classes(grid[1, column], numbers, colours)
        grid[-1, column].set_xlabel(numbers["axes"][0], fontsize=8)
        for axes in grid[:, column]:
            axes.set_ylabel(numbers["axes"][1], fontsize=8, labelpad=1)
            axes.tick_params(labelsize=7)
    is_pca = next(iter(states.values()))["projection"] == "pca"
    if is_pca:  # one scale, so that distances can be compared
        reach = 1.05 * max(abs(c) for s in states.values() for p in s["points"].values() for xy in p["xy"] for c in xy)
        for axes in grid.flat:
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    _add_legends(figure, list(first), colours, len(counts) > len(colours), is_pca)
    return tidy(figure, grid.flat, grid="both")


def _scatter_modalities(axes, numbers):
    for m, (_, part) in enumerate(numbers["points"].items()):
        x, y = np.array(part["xy"]).reshape(-1, 2).T
        style = {"color": COLOURS[m % len(COLOURS)], "marker": MARKERS[m % len(MARKERS)]}
        axes.scatter(x, y, s=7, alpha=0.7, linewidths=0, rasterized=True, **style)
        # Few samples may have the modality, and none of those drawn. UMAP's plane has no place for a centroid.
        if len(x) and numbers["projection"] == "pca":
            axes.plot(x.mean(), y.mean(), markersize=8, markeredgecolor=INK, markeredgewidth=1.2, zorder=4, **style)


def _scatter_classes(axes, numbers, colours):
    for m, part in enumerate(numbers["points"].values()):
        points = np.array(part["xy"]).reshape(-1, 2)
        shades = [colours.get(label, OTHER_COLOUR) for label in part["classes"]]
        marker = MARKERS[m % len(MARKERS)]
        axes.scatter(*points.T, s=8, c=shades, alpha=0.75, linewidths=0, rasterized=True, marker=marker)


def _add_legends(figure, names, colours, others, centroids):
    from matplotlib.lines import Line2D

    def dot(label, **style):
        return Line2D([], [], linestyle="none", markersize=5, label=label, **style)

    modalities = [
        dot(name, color=COLOURS[m % len(COLOURS)], marker=MARKERS[m % len(MARKERS)]) for m, name in enumerate(names)
    ]
    if centroids:
        modalities.append(dot("centroid", color="none", marker="o", markeredgecolor=INK))
    figure.legend(handles=modalities, loc="outside upper center", ncols=len(modalities), frameon=False, fontsize=9)
    classes = [dot(shorten(label, 24), color=colour, marker="o") for label, colour in colours.items()]
    classes += [dot("others", color=OTHER_COLOUR, marker="o")] if others else []
    if classes:
        longest = max(len(entry.get_label()) for entry in classes)
        columns = max(1, min(len(classes), int(figure.get_figwidth() / (0.065 * longest + 0.3))))
        style = {"frameon": False, "fontsize": 8, "columnspacing": 1.0, "handletextpad": 0.2}
        figure.legend(handles=classes, loc="outside lower center", ncols=columns, **style)


def tell_gap(states, before=None):
    """Sentences (`list[str]`): how far apart the modalities are, and how that changed.

    Args:
        states (`dict[str, dict]`): by state what [`measure_gap`] returns.
        before (`str`, *optional*): the state before training.
    """
    trained = {name: numbers for name, numbers in states.items() if name != before}
    text = []
    for name, numbers in trained.items():
        pairs = {pair.replace(" - ", " and "): distance for pair, distance in numbers["distances"].items()}
        parts = "; those of ".join(f"{pair} lie {distance:.2f} apart" for pair, distance in pairs.items())
        line = f"{name}: the centroids of {parts}"
        if before is not None:
            start, end = states[before]["mean"], numbers["mean"]
            word = "grew" if end > 1.05 * start else "shrank" if end < start / 1.05 else "hardly changed"
            line += f"; the gap {word} in training, from {start:.2f} to {end:.2f}"
        text.append(line + ".")
    if len(trained) > 1:
        ranked = sorted(trained, key=lambda name: trained[name]["mean"])
        alike = trained[ranked[1]]["mean"] < 1.05 * trained[ranked[0]]["mean"]
        text.append(
            f"The modalities lie closest in {ranked[0]}{f', hardly closer than in {ranked[1]}' if alike else ''}."
        )
    return text


def explain_gap(states, projection="pca", before=None):
    """The section on the modality gap.

    Args:
        states (`dict[str, Observations]`): by state of a model, such as before and after training.
        projection (`str`): see [`project`].
        before (`str`, *optional*): which of them is the one before training.

    Returns:
        [`Section`]
    """
    numbers = {state: measure_gap(observed, projection) for state, observed in states.items()}
    first = next(iter(states.values()))
    head = ["state", *next(iter(numbers.values()))["distances"], *(f"length of {name}" for name in first.names)]
    rows = [
        [state, *(f"{d:.3f}" for d in found["distances"].values()), *(f"{n:.3f}" for n in found["lengths"].values())]
        for state, found in numbers.items()
    ]
    how = "PCA" if projection == "pca" else "UMAP, which keeps neighbours and not distances,"
    caption = f"Features scaled to length 1, projected by {how} for each state on its own; coloured by modality"
    caption += ", with the centroids" if projection == "pca" else ""
    caption += "." if first.multi_label else ", and below by class, with the marks of the modalities."
    return Section(
        name="modality_gap",
        title="The gap between the modalities' features",
        text=tell_gap(numbers, before),
        pictures={"modality_gap": Picture(draw_gap(numbers, first.class_names), caption)},
        numbers=numbers,
        tables=[Table("Distance between centroids, and their lengths", head, rows)],
        method=METHOD,
    )


def initial_model(config, seed, pretrained=None):
    """A model with the weights that a run started from: fresh ones of the same seed, and the pretrained towers.

    The random numbers are those of `train.py`: the same on the same release of torch, timm and transformers.

    Args:
        config ([`LfmConfig`]): of the trained model; left as it is.
        seed (`int`): of the run.
        pretrained (`dict[str, str]`, *optional*): by modality what its tower started from: a name on the Hub or a
            folder, for timm's towers a file of weights, or nothing for those of their own name.

    Returns:
        `LfmForMultimodalClassification` in evaluation mode.

    Raises:
        ValueError: `pretrained` names a modality that is not there, or tells nothing of a tower that needs a source.
    """
    from modeling_lfm import LfmForMultimodalClassification

    config, pretrained = copy.deepcopy(config), pretrained or {}
    unknown = sorted(set(pretrained) - set(config.modalities))
    if unknown:
        raise ValueError(f"pretrained names {unknown}, but the modalities are {', '.join(config.modalities)}.")
    for name, source in pretrained.items():
        spec = config.modalities[name]
        spec["pretrained"] = True
        if spec["tower"] != "timm":
            if not source:
                raise ValueError(
                    f"the tower of {name!r} started from pretrained weights; tell which: pretrained.{name}."
                )
            spec["name"] = source
        elif source and Path(source).is_file():
            spec["checkpoint"] = source
    with unchanged_random_state(torch.device("cpu")):
        set_seed(seed)
        return LfmForMultimodalClassification.from_towers(config)
