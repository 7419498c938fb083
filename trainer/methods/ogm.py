"""OGM-GE: slows down the encoder of the dominant modality."""

from dataclasses import dataclass

import torch

from ..objectives import full_precision
from .base import Method, MethodSpec, check_limits, register


@dataclass(frozen=True)
class OgmSettings:
    """Published defaults of the released code.

    Args:
        alpha: strength of the modulation (0.1 for VGGSound, 0.8 for CREMA-D).
        noise: add the Gaussian noise of generalisation enhancement (GE).
        first_epoch, last_epoch: epochs, counted from 1, in which gradients are modulated (0 to 50, both included, where
            the released code counts from 0).
        all_parameters: modulate every weight that is no vector, instead of convolutions only; None: where convolutions
            are less than half of the encoder's weights (Transformers).
    """

    alpha: float = 0.1
    noise: bool = True
    first_epoch: int = 1
    last_epoch: int = 51
    all_parameters: bool | None = None

    def __post_init__(self):
        check_limits(self, "not be negative", "alpha")


@register
class Ogm(Method):
    """k_m = 1 - tanh(alpha rho_m) where rho_m > 1, else 1; gradients of encoder m become k_m g + N(0, std(g)).

    rho_m = s_m / mean of the other modalities' s, s_m the sum over the batch of the probability that modality m alone
    gives to the true class (the mean over the samples that have m, where some lack it). With two modalities rho_1 = s_1
    / s_2, as in the paper (equations 6 to 10). For three the released codes disagree; here each modality above the mean
    of the others is slowed down (our derivation).

    `OGM` in the table of the LFM paper.

    Source: Peng et al., "Balanced Multimodal Learning via On-the-fly Gradient Modulation", CVPR 2022, and its released
    code (`main.py`). The noise, drawn alike on every process, has the deviation of the gradient before modulation.
    """

    spec = MethodSpec(
        name="ogm",
        title="OGM-GE",
        venue="CVPR 2022",
        bibtex="peng2022balanced",
        formula="grad_m <- (1 - tanh(alpha rho_m)) grad_m + N(0, std) for the dominant m",
        fusions=("concat", "sum"),
        row="OGM",
        holes="s_m is the mean over the samples that have m",
    )
    Settings = OgmSettings

    def bind(self, trainer):
        super().bind(trainer)
        self.scores = None

    def losses(self, outputs, labels, inputs):
        with torch.no_grad():
            chosen = labels.unsqueeze(1)
            logits = [full_precision(f) for f in outputs.modality_logits]
            chances = torch.stack([f.softmax(-1).gather(1, chosen)[:, 0] for f in logits])
            there = torch.ones_like(chances, dtype=torch.bool) if outputs.present is None else outputs.present
            scores = torch.stack([chances.where(there, 0).sum(1), there.sum(1).to(chances)])  # (2, M)
        self.scores = scores if self.scores is None else self.scores + scores
        return super().losses(outputs, labels, inputs)

    def on_gradients(self):
        (sums, counts), self.scores = self.trainer.reduce(self.scores, "sum"), None
        sums = sums * (counts.max() / counts.clamp_min(1))  # as of equally many samples
        if not self.settings.first_epoch <= self.trainer.epoch <= self.settings.last_epoch:
            return
        noisy, generator = self.settings.noise, torch.Generator(device=self.args.device)
        generator.manual_seed(self.args.seed * 1_000_003 + self.trainer.state.global_step)
        chosen = {name: [p for p in self.modulated(name) if p.grad is not None] for name in self.modalities}
        sizes = [parameter.numel() for parameters in chosen.values() for parameter in parameters]
        buffer = torch.empty(max(sizes, default=0), device=self.args.device)  # fresh memory each time would cost more
        for name, factor in zip(self.modalities, self.coefficients(sums), strict=True):
            for parameter in chosen[name]:
                deviation = parameter.grad.std() + 1e-8 if noisy and parameter.numel() > 1 else None  # one has none
                parameter.grad.mul_(factor)
                if deviation is not None:
                    noise = buffer[: parameter.numel()].normal_(generator=generator).view(parameter.shape)
                    parameter.grad.add_(noise.mul_(deviation))

    def coefficients(self, scores):
        """k_m (M,) of the summed probabilities `scores` (M,); 1 where no other modality is there."""
        others = (scores.sum() - scores) / (len(scores) - 1)
        ratios = scores / others
        return torch.where(
            (ratios > 1) & (others > 0), 1 - torch.tanh(self.settings.alpha * ratios), torch.ones_like(ratios)
        )

    def modulated(self, name):
        """The parameters of a modality's encoder whose gradients are modulated (`list`)."""
        weights = [p for p in self.model.encoder_parameters(name) if p.dim() > 1]
        convolutions = [p for p in weights if p.dim() == 4]
        every = self.settings.all_parameters
        if every is None:
            every = sum(p.numel() for p in convolutions) < sum(p.numel() for p in weights) / 2
        return weights if every else convolutions
