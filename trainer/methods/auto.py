"""auto: late fusion, and a race that finds how much the modalities' own losses should count."""

import copy
import math
from dataclasses import dataclass, replace

import torch
from transformers.utils import logging

from ..alpha.outer_loss import calibrated_cross_entropy
from ..holdout import is_stream
from ._states import on_cpu, restore_state, save_state
from .base import Method, MethodSpec, Unfit, check_limits, register

logger = logging.get_logger(__name__)
ONLY = "only"


@dataclass(frozen=True)
class AutoSettings:
    """
    Args:
        weights: the candidates for u: numbers from 0 on, or `only`; of one alone there is no race.
        race: the share of all steps that each of them trains.
    """

    weights: tuple = (0, 1, ONLY)
    race: float = 0.3

    def __post_init__(self):
        check_limits(self, "lie in (0, 1]", "race")
        numbers = [u for u in self.weights if u != ONLY]
        plain = all(isinstance(u, (int, float)) and not isinstance(u, bool) and 0 <= u < math.inf for u in numbers)
        if not (plain and self.weights and len(set(self.weights)) == len(self.weights)):
            raise ValueError(f"method.weights={list(self.weights)} must be different numbers from 0 on, or {ONLY}.")


@register
class Auto(Method):
    """CE(F) + u sum_m CE(f_m), F = sum_m f_m, or for u = `only` sum_m CE(f_m) alone; the best u of several.

    All candidates train from the same weights on the same batches at the same learning rates, for the first `race` of
    the steps: the first in the run itself, the others on copies when its share is over. The one whose F has the lowest
    calibrated cross-entropy on held-out samples then goes on alone, with its weights and its optimizer's moments. What
    is logged and evaluated before is the first candidate's; it is no candidate for the best checkpoint if another goes
    on. A run too short for a race trains the first one.

    Ours: no u is right everywhere. Where one modality starves the other, `only` wins; where they complete each other,
    0. Calibrated cross-entropy: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """

    spec = MethodSpec(
        name="auto",
        title="Auto",
        paper="(ours)",
        formula="CE(sum_m f_m) + u sum_m CE(f_m), u of 0, 1 and only by a race on held-out samples",
        fusions=("sum",),
        multi_label=True,
        extra_passes="none; 0.6 trainings more, as three candidates train the first 30 % of the steps",
        holes="CE(f_m) over the samples that have m; the fused prediction is made of what is there",
    )
    Settings = AutoSettings
    kept = ("chosen", "race_steps", "start")

    def bind(self, trainer):
        super().bind(trainer)
        self.chosen, self.race_steps, self.start = 0, 0, None  # start: weights until the race is over
        dataset = trainer.train_dataset
        if self.needs_holdout and is_stream(dataset) and iter(dataset) is dataset:
            raise Unfit("method auto trains its candidates on the same samples: the stream must be readable again.")
        if self.needs_holdout and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            raise ValueError(
                "method auto copies the whole model for its race: no FSDP or DeepSpeed, or one of weights."
            )

    @property
    def needs_holdout(self):
        return len(self.settings.weights) > 1

    def on_train_begin(self):
        self.chosen, self.race_steps, self.start = 0, 0, None
        if self.needs_holdout:
            steps = self.trainer.state.max_steps
            self.race_steps = min(int(self.settings.race * steps), steps - 1)
            self.start = on_cpu(self.model.state_dict()) if self.race_steps else None

    def on_step_begin(self, step):
        if self.start is not None and step == self.race_steps:
            self.end_race()

    def end_race(self):
        """Train the other candidates as far as the first one is, and go on with the best."""
        weights, best = self.settings.weights, None
        losses = [self.held_out_loss(self.model)]
        for place, weight in enumerate(weights[1:], start=1):
            model = copy.deepcopy(self.model)
            model.load_state_dict(self.start)
            candidate = Candidate(weight, self.race_steps)
            self.trainer.train_apart(model, candidate)
            losses.append(self.held_out_loss(model))
            if losses[place] < min(losses[:place]):
                self.chosen, best = place, candidate.end
        if best is not None:
            restore_state(self.trainer, best)
            state = self.trainer.state  # what the first candidate reached is not to be kept as the best
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None
            self.trainer.average = None  # nor to be a part of the mean of the last epochs
        self.start = None
        self.trainer.log({f"race_{weight}": loss for weight, loss in zip(weights, losses, strict=True)})
        logger.info(f"auto goes on with u = {weights[self.chosen]}.")

    def held_out_loss(self, model):
        """Calibrated cross-entropy of the fused prediction (`float`); infinite if the model has diverged."""
        trainer = self.trainer
        outputs, labels = zip(*trainer.run_batches(trainer.holdout_dataset, model=model), strict=True)
        logits, labels = torch.cat([output.logits for output in outputs]), torch.cat(labels)
        loss = logits.new_tensor(math.inf)
        if logits.isfinite().all():
            loss = calibrated_cross_entropy(logits, labels, model.config.problem_type, trainer.special_loss)
        return float(trainer.reduce(loss))

    def losses(self, outputs, labels, inputs):
        u, fused = self.settings.weights[self.chosen], self.classification_loss(outputs.logits, labels)
        each = self.each_loss(outputs, labels)
        loss = sum(each) if u == ONLY else fused + u * sum(each) if u else fused
        return {"loss": loss, **self.named([*each, fused], "fused")}

    def logs(self):
        u = self.settings.weights[self.chosen]
        return {"weight_fused": int(u != ONLY), "weight_unimodal": 1 if u == ONLY else u}

    def load_state_dict(self, state):
        super().load_state_dict(on_cpu(state))


class Candidate(Auto):
    """Trains with the weight u (a number or `only`) for the first `steps` of a run; `end` is where it then stands. Not
    in the registry."""

    spec = replace(Auto.spec, name="auto_candidate")

    def __init__(self, weight, steps):
        super().__init__(AutoSettings(weights=(weight,)))
        self.steps = steps

    def on_step_begin(self, step):
        self.trainer.control.should_training_stop = step + 1 == self.steps

    def on_train_end(self):
        self.end = save_state(self.trainer)
