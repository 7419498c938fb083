"""Where the model looks: Grad-CAM and attention rollout of chosen samples, side by side for several checkpoints."""

from dataclasses import dataclass

import numpy as np
import torch

from modeling_lfm.frontend_lfm import LogSpectrogram

from ..plots import INK, ON_DARK, ON_LIGHT, WIDTH, ink, new_figure
from .report import Picture, Section, Table, percent, rounded, shorten
from .saliency import GRAD_CAM, attention_rollout, choose_map, enlarge, grad_cam, require_captum, select_logits

COLOUR_MAP = "inferno"
NARROWEST, WIDEST = 1.1, 1.9  # inches of a map: the decision fits above, several samples onto a page
LINE = 104  # characters of text in a line
NOTE = {"fontsize": 7, "color": ON_DARK, "ha": "center", "bbox": {"facecolor": ON_LIGHT, "pad": 1.5, "linewidth": 0}}
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
    multi_label = model.config.problem_type == "multi_label_classification"
    result = {}
    for key, decision in (("fused", "fused"), ("alone", modality)):
        logits = select_logits(output, names, decision).double()
        probabilities = logits.sigmoid() if multi_label else logits.softmax(-1)
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

    Fused and single decision stand side by side, of many runs one below the other.

    Args:
        numbers (`dict`): what [`gather_maps`] returns, of pictures, frames or spectrograms.
        views (`list[View]`): of the samples.

    Returns:
        `matplotlib.figure.Figure`
    """
    height, width = views[0].pixels.shape[:2]
    ratio = 0.75 if views[0].extent else min(height / width, 1.2)
    lines = _arrange(numbers["runs"], 4 if ratio > 0.5 else 2)
    cell = max((WIDTH - 0.4) / (len(lines[0]) + 1), NARROWEST)
    cell = min(cell, WIDEST) if ratio > 0.5 else cell
    title = 0.32 if len(lines) == 1 else 0.46
    figure = new_figure(
        cell * (len(lines[0]) + 1) + 0.4, max(cell * ratio + title, 0.9) * len(views) * len(lines) + 0.5
    )
    grid = figure.subplots(len(views) * len(lines), len(lines[0]) + 1, squeeze=False)
    for place, row in enumerate(grid):
        n, line = divmod(place, len(lines))
        if line == 0:
            draw_view(row[0], views[n])
            row[0].set_title(f"label: {shorten(numbers['labels'][n], int(13 * cell) - 7)}", fontsize=8)
        for axes, (run, key) in zip(row[1:], lines[line], strict=True):
            found = numbers["runs"][run][key]
            draw_view(axes, views[n], found["map"][n])
            above = "" if len(lines) == 1 else f"{key}\n"
            axes.set_title(above + _decision(found, n, int(13 * cell) - 8), fontsize=8)
        for axes in row:
            _clean(axes, views[n], place == len(grid) - 1, axes is row[min(line, 1)])
        if line:
            row[0].set_axis_off()
    heads = [_head(numbers["kind"], *entry) if len(lines) == 1 else entry[0] for entry in lines[0]]
    for axes, text in zip(grid[0], ["input", *heads], strict=True):
        axes.annotate(
            text,
            (0.5, 1),
            (0, 20 if len(lines) == 1 else 31),
            "axes fraction",
            "offset points",
            ha="center",
            fontsize=8.5,
            weight="bold",
        )
    _label_axes(figure, views[0])
    return ink(figure)


def _arrange(runs, most):
    """Lines of (run, decision) that show one sample: one, or where it would hold more than `most` one a decision."""
    keys = [key for key in ("fused", "alone") if "map" in next(iter(runs.values()))[key]]
    if len(keys) * len(runs) <= most:
        return [[(run, key) for run in runs for key in keys]]
    return [[(run, key) for run in runs] for key in keys]


def draw_view(axes, view, values=None):
    """Draw a [`View`] on axes of matplotlib, and over its grey a map of one sample (`np.ndarray`, *optional*)."""
    style = {"extent": view.extent, "origin": "lower" if view.extent else "upper", "vmin": 0, "vmax": 1}
    style |= {"aspect": "auto" if view.extent else "equal", "interpolation": "nearest"}
    axes.imshow(view.pixels if values is None else view.grey, cmap="gray", **style)
    if values is not None:
        size = view.pixels.shape[:2] if values.ndim == 2 else view.frame
        lit = join_maps(enlarge(torch.as_tensor(values)[None], size)[0].numpy())
        axes.imshow(lit, cmap=COLOUR_MAP, alpha=0.7 * lit**0.5, **style)
        if not lit.any():
            axes.text(0.5, 0.04, "nothing speaks for it", transform=axes.transAxes, **NOTE)


def _head(kind, run, key):
    return f"{run}\n{key}" if kind == GRAD_CAM else f"{run}\nrollout"


def _decision(found, row, length=40):
    """The class decided, how surely, and whether it is right."""
    mark = "\N{CHECK MARK}" if found["right"][row] else "\N{BALLOT X}"
    return f"{mark} {shorten(found['class'][row], length)} ({100 * found['probability'][row]:.0f} %)"


def _clean(axes, view, is_last, is_first):
    axes.spines[:].set_visible(False)
    if view.extent is None:
        axes.set(xticks=[], yticks=[])
        return
    axes.tick_params(labelsize=7, length=2, labelbottom=is_last, labelleft=is_first)


def _label_axes(figure, view):
    if view.labels is not None:
        figure.supxlabel(view.labels[0], fontsize=9, color=INK)
        figure.supylabel(view.labels[1], fontsize=9, color=INK)


def draw_tokens(numbers, tokens, special):
    """Texts whose tokens are shaded by their rollout: a block a sample, a line a run.

    Args:
        numbers (`dict`): what [`gather_maps`] returns, of text.
        tokens (`list[list[str]]`): of the samples, without padding.
        special (`set[str]`): see [`shade_tokens`].

    Returns:
        `matplotlib.figure.Figure`
    """
    rows = []  # of (text above; tokens; colours)
    for n, words in enumerate(tokens):
        for run, found in numbers["runs"].items():
            colours = shade_tokens(found["fused"]["map"][n][: len(words)], words, special)
            head = f"label: {numbers['labels'][n]}    {run}: {_decision(found['fused'], n)}"
            rows.append((head, words, colours))
    broken = [(head, list(_break_lines(words, colours))) for head, words, colours in rows]
    lines = sum(len(parts) + 1.4 for _, parts in broken)
    figure = new_figure(WIDTH, 0.23 * lines + 0.2)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set(xlim=(0, LINE), ylim=(lines, 0))
    axes.axis("off")
    y = 0.7
    for head, parts in broken:
        axes.text(0, y, head, fontsize=8, color=INK, va="center", weight="bold")
        for part in parts:
            y += 1
            for place, word, colour in part:
                box = {"boxstyle": "square,pad=0.18", "facecolor": colour, "edgecolor": "none"}
                axes.text(place, y, word, fontsize=8, family="monospace", va="center", color=ON_LIGHT, bbox=box)
        y += 1.4
    return figure


def read_tokens(tokenizer, ids):
    """The tokens (`list[str]`) of `ids` (`list[int]`) as they are read, without the signs of a tokenizer for spaces."""
    plain = tokenizer.convert_ids_to_tokens(ids)
    return [tokenizer.decode([number]).strip() or token for number, token in zip(ids, plain, strict=True)]


def shade_tokens(shares, tokens, special):
    """Colours (`list[str]`) of tokens, the darker the larger their share; text on them is `ON_LIGHT`.

    Args:
        shares (`np.ndarray`): of the tokens. tokens (`list[str]`)
        special (`set[str]`): tokens that are no words. The shades go from the least to the largest share of the others.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shares = np.asarray(shares)
    counted = [s for s, token in zip(shares, tokens, strict=True) if token not in special] or [0.0, 1.0]
    low, high = min(counted), max(counted)
    shades = ((shares - low) / max(high - low, 1e-12)).clip(0, 1)
    return [to_hex(colormaps["Oranges"](0.05 + 0.75 * shade)) for shade in shades]


def _break_lines(words, colours):
    """Lines of (place, word, colour), each at most `LINE` characters wide."""
    line, place = [], 0
    for word, colour in zip(words, colours, strict=True):
        if place and place + len(word) > LINE - 1:
            yield line
            line, place = [], 0
        line.append((place, word, colour))
        place += len(word) + 1
    yield line


def tell_maps(modality, numbers):
    """Sentences (`list[str]`): how concentrated the maps are, and whether both decisions look at the same."""
    text = []
    for run, found in numbers["runs"].items():
        focused = [value for value in found["fused"]["focus"] if value is not None]
        if not focused:
            text.append(f"{modality}, {run}: nothing in these samples speaks for what is decided.")
            continue
        what = "map" if numbers["kind"] == GRAD_CAM else "rollout"
        parts = "tokens" if np.ndim(found["fused"]["map"][0]) == 1 else "area"
        line = f"{modality}, {run}: half of the {what} lies on {percent(float(np.mean(focused)), 0)} of the {parts}"
        same = [a == b for a, b in zip(found["fused"]["class"], found["alone"]["class"], strict=True)]
        if numbers["kind"] == GRAD_CAM:
            alike = [value for value in found["likeness"] if value is not None]
            line += f"; {modality} alone decides as the fused model in {sum(same)} of {len(same)} samples"
            if alike:
                line += f", and the mean cosine of the two maps is {np.mean(alike):.2f}"
        text.append(f"{line}.")
    return text


def explain_maps(models, batch, labels, processor, layers=None, samples=None):
    """The section on where the model looks.

    Args:
        models (`dict[str, LfmForMultimodalClassification]`): by run, with the same modalities and towers.
        batch (`dict`): inputs of a few samples, without labels.
        labels (`list[list[str]]`): what is true of them, of each one class or several.
        processor ([`LfmProcessor`]), layers (`dict[str, str]`, *optional*): see [`plan_maps`].
        samples (`list[int]`, *optional*): their numbers in the data set; counted from 0 if not given.

    Returns:
        [`Section`]; a modality whose tower turns out to have no map, or that the samples lack, is told in its text.

    Raises:
        ValueError: no tower has a map, or the layer that was asked for gives none.
    """
    kinds, reasons = plan_maps(next(iter(models.values())), layers)
    if not kinds:
        raise ValueError(f"no tower has a map: {'; '.join(f'{name}, {why}' for name, why in reasons.items())}.")
    layers, samples = layers or {}, range(len(labels)) if samples is None else samples
    text, pictures, numbers, tables = [], {}, {}, []
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
        figure, caption = _illustrate(name, found, inputs, processor)
        pictures[f"maps_{name}"] = Picture(figure, caption)
        text += tell_maps(name, found)
        tables.append(_tabulate(name, found))
        numbers[name] = rounded(found, 5)
    text += [f"{name} has no map: {why}." for name, why in reasons.items()]
    return Section("maps", "Where the model looks", text, pictures, numbers, tables, METHOD)


def _illustrate(name, numbers, inputs, processor):
    """The figure of one modality, and its caption."""
    if f"{name}_input_ids" in inputs:
        ids, mask = inputs[f"{name}_input_ids"], inputs.get(f"{name}_attention_mask")
        lengths = [len(row) for row in ids] if mask is None else mask.sum(-1).tolist()
        tokens = [read_tokens(processor.tokenizer, row[:n].tolist()) for row, n in zip(ids, lengths, strict=True)]
        figure = draw_tokens(numbers, tokens, set(processor.tokenizer.all_special_tokens))
        caption = f"{name}: the darker a token, the larger its share in the vector of the text (attention rollout; "
        return figure, caption + "from the least to the largest share of a word)."
    views = [view_input(processor.kinds[name], values) for values in inputs[f"{name}_values"]]
    if numbers["kind"] == GRAD_CAM:
        caption = f"{name}: what speaks for the class that the fused model, and this modality alone, decide (Grad-CAM)."
    else:
        caption = f"{name}: the share of each patch in the vector of the picture (attention rollout)."
    return draw_maps(numbers, views), caption


def _tabulate(name, numbers):
    head = ["sample, run", "label", "fused", f"{name} alone", "half of the map on"]
    rows = []
    for n, label in enumerate(numbers["labels"]):
        for run, found in numbers["runs"].items():
            cells = [f"{found[k]['class'][n]} ({percent(found[k]['probability'][n], 0)})" for k in ("fused", "alone")]
            half = found["fused"]["focus"][n]
            rows.append([f"{numbers['samples'][n]}, {run}", label, *cells, "-" if half is None else percent(half, 0)])
    return Table(f"Decisions on the samples shown, {name}", head, rows)


GAP = 1 / 32  # white between the frames of a clip, a pixel at least, in widths of a frame


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


def join_maps(maps):
    """Maps `(H, W)`, or of frames `(T, H, W)` side by side, to fit what [`join_frames`] makes."""
    return maps if maps.ndim == 2 else join_frames(maps, 0.0)


def _stretch(values):
    """Values from their 1st to their 99th percentile as 0..1."""
    low, high = np.percentile(values, (1, 99))
    return ((values - low) / max(high - low, 1e-12)).clip(0, 1)
