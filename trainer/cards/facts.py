"""What a model card tells of a run, gathered from its trainer or from the files that it left."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from ..methods import METHODS
from .record import describe_run, read_json, read_record

SPLITS = {"test": "test", "eval": "validation"}  # from the prefix of metrics to the split


@dataclass
class CardFacts:
    """What is known of a trained model.

    Args:
        name (`str`): of the model. config ([`LfmConfig`]), processor ([`LfmProcessor`], *optional*)
        parameters (`int`): number of the model's parameters.
        state (`dict`): what `trainer_state.json` holds; empty if unknown.
        metrics (`dict[str, dict[str, float]]`): by split (`test`, `validation`), without prefixes.
        record (`dict`): see [`write_record`]; `run` is what [`describe_run`] told, `data` what is known of the data.
    """

    name: str
    config: object
    processor: object | None
    parameters: int
    state: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    record: dict = field(default_factory=dict)

    @property
    def input_types(self):
        """`dict[str, str]`: what each modality is; empty without a processor."""
        settings = self.processor.modalities if self.processor is not None else {}
        return {name: settings[name]["type"] for name in self.config.modality_names if name in settings}

    @property
    def predictions(self):
        """`dict[str, str]`: from the prefix of their metrics to the fused prediction and that of each modality."""
        names = self.config.modality_names
        return {"": "fused", **{f"{name}_": f"{name} alone" for name in names}} if len(names) > 1 else {"": names[0]}

    @property
    def base_models(self):
        """`list[str]`: models of the Hub from which towers started, as far as the run knows."""
        return list(dict.fromkeys(name for name in self.record.get("run", {}).get("pretrained", {}).values() if name))

    @property
    def method(self):
        """The [`MethodSpec`] of what it was trained with; None where that is not told, or not known here."""
        callback = self.state.get("stateful_callbacks", {}).get("MethodCallback", {})
        told = self.record.get("run", {}).get("method", {}).get("name")
        name = told or callback.get("attributes", {}).get("method")
        return METHODS[name].spec if name in METHODS else None

    @property
    def split(self):
        """`str`, or None: the split by which the model is judged, test if it was measured."""
        return next((split for split in SPLITS.values() if "accuracy" in self.metrics.get(split, {})), None)

    @property
    def ranked(self):
        """`list[tuple[str, float]]`: modalities with their accuracy alone, the best first."""
        metrics = self.metrics.get(self.split, {})
        found = [(name, metrics.get(f"{name}_accuracy")) for name in self.config.modality_names]
        return sorted((pair for pair in found if pair[1] is not None), key=lambda pair: -pair[1])

    @property
    def calibration_errors(self):
        """`dict[str, dict]`: metrics with the errors of a calibrated model, by split, where they were measured."""
        found = {split: self.metrics.get(split, {}) for split in SPLITS.values()}
        found["validation"] = found["validation"] | self.record.get("run", {}).get("calibration", {})
        return {split: found[split] for split in found if "calibration_error_after" in found[split]}

    @property
    def is_probe(self):
        """`bool`: whether it is a linear probe."""
        return bool(self.record.get("run", {}).get("training", {}).get("linear_probe"))

    @property
    def probe(self):
        """`dict[str, float]`: the strengths (C) of a linear probe, by prediction."""
        start = "probe_"
        found = {}
        for entry in self.state.get("log_history", []):
            found |= {key.removeprefix(start): value for key, value in entry.items() if key.startswith(start)}
        return found

    @property
    def best_epoch(self):
        """`float`, or None: the epoch whose weights were kept, where the run chose one."""
        training = self.record.get("run", {}).get("training", {})
        if not training.get("load_best_model_at_end") or training.get("average_epochs") or self.is_probe:
            return None
        step, history = self.state.get("best_global_step"), self.state.get("log_history", [])
        return next((entry["epoch"] for entry in history if "eval_loss" in entry and entry.get("step") == step), None)


def gather_from_folder(folder):
    """[`CardFacts`] of a finished run, of the folder that `train.py` or `save_model` wrote. Nothing is unpickled.

    Raises:
        FileNotFoundError: there is no model. ValueError: a file is damaged.
    """
    import torch

    from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model (no config.json); give the folder that train.py wrote.")
    config, record = LfmConfig.from_pretrained(folder), read_record(folder)
    has_processor = (folder / "processor_config.json").is_file()
    processor = LfmProcessor.from_pretrained(folder) if has_processor else None
    with torch.device("meta"):
        parameters = LfmForMultimodalClassification(config).num_parameters()
    state = read_json(folder / "trainer_state.json", {})
    return CardFacts(folder.resolve().name, config, processor, parameters, **_read_results(folder, state, record))


def gather_from_trainer(trainer):
    """Facts of the run of a [`LfmTrainer`]: what it knows, and the results and the data set in its `output_dir`."""
    folder = Path(trainer.args.output_dir)
    state, model = json.loads(json.dumps(vars(trainer.state), default=str)), trainer.model
    found = _read_results(folder, state, read_record(folder) | {"run": describe_run(trainer)})
    return CardFacts(folder.resolve().name, model.config, trainer.processor, model.num_parameters(), **found)


def _read_results(folder, state, record):
    """`state`, `record`, and metrics by split: of the files in `folder`, or else of the log; of the kept epoch if the
    run chose one."""
    found, chosen = {}, record.get("run", {}).get("training", {}).get("load_best_model_at_end", False)
    for prefix, split in SPLITS.items():
        entries = [e for e in state.get("log_history", []) if f"{prefix}_accuracy" in e]
        if prefix == "eval" and chosen:
            entries = [e for e in entries if e.get("step") == state.get("best_global_step")][-1:]
        entry = read_json(folder / f"{prefix}_results.json", {}) or (entries[-1] if entries else {})
        numbers = {key: value for key, value in entry.items() if isinstance(value, (int, float)) and value == value}
        found[split] = {k.removeprefix(f"{prefix}_"): v for k, v in numbers.items() if k.startswith(f"{prefix}_")}
    metrics = {split: numbers for split, numbers in found.items() if numbers}
    return {"state": state, "record": record, "metrics": metrics}
