"""Where the model looks: Grad-CAM and attention rollout of chosen samples, side by side for several checkpoints."""

import numpy as np
import torch

from modeling_lfm.frontend_lfm import LogSpectrogram

from ..collator import LfmDataCollator
from ..holdout import read_labels
from ..plots import new_figure
from .report import Section, rounded
from .saliency import GRAD_CAM, attention_rollout, choose_map, enlarge, grad_cam, select_logits

NUM_SAMPLES, NUM_WORDS = 4, 16  # that are shown
METHOD = (
    "Grad-CAM (Selvaraju et al., ICCV 2017; computed by captum) on the last convolutional stage, or where that has "
    "less than 4 x 4 numbers of the input left, on the last that has more: bright where the input speaks for the class "
    "that is decided, each map scaled by its own largest value. Of transformers, attention rollout (Abnar & Zuidema, "
    "ACL 2020): the share of each patch or token in the tower's vector, whatever is decided. A fusion that adds up the "
    "modalities' logits, such as concat and sum, has the same Grad-CAM for the same class, fused and alone. Of a clip "
    "the frame in its middle is shown, of a text the words with the largest shares."
)


def measure_maps(model, inputs, modality):
    """Maps and decisions of one model for some samples.

    Args:
        model ([`LfmForMultimodalClassification`]): in evaluation mode.
        inputs (`dict`): those of its `forward` for B samples that have the modality.
        modality (`str`)

    Returns:
        `dict` from `"fused"` and, with Grad-CAM, `"alone"` to the `class` (`str`) and `probability` decided of each
        sample, the `map` (`np.ndarray` of one) and its `focus`, see [`focus`]; and with Grad-CAM the `likeness` of
        both maps. A rollout belongs to no decision and stands under `"fused"`; `"alone"` then has no map.

    Raises:
        ValueError: there is no map of the tower.
    """
    kind = choose_map(model.lfm.towers[modality])
    with torch.no_grad():
        output = model(**inputs)
    result = {}
    for key, decision in (("fused", "fused"), ("alone", modality)):
        logits = select_logits(output, model.config.modality_names, decision).double()
        probabilities = logits.sigmoid() if model.config.is_multi_label else logits.softmax(-1)
        best = probabilities.max(-1)
        result[key] = {"class": [model.config.id2label[k] for k in best.indices.tolist()]}
        result[key] |= {"probability": best.values.tolist()}
        if kind == GRAD_CAM:
            maps = grad_cam(model, inputs, modality, decision, best.indices)
        elif key == "fused":
            maps = attention_rollout(model, inputs, modality)
        else:
            continue
        maps = maps.cpu().double().numpy()
        result[key] |= {"map": list(maps), "focus": [focus(part) for part in maps]}
    if kind == GRAD_CAM:
        result["likeness"] = list(map(likeness, result["fused"]["map"], result["alone"]["map"]))
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


def draw_maps(numbers, processor, modality, inputs):
    """What the model is given of each sample, and beside it for each run the maps over it, with the decision above.

    Args:
        numbers (`dict`): `labels` (`list[str]`), and by run in `runs` what [`measure_maps`] found, and who is `right`.
        processor ([`LfmProcessor`]), modality (`str`), inputs (`dict`): see [`measure_maps`].
    """
    shown = [(run, key, found[key]) for run, found in numbers["runs"].items() for key in ("fused", "alone")]
    shown = [(run, key, found) for run, key, found in shown if "map" in found]
    figure = new_figure(1.6 * (len(shown) + 1) + 0.4, 1.9 * len(numbers["labels"]) + 0.7)
    for n, row in enumerate(figure.subplots(len(numbers["labels"]), len(shown) + 1, squeeze=False)):
        draw_look(row[0], processor, modality, inputs, n)
        row[0].set_title(f"label: {numbers['labels'][n][:20]}", fontsize=8)
        for axes, (run, key, found) in zip(row[1:], shown, strict=True):
            draw_look(axes, processor, modality, inputs, n, found["map"][n])
            mark = "\N{CHECK MARK}" if found["right"][n] else "\N{BALLOT X}"
            said = f"{mark} {found['class'][n][:14]} ({100 * found['probability'][n]:.0f} %)"
            axes.set_title(f"{run[:20]}\n{key}\n{said}" if n == 0 else said, fontsize=8)
        for axes in row if f"{modality}_values" in inputs else ():
            axes.label_outer()
    return figure


def draw_look(axes, processor, modality, inputs, row=0, values=None):
    """Draw one sample on axes of matplotlib: a picture, the frame in the middle of a clip, a spectrogram, or words.

    Args:
        axes (`matplotlib.axes.Axes`), processor ([`LfmProcessor`]), modality (`str`)
        inputs (`dict`): those of the model for some samples. row (`int`): which of them.
        values (`np.ndarray`, *optional*): its map; a picture is grey under it.
    """
    axes.tick_params(labelsize=7, length=2)
    if f"{modality}_input_ids" in inputs:
        ids, mask = inputs[f"{modality}_input_ids"][row], inputs[f"{modality}_attention_mask"][row]
        words = read_words(processor.tokenizer, ids[: int(mask.sum())].tolist())
        shares = np.zeros(len(words)) if values is None else values
        places = [place for place, word in enumerate(words) if word is not None]
        places = sorted(sorted(places, key=lambda place: -shares[place])[:NUM_WORDS])
        axes.barh(range(len(places)), [100 * shares[place] for place in places])
        axes.set_yticks(range(len(places)), [words[place][:12] for place in places])
        axes.set_xlabel("share (%)", fontsize=8)
        return axes.invert_yaxis()
    pixels, extent = view_input(processor.kinds[modality], inputs[f"{modality}_values"][row])
    style = {"extent": extent, "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    style |= {"origin": "lower", "aspect": "auto"} if extent else {}
    grey = pixels if pixels.ndim == 2 or values is None else pixels.mean(-1)
    axes.imshow(grey, cmap="gray", **style)
    if values is not None:
        lit = enlarge(torch.as_tensor(values)[None], pixels.shape[:2])[0].numpy()
        lit = lit if lit.ndim == 2 else lit[len(lit) // 2]
        axes.imshow(lit, cmap="inferno", alpha=0.7 * lit**0.5, **style)
    if extent is None:
        return axes.set_axis_off()
    axes.set_xlabel("time (s)", fontsize=8)
    axes.set_ylabel("frequency (kHz)", fontsize=8)


def explain_maps(models, dataset, processor):
    """The section on where the model looks.

    Args:
        models (`dict[str, LfmForMultimodalClassification]`): by run, with the same modalities.
        dataset (`datasets.Dataset`): prepared samples with `labels`; see [`choose_samples`].
        processor ([`LfmProcessor`])

    Returns:
        [`Section`]; a modality whose tower has no map, or that the samples lack, is told in its text.

    Raises:
        ValueError: there is no map at all, or captum is not installed.
    """
    config = next(iter(models.values())).config
    samples = choose_samples(read_labels(dataset))
    batch = LfmDataCollator(processor)([dataset[number] for number in samples])
    labels = batch.pop("labels")
    classes = [row.nonzero().flatten().tolist() if labels.dim() > 1 else [row.item()] for row in labels]
    text, figures, numbers, reasons = [], {}, {}, []
    for name in config.modality_names:
        there = batch.get(f"{name}_present")
        rows = list(range(len(labels))) if there is None else there.nonzero().flatten().tolist()
        if not rows:
            reasons.append(f"{name} has no map: the samples lack it.")
            continue
        inputs = {key: value[rows] for key, value in batch.items()}
        try:
            maps = {run: measure_maps(model, inputs, name) for run, model in models.items()}
        except ValueError as error:
            reasons.append(f"{name} has no map: {error}")
            continue
        truths = [[config.id2label[k] for k in classes[row]] for row in rows]
        for part in (run[key] for run in maps.values() for key in ("fused", "alone")):
            part["right"] = [said in truth for said, truth in zip(part["class"], truths, strict=True)]
        kind = choose_map(next(iter(models.values())).lfm.towers[name])
        found = {"kind": kind, "labels": [", ".join(truth) or "none" for truth in truths], "runs": maps}
        found["samples"] = [samples[row] for row in rows]
        figures[f"maps_{name}"] = draw_maps(found, processor, name, inputs)
        for run, maps in found["runs"].items():
            half = [value for value in maps["fused"]["focus"] if value is not None] or [0]
            alike = [value for value in maps.get("likeness", []) if value is not None]
            cosine = f"; mean cosine of fused and single maps {np.mean(alike):.2f}" if alike else ""
            text.append(f"{name}, {run}: half of the map lies on {np.mean(half):.0%} of the input{cosine}.")
        numbers[name] = rounded(found, 5)
    if not numbers:
        raise ValueError(" ".join(reasons))
    return Section("maps", "Where the model looks", text + reasons, figures, numbers, METHOD)


def read_words(tokenizer, ids):
    """The tokens (`list[str]`) of `ids` (`list[int]`) as they are read, without a tokenizer's signs for spaces; None
    for those that are no words."""
    special = set(tokenizer.all_special_ids)
    plain = tokenizer.convert_ids_to_tokens(ids)
    read = [tokenizer.decode([number]).strip() or token for number, token in zip(ids, plain, strict=True)]
    return [None if number in special else token for number, token in zip(ids, read, strict=True)]


def choose_samples(labels, count=NUM_SAMPLES):
    """Samples to be shown (`list[int]`): the first of each of `count` classes spread over all.

    Args:
        labels (`np.ndarray`): `(N,)`, or `(N, K)` of a multi-label problem, of which the first are shown.
    """
    if labels.ndim > 1:
        return list(range(min(count, len(labels))))
    _, first = np.unique(labels, return_index=True)
    chosen = first[np.unique(np.linspace(0, len(first) - 1, count).round().astype(int))].tolist()
    others = [number for number in range(len(labels)) if number not in chosen]
    return chosen + others[: max(count - len(chosen), 0)]


def view_input(kind, values):
    """What the model reads of one sample, as a picture.

    Args:
        kind: the processor's type of the modality (`processor.kinds[name]`): spectrogram, image, video or flow.
        values (`torch.Tensor`): as the model gets them, `(C, H, W)`, frames `(T, C, H, W)`, or the waveform
            `(samples,)` of a model that computes spectrograms itself.

    Returns:
        `np.ndarray` `(H, W)` or `(H, W, 3)`, within 0..1, of a clip the frame in its middle; and of a spectrogram its
        extent, see [`spectrogram_extent`], of others None.
    """
    values = values.detach().cpu().float()
    if getattr(kind, "frontend", None) is not None:
        values = LogSpectrogram(kind.frontend)(values[None])[0]
    values = values.numpy()
    if hasattr(kind, "hop_length"):
        return _stretch(values[0]), spectrogram_extent(kind, values.shape[-1])
    frame = values[len(values) // 2] if values.ndim == 4 else values
    if hasattr(kind, "bound"):  # flow: how far things move
        return _stretch(np.linalg.norm(frame, axis=0)), None
    mean, std = (np.reshape(part, (-1, 1, 1)) for part in (kind.mean, kind.std))
    pixels = (frame * std + mean).clip(0, 1).transpose(1, 2, 0)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels, None


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


def _stretch(values):
    """Values from their 1st to their 99th percentile as 0..1."""
    low, high = np.percentile(values, (1, 99))
    return ((values - low) / max(high - low, 1e-12)).clip(0, 1)
