"""What the page of demo.py shows of one sample: predictions, what each modality adds, and where the model looks."""

import traceback
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from modeling_lfm.scripts.page.inputs import MAX_TEXT, find_sources

MAX_SOUND = 300  # seconds of sound, of which a model without a `duration` would read hours


@dataclass
class Look:
    """Where the model looks in one modality of a sample.

    Args:
        kind (`str`, *optional*): `"grad_cam"` or `"rollout"`; None where the tower allows neither.
        view ([`View`], *optional*): what the model is given, but for text.
        tokens (`list[str]`, *optional*): of text. special (`set[str]`): those that are no words.
        maps (`dict[str, np.ndarray]`): by decision, `"fused"` and `"alone"`, the map over it; a rollout, which belongs
            to none, stands under `"fused"`.
        classes (`dict[str, str]`): by decision the class that it explains.
    """

    kind: str | None = None
    view: object = None
    tokens: list | None = None
    special: set = field(default_factory=set)
    maps: dict = field(default_factory=dict)
    classes: dict = field(default_factory=dict)


@dataclass
class Answer:
    """What is known of a sample.

    Args:
        report (`dict`): what the pipeline answers: `label` or `labels`, `scores`, `modalities`; empty without inputs.
        shares (`dict[str, float]`): what each modality adds to the probability of the [`best`] class: Shapley values.
        baseline (`float`): the probability to which they add, that of who knows nothing.
        looks (`dict[str, Look]`): by modality where the model looks.
        absent (`list[str]`): modalities that are not there.
        problems (`list[str]`): what could not be read, in sentences.
    """

    report: dict = field(default_factory=dict)
    shares: dict = field(default_factory=dict)
    baseline: float = 0.0
    looks: dict = field(default_factory=dict)
    absent: list = field(default_factory=list)
    problems: list = field(default_factory=list)

    @property
    def best(self):
        """`str`: the class of the largest probability."""
        return self.report["scores"][0]["label"]

    @property
    def fused(self):
        """`dict[str, float]`: probabilities of the classes, the largest first."""
        return _by_label(self.report)

    @property
    def alone(self):
        """`dict[str, dict[str, float]]`: the same from each modality that is there."""
        return {name: _by_label(report) for name, report in self.report["modalities"].items()}

    def to_dict(self):
        """The numbers as JSON-able objects (`dict`), as predict.py has them; without a prediction only `problems`."""
        from modeling_lfm.scripts.predict import to_report

        if not self.report:
            return {"problems": self.problems}
        modalities = {name: to_report(report) for name, report in self.report["modalities"].items()}
        shares = {"of": self.best, "baseline": self.baseline, "modalities": self.shares}
        result = {**to_report(self.report), "modalities": modalities, "shapley": shares}
        return {**result, "absent": self.absent, "problems": self.problems}


def _by_label(report):
    return {entry["label"]: entry["score"] for entry in report["scores"]}


class Reader:
    """A model that answers about one sample.

    Args:
        model ([`LfmForMultimodalClassification`]), processor ([`LfmProcessor`])
        columns (`dict[str, str]`, *optional*): see [`find_sources`].

    Attributes:
        sources (`list[Source]`)
        places (`dict[str, int]`): the number of each modality.
        lengths (`dict[str, float]`): of sounds the seconds that are read from their start, None for [`MAX_SOUND`].
        borrower, lender (`str`, *optional*): the source of sound, and that of video which may give it its sound.
        one_file (`bool`): whether it did so in training.
    """

    def __init__(self, model, processor, columns=None):
        from modeling_lfm import MultimodalClassificationPipeline
        from modeling_lfm.trainer.analysis.maps import plan_maps

        self.pipeline = MultimodalClassificationPipeline(model, processor)
        self.model, self.processor = self.pipeline.model, processor
        self.places = {name: place for place, name in enumerate(model.config.modality_names)}
        modalities = {name: processor.modalities[name] for name in self.places}
        self.sources = find_sources(modalities, columns or {})
        self.map_kinds, _ = plan_maps(model)
        sounds, videos = ([s.name for s in self.sources if s.kind == kind] for kind in ("spectrogram", "video"))
        kinds = {name: processor.kinds[name] for name in self.places}
        self.lengths = {name: kind.duration for name, kind in kinds.items() if hasattr(kind, "duration")}
        self.borrower, self.lender = (sounds[0], videos[0]) if len(sounds) == len(videos) == 1 else (None, None)
        read = [(columns or {}).get(name, name) for name in (self.borrower, self.lender)]
        self.one_file = self.lender is not None and read[0] == read[1]

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
            if source.kind == "text" and value:
                value = value[:MAX_TEXT]
            if not value or not value.strip():
                continue
            try:
                whole = None in (self.lengths.get(name, 0) for name in source.modalities)
                given = load_sound(value) if whole else value
                rows |= self.pipeline.reader.read(dict.fromkeys(source.modalities, given))
            except Exception as error:
                problems.append(explain_error(error, source, value))
        batch = self.pipeline.reader.stack([rows]) if rows else {}
        return {key: tensor.to(self.model.device) for key, tensor in batch.items()}, problems

    def answer(self, values, borrow=False):
        """An [`Answer`] about a sample; without a report where nothing could be read.

        Args:
            values (`dict`): as in [`read`].
            borrow (`bool`): take the sound, where it is not given, from the video.
        """
        if borrow and not values.get(self.borrower):
            values = {**values, self.borrower: values.get(self.lender)}
        batch, problems = self.read(values)
        answer = Answer(problems=problems)
        if batch:
            report = self.pipeline.postprocess(self.pipeline.forward(batch), top_k=None)
            if not all(isfinite(entry["score"]) for entry in report["scores"]):
                answer.problems.append("The model answers with numbers that are not finite: its training diverged.")
                return answer
            answer.report = report
            answer.absent = [name for name in self.places if name not in answer.report["modalities"]]
            answer.baseline, answer.shares = self.contributions(batch, answer)
            answer.looks = {name: self.look(batch, name) for name in answer.report["modalities"]}
        return answer

    def contributions(self, batch, answer):
        """The baseline, and the Shapley value of each modality that is there, for the best class of an answer."""
        from modeling_lfm.trainer.analysis.contributions import coalition_values, shapley_values
        from modeling_lfm.trainer.analysis.observations import coalition_logits

        config = self.model.config
        logits = coalition_logits(self.model, batch).double().cpu().numpy()
        values = coalition_values(logits, multi_label=config.problem_type == "multi_label_classification")
        values = values[:, 0, next(number for number, label in config.id2label.items() if label == answer.best)]
        shares = dict(zip(self.places, shapley_values(values).tolist(), strict=True))
        return float(values[0]), {name: shares[name] for name in answer.report["modalities"]}

    def look(self, batch, name):
        """A [`Look`] at the modality `name` of a sample (`dict` of tensors)."""
        from modeling_lfm.trainer.analysis.maps import measure_maps, view_input

        look = Look(self.map_kinds.get(name))
        if f"{name}_input_ids" in batch:
            tokenizer, ids = self.processor.tokenizer, batch[f"{name}_input_ids"][0]
            length = int(batch[f"{name}_attention_mask"][0].sum())  # where texts are padded to one length
            look.tokens = tokenizer.convert_ids_to_tokens(ids[:length].tolist())
            look.special = set(tokenizer.all_special_tokens)
        else:
            look.view = view_input(self.processor.kinds[name], batch[f"{name}_values"][0])
        if look.kind is not None:
            found = measure_maps(self.model, batch, name, look.kind)
            look.maps = {
                key: part["map"][0][: len(look.tokens or part["map"][0])]
                for key, part in found.items()
                if "map" in part
            }
            look.classes = {key: self.model.config.id2label[part["class"][0]] for key, part in found.items()}
        return look


def load_sound(path):
    """The first [`MAX_SOUND`] seconds of a file, as the processor takes them."""
    from modeling_lfm.audio_lfm import load_audio

    wave, rate = load_audio(path, seconds=MAX_SOUND)
    return {"array": wave, "sampling_rate": rate}


def explain_error(error, source, value):
    """A sentence about an input that cannot be read, without the folders of this machine."""
    file = Path("the text" if source.kind == "text" else value)
    if isinstance(error, (ValueError, OSError, ImportError)):
        text = str(error).removeprefix(f"modality {source.modalities[0]!r}: ").replace(str(file), file.name)
        return f"{source.name}: {text}"
    traceback.print_exception(error)
    return f"{source.name}: {file.name} could not be read; the program's log tells more."
