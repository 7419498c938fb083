"""Where the model looks: Grad-CAM and attention rollout of chosen samples, side by side for several checkpoints."""

import numpy as np
import torch

from modeling_lfm.frontend_lfm import LogSpectrogram

from ..collator import LfmDataCollator
from ..holdout import read_labels
from ..plots import new_figure
from .report import Section
from .saliency import attention_rollout, find_attention, grad_cam, select_logits

NUM_SAMPLES, NUM_WORDS = 4, 16  # that are shown
METHOD = (
    "Grad-CAM (Selvaraju et al., ICCV 2017; computed by captum) on the last convolutional layer, or where that has "
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

    Returns:
        `dict` from `"fused"` and, with Grad-CAM, `"alone"` to the `class` (`str`) and `probability` decided of each
        sample, and the `map` (`np.ndarray` of one). A rollout belongs to no decision and stands under `"fused"`.

    Raises:
        ValueError: there is no map of the tower.
    """
    rolled = find_attention(model.lfm.towers[modality]) is not None
    with torch.no_grad():
        output = model(**inputs)
    result = {}
    for key, decision in (("fused", "fused"), *(() if rolled else [("alone", modality)])):
        logits = select_logits(model, output, decision).double()
        best = (logits.sigmoid() if model.config.is_multi_label else logits.softmax(-1)).max(-1)
        rows = (model, inputs, modality)
        maps = attention_rollout(*rows) if rolled else grad_cam(*rows, decision, best.indices)
        classes = [model.config.id2label[k] for k in best.indices.tolist()]
        found = {"class": classes, "probability": best.values.tolist(), "map": list(maps.cpu().double().numpy())}
        result[key] = found
    return result


def draw_look(axes, processor, modality, inputs, row=0, values=None):
    """Draw one sample on axes of matplotlib: a picture, the frame in the middle of a clip, a spectrogram, or words.

    Of the model's `inputs` for some samples it is number `row`; a picture is grey under its map, `values`
    (`np.ndarray`).
    """
    axes.tick_params(labelsize=7, length=2)
    if f"{modality}_input_ids" in inputs:
        ids, mask = inputs[f"{modality}_input_ids"][row], inputs[f"{modality}_attention_mask"][row]
        words = read_words(processor.tokenizer, ids[: int(mask.sum())].tolist())
        shares = np.zeros(len(ids)) if values is None else values
        places = sorted(sorted(words, key=lambda place: -shares[place])[:NUM_WORDS])
        axes.barh(range(len(places)), [100 * shares[place] for place in places])
        axes.set_yticks(range(len(places)), [words[place][:12] for place in places])
        axes.set_xlabel("share (%)", fontsize=8)
        return axes.invert_yaxis()
    pixels, extent = view_input(processor.kinds[modality], inputs[f"{modality}_values"][row])
    style = {"origin": "lower", "aspect": "auto"} if extent else {}
    grey = pixels if pixels.ndim == 2 or values is None else pixels.mean(-1)
    low, high = np.percentile(grey, (1, 99))
    drawn = axes.imshow(grey, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="nearest", **style)
    if values is not None:
        lit = (values if values.ndim == 2 else values[len(values) // 2]) / (values.max() or 1)
        style |= {"extent": drawn.get_extent(), "interpolation": "bilinear"}
        axes.imshow(lit, cmap="inferno", alpha=0.7 * lit**0.5, vmin=0, vmax=1, **style)
    if extent is None:
        return axes.set_axis_off()
    axes.set_xlabel("time (s)", fontsize=8)
    axes.set_ylabel("frequency (kHz)", fontsize=8)


def read_words(tokenizer, ids):
    """The tokens of `ids` (`list[int]`) as they are read, without a tokenizer's signs for spaces: a `dict` from place
    to `str`, without those that are no words."""
    tokens, special = tokenizer.convert_ids_to_tokens(ids), set(tokenizer.all_special_ids)
    places = [place for place, number in enumerate(ids) if number not in special]
    return {place: tokenizer.decode([ids[place]]).strip() or tokens[place] for place in places}


def view_input(kind, values):
    """What the model reads of one sample of a `kind` (`processor.kinds[name]`), as a picture.

    Args:
        values (`torch.Tensor`): as the model gets them, `(C, H, W)`, frames `(T, C, H, W)`, or the waveform
            `(samples,)` of a model that computes spectrograms itself.

    Returns:
        `np.ndarray` `(H, W)`, or of colours `(H, W, 3)` within 0..1, of a clip the frame in its middle; and of a
        spectrogram its seconds and kilohertz (left, right, bottom, top), of others None.
    """
    if not (hasattr(kind, "mean") or hasattr(kind, "bound") or hasattr(kind, "hop_length")):
        raise ValueError("there is no picture of what a feature extractor makes of sound")
    values = values.detach().cpu().float()
    if getattr(kind, "frontend", None) is not None:
        values = LogSpectrogram(kind.frontend)(values[None])[0]
    values = values.numpy()
    if hasattr(kind, "hop_length"):
        seconds = values.shape[-1] * kind.hop_length / kind.sampling_rate
        return values[0], (0, seconds, 0, kind.sampling_rate / 2000)
    frame = values[len(values) // 2] if values.ndim == 4 else values
    if hasattr(kind, "bound"):  # flow: how far things move
        return np.linalg.norm(frame, axis=0), None
    mean, std = (np.reshape(part, (-1, 1, 1)) for part in (kind.mean, kind.std))
    pixels = (frame * std + mean).clip(0, 1).transpose(1, 2, 0)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels, None


def choose_samples(labels, count=NUM_SAMPLES):
    """Samples to be shown (`list[int]`): the first of each of `count` classes spread over all; of a multi-label
    problem, with labels `(N, K)`, the first."""
    if labels.ndim > 1:
        return list(range(min(count, len(labels))))
    _, first = np.unique(labels, return_index=True)
    return first[np.unique(np.linspace(0, len(first) - 1, count).round().astype(int))].tolist()


def draw_maps(found, processor, modality, inputs):
    """What the model is given of each sample, and beside it for each run in `found["runs"]` the maps of
    [`measure_maps`] over it, with the decision above."""
    shown = [(run, key, maps[key]) for run, maps in found["runs"].items() for key in maps]
    figure = new_figure(1.6 * (len(shown) + 1) + 0.4, 1.9 * len(found["labels"]) + 0.7)
    for n, row in enumerate(figure.subplots(len(found["labels"]), len(shown) + 1, squeeze=False)):
        truth = found["labels"][n]
        draw_look(row[0], processor, modality, inputs, n)
        row[0].set_title(f"label: {(', '.join(truth) or 'none')[:20]}", fontsize=8)
        for axes, (run, key, maps) in zip(row[1:], shown, strict=True):
            draw_look(axes, processor, modality, inputs, n, maps["map"][n])
            mark = "\N{CHECK MARK}" if maps["class"][n] in truth else "\N{BALLOT X}"
            said = f"{mark} {maps['class'][n][:14]} ({100 * maps['probability'][n]:.0f} %)"
            axes.set_title(f"{run[:20]}\n{key}\n{said}" if n == 0 else said, fontsize=8)
        for axes in row if f"{modality}_values" in inputs else ():
            axes.label_outer()
    return figure


def explain_maps(models, dataset, processor):
    """The [`Section`] on where `models` (`dict` by run, with the same modalities) look in samples of a prepared data
    set, see [`choose_samples`]; a modality whose tower has no map, or that the samples lack, is told in its notes.

    Raises:
        ValueError: there is no map at all, or captum is not installed.
    """
    config = next(iter(models.values())).config
    samples = choose_samples(read_labels(dataset))
    batch = LfmDataCollator(processor)([dataset[number] for number in samples])
    labels = batch.pop("labels")
    classes = [row.nonzero().flatten().tolist() if labels.dim() > 1 else [row.item()] for row in labels]
    figures, numbers, notes = {}, {}, []
    for name in config.modality_names:
        there = batch.get(f"{name}_present", torch.ones(len(labels), dtype=torch.bool))
        rows = there.nonzero().flatten().tolist()
        inputs = {key: value[rows] for key, value in batch.items()}
        try:
            if not rows:
                raise ValueError("the samples lack it.")
            found = {"runs": {run: measure_maps(model, inputs, name) for run, model in models.items()}}
        except ValueError as error:
            notes.append(f"{name} has no map: {error}")
            continue
        found["labels"] = [[config.id2label[k] for k in classes[row]] for row in rows]
        found["samples"] = [samples[row] for row in rows]
        numbers[name], figures[f"maps_{name}"] = found, draw_maps(found, processor, name, inputs)
    if not numbers:
        raise ValueError(" ".join(notes))
    return Section("Where the model looks", figures, numbers, METHOD, notes)
