"""The rules for alpha: the paper's values, the adaptive updates, saved states, and errors."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from modeling_lfm.trainer.alpha.schedules import ALPHAS, make_alpha


def values(alpha, epochs):
    return [alpha.value(t) for t in epochs]


def result(value, cosine):
    return SimpleNamespace(value=value, cosine=cosine)


def test_heuristic_has_the_papers_values():
    alpha = make_alpha("heuristic", num_epochs=10)
    assert values(alpha, (1, 2, 10)) == pytest.approx([0.6321, 0.3935, 0.0952], abs=5e-5)


def test_constant_keeps_its_value():
    assert set(values(make_alpha("constant", num_epochs=3, value=0.9), range(1, 4))) == {0.9}
    assert make_alpha("constant", num_epochs=3).value(1) == 0.0


@pytest.mark.parametrize(
    ("epochs", "expected"), [(4, [0.8, 0.8, 0.2, 0.2]), (5, [0.8, 0.8, 0.2, 0.2, 0.2]), (1, [0.2])]
)
def test_stepwise_changes_after_half_of_the_epochs(epochs, expected):
    alpha = make_alpha("stepwise", num_epochs=epochs, value=0.8)
    assert values(alpha, range(1, epochs + 1)) == pytest.approx(expected)


def test_polynomial_is_the_papers_and_clipped():
    alpha = make_alpha("polynomial", num_epochs=200)
    at_20 = 1.5e-4 * 20**3 - 6.5e-3 * 20**2 + 3.2e-2 * 20 + 1
    assert alpha.value(20) == pytest.approx(at_20)
    assert 0 < at_20 < 1
    assert alpha.value(1) == 1.0  # 1.026 before clipping
    assert make_alpha("polynomial", num_epochs=9, coefficients=[-1.0, 0.5]).value(3) == 0.0


def test_linear_falls_from_start_to_zero():
    alpha = make_alpha("linear", num_epochs=5)
    assert values(alpha, range(1, 6)) == pytest.approx([0.95, 0.7125, 0.475, 0.2375, 0.0])
    assert alpha.value(9) == 0.0
    assert make_alpha("linear", num_epochs=1, start=0.5).value(1) == 0.5


@pytest.mark.parametrize(
    ("rule", "step", "expected"),
    [
        ("cosine", None, 0.95 - 3 / 20 * 0.25),
        ("cosine", 1.0, 0.95 - 1 / 20 * 0.25),
        ("raw", None, 0.95 - 0.01 * 4),
        ("raw", 0.1, 0.95 - 0.1 * 4),
        ("sign", None, 0.95 - 1 / 20),
    ],
)
def test_learned_rules(rule, step, expected):
    alpha = make_alpha("learned", num_epochs=20, step=step, rule=rule)
    assert alpha.value(1) == 0.95
    assert alpha.update(result(value=4.0, cosine=0.25)) == pytest.approx(expected)
    assert alpha.value(2) == pytest.approx(expected)


def test_learned_stays_in_its_interval():
    alpha = make_alpha("learned", num_epochs=2)
    assert alpha.update(result(1.0, -1.0)) == 0.95
    assert alpha.update(result(1.0, 1.0)) == 0.0
    assert alpha.update(result(0.0, 0.0)) == 0.0
    assert make_alpha("learned", num_epochs=2, start=1.0).update(result(-1.0, -0.1)) == 1.0


def test_sign_rule_is_a_linear_schedule_when_the_hypergradient_is_positive():
    alpha = make_alpha("learned", num_epochs=10, rule="sign")
    steps = [alpha.update(result(value, 0.1)) for value in (3.0, 1e-9, 7.0)]
    assert steps == pytest.approx([0.85, 0.75, 0.65])
    assert alpha.update(result(-2.0, -0.1)) == pytest.approx(0.75)
    assert alpha.update(result(0.0, 0.0)) == pytest.approx(0.75)


def test_lookahead_follows_torch_adam():
    epochs = 30
    alpha = make_alpha("lookahead", num_epochs=epochs)
    x = torch.tensor(math.log(0.9 / 0.1), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([x], lr=6 / epochs, betas=(0.5, 0.9), eps=1e-8)
    for h in (0.02, -0.01, 0.3, 0.05, -0.2, 1e-4):
        up, down = alpha.candidates()
        assert up == pytest.approx(torch.sigmoid(x + 0.5).item(), rel=1e-12)
        assert down == pytest.approx(torch.sigmoid(x - 0.5).item(), rel=1e-12)
        x.grad = torch.tensor(h, dtype=torch.float64)
        adam.step()
        assert alpha.update(1.0 + h, 1.0) == pytest.approx(torch.sigmoid(x).item(), rel=1e-9)


def test_lookahead_starts_at_its_start_and_stays_in_its_interval():
    alpha = make_alpha("lookahead", num_epochs=1)
    assert alpha.value(1) == pytest.approx(0.9)
    assert alpha.update(2.0, 1.0) == pytest.approx(0.05)
    for _ in range(5):
        alpha.update(1.0, 2.0)
    assert alpha.value(7) == pytest.approx(0.95)


@pytest.mark.parametrize("name", ALPHAS)
def test_state_survives_json_bit_for_bit(name):
    first, second = (make_alpha(name, num_epochs=7, value=0.3) for _ in range(2))
    assert first.name == name
    observations = {"learned": [(result(0.1, 1 / 3),)], "lookahead": [(0.7, 0.6), (0.5, 0.55)]}.get(name, [])
    for observation in observations:
        first.update(*observation)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == first.state_dict()
    for observation in observations:
        assert first.update(*observation) == second.update(*observation)
    assert values(first, range(1, 8)) == values(second, range(1, 8))
    assert first.adaptive == bool(observations)


def test_state_of_another_rule_is_refused():
    learned, linear = make_alpha("learned", num_epochs=2), make_alpha("linear", num_epochs=2)
    with pytest.raises(ValueError, match=r"'linear'.*'learned'"):
        learned.load_state_dict(linear.state_dict())
    with pytest.raises(ValueError, match="must have the keys"):
        learned.load_state_dict({"name": "learned", "alpha": 0.5})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosine", {}, "unknown alpha 'cosine'; .*constant, stepwise"),
        ("constant", {"value": 1.5}, r"alpha_value.*\[0, 1\].*1.5"),
        ("constant", {"value": math.nan}, r"alpha_value.*\[0, 1\]"),
        ("stepwise", {"value": -0.1}, r"alpha_value.*\[0, 1\]"),
        ("linear", {"start": 2}, r"alpha_start.*\[0, 1\]"),
        ("learned", {"start": -1}, r"alpha_start.*\[0, 1\]"),
        ("learned", {"step": 0}, "alpha_step.*positive"),
        ("learned", {"rule": "adam"}, "alpha_rule.*cosine, raw, sign.*'adam'"),
        ("lookahead", {"start": 0.99}, r"alpha_start.*\[0.05, 0.95\]"),
        ("lookahead", {"step": math.inf}, "alpha_step.*finite"),
        ("polynomial", {"coefficients": []}, "polynomial_coefficients"),
        ("polynomial", {"coefficients": [math.nan]}, "polynomial_coefficients"),
        ("heuristic", {"num_epochs": 0}, "num_epochs must be at least 1"),
    ],
)
def test_bad_settings_name_the_key_and_what_is_allowed(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_alpha(name, **{"num_epochs": 5, **options})


@pytest.mark.parametrize("name", ALPHAS)
def test_epochs_are_counted_from_one(name):
    with pytest.raises(ValueError, match="counted from 1"):
        make_alpha(name, num_epochs=5).value(0)


def test_what_is_not_finite_is_refused():
    with pytest.raises(FloatingPointError, match="hypergradient"):
        make_alpha("learned", num_epochs=5).update(result(math.nan, 0.0))
    with pytest.raises(FloatingPointError, match="outer losses"):
        make_alpha("lookahead", num_epochs=5).update(math.inf, 1.0)
