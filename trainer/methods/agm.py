"""AGM: modulates the gradients of each modality's Shapley share of the logits."""

from dataclasses import dataclass
from itertools import combinations

import torch

from ..objectives import full_precision, no_autocast, shapley_values
from ._modalities import blank_inputs
from .base import Method, MethodSpec, check_limits, register


@dataclass(frozen=True)
class AgmSettings:
    """
    Args:
        alpha: strength of the modulation (1 by default in the released code; 1.5 for CREMA-D, told by the author).
        cap: upper bound of tau_m - r_m, so kappa_m is at most exp(alpha cap); if not given 10 for two modalities and
            7 for more, as published for three.
        clip_above: in steps where a gradient of the head's weight is larger than this, the norm of the whole gradient
            is clipped to 1 (5 for UR-Funny); not at all if None. `max_grad_norm` of the training arguments is apart.
    """

    alpha: float = 1.0
    cap: float | None = None
    clip_above: float | None = 1.0

    def __post_init__(self):
        check_limits(self, "not be negative", "alpha")
        check_limits(self, "be positive", "cap", "clip_above")


@register
class Agm(Method):
    """CE(sum_m m_m) whose gradient with respect to m_m is multiplied by kappa_m.

    m_m, the share of modality m in the fused logits, is its Shapley value over the logits F_S of the inputs whose
    modalities outside S are blanked, with F of no modality left out, so that sum_m m_m = F: for two modalities
    m_1 = (F_12 - F_2 + F_1) / 2. With s_m = CE(m_m), probabilities at least 1e-8, and s their mean over modalities:

        kappa_m = exp(alpha min(tau_m - r_m, cap)),  r_m = exp(M / (M - 1) (s - s_m)),

    tau_m the same as r_m of the means of s_m over all optimizer steps before (0 at the first, hence tau_m = 1).
    Blanked inputs run in evaluation mode with gradients: otherwise all encoders would get the same factor.

    Source: Li et al., "Boosting Multi-modal Model Performance with Adaptive Gradient Modulation", ICCV 2023, and its
    released code (`model/CREMAD_net.py`, `run/CREMAD_main.py`, `run/URFunny_main.py`), which modulates up to an epoch
    of choice; here to the end, as for CREMA-D. The gradient is clipped as in that code (`clip_above`). M > 3 is our
    derivation, from the same Shapley values.
    """

    spec = MethodSpec(
        name="agm",
        title="AGM",
        venue="ICCV 2023",
        bibtex="li2023boosting",
        formula="CE(sum_m m_m), m_m Shapley shares of F; gradient of m_m times exp(alpha min(tau_m - r_m, cap))",
        extra_passes="2^M - 2, of blanked inputs",
        batch_statistics=True,
        modality_dropout=False,
        row="AGM",
        no_holes="its shares compare runs on blanked inputs of every modality of every sample",
    )
    Settings = AgmSettings
    kept = ("mean_scores", "steps")

    def bind(self, trainer):
        super().bind(trainer)
        if self.args.gradient_checkpointing:  # backward would repeat passes in evaluation mode in training mode
            raise ValueError("method agm cannot train with gradient_checkpointing: leave it off.")

    def on_train_begin(self):
        self.mean_scores, self.steps = torch.zeros(len(self.modalities), device=self.args.device), 0

    def on_step_begin(self, step):
        self.scores = 0  # of the batches of this step

    def losses(self, outputs, labels, inputs):
        fused = {frozenset(range(len(self.modalities))): outputs.logits, **self.blanked_logits(inputs)}
        with no_autocast(labels):
            fused = {places: full_precision(logits) for places, logits in fused.items()}
            shares = torch.stack(shapley_values(fused, range(len(self.modalities))))
            with torch.no_grad():
                chosen = shares.softmax(-1)[:, torch.arange(len(labels), device=labels.device), labels]
                scores = self.trainer.reduce(-chosen.clamp(min=1e-8).log().mean(1))
                factors = self.coefficients(scores).view(-1, 1, 1)
            logits = (factors * shares + ((1 - factors) * shares).detach()).sum(0)
        self.scores = self.scores + scores / self.trainer.accumulation
        kappas = {f"kappa_{name}": kappa for name, kappa in zip(self.modalities, factors.flatten(), strict=True)}
        return {"loss": self.classification_loss(logits, labels), **kappas}

    def blanked_logits(self, inputs):
        """F_S (B, K) of every S but the empty and the full one: a `dict` from `frozenset` of places in `modalities`."""
        places, fused = range(len(self.modalities)), {}
        inputs = {name: inputs[name] for name in self.model.lfm.input_names if name in inputs}
        self.model.eval()
        for size in range(1, len(places)):
            for kept in combinations(places, size):
                gone = [self.modalities[place] for place in places if place not in kept]
                fused[frozenset(kept)] = self.model(**blank_inputs(inputs, gone)).logits
        self.model.train()
        return fused

    def coefficients(self, scores):
        """kappa_m (M,) of the scores s_m (M,) of a batch."""
        number, cap = len(scores), self.settings.cap
        cap = (10.0 if number == 2 else 7.0) if cap is None else cap
        ratios, usual = (
            torch.exp(number / (number - 1) * (values.mean() - values)) for values in (scores, self.mean_scores)
        )
        return torch.exp(self.settings.alpha * (usual - ratios).clamp(max=cap))

    def on_gradients(self):
        self.clip()
        self.steps += 1
        self.mean_scores = self.mean_scores + (self.scores - self.mean_scores) / self.steps

    def clip(self):
        """Clip the norm of the gradient to 1 if one of the head's weights has a gradient above `clip_above`."""
        scaler = self.trainer.accelerator.scaler
        scale = 1.0 if scaler is None else scaler.get_scale()
        weights = [p.grad for p in self.model.fusion.parameters() if p.dim() > 1 and p.grad is not None]
        limit = self.settings.clip_above
        if limit is not None and weights:
            large = torch.stack([gradient.abs().max() for gradient in weights]).max() > limit * scale
            parameters = [p for p in self.model.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
            # A norm of 0 leaves gradients as they are; to ask whether it is large would wait for the device.
            torch.nn.utils.clip_grads_with_norm_(parameters, scale, torch.where(large, norm, 0.0))
