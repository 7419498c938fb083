"""The losses against independent references, at extreme logits and in second derivatives."""

import math
from itertools import combinations, permutations
from types import SimpleNamespace

import pytest
import torch

from modeling_lfm.trainer.objectives import (
    MATCHING_LOSSES,
    MAX_RATIO,
    classification_loss,
    info_nce,
    jensen_shannon,
    matching_loss,
    shapley_values,
    total_loss,
    unimodal_cross_entropy,
)

SINGLE, MULTI = "single_label_classification", "multi_label_classification"
B, K, D = 6, 4, 5


def draw(*shape, seed=0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def draw_labels(problem_type, samples=B):
    generator = torch.Generator().manual_seed(9)
    if problem_type == SINGLE:
        return torch.randint(K, (samples,), generator=generator)
    return torch.randint(2, (samples, K), generator=generator).double()


def reference_classification(logits, labels, problem_type):
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        if problem_type == SINGLE:
            total = total - torch.log(row.exp()[label] / row.exp().sum())
        else:
            p = 1 / (1 + torch.exp(-row))
            total = total - (label * p.log() + (1 - label) * (1 - p).log()).mean()
    return total / len(logits)


def reference_js(logits, problem_type):
    """Kullback-Leibler divergences to the mean distribution, straight from the definition."""

    def divergence(p, q):
        m = (p + q) / 2
        return 0.5 * (p * (p / m).log()).sum(-1) + 0.5 * (q * (q / m).log()).sum(-1)

    if problem_type == SINGLE:
        distributions = [m.exp() / m.exp().sum(-1, keepdim=True) for m in logits]
    else:
        yes = [1 / (1 + torch.exp(-m)) for m in logits]
        distributions = [torch.stack((p, 1 - p), dim=-1) for p in yes]
    return sum(divergence(p, q).mean() for p, q in combinations(distributions, 2)) / math.comb(len(logits), 2)


def reference_info_nce(features, temperature):
    """Sample by sample, from cosines."""
    total, pairs = 0.0, list(combinations(features, 2))
    for pair in pairs:
        for anchors, others in (pair, pair[::-1]):
            for i, anchor in enumerate(anchors):
                cosines = [anchor @ other / (anchor.norm() * other.norm()) for other in others]
                weights = [torch.exp(c / temperature) for c in cosines]
                total = total - torch.log(weights[i] / sum(weights)) / len(anchors)
    return total / (2 * len(pairs))


def assert_same(loss, reference, inputs):
    torch.testing.assert_close(loss, reference, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(reference, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def modalities(count, columns=K, scale=1.0):
    return [draw(B, columns, seed=m, scale=scale).requires_grad_() for m in range(count)]


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
def test_classification_loss(problem_type):
    logits, labels = modalities(1)[0], draw_labels(problem_type)
    assert_same(
        classification_loss(logits, labels, problem_type),
        reference_classification(logits, labels, problem_type),
        [logits],
    )


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
@pytest.mark.parametrize("count", [2, 3])
def test_jensen_shannon(problem_type, count):
    logits = modalities(count)
    assert_same(jensen_shannon(logits, problem_type), reference_js(logits, problem_type), logits)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_info_nce(count, temperature):
    features = modalities(count, D, scale=3.0)
    assert_same(info_nce(features, temperature), reference_info_nce(features, temperature), features)


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
@pytest.mark.parametrize("count", [2, 3])
def test_unimodal_cross_entropy(problem_type, count):
    logits, labels = modalities(count), draw_labels(problem_type)
    reference = sum(reference_classification(m, labels, problem_type) for m in logits) / count
    assert_same(unimodal_cross_entropy(logits, labels, problem_type), reference, logits)


def losses_of(name, tensors, problem_type):
    if name == "cls":
        return classification_loss(torch.stack(tuple(tensors)).sum(0), draw_labels(problem_type), problem_type)
    outputs = SimpleNamespace(logits=sum(tensors), modality_logits=tensors, features=tensors)
    return matching_loss(name, outputs, draw_labels(problem_type), problem_type=problem_type)


ALL = [(name, kind) for name in ("cls", *MATCHING_LOSSES) for kind in (SINGLE, MULTI)]


@pytest.mark.parametrize(("name", "problem_type"), ALL)
def test_second_derivatives(name, problem_type):
    tensors = modalities(2)
    assert torch.autograd.gradgradcheck(lambda *t: losses_of(name, t, problem_type), tensors)


@pytest.mark.parametrize(("name", "problem_type"), ALL)
@pytest.mark.parametrize("case", ["agree", "disagree", "equal", "zero"])
def test_finite_for_extreme_logits(name, problem_type, case):
    signs = torch.sign(draw(B, K))
    first = {"zero": torch.zeros(B, K), "equal": draw(B, K)}.get(case, 200 * signs).float().requires_grad_()
    second = (first.detach() * (-1 if case == "disagree" else 1)).requires_grad_()
    loss = losses_of(name, (first, second), problem_type)
    gradients = torch.autograd.grad(loss, (first, second), create_graph=True)
    products = torch.autograd.grad(gradients, (first, second), [torch.ones_like(g) for g in gradients])
    assert all(torch.isfinite(t).all() for t in (loss, *gradients, *products))
    if name == "js":
        expected = math.log(2) if case == "disagree" and problem_type == MULTI else None
        assert -1e-6 <= loss.item() <= math.log(2) + 1e-6
        assert case == "disagree" or abs(loss.item()) < 1e-6
        assert expected is None or loss.item() == pytest.approx(expected)


def test_jensen_shannon_of_disjoint_predictions_is_ln_2():
    first = torch.tensor([[200.0, -200.0], [200.0, -200.0]])
    assert jensen_shannon([first, -first]).item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(("name", "problem_type"), ALL)
def test_float32_under_autocast(name, problem_type):
    half = [draw(B, K, seed=m, dtype=torch.bfloat16) for m in range(1 if name == "cls" else 2)]
    with torch.autocast("cpu", torch.bfloat16):
        inside = losses_of(name, half, problem_type)
    outside = losses_of(name, [t.float() for t in half], problem_type)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_gather_in_a_single_process_changes_nothing():
    features = modalities(2, D)
    assert torch.equal(info_nce(features, gather=True), info_nce(features))


@pytest.mark.parametrize("name", MATCHING_LOSSES)
def test_single_modality_has_nothing_to_match(name):
    logits = draw(B, K).requires_grad_()
    outputs = SimpleNamespace(logits=logits, modality_logits=(logits,), features=(logits,))
    loss = matching_loss(name, outputs, draw_labels(SINGLE))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_matching_loss_passes_its_arguments_on():
    outputs = SimpleNamespace(logits=draw(B, K), modality_logits=modalities(2), features=modalities(2, D))
    labels = draw_labels(MULTI)
    by_name = {
        "js": jensen_shannon(outputs.modality_logits, MULTI),
        "infonce": info_nce(outputs.features, 0.3),
        "unimodal": unimodal_cross_entropy(outputs.modality_logits, labels, MULTI),
    }
    for name, expected in by_name.items():
        assert torch.equal(matching_loss(name, outputs, labels, temperature=0.3, problem_type=MULTI), expected)


@pytest.mark.parametrize(("alpha", "ratio"), [(0.0, 0.0), (0.5, 1.0), (0.9, 9.0), (0.99, MAX_RATIO), (1.0, MAX_RATIO)])
def test_total_loss(alpha, ratio):
    loss_cls, loss_mm = torch.tensor(2.0), torch.tensor(3.0)
    assert total_loss(loss_cls, loss_mm, alpha).item() == pytest.approx(2 + ratio * 3)
    assert total_loss(loss_cls, loss_mm, alpha, "convex").item() == pytest.approx(2 + alpha)


def test_errors_name_the_value_and_what_is_allowed():
    logits, labels = draw(B, K), draw_labels(SINGLE)
    outputs = SimpleNamespace(logits=logits, modality_logits=(logits, logits), features=(logits, logits))
    with pytest.raises(ValueError, match=r"matching_loss 'kl'; .*js, infonce, unimodal"):
        matching_loss("kl", outputs, labels)
    with pytest.raises(ValueError, match=r"ratio, convex, got 'sum'"):
        total_loss(logits.sum(), logits.sum(), 0.5, "sum")
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\], got 1.2"):
        total_loss(logits.sum(), logits.sum(), 1.2)
    with pytest.raises(ValueError, match=r"multi_label_classification, got 'regression'"):
        jensen_shannon([logits, logits], "regression")
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        info_nce([logits, logits], 0)
    with pytest.raises(ValueError, match=r"one shape \(B, d\)"):
        info_nce([logits, logits[:, :2]])
    with pytest.raises(ValueError, match=r"one shape \(B, K\)"):
        jensen_shannon([logits])
    with pytest.raises(ValueError, match=r"labels \(B,\) integer class indices.*problem_type"):
        classification_loss(logits, draw_labels(MULTI))
    with pytest.raises(ValueError, match=r"labels \(B, K\) zeros and ones.*problem_type"):
        classification_loss(logits, labels, MULTI)


def test_shapley_values_are_the_mean_over_all_orders_of_joining():
    for number in (1, 2, 3, 4):
        names = "abcd"[:number]
        subsets = [frozenset(c) for size in range(number + 1) for c in combinations(names, size)]
        values = {subset: torch.randn(3, 2, dtype=torch.float64) for subset in subsets}
        shares, orders = dict.fromkeys(names, 0), list(permutations(names))
        for order in orders:
            for place, name in enumerate(order):
                joined = values[frozenset(order[: place + 1])] - values[frozenset(order[:place])]
                shares[name] = shares[name] + joined / len(orders)
        for found, expected in zip(shapley_values(values, names), shares.values(), strict=True):
            torch.testing.assert_close(found, expected)


def test_shapley_values_without_the_empty_set_add_up_to_the_whole():
    terms = torch.randn(4, 5, 3)
    sums = {frozenset(c): terms[list(c)].sum(0) for size in range(1, 5) for c in combinations(range(4), size)}
    torch.testing.assert_close(torch.stack(shapley_values(sums, range(4))), terms)
    del sums[frozenset((0, 2))]
    with pytest.raises(ValueError, match=r"'0', '2'"):
        shapley_values(sums, range(4))
