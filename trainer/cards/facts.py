"""What a model card tells of a run, gathered from its trainer or from the files that it left."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from ..methods import METHODS, make_method
from .record import describe_run, read_json, read_record

SPLITS = {"test": "test", "eval": "validation"}  # from the prefix of metrics to the split
MEASURES = ("accuracy", "map", "f1")


@dataclass
class CardFacts:
    """What is known of a trained model.

    Args:
        name (`str`): of the model.
        config ([`LfmConfig`])
        processor ([`LfmProcessor`], *optional*)
        parameters (`int`): number of the model's parameters.
        state (`dict`): what `trainer_state.json` holds; empty if unknown.
        metrics (`dict[str, dict[str, float]]`): by split (`test`, `validation`), without prefixes.
        record (`dict`): see [`write_record`].
    """

    name: str
    config: object
    processor: object | None
    parameters: int
    state: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    record: dict = field(default_factory=dict)

    @property
    def modalities(self):
        """`tuple[str]`: in the model's order."""
        return self.config.modality_names

    @property
    def input_types(self):
        """`dict[str, str]`: what each modality is; empty without a processor."""
        settings = self.processor.modalities if self.processor is not None else {}
        return {name: settings[name]["type"] for name in self.modalities if name in settings}

    @property
    def predictions(self):
        """`list[tuple[str, str]]`: prefix of their metrics, and name: the fused one, and of each modality alone."""
        if len(self.modalities) == 1:
            return [("", self.modalities[0])]
        return [("", "fused"), *((f"{name}_", f"{name} alone") for name in self.modalities)]

    @property
    def labels(self):
        """`list[str]`: names of the classes."""
        return [str(self.config.id2label[i]) for i in range(self.config.num_labels)]

    @property
    def multi_label(self):
        """`bool`: whether a sample can have several labels."""
        return self.config.is_multi_label

    @property
    def run(self):
        """`dict`: what [`describe_run`] told; empty if unknown."""
        return self.record.get("run", {})

    @property
    def data(self):
        """`dict`: what is known of the data set."""
        return self.record.get("data", {})

    @property
    def dataset_name(self):
        """`str`, or None: of the data set, for people."""
        return self.data.get("title") or self.record.get("benchmark")

    @property
    def base_models(self):
        """`list[str]`: models of the Hub from which towers started, as far as the run knows."""
        return list(dict.fromkeys(name for name in self.run.get("pretrained", {}).values() if name))

    @property
    def method(self):
        """The [`MethodSpec`], or None if unknown."""
        callback = self.state.get("stateful_callbacks", {}).get("MethodCallback", {})
        name = self.run.get("method", {}).get("name") or callback.get("attributes", {}).get("method")
        return METHODS[name].spec if name in METHODS else None

    @property
    def history(self):
        """`list[dict]`: the log."""
        return self.state.get("log_history", [])

    @property
    def split(self):
        """`str`, or None: the split by which the model is judged, test if it was measured."""
        return next((split for split in SPLITS.values() if "accuracy" in self.metrics.get(split, {})), None)

    @property
    def other_splits(self):
        """`list[str]`: measured beside."""
        return [split for split in self.metrics if split != self.split]

    @property
    def ranked(self):
        """`list[tuple[str, float]]`: modalities with their accuracy alone, the best first."""
        metrics = self.metrics.get(self.split, {})
        found = [(name, metrics[f"{name}_accuracy"]) for name in self.modalities if f"{name}_accuracy" in metrics]
        return sorted(found, key=lambda pair: -pair[1])

    @property
    def absence_rule(self):
        """`str`: what the model does without a modality."""
        from modeling_lfm.fusions_lfm import FUSIONS

        if not FUSIONS[self.config.fusion].joint:
            return "The fusion leaves an absent modality out"
        what = "A learned feature stands" if self.config.modality_dropout else "Zeros stand"
        return f"{what} in for the feature of an absent modality"

    @property
    def best_epoch(self):
        """`float`, or None: the epoch whose weights were kept, where the run chose one."""
        if not self.run.get("training", {}).get("load_best_model_at_end"):
            return None
        step = self.state.get("best_global_step")
        return next((e["epoch"] for e in self.history if "eval_loss" in e and e.get("step") == step), None)


def gather_from_folder(folder):
    """Facts of a finished run.

    Args:
        folder (`str` or `Path`): what `train.py` or `save_model` wrote. Nothing in it is unpickled.

    Returns:
        [`CardFacts`]

    Raises:
        FileNotFoundError: there is no model. ValueError: a file is damaged.
    """
    from modeling_lfm import LfmConfig

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model (no config.json); give the folder that train.py wrote.")
    config = LfmConfig.from_pretrained(folder)
    state = _read_json(folder / "trainer_state.json")
    record = read_record(folder)
    chosen = record.get("run", {}).get("training", {}).get("load_best_model_at_end", False)
    return CardFacts(
        name=folder.resolve().name,
        config=config,
        processor=_load_processor(folder),
        parameters=count_parameters(config),
        state=state,
        metrics=_read_metrics(state, chosen, folder),
        record=record,
    )


def gather_from_trainer(trainer):
    """Facts of the run of a [`LfmTrainer`]: what it knows, and the results and the data set in its `output_dir`."""
    folder = Path(trainer.args.output_dir)
    state = json.loads(json.dumps(vars(trainer.state), default=str))
    return CardFacts(
        name=folder.resolve().name,
        config=trainer.model.config,
        processor=trainer.processor,
        parameters=trainer.model.num_parameters(),
        state=state,
        metrics=_read_metrics(state, trainer.args.load_best_model_at_end, folder),
        record=read_record(folder) | {"run": describe_run(trainer)},
    )


def count_parameters(config):
    """Number of parameters (`int`) of the model that `config` describes; none is made."""
    import torch

    from modeling_lfm import LfmForMultimodalClassification

    with torch.device("meta"):
        return LfmForMultimodalClassification(config).num_parameters()


def method_settings(facts):
    """The method's settings (`dict`), each with its value and whether it is the default; empty if unknown."""
    given = {key: value for key, value in facts.run.get("method", {}).items() if key != "name"}
    if facts.method is None or not given:
        return {}
    try:
        defaults = vars(make_method(facts.method.name).settings)
    except ValueError:  # it has a setting without a default
        defaults = {}
    return {key: (value, value == _plain(defaults.get(key, object()))) for key, value in given.items()}


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _load_processor(folder):
    from modeling_lfm import LfmProcessor

    return LfmProcessor.from_pretrained(folder) if (folder / "processor_config.json").is_file() else None


def _read_metrics(state, chosen, folder):
    """Metrics by split, of the results in `folder` or else of the log; of the kept epoch if one was `chosen`."""
    found = {}
    for prefix, split in SPLITS.items():
        entries = [e for e in state.get("log_history", []) if f"{prefix}_accuracy" in e]
        if prefix == "eval" and chosen:
            entries = [e for e in entries if e.get("step") == state.get("best_global_step")][:1]
        entry = _read_json(folder / f"{prefix}_results.json") or (entries[-1] if entries else {})
        numbers = {key: value for key, value in entry.items() if isinstance(value, (int, float)) and value == value}
        found[split] = {k.removeprefix(f"{prefix}_"): v for k, v in numbers.items() if k.startswith(f"{prefix}_")}
    return {split: metrics for split, metrics in found.items() if metrics}


def _read_json(path):
    return read_json(path) if path.is_file() else {}
