"""Where the model looks: Grad-CAM and attention rollout of chosen samples, side by side for several checkpoints."""

from dataclasses import dataclass

import numpy as np
import torch

from modeling_lfm.frontend_lfm import LogSpectrogram

from ..collator import LfmDataCollator
from ..holdout import read_labels
from ..plots import COLOURS, WIDTH, add_legend, new_figure, tidy
from .report import Picture, Section, percent, rounded, shorten
from .saliency import GRAD_CAM, attention_rollout, choose_map, enlarge, grad_cam, require_captum, select_logits

GAP = 1 / 32  # white between the frames of a clip, a pixel at least, in widths of a frame
NUM_SAMPLES, NUM_TOKENS = 4, 24  # that are shown
METHOD = (
    "Grad-CAM (Selvaraju et al., ICCV 2017; computed by captum) on the last convolutional stage, or where that has "
    "less than 4 x 4 numbers of the input left, on the last that has more: bright where the input speaks for the class "
    "that is decided, each map scaled by its own largest value. Of transformers, attention rollout (Abnar & Zuidema, "
    "ACL 2020): the share of each patch or token in the tower's vector, whatever is decided. A fusion that adds up the "
    "modalities' logits, such as concat and sum, has the same Grad-CAM for the same class, fused and alone."
)


def plan_maps(model, layers=None):
    """Which map each modality gets, and why another has none.

    Args:
        model ([`LfmForMultimodalClassification`])
        layers (`dict[str, str]`, *optional*): by modality the layer that Grad-CAM weighs, see `find_layer`.

    Returns:
        `dict` from a modality to `"grad_cam"` or `"rollout"`, and a `dict` from the others to a reason (`str`).

    Raises:
        ValueError: `layers` names a modality or a layer that is not there, or captum is not installed.
    """
    towers, layers = model.lfm.towers, layers or {}
    unknown = sorted(set(layers) - set(towers))
    if unknown:
        raise ValueError(f"layers names {unknown}, but the modalities are {', '.join(towers)}.")
    found = {}
    for name, tower in towers.items():
        try:
            found[name] = choose_map(tower, layers.get(name))
        except ValueError as error:
            raise ValueError(f"layers.{name}: {error}") from error
    if GRAD_CAM in found.values():
        require_captum()
    reason = "its tower has neither a convolutional stage nor attention over the whole input"
    return {n: k for n, k in found.items() if k}, {n: reason for n, k in found.items() if not k}


def measure_maps(model, inputs, modality, kind, layer=None):
    """Maps and decisions of one model for some samples.

    Args:
        model ([`LfmForMultimodalClassification`]): in evaluation mode.
        inputs (`dict`): those of its `forward` for B samples that have the modality.
        modality (`str`), kind (`str`): see [`plan_maps`].
        layer (`str`, *optional*): see `find_layer`.

    Returns:
        `dict` from `"fused"` and, with Grad-CAM, `"alone"` to the `class` (`int`) and `probability` decided of each
        sample, the `map` (`np.ndarray` of one) and its `focus`, see [`focus`]. A rollout belongs to no decision and
        stands under `"fused"`; `"alone"` then has no map.
    """
    with torch.no_grad():
        output = model(**inputs)
    names = model.config.modality_names
    result = {}
    for key, decision in (("fused", "fused"), ("alone", modality)):
        logits = select_logits(output, names, decision).double()
        probabilities = logits.sigmoid() if model.config.is_multi_label else logits.softmax(-1)
        best = probabilities.max(-1)
        result[key] = {"class": best.indices.tolist(), "probability": best.values.tolist()}
        if kind == GRAD_CAM:
            maps = grad_cam(model, inputs, modality, decision, best.indices, layer)
        elif key == "fused":
            maps = attention_rollout(model, inputs, modality)
        else:
            continue
        maps = maps.cpu().double().numpy()
        result[key] |= {"map": list(maps), "focus": [focus(part) for part in maps]}
    return result


def focus(values):
    """The smallest share of a map that holds half of its sum (`float`, within 0..1); None for a map of zeros.

    An even map has 0.5; the smaller, the more it is concentrated.
    """
    flat = np.sort(np.ravel(values))[::-1]
    if flat.sum() <= 0:
        return None
    return float((np.searchsorted(np.cumsum(flat) / flat.sum(), 0.5 - 1e-9) + 1) / len(flat))


def likeness(a, b):
    """Cosine between two maps (`float`; 1 for the same up to scale), or None if one is all zero."""
    a, b = np.ravel(a), np.ravel(b)
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norm) if norm > 0 else None


def gather_maps(models, inputs, labels, modality, kind, layer=None):
    """Numbers of the maps of one modality.

    Args:
        models (`dict[str, LfmForMultimodalClassification]`): by run.
        inputs, modality, kind, layer: as in [`measure_maps`].
        labels (`list[list[str]]`): what is true of the samples, of each one class or several.

    Returns:
        `dict`, ready for JSON: `kind`, `labels`, and by run in `runs` what [`measure_maps`] found, with the names of
        classes, whether they are `right` and, with Grad-CAM, the `likeness` of the fused and the single map of each
        sample.
    """
    runs = {}
    for run, model in models.items():
        found = measure_maps(model, inputs, modality, kind, layer)
        for part in found.values():
            part["class"] = [model.config.id2label[number] for number in part["class"]]
            part["right"] = [name in truth for name, truth in zip(part["class"], labels, strict=True)]
        if kind == GRAD_CAM:
            pairs = zip(found["fused"]["map"], found["alone"]["map"], strict=True)
            found["likeness"] = [likeness(a, b) for a, b in pairs]
        runs[run] = found
    return {"kind": kind, "labels": [", ".join(truth) or "none" for truth in labels], "runs": runs}


def draw_maps(numbers, views):
    """What the model is given of each sample, and beside it for each run the maps over it, with the decision above.

    Args:
        numbers (`dict`): what [`gather_maps`] returns, of pictures, frames or spectrograms.
        views (`list[View]`): of the samples.
    """
    shown = [(run, key, found[key]) for run, found in numbers["runs"].items() for key in ("fused", "alone")]
    shown = [(run, key, found) for run, key, found in shown if "map" in found]
    height, width = views[0].pixels.shape[:2]
    wide = width > 2 * height and views[0].extent is None  # frames side by side
    side = 2.4 if wide else min(max(WIDTH / (len(shown) + 1), 1.1), 1.8)
    letters = int(13 * side) - 8  # in a line above a map
    ratio = 0.75 if views[0].extent else min(height / width, 1.2)
    figure = new_figure(side * (len(shown) + 1) + 0.4, (side * ratio + 0.35) * len(views) + 0.7)
    grid = figure.subplots(len(views), len(shown) + 1, squeeze=False)
    for n, (row, view) in enumerate(zip(grid, views, strict=True)):
        draw_view(row[0], view)
        row[0].set_title(f"label: {shorten(numbers['labels'][n], letters)}", fontsize=8)
        for axes, (run, key, found) in zip(row[1:], shown, strict=True):
            draw_view(axes, view, found["map"][n])
            mark = "\N{CHECK MARK}" if found["right"][n] else "\N{BALLOT X}"
            said = f"{mark} {shorten(found['class'][n], letters)} ({percent(found['probability'][n])})"
            head = f"{shorten(run, letters + 8)}\n{key}\n" if n == 0 else ""
            axes.set_title(head + said, fontsize=8)
    if views[0].labels is not None:
        figure.supxlabel(views[0].labels[0], fontsize=9)
        figure.supylabel(views[0].labels[1], fontsize=9)
    return figure


def draw_view(axes, view, values=None):
    """Draw a [`View`] on axes of matplotlib, and over its grey a map of one sample (`np.ndarray`, *optional*)."""
    style = {"extent": view.extent, "origin": "lower" if view.extent else "upper", "vmin": 0, "vmax": 1}
    style |= {"aspect": "auto" if view.extent else "equal", "interpolation": "nearest"}
    axes.imshow(view.pixels if values is None else view.grey, cmap="gray", **style)
    if values is not None:
        lit = enlarge(torch.as_tensor(values)[None], view.pixels.shape[:2] if values.ndim == 2 else view.frame)[
            0
        ].numpy()
        lit = lit if lit.ndim == 2 else join_frames(lit, 0.0)
        axes.imshow(lit, cmap="inferno", alpha=0.7 * lit**0.5, **style)
        if not lit.any():
            axes.set_xlabel("nothing speaks for it", fontsize=7)
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=7, length=2)
    if view.extent is None:
        axes.set(xticks=[], yticks=[])


def draw_tokens(numbers, tokens):
    """Bars of the tokens with the largest shares of each text, in its order; a panel a sample.

    Args:
        numbers (`dict`): what [`gather_maps`] returns, of text.
        tokens (`list[list[str | None]]`): of the samples; None for what is no word.
    """
    figure, width = new_figure(height=1.8 * len(tokens) + 0.4), 0.8 / len(numbers["runs"])
    panels = figure.subplots(len(tokens), 1, squeeze=False)[:, 0]
    for n, (axes, words) in enumerate(zip(panels, tokens, strict=True)):
        shares = np.array([found["fused"]["map"][n][: len(words)] for found in numbers["runs"].values()])
        places = [place for place, word in enumerate(words) if word is not None]
        places = sorted(sorted(places, key=lambda place: -shares[:, place].max())[:NUM_TOKENS])
        for i, (run, share) in enumerate(zip(numbers["runs"], shares[:, places], strict=True)):
            x = np.arange(len(places)) + (i - (len(shares) - 1) / 2) * width
            axes.bar(x, 100 * share, width, color=COLOURS[i % len(COLOURS)], label=run)
        axes.set_xticks(range(len(places)), [words[place] for place in places], rotation=45, ha="right", fontsize=8)
        decided = (f"{run}: {found['fused']['class'][n]}" for run, found in numbers["runs"].items())
        axes.set_title(shorten(f"label: {numbers['labels'][n]}   {'   '.join(decided)}", 110), fontsize=8)
        axes.set_ylabel("share (%)", fontsize=8)
    add_legend(figure, panels[0])
    return tidy(figure, panels)


def tell_maps(modality, numbers):
    """Sentences (`list[str]`): how concentrated the maps are, and how alike those of both decisions."""
    text = []
    for run, found in numbers["runs"].items():
        focused = [value for value in found["fused"]["focus"] if value is not None]
        half = percent(float(np.mean(focused))) if focused else "nothing"
        alike = [value for value in found.get("likeness", []) if value is not None]
        cosine = f"; mean cosine of fused and single maps {np.mean(alike):.2f}" if alike else ""
        text.append(f"{modality}, {run}: half of the map lies on {half} of the input{cosine}.")
    return text


def read_samples(dataset, processor, config, wanted=()):
    """Samples to be shown, see [`choose_samples`].

    Returns:
        their inputs (`dict` of tensors), what is true of them (`list[list[str]]`), and their numbers (`list[int]`).
    """
    numbers = choose_samples(read_labels(dataset), wanted)
    batch = LfmDataCollator(processor)([dataset[number] for number in numbers])
    labels = batch.pop("labels")
    classes = [row.nonzero().flatten().tolist() if labels.dim() > 1 else [row.item()] for row in labels]
    return batch, [[config.id2label[k] for k in row] for row in classes], numbers


def explain_maps(models, dataset, processor, layers=None, samples=()):
    """The section on where the model looks.

    Args:
        models (`dict[str, LfmForMultimodalClassification]`): by run, with the same modalities and towers.
        dataset (`datasets.Dataset`): prepared samples with `labels`.
        processor ([`LfmProcessor`]), layers (`dict[str, str]`, *optional*): see [`plan_maps`].
        samples (`Sequence[int]`): those that are shown, see [`choose_samples`].

    Returns:
        [`Section`]; a modality whose tower turns out to have no map, or that the samples lack, is told in its text.

    Raises:
        ValueError: no tower has a map, or the layer that was asked for gives none; a sample that does not exist.
    """
    first, layers = next(iter(models.values())), layers or {}
    kinds, reasons = plan_maps(first, layers)
    batch, labels, samples = read_samples(dataset, processor, first.config, samples)
    text, pictures, numbers = [], {}, {}
    for name, kind in kinds.items():
        there = batch.get(f"{name}_present")
        rows = list(range(len(labels))) if there is None else there.nonzero().flatten().tolist()
        if not rows:
            reasons[name] = "the samples lack it"
            continue
        inputs = {key: value[rows] for key, value in batch.items()}
        try:
            found = gather_maps(models, inputs, [labels[row] for row in rows], name, kind, layers.get(name))
        except ValueError as error:  # what only shows in running the tower
            if name in layers:
                raise
            reasons[name] = str(error).rstrip(".")
            continue
        found["samples"] = [samples[row] for row in rows]
        pictures[f"maps_{name}"] = _illustrate(name, found, inputs, processor)
        text += tell_maps(name, found)
        numbers[name] = rounded(found, 5)
    text += [f"{name} has no map: {why}." for name, why in reasons.items()]
    return Section("maps", "Where the model looks", text, pictures, numbers, METHOD)


def _illustrate(name, numbers, inputs, processor):
    """The [`Picture`] of one modality."""
    if f"{name}_input_ids" in inputs:
        ids, mask = inputs[f"{name}_input_ids"], inputs.get(f"{name}_attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask
        tokens = [read_tokens(processor.tokenizer, row[:n].tolist()) for row, n in zip(ids, mask.sum(-1), strict=True)]
        caption = (
            f"{name}: the share of each word in the vector of the text (attention rollout), of the largest shares."
        )
        return Picture(draw_tokens(numbers, tokens), caption)
    views = [view_input(processor.kinds[name], values) for values in inputs[f"{name}_values"]]
    if numbers["kind"] == GRAD_CAM:
        caption = f"{name}: what speaks for the class that the fused model, and this modality alone, decide (Grad-CAM)."
    else:
        caption = f"{name}: the share of each patch in the vector of the picture (attention rollout)."
    return Picture(draw_maps(numbers, views), caption)


def read_tokens(tokenizer, ids):
    """The tokens (`list[str]`) of `ids` (`list[int]`) as they are read, without a tokenizer's signs for spaces; None
    for those that are no words."""
    special = set(tokenizer.all_special_ids)
    plain = tokenizer.convert_ids_to_tokens(ids)
    read = [tokenizer.decode([number]).strip() or token for number, token in zip(ids, plain, strict=True)]
    return [None if number in special else token for number, token in zip(ids, read, strict=True)]


def choose_samples(labels, wanted=(), count=NUM_SAMPLES):
    """Samples to be shown: `wanted` (`list[int]`), or the first of each of `count` classes spread over all.

    Args:
        labels (`np.ndarray`): `(N,)`, or `(N, K)` of a multi-label problem.

    Raises:
        ValueError: a number that no sample has.
    """
    beyond = [number for number in wanted if number >= len(labels)]
    if beyond:
        raise ValueError(f"samples {beyond} do not exist: there are {len(labels)}, counted from 0 (see max_samples).")
    if len(wanted):
        return list(wanted)
    if labels.ndim > 1:
        return list(range(min(count, len(labels))))
    _, first = np.unique(labels, return_index=True)
    chosen = first[np.unique(np.linspace(0, len(first) - 1, count).round().astype(int))].tolist()
    others = [number for number in range(len(labels)) if number not in chosen]
    return chosen + others[: max(count - len(chosen), 0)]


@dataclass
class View:
    """One sample of a modality as a picture.

    Args:
        pixels (`np.ndarray`): `(H, W)` or `(H, W, 3)`, within 0..1; the frames of a clip side by side.
        extent (`tuple`, *optional*): left, right, bottom and top of the axes; none for pictures.
        labels (`tuple[str, str]`, *optional*): of the x and the y axis.
        frame (`tuple[int, int]`, *optional*): height and width of one frame of a clip.
    """

    pixels: np.ndarray
    extent: tuple | None = None
    labels: tuple | None = None
    frame: tuple | None = None

    @property
    def grey(self):
        """The same without colour, `(H, W)`, over which a map is laid."""
        return self.pixels if self.pixels.ndim == 2 else self.pixels @ np.array([0.299, 0.587, 0.114])


def view_input(kind, values):
    """What the model reads of one sample, as a picture.

    Args:
        kind: the processor's type of the modality (`processor.kinds[name]`): spectrogram, image, video or flow.
        values (`torch.Tensor`): as the model gets them, `(C, H, W)`, frames `(T, C, H, W)`, or the waveform
            `(samples,)` of a model that computes spectrograms itself.

    Returns:
        [`View`]
    """
    values = values.detach().cpu().float()
    if getattr(kind, "frontend", None) is not None:
        values = LogSpectrogram(kind.frontend)(values[None])[0]
    values = values.numpy()
    if hasattr(kind, "hop_length"):
        return View(_stretch(values[0]), spectrogram_extent(kind, values.shape[-1]), ("time (s)", "frequency (kHz)"))
    frames = values if values.ndim == 4 else values[None]
    if hasattr(kind, "bound"):  # flow: how far things move
        return View(join_frames(_stretch(np.linalg.norm(frames, axis=1))), frame=frames.shape[-2:])
    mean, std = (np.reshape(part, (1, -1, 1, 1)) for part in (kind.mean, kind.std))
    pixels = (frames * std + mean).clip(0, 1).transpose(0, 2, 3, 1)
    return View(join_frames(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), frame=frames.shape[-2:])


def spectrogram_extent(kind, frames):
    """Seconds and kilohertz at the edges of a spectrogram (left, right, bottom, top), a pixel around each centre.

    Args:
        kind ([`Spectrogram`]), frames (`int`)
    """
    first = 0 if kind.center else kind.n_fft / 2
    step, width = kind.hop_length / kind.sampling_rate, kind.sampling_rate / kind.n_fft
    left = first / kind.sampling_rate - step / 2
    bins = kind.n_fft // 2 + 1
    return left, left + frames * step, -width / 2000, (bins - 0.5) * width / 1000


def join_frames(frames, between=1.0):
    """Frames `(T, H, W)` or `(T, H, W, 3)` side by side, and columns of the value `between` (`float`) between them."""
    parts = []
    for number, frame in enumerate(frames):
        if number:
            gap = max(round(GAP * frame.shape[1]), 1)
            parts.append(np.full((frame.shape[0], gap, *frame.shape[2:]), between))
        parts.append(frame)
    return np.concatenate(parts, axis=1)


def _stretch(values):
    """Values from their 1st to their 99th percentile as 0..1."""
    low, high = np.percentile(values, (1, 99))
    return ((values - low) / max(high - low, 1e-12)).clip(0, 1)
