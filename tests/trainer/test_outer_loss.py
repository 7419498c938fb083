"""The calibrated outer loss against scipy, finite differences and its own definition."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from modeling_lfm.trainer.alpha.outer_loss import (
    INVERSE_TEMPERATURES,
    calibrated_cross_entropy,
    fit_inverse_temperature,
    outer_loss,
)
from modeling_lfm.trainer.objectives import classification_loss

SINGLE, MULTI = "single_label_classification", "multi_label_classification"


def problem(problem_type, scale=1.0, samples=40, labels=5, seed=0, signal=1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, labels, generator=generator, dtype=torch.float64)
    if problem_type == SINGLE:
        y = torch.randint(labels, (samples,), generator=generator)
        logits[torch.arange(samples), y] += signal
    else:
        y = torch.randint(2, (samples, labels), generator=generator).double()
        logits += signal * (2 * y - 1)
    return scale * logits, y


def scipys(logits, y, problem_type):
    low, high = (math.log(bound) for bound in INVERSE_TEMPERATURES)
    best = minimize_scalar(
        lambda u: float(classification_loss(math.exp(u) * logits, y, problem_type)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return math.exp(best.x), best.fun


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
@pytest.mark.parametrize("scale", [0.02, 1.0, 200.0])
@pytest.mark.parametrize("signal", [0.2, 1.0, 2.0])
def test_fit_agrees_with_scipy(problem_type, scale, signal):
    logits, y = problem(problem_type, scale, signal=signal, seed=int(signal * 10))
    b, value = scipys(logits, y, problem_type)
    assert INVERSE_TEMPERATURES[0] < b < INVERSE_TEMPERATURES[1]
    assert fit_inverse_temperature(logits, y, problem_type) == pytest.approx(b, rel=1e-5)
    assert calibrated_cross_entropy(logits, y, problem_type).item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
def test_separable_and_useless_logits_reach_the_bounds(problem_type):
    logits, y = problem(problem_type, signal=100.0)
    for sign, bound in ((1, INVERSE_TEMPERATURES[1]), (-1, INVERSE_TEMPERATURES[0])):
        outputs = (sign * logits).float().requires_grad_()
        assert fit_inverse_temperature(outputs, y, problem_type) == bound
        loss = calibrated_cross_entropy(outputs, y, problem_type)
        (gradient,) = torch.autograd.grad(loss, outputs)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
    constant = torch.full_like(logits, 3.0)
    assert torch.isfinite(calibrated_cross_entropy(constant, y, problem_type))


def test_fit_where_newton_alone_would_crawl():
    margins = torch.tensor([[1.0, 0.0], [-1e-200, 0.0]], dtype=torch.float64)  # exp(-b) = 1e-200 / 2
    b = 200 * math.log(10) + math.log(2)
    assert fit_inverse_temperature(margins, torch.tensor([0, 0])) == pytest.approx(b, rel=1e-9)


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_gradient_is_that_of_the_minimum(problem_type, scale):
    logits, y = problem(problem_type, scale, samples=12, labels=3)
    logits.requires_grad_()
    loss = calibrated_cross_entropy(logits, y, problem_type)
    (gradient,) = torch.autograd.grad(loss, logits)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-4 * scale
    plus, minus = (scipys(logits.detach() + s * direction, y, problem_type)[1] for s in (step, -step))
    assert (gradient * direction).sum().item() == pytest.approx((plus - minus) / (2 * step), rel=1e-4)
    # at the minimum over the scale, the gradient has no part along the logits
    assert abs((gradient * logits).sum().item()) < 1e-9


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
def test_confidence_does_not_matter(problem_type):
    logits, y = problem(problem_type)
    timid, bold = (calibrated_cross_entropy(s * logits, y, problem_type) for s in (0.05, 20.0))
    torch.testing.assert_close(timid, bold, rtol=1e-9, atol=0)


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
def test_calibrated_weighs_the_fused_prediction_as_all_modalities(problem_type):
    parts = [problem(problem_type, scale, seed=0)[0].roll(shift, dims=0) for scale, shift in ((1, 0), (2, 1), (3, 2))]
    fused, y = problem(problem_type)
    c = [scipys(part, y, problem_type)[1] for part in parts]
    expected = 0.5 * scipys(fused, y, problem_type)[1] + sum(c) / 6
    assert outer_loss("calibrated", fused, parts, y, problem_type).item() == pytest.approx(expected, rel=1e-7)


def test_plain_is_the_classification_loss():
    logits, y = problem(SINGLE)
    assert torch.equal(outer_loss("plain", logits, (), y), torch.nn.functional.cross_entropy(logits, y))


def test_float32_under_autocast():
    logits, y = problem(SINGLE, 200.0)
    logits = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        inside = outer_loss("calibrated", logits, [logits], y)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outer_loss("calibrated", logits.float(), [logits.float()], y))


def test_errors():
    logits, y = problem(SINGLE)
    with pytest.raises(ValueError, match=r"calibrated, plain.*'raw'"):
        outer_loss("raw", logits, [logits], y)
    with pytest.raises(ValueError, match="at least one modality"):
        outer_loss("calibrated", logits, [], y)
    with pytest.raises(ValueError, match="at least one sample"):
        calibrated_cross_entropy(logits[:0], y[:0])
    with pytest.raises(ValueError, match="one label per sample"):
        calibrated_cross_entropy(logits, y[:-1])
    with pytest.raises(FloatingPointError, match="not finite"):
        calibrated_cross_entropy(logits * math.nan, y)
