"""The hypergradient against analytic solutions, re-solved inner problems and its own two kinds of products."""

import functools
import math
from itertools import product as product_of

import pytest
import torch

from modeling_lfm.trainer.alpha.hypergradient import PRODUCTS, hypergradient
from modeling_lfm.trainer.alpha.linear_solvers import SOLVERS
from modeling_lfm.trainer.objectives import classification_loss, jensen_shannon


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Quadratic:
    """L_CLS and L_MM are quadratic in theta, the outer loss is a squared distance: all is known in closed form."""

    def __init__(self, alpha=0.6, size=8, dtype=torch.float64, damping=0.0):
        self.hessians = [m @ m.T / size + torch.eye(size) for m in (draw(size, size, seed=s) for s in (1, 2))]
        self.linear = [draw(size, seed=3), draw(size, seed=4)]
        self.target, self.alpha, self.dtype = draw(size, seed=5), alpha, dtype
        self.hessian = (1 - alpha) * self.hessians[0] + alpha * self.hessians[1]
        optimum = self.solve(alpha)
        self.g = optimum - self.target
        slopes = [h @ optimum - a for h, a in zip(self.hessians, self.linear, strict=True)]
        self.c = slopes[1] - slopes[0]
        self.v = torch.linalg.solve(self.hessian + damping * torch.eye(size), self.g)
        self.value = -(self.c @ self.v).item()
        self.theta = optimum.to(dtype).requires_grad_()

    def solve(self, alpha):
        (a, b), (p, q) = self.hessians, self.linear
        return torch.linalg.solve((1 - alpha) * a + alpha * b, (1 - alpha) * p + alpha * q)

    def outer_of(self, alpha):
        return 0.5 * (self.solve(alpha) - self.target).square().sum().item()

    def loss(self, part):
        hessian, linear = self.hessians[part].to(self.dtype), self.linear[part].to(self.dtype)
        return 0.5 * self.theta @ hessian @ self.theta - linear @ self.theta

    def hypergradient(self, **options):
        def outer():
            return 0.5 * (self.theta - self.target.to(self.dtype)).square().sum()

        return hypergradient(lambda: self.loss(0), lambda: self.loss(1), outer, [self.theta], self.alpha, **options)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("solver", "iterations"), [("cg", 8), ("neumann", 200)])
def test_quadratic_problem(product, dtype, solver, iterations):
    problem = Quadratic(dtype=dtype)
    result = problem.hypergradient(solver=solver, iterations=iterations, damping=0.0, product=product)
    assert result.value == pytest.approx(problem.value, rel=1e-4)
    difference = (problem.outer_of(0.6 + 1e-5) - problem.outer_of(0.6 - 1e-5)) / 2e-5
    assert result.value == pytest.approx(difference, rel=1e-4)
    norms = [vector.norm().item() for vector in (problem.g, problem.c, problem.v)]
    assert [result.norm_outer, result.norm_mixed, result.norm_solution] == pytest.approx(norms, rel=1e-4)
    assert result.cosine == pytest.approx(problem.value / (norms[1] * norms[2]), rel=1e-4)
    assert result.outer_loss == pytest.approx(problem.outer_of(0.6), rel=1e-5)
    assert result.residual < 1e-4
    assert not result.negative_curvature
    assert not result.diverged


def test_damping_is_added_to_the_hessian():
    problem = Quadratic(damping=0.7)
    assert problem.hypergradient(iterations=8, damping=0.7).value == pytest.approx(problem.value, rel=1e-8)
    assert abs(problem.value / Quadratic().value - 1) > 0.1


def test_identity_is_minus_the_inner_product():
    problem = Quadratic()
    result = problem.hypergradient(solver="identity")
    assert result.value == pytest.approx(-(problem.c @ problem.g).item())
    assert result.residual is None
    assert result.iterations == 0


def test_ratio_total_has_the_same_hypergradient_at_the_optimum():
    problem, keep = Quadratic(), 0.4
    slope = problem.hessians[1] @ problem.theta - problem.linear[1]
    ratio = -(slope / keep**2) @ torch.linalg.solve(problem.hessian / keep, problem.g)
    assert problem.hypergradient(iterations=8, damping=0.0).value == pytest.approx(ratio.item(), rel=1e-8)


@pytest.mark.parametrize("factor", [0.5, 1.9, 3.0, 1e4])
def test_neumann_never_diverges(factor):
    problem = Quadratic()
    largest = torch.linalg.eigvalsh(problem.hessian)[-1].item()
    result = problem.hypergradient(solver="neumann", iterations=500, damping=0.0, step=factor / largest)
    assert result.value == pytest.approx(problem.value, rel=1e-4)
    assert result.diverged == (factor > 2)
    assert result.step <= 2 / largest or not result.diverged


def test_neumann_sums_its_series():
    problem, step = Quadratic(), 0.2
    result = problem.hypergradient(solver="neumann", iterations=3, damping=0.0, step=step)
    v, term = torch.zeros(8, dtype=torch.float64), problem.g
    for _ in range(3):
        v, term = v + step * term, term - step * problem.hessian @ term
    assert result.value == pytest.approx(-(problem.c @ v).item(), rel=1e-10)
    assert result.residual == pytest.approx((term.norm() / problem.g.norm()).item(), rel=1e-10)


def saddle(g, curvatures=(2.0, 1.0, -3.0), **options):
    """L_Total has the given curvatures, grad J is `g`, and c the vector of ones."""
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    half = 0.5 * torch.tensor(curvatures, dtype=torch.float64)
    return hypergradient(
        lambda: (half * theta.square()).sum(),
        lambda: (half * theta.square()).sum() + theta.sum(),
        lambda: (theta * torch.tensor(g, dtype=torch.float64)).sum(),
        [theta],
        0.5,
        **options,
    )


@pytest.mark.parametrize("solver", ["cg", "neumann"])
@pytest.mark.parametrize("product", PRODUCTS)
def test_negative_curvature_at_once(solver, product):
    result = saddle([0.0, 0.0, 1.0], solver=solver, product=product, damping=0.1)
    assert result.negative_curvature
    assert result.iterations == 0
    assert result.value == pytest.approx(-1 / (3.0 + 0.1), rel=1e-6)  # as if the curvature were +3
    assert result.residual == pytest.approx(1 + 2.9 / 3.1, rel=1e-6)


def test_negative_curvature_later_keeps_the_last_iterate():
    result = saddle([1.0, 1.0, 0.3], damping=0.0, iterations=10)
    assert result.negative_curvature
    assert result.iterations == 1
    g = torch.tensor([1.0, 1.0, 0.3])
    length = g.square().sum() / (torch.tensor([2.0, 1.0, -3.0]) * g.square()).sum()
    assert result.value == pytest.approx(-(length * g).sum().item(), rel=1e-6)


def test_no_curvature_at_all():
    result = saddle([1.0, 0.0, 0.0], curvatures=(0.0, 0.0, 0.0), damping=0.0)
    assert result.negative_curvature
    assert result.value == -1.0
    assert saddle([1.0, 0.0, 0.0], (0.0, 0.0, 0.0), damping=0.1).value == pytest.approx(-10.0)


class Logistic:
    """Two modalities, linear towers, cross-entropy of the sum, Jensen-Shannon between the two, weight decay."""

    def __init__(self, dtype=torch.float64, same_data=False):
        self.dtype = dtype
        self.inner = self.data(48, seed=1)
        self.outer = self.inner if same_data else self.data(32, seed=2)
        self.weight = torch.zeros(2, 5, 3, dtype=dtype, requires_grad=True)

    def data(self, size, seed):
        x = draw(2, size, 5, seed=seed)
        y = (x.sum(0)[:, :3] + draw(size, 3, seed=seed + 10)).argmax(-1)
        return x, y

    def logits(self, weight, x):
        first, second = x.to(weight.dtype) @ weight
        return first + second, (first, second)

    def loss_cls(self, weight):
        x, y = self.inner
        return classification_loss(self.logits(weight, x)[0], y) + 0.05 * weight.square().sum()

    def loss_mm(self, weight):
        return jensen_shannon(self.logits(weight, self.inner[0])[1]) + 0.05 * weight.square().sum()

    def loss_outer(self, weight):
        x, y = self.outer
        return classification_loss(self.logits(weight, x)[0], y)

    @functools.cache  # noqa: B019  (a few problems a test)
    def solve(self, alpha):
        """Newton's method to machine precision."""
        weight = torch.zeros(30, dtype=torch.float64)

        def total(flat):
            w = flat.view(2, 5, 3)
            return (1 - alpha) * self.loss_cls(w) + alpha * self.loss_mm(w)

        slope = torch.autograd.functional.jacobian(total, weight)
        while slope.norm() > 1e-10:
            hessian = torch.autograd.functional.hessian(total, weight, vectorize=True)
            weight = weight - torch.linalg.solve(hessian, slope)
            slope = torch.autograd.functional.jacobian(total, weight)
        assert torch.linalg.eigvalsh(hessian)[0] > 0
        return weight.view(2, 5, 3)

    def hypergradient(self, alpha, **options):
        with torch.no_grad():
            self.weight.copy_(self.solve(alpha))
        closures = [lambda f=f: f(self.weight) for f in (self.loss_cls, self.loss_mm, self.loss_outer)]
        return hypergradient(*closures, [self.weight], alpha, **options)


@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_logistic_regression_equals_finite_differences(alpha):
    problems = Logistic(torch.float64), Logistic(torch.float32)
    up, down = (problems[0].loss_outer(problems[0].solve(alpha + e)).item() for e in (1e-4, -1e-4))
    for problem, product, solver in product_of(problems, PRODUCTS, ("cg", "neumann")):
        iterations = {"cg": 30, "neumann": 400}[solver]
        result = problem.hypergradient(alpha, solver=solver, iterations=iterations, damping=0.0, product=product)
        assert result.value == pytest.approx((up - down) / 2e-4, rel=0.01), (problem.dtype, product, solver)
        assert not result.negative_curvature


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_on_the_same_data_alpha_can_only_fall(solver, alpha):
    problem = Logistic(same_data=True)
    problem.loss_cls = problem.loss_outer  # the outer loss is L_CLS itself; the decay is in L_MM
    result = problem.hypergradient(alpha, solver=solver, iterations=3)
    assert result.value > 0
    assert result.cosine > 0


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_losses_without_curvature_or_gradient(product, solver):
    theta = torch.ones(3, requires_grad=True)
    options = {"solver": solver, "product": product, "damping": 0.5}
    linear = hypergradient(theta.sum, lambda: torch.zeros(()), theta.sum, [theta], 0.5, **options)
    scale = 1.0 if solver == "identity" else 0.5
    assert linear.value == pytest.approx(3 / scale, rel=1e-5)
    flat = hypergradient(lambda: theta.square().sum(), theta.sum, lambda: torch.zeros(()), [theta], 0.5, **options)
    assert (flat.value, flat.cosine, flat.norm_solution) == (0.0, 0.0, 0.0)


def test_central_differences_extrapolate_the_step_away():
    theta = torch.full((1,), 0.02, requires_grad=True)  # small beside the step: plain differences are 2 % off
    result = hypergradient(
        lambda: theta.pow(4).sum(), theta.sum, theta.sum, [theta], 0.0, damping=0.0, product="central_difference"
    )
    assert result.value == pytest.approx(-(1 - 4 * 0.02**3) / (12 * 0.02**2), rel=1e-4)


class NoSecondDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square().sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def test_missing_second_derivative_names_the_remedy():
    theta = torch.ones(3, requires_grad=True)
    closures = (lambda: NoSecondDerivative.apply(theta).square(), theta.sum, theta.sum)
    with pytest.raises(RuntimeError, match="product='central_difference'"):
        hypergradient(*closures, [theta], 0.5)
    result = hypergradient(*closures, [theta], 0.5, product="central_difference", damping=0.0)
    assert result.value == pytest.approx(11 * 3 / 18, rel=1e-3)  # c = 1 - 12 = -11, H 1 = 36 / 2 = 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "lu"}, r"cg, neumann, identity, got 'lu'"),
        ({"product": "exact"}, r"double_backward, central_difference, got 'exact'"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"damping": -0.1}, "damping must be finite and not negative, got -0.1"),
        ({"step": 0.0}, r"step must be positive and finite, got 0.0"),
    ],
)
def test_bad_arguments(options, message):
    theta = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        hypergradient(theta.sum, theta.sum, theta.sum, [theta], 0.5, **options)


def test_bad_inputs():
    theta = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\], got 1.5"):
        hypergradient(theta.sum, theta.sum, theta.sum, [theta], 1.5)
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        hypergradient(theta.sum, theta.sum, theta.sum, [torch.ones(2)], 0.5)
    with pytest.raises(FloatingPointError, match="not finite"):
        hypergradient(theta.sum, theta.sum, lambda: theta.sum() * math.nan, [theta], 0.5)
