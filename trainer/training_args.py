"""Settings of LFM training, on top of those of `transformers.TrainingArguments`."""

import json
from dataclasses import dataclass, field

from transformers import TrainingArguments

from .callbacks import check_report_to
from .methods import make_method

LEAST = {  # of settings whose wrong numbers would be told late, by another name, or never
    **dict.fromkeys(("learning_rate", "num_train_epochs", "weight_decay", "holdout", "seed", "data_seed"), 0),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), 1),
}


@dataclass
class LfmTrainingArguments(TrainingArguments):
    """Training arguments of [`LfmTrainer`].

    Three defaults differ from `TrainingArguments`: `eval_strategy="epoch"` would need an evaluation set, so it stays
    `"no"`, but `logging_strategy` is `"epoch"`, `remove_unused_columns` is False (inputs are named after modalities),
    and `report_to` is `"none"`.
    """

    method: dict | str | None = field(
        default="lfm",
        metadata={
            "help": "How the model is trained: the name of a method (--list_methods shows all), or a mapping with its "
            "name and settings. On the command line: --method ogm --method.alpha 0.8."
        },
    )
    holdout: float = field(
        default=0.1,
        metadata={
            "help": "Part of the training set that is kept from training for a method that watches held-out samples "
            "(LFM's learned alpha and others), stratified by label: a fraction below 1, or a number of samples; 0 "
            "takes the evaluation set instead."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop when metric_for_best_model has not improved for so many evaluations."},
    )
    channels_last: bool = field(
        default=False,
        metadata={
            "help": "Keep the weights of convolutions as (out, height, width, in) in memory: the same numbers but for "
            "rounding, the same checkpoints. Faster or slower by the towers and their inputs: try it, with bf16 "
            "above all (scripts/benchmark.py --only throughput)."
        },
    )
    resume_changed: bool = field(
        default=False,
        metadata={
            "help": "Resume although settings differ from those of the checkpoint, and go on with the new ones, or "
            "from a checkpoint that holds too little to check: the run is then not the one that was begun."
        },
    )

    logging_strategy: str = field(default="epoch", metadata={"help": "When to log: no, steps or epoch."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: inputs are named after modalities."}
    )
    report_to: list[str] | str | None = field(
        default="none",
        metadata={
            "help": "Where to send logs: tensorboard, trackio (both stay on this machine) or others; none by default."
        },
    )

    def __post_init__(self):
        if isinstance(self.method, str) and self.method.startswith("{"):  # from the command line, as transformers' own
            self.method = json.loads(self.method)
        if self.method is None:
            self.method = "lfm"
        make_method(self.method)
        for key, least in LEAST.items():
            value = getattr(self, key)
            if isinstance(value, (int, float)) and not least <= value < 2**32:
                raise ValueError(f"{key}={value} must be at least {least}, and below 2**32.")
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns=True would drop every modality; leave it False.")
        if self.label_smoothing_factor:
            raise ValueError(
                "label_smoothing_factor is not part of the objective; use --method concat --method.label_smoothing."
            )
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            raise ValueError("early_stopping_patience needs evaluations: set eval_strategy to epoch or steps.")
        super().__post_init__()
        check_report_to(self.report_to)
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # nothing to pin for, and torch warns at every epoch

    def __getstate__(self):
        # `training_args.bin` is sent to the Hub with the model, and would hold the token that sends it.
        return {**vars(self), "hub_token": None}
