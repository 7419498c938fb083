"""What the page of demo.py tells of one sample: predictions, what each modality adds, and where the model looks."""

from pathlib import Path

from matplotlib.figure import Figure

from modeling_lfm import MultimodalClassificationPipeline
from modeling_lfm.audio_lfm import load_audio
from modeling_lfm.scripts.page.inputs import MAX_TEXT, find_sources
from modeling_lfm.trainer.analysis.contributions import coalition_values, shapley_shares
from modeling_lfm.trainer.analysis.maps import draw_view, measure_maps, plan_maps, view_input
from modeling_lfm.trainer.analysis.observations import coalition_logits
from modeling_lfm.trainer.plots import COLOURS

MAX_SOUND = 300  # seconds of sound, of which a model without a `duration` would read hours


class Reader:
    """A model that answers about one sample.

    Args:
        model ([`LfmForMultimodalClassification`]), processor ([`LfmProcessor`])
        columns (`dict[str, str]`): see [`find_sources`].

    Attributes:
        names (`tuple[str]`): the modalities. sources (`list[Source]`)
        lender, borrower (`str`, *optional*): the only source of video, and that of sound, which may be taken from it.
    """

    def __init__(self, model, processor, columns=None):
        self.pipeline = MultimodalClassificationPipeline(model, processor)
        self.model, self.processor, self.names = model, processor, tuple(model.config.modality_names)
        self.sources = find_sources({name: processor.modalities[name] for name in self.names}, columns or {})
        self.map_kinds, _ = plan_maps(model)
        videos, sounds = ([s.name for s in self.sources if s.kind == kind] for kind in ("video", "spectrogram"))
        self.lender, self.borrower = (videos[0], sounds[0]) if len(videos) == len(sounds) == 1 else (None, None)

    def read(self, values):
        """Raw inputs to the model's tensors.

        Args:
            values (`dict`): from the name of a [`Source`] to a path, a text, or nothing.

        Returns:
            `dict` of tensors of one sample, and what could not be read (`list[str]`, in sentences).
        """
        rows, problems = {}, []
        for source in self.sources:
            value = values.get(source.name)
            if not value or not value.strip():
                continue
            try:
                rows |= self.pipeline.reader.read(dict.fromkeys(source.modalities, self._limit(source, value)))
            except (ValueError, OSError, ImportError) as error:  # without the folders of this machine
                problems.append(str(error).replace(value, "the text" if source.kind == "text" else Path(value).name))
        batch = self.pipeline.reader.stack([rows]) if rows else {}
        return {key: tensor.to(self.model.device) for key, tensor in batch.items()}, problems

    def _limit(self, source, value):
        """So much of a text or a sound as is read."""
        if source.kind == "text":
            return value[:MAX_TEXT]
        if all(getattr(self.processor.kinds[name], "duration", 0) is not None for name in source.modalities):
            return value
        wave, rate = load_audio(value, seconds=MAX_SOUND)
        return {"array": wave, "sampling_rate": rate}

    def answer(self, batch):
        """What is predicted of a sample, and from what.

        Args:
            batch (`dict`): see [`read`].

        Returns:
            `dict`: the pipeline's answer, and `shapley`: the class `of` which the `modalities` (those that are there)
            each add a Shapley value to the probability that nothing gives, the `baseline`.

        Raises:
            ValueError: the model answers with numbers that are not finite.
        """
        answer = self.pipeline.postprocess(self.pipeline.forward(batch), top_k=None)
        best, config = answer["scores"][0]["label"], self.model.config
        number = next(number for number, label in config.id2label.items() if label == best)
        logits = coalition_logits(self.model, batch).double().cpu().numpy()
        values = coalition_values(logits, multi_label=config.is_multi_label)
        shares = dict(zip(self.names, shapley_shares(values[:, 0, number]).tolist(), strict=True))
        shares = {name: shares[name] for name in answer["modalities"]}
        return {**answer, "shapley": {"of": best, "baseline": float(values[0, 0, number]), "modalities": shares}}

    def look(self, batch, name):
        """Where the model looks in one modality of a sample for its fused prediction.

        Returns:
            `matplotlib.figure.Figure` with what the model is given and a map over it, or for a text a `list` of
            tokens, each with its share of the attention in 0..1, None for those that are no words.
        """
        kind = self.map_kinds.get(name)
        found = measure_maps(self.model, batch, name, kind)["fused"]["map"][0] if kind else None
        if f"{name}_input_ids" in batch:
            return self._shade(batch[f"{name}_input_ids"][0], batch[f"{name}_attention_mask"][0], found)
        view = view_input(self.processor.kinds[name], batch[f"{name}_values"][0])
        wide = view.extent is None and view.pixels.shape[1] > 2 * view.pixels.shape[0]  # frames of a clip
        panels = {f"{name}, as the model is given it": None}
        if kind:
            panels |= {"Grad-CAM: what speaks for the class" if kind == "grad_cam" else "attention": found}
        figure = Figure(figsize=(7, 2 * len(panels) + 0.4) if wide else (7, 2.9), dpi=110, layout="constrained")
        places = (len(panels), 1) if wide else (1, 2)
        for place, (title, values) in zip(figure.subplots(*places, squeeze=False).flat, panels.items(), strict=False):
            draw_view(place, view, values)
            place.set_title(title, fontsize=10)
            if view.extent is None:
                place.set_axis_off()
            else:
                place.set(xlabel=view.labels[0], ylabel=view.labels[1])
        return figure

    def _shade(self, ids, mask, shares):
        tokens = self.processor.tokenizer.convert_ids_to_tokens(ids[: int(mask.sum())].tolist())
        words = [token not in self.processor.tokenizer.all_special_tokens for token in tokens]
        if shares is None:
            return [(token, None) for token in tokens]
        most = max([share for share, word in zip(shares, words, strict=False) if word], default=1) or 1
        return [(t, float(s / most) if word else None) for t, s, word in zip(tokens, shares, words, strict=False)]


def draw_shares(answer):
    """What leads from no input to the fused prediction of an answer, as a `matplotlib.figure.Figure`."""
    label, shares = answer["shapley"]["of"], answer["shapley"]["modalities"]
    steps = {"no input": answer["shapley"]["baseline"], **shares, "fused": answer["scores"][0]["score"]}
    figure = Figure(figsize=(5, 0.8 + 0.32 * len(steps)), dpi=110, layout="constrained")
    axes = figure.subplots()
    colours = ["#8A8A8F", *(COLOURS[place % len(COLOURS)] for place in range(len(shares))), "black"]
    bars = axes.barh(list(steps), [100 * step for step in steps.values()], color=colours)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    title = f"What each input adds to {label[:40]} (Shapley values, percentage points)"
    axes.set_title(title, fontsize=9, parse_math=False)
    return figure
