"""Settings of LFM training, on top of those of `transformers.TrainingArguments`."""

import json
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import get_args, get_type_hints

import numpy as np
from transformers import TrainingArguments
from transformers.hf_argparser import HfArg

from modeling_lfm.registry_lfm import check_type

from .callbacks import check_report_to
from .methods import make_method
from .metrics import METRICS

LEAST = {  # of settings whose wrong numbers would be told late, by another name, or never
    **dict.fromkeys(("learning_rate", "num_train_epochs", "weight_decay", "holdout", "seed", "data_seed"), 0),
    **dict.fromkeys(("label_smoothing_factor", "focal_gamma", "logit_adjustment", "average_epochs"), 0),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), 1),
}
SAMPLINGS = ("random", "sequential", "balanced")
REFUSED = {
    "remove_unused_columns": ((False,), "it would drop every modality, as inputs are named after them"),
    "label_names": ((None, ["labels"]), "the labels of a sample are called labels"),
    "train_sampling_strategy": (SAMPLINGS, "a sample has several inputs, none of which is its length"),
    "neftune_noise_alpha": ((None,), "each tower has embeddings of its own, or none"),
    "use_liger_kernel": ((False,), "Liger has no kernels for a model of several towers"),
    "include_num_input_tokens_seen": ((False, "no"), "inputs are not tokens alone"),
    "include_for_metrics": (([], ["loss"]), "a model of several modalities has several inputs"),
    "parallelism_config": ((None,), "methods need the whole batch and the whole model"),
}
"""Settings of transformers that would do nothing here, or harm: the values that will do, and why no others."""
UNFIT_OPTIMIZERS: tuple[str, ...] = ("lomo", "adalomo", "galore_adamw_layerwise", "galore_adamw_8bit_layerwise")
UNFIT_OPTIMIZERS += ("galore_adafactor_layerwise", "apollo_adamw_layerwise")
NEED_METRICS = {"batch_eval_metrics": False, "eval_do_concat_batches": True}
"""Settings that fit no metrics but those of the user's own `compute_metrics`, and the values that do."""


@dataclass
class LfmTrainingArguments(TrainingArguments):
    """Training arguments of [`LfmTrainer`].

    Four defaults differ from `TrainingArguments`: `eval_strategy="epoch"` would need an evaluation set, so it stays
    `"no"`, but `logging_strategy` is `"epoch"`, `remove_unused_columns` is False (inputs are named after modalities),
    `report_to` is `"none"`, and `logging_nan_inf_filter` is False (a loss that is no number is logged as it is).

    Example:

        ```python
        >>> from modeling_lfm.trainer import LfmTrainingArguments
        >>> args = LfmTrainingArguments("outputs", method={"name": "ogm", "alpha": 0.8}, seed=1)
        >>> args.logging_strategy.value, args.holdout
        ('epoch', 0.1)

        ```
    """

    method: dict | str | None = HfArg(
        default="lfm",
        help="How the model is trained: the name of a method (--list_methods shows all), or a mapping with its "
        "name and settings. On the command line: --method ogm --method.alpha 0.8.",
    )
    holdout: float = HfArg(
        default=0.1,
        help="Part of the training set that is kept from training for a method that watches held-out samples "
        "(LFM's learned alpha and others), stratified by label: a fraction below 1, or a number of samples; 0 "
        "takes the evaluation set instead.",
    )
    holdout_group: str | None = HfArg(
        default=None,
        help="A column of the data set: samples of one value, such as a speaker, are never on both sides.",
    )
    class_weights: list[float] | str | None = HfArg(
        default=None,
        help="Factor of each class in the classification losses of every method: a list, or balanced, inversely "
        "to the number of training samples. Of a multi-label problem the factor of positive labels.",
    )
    focal_gamma: float = HfArg(
        default=0.0, help="Classification losses times (1 - p)^gamma, p the probability of what is true (focal loss)."
    )
    logit_adjustment: float = HfArg(
        default=0.0,
        help="tau: classification losses are those of the logits plus tau log(share of the class in the "
        "training set), predictions those of the logits (Menon et al., ICLR 2021); 1 is the paper's.",
    )
    metrics: list[str] | None = HfArg(
        default=None,
        help="Metrics beside accuracy, mean average precision, macro F1 and the gap: balanced_accuracy, auroc, "
        "calibration_error, micro_f1.",
    )
    calibrate: bool | None = HfArg(
        default=None,
        help="At the end of training fit a temperature for each prediction, and for each label of a multi-label "
        "problem a threshold, on the evaluation set, and keep them in config.json for the pipeline and predict.py; "
        "if not given, where there is an evaluation set.",
    )
    average_epochs: int = HfArg(
        default=0,
        help="The model is the mean of the weights after the last so many epochs, not that of the best or the last one "
        "(SWA); for a learning rate that does not go to zero, such as lr_scheduler_type: constant.",
    )
    linear_probe: bool = HfArg(
        default=False,
        help="No step is taken (num_train_epochs counts as 0): the head is a logistic regression on the vectors of "
        "towers that are not trained, its penalty chosen on the evaluation set. An mlp has no hidden layers then. With "
        "method: concat it is one on all vectors, with sum the mean of one a modality.",
    )
    stack: bool = HfArg(
        default=False,
        help="At the end of training give each modality the weight in the fused prediction that fits the evaluation "
        "set (stacking), before calibrate; for the fusions concat and sum.",
    )
    early_stopping_patience: int | None = HfArg(
        default=None, help="Stop when metric_for_best_model has not improved for so many evaluations."
    )
    channels_last: bool = HfArg(
        default=False,
        help="Keep the weights of convolutions as (out, height, width, in) in memory: the same numbers but for "
        "rounding, the same checkpoints. Faster or slower by the towers and their inputs: try it, with bf16 "
        "above all (scripts/benchmark.py --only throughput).",
    )
    resume_changed: bool = HfArg(
        default=False,
        help="Resume although settings differ from those of the checkpoint, and go on with the new ones, or "
        "from a checkpoint that holds too little to check: the run is then not the one that was begun.",
    )

    train_sampling_strategy: str = HfArg(
        default="random", help="random, sequential, or balanced: drawn so that all classes are equally frequent."
    )
    logging_strategy: str = HfArg(default="epoch", help="When to log: no, steps or epoch.")
    logging_nan_inf_filter: bool = HfArg(
        default=False, help="Leave losses that are no numbers out of the log: each step then waits for the device."
    )
    remove_unused_columns: bool = HfArg(default=False, help="Must stay False: inputs are named after modalities.")
    report_to: list[str] | str | None = HfArg(
        default="none",
        help="Where to send logs: tensorboard, trackio (both stay on this machine) or others; none by default.",
    )

    def __post_init__(self):
        if isinstance(self.method, str) and self.method.startswith("{"):  # from the command line, as transformers' own
            self.method = json.loads(self.method)
        if self.method is None:
            self.method = "lfm"
        make_method(self.method)
        for key, hint in _plain_settings().items():
            if isinstance(getattr(self, key), np.generic):  # which no json takes
                setattr(self, key, getattr(self, key).item())
            check_type(key, getattr(self, key), hint)
        for key, least in LEAST.items():
            value = getattr(self, key)
            if isinstance(value, (int, float)) and not least <= value < 2**32:
                raise ValueError(f"{key}={value} must be at least {least}, and below 2**32.")
        for key, (accepted, why) in REFUSED.items():
            if getattr(self, key, None) not in (None, *accepted):
                wanted = " or ".join(map(repr, accepted))
                raise ValueError(f"{key}={getattr(self, key)!r} is refused, because {why}; leave it at {wanted}.")
        if getattr(self.optim, "value", self.optim) in UNFIT_OPTIMIZERS:
            raise ValueError(
                f"optim={self.optim} steps within the backward pass, before a method may change gradients."
            )
        given = self.class_weights
        numbers = isinstance(given, (list, tuple)) and all(isinstance(weight, (int, float)) for weight in given)
        if not (given is None or numbers or (isinstance(given, str) and given == "balanced")):
            raise ValueError(f"class_weights={self.class_weights!r} must be a list of numbers, or balanced.")
        self.metrics = [self.metrics] if isinstance(self.metrics, str) else self.metrics
        for name in self.metrics or ():
            try:
                METRICS.find(name)
            except ValueError as error:
                raise ValueError(f"metrics={self.metrics!r}: {error}") from error
        if self.label_smoothing_factor > 1:
            raise ValueError(f"label_smoothing_factor={self.label_smoothing_factor} must lie in [0, 1].")
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            raise ValueError("early_stopping_patience needs evaluations: set eval_strategy to epoch or steps.")
        if self.linear_probe and self.max_steps > 0:
            raise ValueError("linear_probe: true takes no step: leave out max_steps.")
        if self.linear_probe:
            self.num_train_epochs = 0
        super().__post_init__()
        check_report_to(self.report_to)
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # nothing to pin for, and torch warns at every epoch

    def __getstate__(self):
        # `training_args.bin` is sent to the Hub with the model, and would hold the token that sends it.
        return {**vars(self), "hub_token": None}


@cache
def _plain_settings():
    """The types of the settings that are numbers or yes and no (`dict`), whose wrong values would be told late, by
    another name, or never, as the word "no" for False."""
    hints = get_type_hints(LfmTrainingArguments)
    return {key: hint for key, hint in hints.items() if {*(get_args(hint) or (hint,))} <= {bool, int, float, NoneType}}
