"""Approximate solutions of (H + damping I) v = g for a symmetric H that is known by its products only."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

SOLVERS = ("cg", "neumann", "identity")
"""`"cg"`, conjugate gradients, one product an iteration; stops on negative curvature and keeps the last iterate, or
g / (|curvature| + damping) if that happens in the first iteration. `"neumann"`, v = step sum_k (I - step (H + damping
I))^k g; it stops on negative curvature likewise, and shortens a step with which the residual would grow. `"identity"`,
v = g."""
TOLERANCE = 1e-8
"""A solver stops once the residual is below this part of |g|."""
POWER_ITERATIONS = 5

Operator = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """v and how it came about; see `HypergradientResult` for the fields."""

    vector: Tensor
    iterations: int = 0
    residual: float | None = None
    negative_curvature: bool = False
    diverged: bool = False
    step: float | None = None


def solve(
    solver: str, hessian: Operator | None, g: Tensor, iterations: int, damping: float, step: float | None
) -> Solution:
    """v by one of `SOLVERS`; `hessian` is not needed for `"identity"`. `hypergradient` explains the arguments."""
    if hessian is None or norm(g) == 0:
        return Solution(g)

    def operator(vector: Tensor) -> Tensor:
        return hessian(vector) + damping * vector

    if solver == "cg":
        return _conjugate_gradients(operator, g, iterations, damping)
    return _neumann(operator, g, iterations, damping, step)


def _along_g(g: Tensor, product: Tensor, damping: float) -> Solution:
    """The answer where g itself has no positive curvature: as if H's curvature along g were turned round.

    `product` is (H + damping) g. The length of v is then bounded by that of g / damping.
    """
    scale = abs(dot(g, product) / dot(g, g) - damping) + damping
    v, of_v = (g / scale, product / scale) if scale > 0 else (g, product)
    return Solution(v, residual=norm(of_v - g) / norm(g), negative_curvature=True)


def _conjugate_gradients(operator: Operator, g: Tensor, iterations: int, damping: float) -> Solution:
    v, r, p = torch.zeros_like(g), g.clone(), g.clone()
    start = rr = dot(r, r)
    for k in range(iterations):
        product = operator(p)
        curvature = dot(p, product)
        if not math.isfinite(curvature):
            raise FloatingPointError("the Hessian products of the hypergradient are not finite.")
        if curvature <= 0 and k == 0:
            return _along_g(g, product, damping)
        if curvature <= 0:
            return Solution(v, k, math.sqrt(rr / start), negative_curvature=True)
        length = rr / curvature
        v, r = v + length * p, r - length * product
        previous, rr = rr, dot(r, r)
        if math.sqrt(rr / start) <= TOLERANCE:
            return Solution(v, k + 1, math.sqrt(rr / start))
        p = r + (rr / previous) * p
    return Solution(v, iterations, math.sqrt(rr / start))


def _neumann(operator: Operator, g: Tensor, iterations: int, damping: float, step: float | None) -> Solution:
    # The partial sums of the series are v <- v + step (g - A v), whose residual is the series' next term. In
    # this form the step can be shortened on the way.
    step = _inverse_spectral_radius(operator, g) if step is None else step
    v, r, diverged = torch.zeros_like(g), g.clone(), False
    start = rr = dot(g, g)
    for k in range(iterations):
        product = operator(r)
        curvature, square = dot(r, product), dot(product, product)
        if not math.isfinite(square):
            raise FloatingPointError("the Hessian products of the hypergradient are not finite.")
        if curvature <= 0 and k == 0:
            return replace(_along_g(g, product, damping), step=step)
        if curvature <= 0:
            return Solution(v, k, math.sqrt(rr / start), True, diverged, step)
        if step > 2 * curvature / square:  # |r - step A r| > |r|
            step, diverged = curvature / square, True
        v, r = v + step * r, r - step * product
        rr = dot(r, r)
        if math.sqrt(rr / start) <= TOLERANCE:
            return Solution(v, k + 1, math.sqrt(rr / start), False, diverged, step)
    return Solution(v, iterations, math.sqrt(rr / start), False, diverged, step)


def _inverse_spectral_radius(operator: Operator, g: Tensor) -> float:
    """1 / |lambda|_max by power iteration from g."""
    x, radius = g / norm(g), 0.0
    for _ in range(POWER_ITERATIONS):
        x = operator(x)
        radius = norm(x)
        if radius == 0 or not math.isfinite(radius):
            return 1.0  # H + damping is zero along g, or the products overflow: the caller finds out
        x = x / radius
    return 1 / radius


def dot(a: Tensor, b: Tensor) -> float:
    """Inner product of two tensors of one size, accumulated in float64."""
    # MPS has no float64
    wide = a.dtype if a.device.type == "mps" else torch.float64
    return float(torch.dot(a.reshape(-1).to(wide), b.reshape(-1).to(wide)))


def norm(a: Tensor) -> float:
    """Euclidean norm of a tensor of any shape, accumulated in float64."""
    return math.sqrt(dot(a, a))
