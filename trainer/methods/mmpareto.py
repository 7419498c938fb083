"""MMPareto: multimodal and unimodal gradients of each encoder combined so that they do not conflict."""

from dataclasses import dataclass

import torch

from ..objectives import no_autocast
from .base import Method, MethodSpec, check_limits, register

LEAST_WEIGHT = 0.001  # of what the other gradient is zero beside, as in the authors' solver


@dataclass(frozen=True)
class MmParetoSettings:
    """
    Args:
        magnification: factor of the combined gradients (gamma).
    """

    magnification: float = 1.5

    def __post_init__(self):
        check_limits(self, "be positive", "magnification")


@register
class MmPareto(Method):
    """CE(F) + sum_m CE(f_m), f_m by unimodal heads, with the gradients of each encoder m combined anew.

    With g the gradient of CE(F) and g_m that of CE(f_m) with respect to all weights of the encoder (tower and
    projection), w = 1/2 if their cosine is positive, else that of the combination of least norm,

        w = (||g_m||^2 - g g_m) / ||g - g_m||^2,

    or, where one of the two gradients is zero, 0.999 for it, so that the other one's direction is left.

    Each tensor's gradient becomes gamma max(1, n / ||h||) h, h = 2 w g + 2 (1 - w) g_m, n the norm of the tensor's
    gradient of the whole loss. Heads, and all that belongs to no encoder, keep the gradient of the whole loss.

    Source: Wei and Hu, "MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance", ICML 2024, and its
    released code (`code/MMPareto.py`, `code/min_norm_solvers.py`).
    """

    spec = MethodSpec(
        name="mmpareto",
        title="MMPareto",
        venue="ICML 2024",
        bibtex="wei2024mmpareto",
        formula="CE(F) + sum_m CE(f_m); encoder m gets 2 w g + 2 (1 - w) g_m, min-norm w on conflict, magnified",
        unimodal_heads=True,
        multi_label=True,
        extra_passes="one backward pass through each encoder",
        row="MMPareto",
        holes="CE(f_m) over the samples that have m",
    )
    Settings = MmParetoSettings
    own_backward = True

    def bind(self, trainer):
        super().bind(trainer)
        self.forget()

    def forget(self):
        """Drop the gradients of a step: for each modality and each loss a `dict` from parameter to gradient."""
        self.fused, self.unimodal = {}, {name: {} for name in self.modalities}

    def run_batch(self, inputs, labels):
        outputs = self.model(**inputs)
        unimodal = self.each_loss(outputs, labels)
        losses = {"loss_fused": self.classification_loss(outputs.logits, labels), **self.named(unimodal)}
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        encoders = {parameter: name for name in self.modalities for parameter in self.model.encoder_parameters(name)}
        sources = dict(zip((None, *self.modalities), losses.values(), strict=True))
        for place, (source, loss) in enumerate(sources.items(), 1):
            with no_autocast(loss):
                gradients = torch.autograd.grad(
                    loss / self.trainer.accumulation, parameters, retain_graph=place < len(sources), allow_unused=True
                )
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is None:
                    continue
                encoder = encoders.get(parameter)
                self.add_gradient(parameter, gradient, apart=encoder is not None)
                if encoder is not None and source in (None, encoder):
                    kept = self.fused if source is None else self.unimodal[source]
                    kept[parameter] = gradient if parameter not in kept else kept[parameter] + gradient
        losses = {name: loss.detach() for name, loss in losses.items()}
        return {"loss": sum(losses.values()), **losses}

    def add_gradient(self, parameter, gradient, apart):
        """Add to the gradient of the whole loss; `apart`: the tensor is kept beside it as well."""
        if parameter.grad is not None:
            parameter.grad = parameter.grad + gradient
        else:  # averaging over processes writes into it, and no other step does into that of an encoder
            parameter.grad = gradient if apart and self.args.world_size == 1 else gradient.clone()

    def on_gradients(self):
        for name in self.modalities:
            parameters = [p for p in self.model.encoder_parameters(name) if p.grad is not None]
            fused, unimodal = (
                self.reduce_all([found[p] if p in found else torch.zeros_like(p) for p in parameters])
                for found in (self.fused, self.unimodal[name])
            )
            weight = fused_weight(fused, unimodal)
            for parameter, one, other in zip(parameters, fused, unimodal, strict=True):
                combined = (2 * weight * one).add_(2 * (1 - weight) * other)
                norm, whole = combined.norm(), parameter.grad.norm()
                scale = torch.where((norm > 0) & (whole > norm), whole / norm, 1.0)
                parameter.grad = combined.mul_(self.settings.magnification * scale)
        self.forget()

    def reduce_all(self, tensors):
        """The tensors averaged over the processes, at once."""
        if self.args.world_size == 1:
            return tensors
        flat = self.trainer.reduce(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def fused_weight(fused, unimodal):
    """w, the weight of the fused prediction's gradient (scalar): two lists of tensors, gradient by gradient."""

    def dot(one, other):
        return sum((a * b).sum() for a, b in zip(one, other, strict=True))

    product = dot(fused, unimodal)
    squares = dot(fused, fused), dot(unimodal, unimodal)
    distance = (squares[0] + squares[1] - 2 * product).clamp(min=torch.finfo(product.dtype).tiny)
    least = ((squares[1] - product) / distance).clamp(0, 1)
    least = torch.where(squares[1] <= product, LEAST_WEIGHT, least)  # on conflict: only if it is zero
    least = torch.where(squares[0] <= product, 1 - LEAST_WEIGHT, least)
    return torch.where(product > 0, 0.5, least)
