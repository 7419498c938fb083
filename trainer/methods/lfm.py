"""LFM: classification and matching loss, mixed by an alpha that moves while the model trains."""

from dataclasses import dataclass

import torch
from accelerate.utils import broadcast_object_list
from transformers.utils import logging

from modeling_lfm.registry_lfm import suggest

from ..alpha.bilevel import BilevelProblem
from ..alpha.hypergradient import PRODUCTS
from ..alpha.linear_solvers import SOLVERS
from ..alpha.memory import VectorMemory
from ..alpha.outer_loss import OUTER_LOSSES
from ..alpha.schedules import ALPHA_RULES, ALPHAS, make_alpha
from ..holdout import is_stream, read_labels
from ..objectives import MATCHING_LOSSES, TOTALS, matching_loss, total_loss
from ..presence import make_presence
from ..prior import LINEAR_FUSIONS, fit_weight, fold, log_prior
from .base import Method, MethodSpec, check_limits, register

logger = logging.get_logger(__name__)

CHOICES = {
    "matching_loss": MATCHING_LOSSES,
    "total": TOTALS,
    "alpha": ALPHAS,
    "alpha_rule": ALPHA_RULES,
    "alpha_solver": SOLVERS,
    "alpha_product": PRODUCTS,
    "alpha_parameters": ("head", "all"),
    "alpha_outer": OUTER_LOSSES,
}


@dataclass(frozen=True)
class LfmSettings:
    """How L_MM is computed, and how alpha, its weight, moves.

    Args:
        matching_loss: L_MM: `js`, Jensen-Shannon divergence of the modalities' predictions; `infonce` on their
            features (the paper's text); `unimodal`, each modality's own cross-entropy (a control).
        total: `ratio`: L_CLS + min(alpha / (1 - alpha), 50) L_MM; `convex`: the paper's equation 1,
            (1 - alpha) L_CLS + alpha L_MM.
        temperature: of InfoNCE.
        alpha: `learned` by the implicit hypergradient (costs a few steps an epoch), by `lookahead`
            (2 x lookahead_steps steps an epoch), or a schedule: `constant`, `linear`, `stepwise`, `heuristic`,
            `polynomial`.
        alpha_every: when alpha moves, and so what every rule counts as t = 1, ..., T: `epoch`, or a number of steps (in
            an epoch or two of fine-tuning, or on a stream, which has no epochs).
        alpha_reuse: whether `learned` takes the towers' vectors that training computed in its latest steps, and keeps
            those of held-out samples, so that an update costs next to nothing; if not given, where `alpha_every` is a
            number of steps and `alpha_parameters` is `head`.
        alpha_value: alpha of `constant` (0 leaves L_CLS alone); p of `stepwise` h(p).
        alpha_start: first alpha of `learned` (0.95 if not given), `lookahead` (0.9) and `linear` (0.95).
        alpha_step: step of the learned alpha: k in alpha -= k / T cos for rule `cosine` (3 if not given; T epochs), eta
            in alpha -= eta h for `raw`, k in x -= k / T direction for `lookahead` (6).
        alpha_rule: what of the hypergradient moves the learned alpha: `cosine`, `raw`, `sign`.
        alpha_solver: how the implicit system (H + damping I) v = g is solved: `cg`, `neumann`, `identity`; if not given
            `cg`, and with `alpha_reuse` `identity`, which needs no Hessian.
        alpha_iterations: of the solver.
        alpha_damping: added to the Hessian.
        alpha_product: Hessian-vector products by `double_backward` or `central_difference`.
        alpha_parameters: of the inner problem: `head`, projections and fusion (cheap: towers run once), or `all`.
        alpha_outer: outer loss: `calibrated` cross-entropy of the fused and the single-modality predictions, each with
            its best inverse temperature, or the `plain` one of the fused prediction.
        alpha_inner_samples: training samples on which the inner problem's derivatives are computed; if not given 256,
            and 64 with `alpha_reuse`: those of the fewest latest steps that hold so many.
        alpha_outer_samples: held-out samples on which the outer loss is computed, drawn anew for each update; all where
            there are no more. So an update costs the same whatever the size of the data set. With `alpha_reuse` the
            latest so many that passed the towers.
        lookahead_steps: steps that `lookahead` trains each of its two copies.
        keep_prior: when training ends, give what the divergence has shrunk its weight back, but not the class prior pi:
            F' = w (F - log pi) + log pi with the w that fits the held-out samples, folded into the head.
        polynomial_coefficients: a b c d of alpha = a t^3 + b t^2 + c t + d; the paper's if not given.
    """

    matching_loss: str = "js"
    total: str = "ratio"
    temperature: float = 0.07
    alpha: str = "learned"
    alpha_every: int | str = "epoch"
    alpha_reuse: bool | None = None
    alpha_value: float = 0.0
    alpha_start: float | None = None
    alpha_step: float | None = None
    alpha_rule: str = "cosine"
    alpha_solver: str | None = None
    alpha_iterations: int = 5
    alpha_damping: float = 0.1
    alpha_product: str = "double_backward"
    alpha_parameters: str = "head"
    alpha_outer: str = "calibrated"
    alpha_inner_samples: int | None = None
    alpha_outer_samples: int = 256
    lookahead_steps: int = 20
    keep_prior: bool = False
    polynomial_coefficients: list[float] | None = None

    def __post_init__(self):
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices and value is not getattr(type(self), name):
                raise ValueError(f"method.{name}={value!r} is unknown; {suggest(value, choices)}")
        if self.alpha_every != "epoch" and (isinstance(self.alpha_every, str) or self.alpha_every < 1):
            raise ValueError(f"method.alpha_every={self.alpha_every!r} must be epoch, or a number of steps from 1 on.")
        check_limits(self, "lie in [0, 1]", "alpha_value", "alpha_start")
        check_limits(self, "be positive", "temperature", "alpha_iterations", "lookahead_steps")
        check_limits(self, "be positive", "alpha_inner_samples", "alpha_outer_samples")
        check_limits(self, "not be negative", "alpha_damping")
        if self.alpha_reuse and not self._can_reuse:
            raise ValueError("method.alpha_reuse=True needs alpha=learned with alpha_parameters=head, or leave it out.")
        if self.keep_prior and self.matching_loss != "js":
            raise ValueError("method.keep_prior=True mends what the divergence does: it needs matching_loss=js.")

    @property
    def _can_reuse(self):
        rule = ALPHAS[self.alpha]
        return rule.adaptive and not hasattr(rule, "candidates") and self.alpha_parameters == "head"

    @property
    def reuses(self):
        """`bool`: whether updates take vectors that training has computed, as `alpha_reuse` says or else by default."""
        return self._can_reuse and (self.alpha_every != "epoch" if self.alpha_reuse is None else self.alpha_reuse)

    @property
    def solver(self):
        """`str`: of the implicit system."""
        return self.alpha_solver or ("identity" if self.reuses else "cg")

    @property
    def inner_samples(self):
        """`int`: training samples on which the inner problem's derivatives are computed."""
        return self.alpha_inner_samples or (64 if self.reuses else 256)


@register
class Lfm(Method):
    """L_Total of L_CLS, the cross-entropy of the fused logits, and L_MM, mixed by alpha(t), t = 1, 2, ... in epochs.

    `LFM-LB` in the table of the LFM paper.

    Source: Yang et al., "Facilitating Multimodal Classification via Dynamically Learning Modality Gap", NeurIPS 2024,
    equation 1 (`total="convex"`), section 3; the ratio, the scale-free step and the calibrated outer loss are ours.

    Attributes:
        alpha (`float`): the weight of L_MM in this epoch; None before training.
        schedule: the object that gives alpha (see [`make_alpha`]); None before training.
    """

    spec = MethodSpec(
        name="lfm",
        title="LFM",
        venue="NeurIPS 2024",
        bibtex="yang2024facilitating",
        formula="CE(F) and JS or InfoNCE between modalities, mixed by a learned or scheduled alpha",
        min_modalities=1,
        multi_label=True,
        extra_passes="none; the learned alpha a few head passes an epoch",
        row="LFM-LB",
        holes="L_MM is a mean over pairs of modalities, each over the samples that have both",
    )
    Settings = LfmSettings

    def check(self, config):
        super().check(config)
        if self.settings.keep_prior and config.fusion not in LINEAR_FUSIONS:
            known = " or ".join(LINEAR_FUSIONS)
            raise ValueError(f"method.keep_prior=True needs fusion {known}, not {config.fusion}.")

    def bind(self, trainer):
        super().bind(trainer)
        self.alpha, self.schedule, self.memory = None, None, None
        s = self.settings
        endless = trainer.train_dataset is not None and not hasattr(trainer.train_dataset, "__len__")
        if endless and s.alpha_every == "epoch" and s.alpha != "constant":
            raise ValueError(
                f"a stream has no epochs for alpha={s.alpha}: set method.alpha_every to a number of steps."
            )
        if s.keep_prior:
            self._check_prior(trainer)
        if ALPHAS[s.alpha].adaptive:
            self._check_sharding(trainer)
            implicit = not hasattr(ALPHAS[s.alpha], "candidates") and s.alpha_parameters == "head"
            if implicit and not any(p.requires_grad for p in self.model.head_parameters()):
                raise ValueError(
                    "method.alpha_parameters=head: projections and fusion are frozen, so alpha has nothing to act "
                    "through: train them (PEFT: modules_to_save), set alpha_parameters=all, or choose another alpha."
                )

    def _check_sharding(self, trainer):
        """Raise a `ValueError` where the parameters are spread over the processes in a way that alpha cannot use."""
        s, found = self.settings, None
        if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
            found = "FSDP1: set fsdp_version: 2"
        elif trainer.is_fsdp_enabled and (hasattr(ALPHAS[s.alpha], "candidates") or s.alpha_parameters == "all"):
            found = "FSDP with lookahead or alpha_parameters=all: choose alpha=learned, alpha_parameters=head"
        elif trainer.is_deepspeed_enabled and trainer.accelerator.state.deepspeed_plugin.zero_stage == 3:
            found = "DeepSpeed ZeRO-3: choose stage 2, or FSDP2"
        if found is not None:
            raise ValueError(f"a learned alpha cannot be had under {found}, or an alpha by a schedule.")

    def _check_prior(self, trainer):
        """Raise a `ValueError` where the temperature that keeps the prior cannot be had."""
        if is_stream(trainer.train_dataset):
            raise ValueError("method.keep_prior=True counts the labels of the training set, not of a stream.")
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError("method.keep_prior=True needs the whole head: train without FSDP and DeepSpeed.")

    @property
    def needs_holdout(self):
        return ALPHAS[self.settings.alpha].adaptive or self.settings.keep_prior

    def on_train_begin(self):
        state, every = self.trainer.state, self.settings.alpha_every
        periods = state.num_train_epochs if every == "epoch" else -(-state.max_steps // every)
        if ALPHAS[self.settings.alpha].adaptive and periods == 1:
            logger.warning("alpha stays what it is in a run of one period: set method.alpha_every to fewer steps.")
        self.alpha, self.schedule = None, self.make_schedule(periods)
        self._forget()
        if self.settings.reuses:
            steps = -(-state.max_steps // periods) if every == "epoch" else every
            self.memory = self._make_memory(steps)

    def _make_memory(self, steps):
        """A [`VectorMemory`] for an update every so many `steps`."""
        s, args = self.settings, self.args
        batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        return VectorMemory(self.model, s.inner_samples, s.alpha_outer_samples, steps, batch, args.world_size)

    def _forget(self):
        if self.memory is not None:
            self.memory.close()
            self.memory = None

    def on_train_end(self):
        self._forget()
        if self.settings.keep_prior:
            self._keep_prior()

    def _keep_prior(self):
        """Fold the weight that fits the held-out samples into the head."""
        trainer, problem_type = self.trainer, self.model.config.problem_type
        prior = log_prior(read_labels(trainer.train_dataset), self.model.config.num_labels, problem_type)
        outputs, labels = zip(*trainer.run_batches(trainer.holdout_dataset), strict=True)
        logits = torch.cat([output.logits for output in outputs])
        weight = fit_weight(logits, torch.cat(labels), prior, problem_type)
        fold(self.model.fusion, weight, prior)
        trainer.log({"prior_weight": weight})

    def make_schedule(self, num_epochs):
        """The alpha of the settings over `num_epochs` epochs or periods of steps (see [`make_alpha`])."""
        s = self.settings
        return make_alpha(
            s.alpha,
            num_epochs=num_epochs,
            value=s.alpha_value,
            start=s.alpha_start,
            step=s.alpha_step,
            rule=s.alpha_rule,
            coefficients=s.polynomial_coefficients,
        )

    def on_epoch_begin(self, epoch):
        if self.settings.alpha_every == "epoch":
            self.begin_period(epoch)

    def on_step_begin(self, step):
        every = self.settings.alpha_every
        if every != "epoch" and step % every == 0:
            self.begin_period(step // every + 1)
        if self.memory is not None:
            self.memory.begin_step()

    def begin_period(self, number):
        """alpha of the epoch or period of steps `number` (`int`, from 1), after an update where it is learned."""
        if ALPHAS[self.settings.alpha].adaptive and number > 1:
            self.update_alpha(number)
        self.alpha = self.schedule.value(number)

    def update_alpha(self, epoch):
        """Move a learned alpha before `epoch`, or the period of steps of this number: the same on every process, and
        without touching the random state."""
        found = [BilevelProblem(self).advance(self.schedule, epoch)]
        if self.args.world_size > 1:
            broadcast_object_list(found)
        values, logs = found[0]
        self.schedule.update(*values)
        self.trainer.log({**logs, "alpha": self.schedule.value(epoch)})

    def losses(self, outputs, labels, inputs):
        if self.memory is not None:
            self.memory.keep(labels, outputs.present)
        parts = self.parts(outputs, labels, self.args.world_size > 1, self.trainer.step_counts)
        return {"loss": total_loss(parts["loss_cls"], parts["loss_mm"], self.alpha, self.settings.total), **parts}

    def parts(self, outputs, labels, gather=False, totals=None):
        """L_CLS and L_MM of a batch.

        Args:
            outputs ([`LfmOutput`])
            labels (`torch.Tensor` `(B,)` or `(B, num_labels)`)
            gather (`bool`): InfoNCE takes its negatives from all processes.
            totals (`torch.Tensor`, *optional*): of the optimizer step, see [`Presence`]; the batch is all of it if not
                given.

        Returns:
            `dict` with the scalars `loss_cls` and `loss_mm`.
        """
        loss_mm = matching_loss(
            self.settings.matching_loss,
            outputs,
            labels,
            temperature=self.settings.temperature,
            problem_type=self.model.config.problem_type,
            gather=gather,
            even=gather and self.trainer.accelerator.even_batches,
            presence=make_presence(outputs, totals),
        )
        return {"loss_cls": self.classification_loss(outputs.logits, labels), "loss_mm": loss_mm}

    def logs(self):
        return {"alpha": self.alpha}

    def state_dict(self):
        state = {"alpha": self.alpha, "schedule": {} if self.schedule is None else self.schedule.state_dict()}
        return state if self.memory is None else {**state, "memory": self.memory.state_dict()}

    def load_state_dict(self, state):
        self.on_train_begin()
        self.alpha = state["alpha"]
        self.schedule.load_state_dict(state["schedule"])
        if self.memory is not None and "memory" in state:
            self.memory.load_state_dict(state["memory"], self.args.process_index, self.args.device)
        if ALPHAS[self.settings.alpha].adaptive and self.trainer.is_fsdp_enabled:
            # An update may come first, which calls towers; FSDP2 wants the whole model called before a part of it.
            for _ in self.trainer.run_batches(self.trainer.holdout_dataset, [0]):
                pass
