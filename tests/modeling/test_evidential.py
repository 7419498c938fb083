"""Dirichlet opinions and Dempster's rule, against hand-made numbers and against masses of sets of classes."""

from fractions import Fraction
from functools import reduce
from itertools import permutations

import pytest
import torch

from modeling_lfm import LfmConfig
from modeling_lfm.fusions_lfm import EtmcFusion, combine, to_evidence

from .towers import TOWERS


def opinion(evidence):
    """Belief b = e / S (..., K) and uncertainty u = K / S (..., 1) of evidence e (..., K), S = sum_k (e_k + 1)."""
    classes = evidence.shape[-1]
    strength = evidence.sum(-1, keepdim=True) + classes
    return evidence / strength, classes / strength


def masses(evidence):
    """Mass of each class alone and of the frame of all classes: a `dict` from a set of classes."""
    strength, classes = sum(evidence) + len(evidence), len(evidence)
    singles = {frozenset([k]): e / strength for k, e in enumerate(evidence)}
    return {**singles, frozenset(range(classes)): classes / strength}


def dempster(first, second):
    """The rule over all pairs of sets: what they share gets the product, what shares nothing is conflict."""
    joint, conflict = {}, 0
    for a, mass_a in first.items():
        for b, mass_b in second.items():
            if a & b:
                joint[a & b] = joint.get(a & b, 0) + mass_a * mass_b
            else:
                conflict += mass_a * mass_b
    return {a: mass / (1 - conflict) for a, mass in joint.items()}


def make_fusion(number=2, classes=4):
    torch.manual_seed(0)
    modalities = dict(list(TOWERS.items())[:number])
    return EtmcFusion(LfmConfig(modalities=modalities, fusion="etmc", hidden_size=8, num_labels=classes))


def test_opinion():
    belief, uncertainty = opinion(torch.tensor([[4.0, 0.0, 3.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(belief, torch.tensor([[0.4, 0.0, 0.3], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(uncertainty, torch.tensor([[0.3], [1.0]]))


@pytest.mark.parametrize(
    ("first", "second", "belief", "uncertainty"),
    [
        # b = (1/2, 0) and (0, 1/2), u = 1/2: C = 1/4, so (1/4, 1/4, 1/4) / (3/4)
        ([2.0, 0.0], [0.0, 2.0], [1 / 3, 1 / 3], 1 / 3),
        # b = (1/2, 0) twice: C = 0, b_1 = 1/4 + 1/4 + 1/4
        ([2.0, 0.0], [2.0, 0.0], [3 / 4, 0.0], 1 / 4),
        # b = (0.4, 0.2, 0), u = 0.4 and b = (0.2, 0, 0.2), u = 0.6: C = 0.08 + 0.04 + 0.04
        ([3.0, 1.5, 0.0], [1.0, 0.0, 1.0], [0.4 / 0.84, 0.12 / 0.84, 0.08 / 0.84], 0.24 / 0.84),
        # who knows nothing changes nothing
        ([3.0, 1.5, 0.0], [0.0, 0.0, 0.0], [0.4, 0.2, 0.0], 0.4),
    ],
)
def test_by_hand(first, second, belief, uncertainty):
    found = opinion(combine(torch.tensor(first), torch.tensor(second)))
    torch.testing.assert_close(found[0], torch.tensor(belief))
    torch.testing.assert_close(found[1], torch.tensor([uncertainty]))


@pytest.mark.parametrize(("classes", "views"), [(2, 2), (3, 2), (5, 3), (4, 4)])
def test_it_is_dempsters_rule_on_masses_in_any_order(classes, views):
    torch.manual_seed(classes)
    for scale in (0.1, 1.0, 30.0):
        evidence = scale * torch.rand(views, classes, dtype=torch.float64).square()
        expected = reduce(dempster, [masses(view) for view in evidence.tolist()])
        for order in permutations(range(views)):
            belief, uncertainty = opinion(reduce(combine, [evidence[place] for place in order]))
            assert belief.tolist() == pytest.approx([expected[frozenset([k])] for k in range(classes)], rel=1e-10)
            assert uncertainty.item() == pytest.approx(expected[frozenset(range(classes))], rel=1e-10)


def test_sure_and_contrary_views():
    """Each all but certain of another class: the conflict is 1 to seven digits; against exact fractions."""
    evidence = torch.tensor([[1e8, 0.0, 0.0], [0.0, 1e8, 0.0], [0.0, 0.0, 1e8]])
    belief, uncertainty = opinion(reduce(combine, evidence))
    expected = reduce(dempster, [masses([Fraction(e) for e in view]) for view in evidence.tolist()])
    assert belief.tolist() == pytest.approx([float(expected[frozenset([k])]) for k in range(3)], rel=1e-5)
    assert uncertainty.item() == pytest.approx(float(expected[frozenset(range(3))]), rel=1e-5)


@pytest.mark.parametrize("number", [2, 3])
def test_fusion_is_its_formula(number):
    """With the rule's b, u and C as they stand in the paper."""
    fusion = make_fusion(number)
    features = tuple(3 * torch.randn(6, 8) for _ in range(number))
    logits, modality_logits = fusion(features)
    heads = [(head.weight, head.bias) for head in (*fusion.heads, fusion.pseudo_head)]
    views = [z @ weight.T + bias for (weight, bias), z in zip(heads, (*features, torch.cat(features, 1)), strict=True)]
    for one, other in zip(modality_logits, views, strict=False):
        torch.testing.assert_close(one, other)
    alphas = [torch.log1p(view.double().exp()) + 1 for view in views]
    alpha = alphas[0]
    for other in alphas[1:]:
        (b1, u1), (b2, u2) = (((a - 1) / a.sum(1, True), 4 / a.sum(1, True)) for a in (alpha, other))
        conflict = (b1.unsqueeze(2) * b2.unsqueeze(1)).sum((1, 2)) - (b1 * b2).sum(1)
        belief = (b1 * b2 + b1 * u2 + b2 * u1) / (1 - conflict).unsqueeze(1)
        uncertainty = u1 * u2 / (1 - conflict).unsqueeze(1)
        alpha = belief * 4 / uncertainty + 1
    torch.testing.assert_close(logits.double().exp(), alpha, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits.double().softmax(1), alpha / alpha.sum(1, True), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(4 / logits.double().exp().sum(1, True), uncertainty, rtol=1e-4, atol=1e-6)


def test_precision():
    """float32 from bfloat16, float64 kept; large logits have finite gradients."""
    fusion, features = make_fusion(), tuple(torch.randn(3, 8) for _ in range(2))
    assert fusion.double()(tuple(z.double() for z in features))[0].dtype == torch.float64
    assert fusion.bfloat16()(tuple(z.bfloat16() for z in features))[0].dtype == torch.float32
    assert to_evidence(torch.tensor([-200.0, 1e4], dtype=torch.bfloat16)).tolist() == [0.0, 9984.0]
    features = tuple((1e6 * z).requires_grad_() for z in features)
    logits = make_fusion()(features)[0]
    assert logits.isfinite().all()
    (logits.logsumexp(1) - logits[:, 0]).sum().backward()
    assert all(z.grad.isfinite().all() for z in features)
