"""The hypergradient of the bi-level problem that learns alpha, by implicit differentiation. No trainer in it.

Inner problem: theta*(alpha) minimises L_Total = (1 - alpha) L_CLS + alpha L_MM on the training data. Outer problem:
alpha minimises J(theta*(alpha)) on held-out data. The implicit function theorem gives

    dJ / d alpha = -c' H^-1 g,   g = grad J,   c = grad L_MM - grad L_CLS,   H = Hessian of L_Total,

all at theta*; c is the mixed derivative of L_Total in theta and alpha (section 3 of the paper "Facilitating
Multimodal Classification via Dynamically Learning Modality Gap", NeurIPS 2024). See also Pedregosa,
"Hyperparameter optimization with approximate gradient" (ICML 2016), and Lorraine, Vicol and Duvenaud, "Optimizing
Millions of Hyperparameters by Implicit Differentiation" (AISTATS 2020).

The inner problem is taken in its convex form. The ratio total, L_CLS + alpha / (1 - alpha) L_MM, is the same
function divided by 1 - alpha: its Hessian is H / (1 - alpha), its mixed derivative grad L_MM / (1 - alpha)^2,
which at the inner optimum, where (1 - alpha) grad L_CLS = -alpha grad L_MM, is c / (1 - alpha). So both give the
same hypergradient there, and the convex form is used for both: it stays bounded as alpha nears 1, does
not vanish where the ratio is capped, and gives `damping` one meaning for every alpha.

Inner and outer data must differ: on the same data c = -g / alpha at the inner optimum, the hypergradient is
g' H^-1 g / alpha >= 0, and alpha could only fall.

Autocast is off inside, random numbers are the same in every pass, and the generators are left as they were. Parameters,
and their `.grad`, are not changed. A model with batch normalisation or dropout belongs inside `frozen_norm_statistics`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .linear_solvers import SOLVERS, Operator, dot, norm, solve

PRODUCTS = ("double_backward", "central_difference")
"""Hessian-vector products: `"double_backward"`, exact, or `"central_difference"` of the gradient, which works where no
second derivative exists (fused attention, torch.compile, cuDNN's LSTM). The latter's relative error is 1e-3 or less, at
the cost of four gradients each, where the loss is smooth in the parameters: for the head of any model, for all
parameters of one without ReLU. With ReLU inside, the gradient jumps, and only double backward is dependable."""

Closure = Callable[[], Tensor]


@dataclass(frozen=True)
class HypergradientResult:
    """The hypergradient and what tells how far to trust it.

    Attributes:
        value: -c'v, the estimate of dJ / d alpha.
        cosine: value / (|c| |v|), in [-1, 1]; 0 where c or v is zero.
        norm_outer, norm_mixed, norm_solution: |g|, |c| and |v|.
        outer_loss: J.
        iterations: Steps of the solver that were taken.
        residual: |(H + damping I) v - g| / |g|; None for `identity`, which does not know it.
        negative_curvature: a direction of no positive curvature was met, and the solver stopped there.
        diverged: `neumann` was about to diverge with its step, which was therefore shortened.
        step: last step of `neumann`, None for the other solvers.
    """

    value: float
    cosine: float
    norm_outer: float
    norm_mixed: float
    norm_solution: float
    outer_loss: float
    iterations: int
    residual: float | None
    negative_curvature: bool
    diverged: bool
    step: float | None

    def as_dict(self, prefix: str = "hypergradient") -> dict[str, float]:
        """For logs: the value as `prefix`, all else that is known as `prefix_...`; flags are 0 and 1."""
        logs = {prefix: self.value}
        for name, value in self.__dict__.items():
            if name != "value" and value is not None:
                logs[f"{prefix}_{name}"] = int(value) if isinstance(value, bool) else value
        return logs


def hypergradient(
    loss_cls: Closure,
    loss_mm: Closure,
    outer_loss: Closure,
    parameters: Iterable[Tensor],
    alpha: float,
    *,
    solver: str = "cg",
    iterations: int = 5,
    damping: float = 0.1,
    product: str = "double_backward",
    step: float | None = None,
) -> HypergradientResult:
    """dJ / d alpha by implicit differentiation.

    Args:
        loss_cls, loss_mm: closures without arguments that return the parts of the inner loss, scalars, on the same
            inner data. `loss_cls` is always called right before `loss_mm` with the parameters unchanged between
            the two, so they may share one forward pass.
        outer_loss: closure that returns J on held-out data, a scalar. Differentiated once.
        parameters: what alpha acts through; those that do not require gradients are skipped, and those that a
            loss does not reach have zero gradient. All in memory of one process, float32 or float64
            (double backward: any floating type).
        alpha: in [0, 1].
        solver: how (H + damping I) v = g is solved, one of `SOLVERS`.
        iterations: of the solver, at most.
        damping: added to H's diagonal, >= 0.
        product: how Hessian-vector products are computed, one of `PRODUCTS`.
        step: of `neumann`; by default 1 / lambda_max, estimated in a few more products.

    Raises:
        ValueError: an unknown name or a value out of range, no parameter that requires a gradient, or
            half-precision parameters with central differences.
        FloatingPointError: a loss or a derivative that is not finite.
        RuntimeError: the model has no second derivative; says what to do.

    Example:

        ```python
        >>> import torch
        >>> from modeling_lfm.trainer import hypergradient
        >>> w = torch.tensor([0.5], requires_grad=True)  # 1 - 2 alpha, the minimum of the inner loss
        >>> losses = [lambda: ((w - 1) ** 2 / 2).sum(), lambda: ((w + 1) ** 2 / 2).sum(), lambda: (w**2 / 2).sum()]
        >>> hypergradient(*losses, [w], alpha=0.25, damping=0.0).value  # -2 w
        -1.0

        ```
    """
    _check_arguments(alpha, solver, iterations, damping, product, step)
    parameters = _trainable(parameters, product)
    with _reproducible(parameters, product):
        space = _Space(parameters)
        loss = outer_loss()
        g, loss = space.gradient(loss), loss.detach()
        inner = _InnerProblem(loss_cls, loss_mm, space, alpha)
        hessian, c = inner.linearize(product, needs_hessian=solver != "identity")
        norm_g, norm_c = norm(g), norm(c)
        if not math.isfinite(norm_g + norm_c + float(loss)):
            raise FloatingPointError("a loss of the hypergradient, or its gradient, is not finite.")
        solution = solve(solver, hessian, g, iterations, damping, step)
    norm_v = norm(solution.vector)
    value = -dot(c, solution.vector)
    if not math.isfinite(value):
        raise FloatingPointError("the Hessian products of the hypergradient are not finite.")
    return HypergradientResult(
        value=value,
        cosine=max(-1.0, min(1.0, value / (norm_c * norm_v))) if norm_c * norm_v > 0 else 0.0,
        norm_outer=norm_g,
        norm_mixed=norm_c,
        norm_solution=norm_v,
        outer_loss=float(loss),
        **{name: part for name, part in vars(solution).items() if name != "vector"},
    )


class _Space:
    """The parameters as one flat vector, float32 at least."""

    def __init__(self, parameters: Sequence[Tensor]):
        self.parameters = parameters
        self.device = parameters[0].device
        self.dtype = torch.promote_types(torch.float32, parameters[0].dtype)

    def flatten(self, tensors: Iterable[Tensor | None]) -> Tensor:
        parts = []
        for tensor, parameter in zip(tensors, self.parameters, strict=True):
            tensor = torch.zeros_like(parameter) if tensor is None else tensor
            parts.append(tensor.detach().reshape(-1).to(self.device, self.dtype))
        return torch.cat(parts)

    def split(self, vector: Tensor) -> list[Tensor]:
        parts = vector.split([p.numel() for p in self.parameters])
        return [part.view_as(p).to(p.device, p.dtype) for part, p in zip(parts, self.parameters, strict=True)]

    def gradients(self, loss: Tensor, **options) -> tuple[Tensor | None, ...]:
        if not loss.requires_grad:
            return (None,) * len(self.parameters)
        return torch.autograd.grad(loss, self.parameters, allow_unused=True, **options)

    def gradient(self, loss: Tensor) -> Tensor:
        return self.flatten(self.gradients(loss))


class _InnerProblem:
    """L_Total of the two closures: its mixed derivative and its Hessian products."""

    def __init__(self, loss_cls: Closure, loss_mm: Closure, space: _Space, alpha: float):
        self.loss_cls, self.loss_mm, self.space, self.alpha = loss_cls, loss_mm, space, alpha

    def linearize(self, product: str, needs_hessian: bool) -> tuple[Operator | None, Tensor]:
        """The Hessian as a function of a vector (None if not needed), and c, at the present parameters."""
        loss_cls, loss_mm = self.losses()
        if not needs_hessian or product == "central_difference":
            hessian = _CentralDifference(self.space, self.gradient) if needs_hessian else None
            return hessian, self.space.gradient(loss_mm - loss_cls)
        with _naming_the_remedy():
            of_cls, of_mm = (self.space.gradients(part, create_graph=True) for part in (loss_cls, loss_mm))
        total = [_mix(a, b, self.alpha) for a, b in zip(of_cls, of_mm, strict=True)]
        return _DoubleBackward(self.space, total), self.space.flatten(of_mm) - self.space.flatten(of_cls)

    def losses(self) -> tuple[Tensor, Tensor]:
        with _same_random_numbers(self.space.parameters):  # one dropout mask for all passes
            return self.loss_cls(), self.loss_mm()

    def gradient(self) -> Tensor:
        """Of L_Total, anew at the present parameters."""
        loss_cls, loss_mm = self.losses()
        return self.space.gradient((1 - self.alpha) * loss_cls + self.alpha * loss_mm)


class _DoubleBackward:
    """Hessian-vector products from the graph of the gradient, which is built once."""

    def __init__(self, space: _Space, gradients: Sequence[Tensor | None]):
        self.space = space
        # a gradient without a graph is constant: the loss is linear in that parameter
        kept = {i: g for i, g in enumerate(gradients) if g is not None and g.requires_grad}
        self.rows, self.gradients = list(kept), list(kept.values())
        with _naming_the_remedy():
            if _has_undifferentiable_node(self.gradients):
                raise RuntimeError("the backward of a layer is only once differentiable")

    def __call__(self, vector: Tensor) -> Tensor:
        if not self.rows:
            return torch.zeros_like(vector)
        parts = self.space.split(vector)
        with _naming_the_remedy():
            products = torch.autograd.grad(
                self.gradients,
                self.space.parameters,
                [parts[i] for i in self.rows],
                retain_graph=True,
                allow_unused=True,
            )
        return self.space.flatten(products)


class _CentralDifference:
    """Hessian-vector products from gradients at four points, by Richardson's extrapolation (error in step^4).

    Rounding in the gradient weighs 1 / step, so the step is large, the cube root of the machine precision of the
    parameters' norm; the extrapolation removes the error that a large step brings.
    """

    def __init__(self, space: _Space, gradient: Callable[[], Tensor]):
        self.space, self.gradient = space, gradient
        self.saved = [p.detach().clone() for p in space.parameters]

    def __call__(self, vector: Tensor) -> Tensor:
        length = norm(vector)
        if length == 0:
            return torch.zeros_like(vector)
        direction = self.space.split(vector / length)
        step = torch.finfo(self.space.dtype).eps ** (1 / 3) * self._scale(direction)
        try:
            coarse, fine = (self._difference(direction, h) for h in (step, step / 2))
        finally:
            self._move(direction, 0.0)
        return (length / 3) * (4 * fine - coarse).to(vector.dtype)

    def _scale(self, direction: Sequence[Tensor]) -> float:
        # the size of the parameters where the direction points, a geometric mean over tensors: large ones that
        # it hardly touches, such as embeddings, must not lengthen the step of a small head
        weighted = [norm(d) ** 2 * math.log(max(1.0, norm(p))) for d, p in zip(direction, self.saved, strict=True)]
        return math.exp(sum(weighted))

    def _difference(self, direction: Sequence[Tensor], step: float) -> Tensor:
        self._move(direction, step)
        plus = self.gradient()
        self._move(direction, -step)
        return (plus - self.gradient()) / (2 * step)

    @torch.no_grad()
    def _move(self, direction: Sequence[Tensor], step: float) -> None:
        for parameter, origin, towards in zip(self.space.parameters, self.saved, direction, strict=True):
            parameter.copy_(origin if step == 0 else origin + step * towards)


def _same_random_numbers(parameters: Sequence[Tensor]):
    """Leaves the generators as they were, so that what follows draws the same numbers as the block."""
    return torch.random.fork_rng({p.device for p in parameters if p.device.type == "cuda"})


@contextmanager
def _reproducible(parameters: Sequence[Tensor], product: str):
    """Full precision, gradients on, the same random numbers in each pass, kernels that have the derivatives."""
    with ExitStack() as stack:
        stack.enter_context(_same_random_numbers(parameters))
        stack.enter_context(torch.enable_grad())
        for kind in {p.device.type for p in parameters} | {"cpu"}:
            stack.enter_context(torch.autocast(device_type=kind, enabled=False))
        stack.enter_context(_ieee_products())
        if product == "double_backward":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


@contextmanager
def _ieee_products():
    """No TF32 or bfloat16 inside float32 products: their rounding would drown central differences."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    if hasattr(cuda.matmul, "fp32_precision"):  # torch >= 2.9
        owners = (cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn)
        settings = [(owner, "fp32_precision", "ieee") for owner in owners]
    else:
        settings = [(cuda.matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    before = [getattr(owner, name) for owner, name, _ in settings]
    try:
        for owner, name, exact in settings:
            setattr(owner, name, exact)
        yield
    finally:
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)


def _trainable(parameters: Iterable[Tensor], product: str) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    unique = list({id(p): p for p in parameters if p.requires_grad}.values())
    if not unique:
        raise ValueError("no parameter requires a gradient: alpha has nothing to act through.")
    half = [p.dtype for p in unique if p.dtype not in (torch.float32, torch.float64)]
    if half and product == "central_difference":
        raise ValueError(
            f"central differences need float32 parameters, got {half[0]}: use product='double_backward', or keep "
            "the parameters in float32 and train with autocast."
        )
    return unique


def _check_arguments(alpha, solver, iterations, damping, product, step) -> None:
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}.")
    if product not in PRODUCTS:
        raise ValueError(f"product must be one of {', '.join(PRODUCTS)}, got {product!r}.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}.")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}.")
    if not 0 <= damping < math.inf:
        raise ValueError(f"damping must be finite and not negative, got {damping}.")
    if step is not None and not 0 < step < math.inf:
        raise ValueError(f"step must be positive and finite, got {step}.")


@contextmanager
def _naming_the_remedy():
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RuntimeError(
            f"the second derivative of the losses failed ({error}). If a layer has none (a fused kernel, cuDNN's LSTM, "
            "torch.compile), use product='central_difference'."
        ) from error


def _has_undifferentiable_node(gradients: Sequence[Tensor]) -> bool:
    # autograd.grad passes such nodes over, as they lead to no parameter, and the products would lack their part
    seen, stack = set(), [g.grad_fn for g in gradients]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("::Error"):
            return True
        seen.add(node)
        stack.extend(following for following, _ in node.next_functions)
    return False


def _mix(of_cls: Tensor | None, of_mm: Tensor | None, alpha: float) -> Tensor | None:
    parts = [w * t for w, t in ((1 - alpha, of_cls), (alpha, of_mm)) if t is not None]
    return sum(parts[1:], parts[0]) if parts else None
