"""The hypergradient of networks: fused attention, batch normalisation, dropout, autocast, and no trace of it."""

import copy
import functools
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, BertConfig

from modeling_lfm.trainer.alpha import hypergradient as module
from modeling_lfm.trainer.alpha.guards import frozen_norm_statistics
from modeling_lfm.trainer.alpha.hypergradient import PRODUCTS, hypergradient
from modeling_lfm.trainer.alpha.linear_solvers import SOLVERS
from modeling_lfm.trainer.alpha.outer_loss import outer_loss
from modeling_lfm.trainer.objectives import classification_loss, jensen_shannon


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Attention(nn.Module):
    """Two towers with fused attention and dropout, smooth everywhere, and a linear head."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.embed = nn.Linear(4, 16)
        self.project = nn.Linear(16, 48)
        self.norm = nn.LayerNorm(16)
        self.heads = nn.ModuleList([nn.Linear(16, 3), nn.Linear(16, 3)])
        self.dropout = dropout

    def tower(self, x):
        x = self.embed(x)
        q, k, v = self.project(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        x = x + F.scaled_dot_product_attention(q, k, v, dropout_p=rate).transpose(1, 2).flatten(2)
        return F.gelu(self.norm(x)).mean(1)

    def forward(self, first, second):
        parts = [head(self.tower(x)) for head, x in zip(self.heads, (first, second), strict=True)]
        return parts[0] + parts[1], parts


class Task:
    """Closures of a two-modality classifier, inner and outer data; one forward pass for both inner losses."""

    def __init__(self, model, *shape):
        self.model, self.shape, self.forwards = model, shape, 0
        self.inner = [draw(*shape, seed=s) for s in (1, 2)]
        self.outer = [draw(*shape, seed=s) for s in (3, 4)]
        self.labels = torch.arange(shape[0]) % 3

    def loss_cls(self):
        self.forwards += 1
        logits, self.parts = self.model(*self.inner)
        return classification_loss(logits, self.labels)

    def loss_mm(self):
        return jensen_shannon(self.parts)

    def loss_outer(self):
        return outer_loss("calibrated", *self.model(*self.outer), self.labels)

    def hypergradient(self, parameters=None, **options):
        parameters = self.model.parameters() if parameters is None else parameters
        return hypergradient(self.loss_cls, self.loss_mm, self.loss_outer, parameters, 0.7, **options)


def trained(model, task, steps=30):
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        (task.loss_cls() + 2 * task.loss_mm()).backward()
        optimizer.step()
    optimizer.zero_grad()
    return task


@functools.cache
def trained_attention(dropout):
    torch.manual_seed(0)
    model = Attention(dropout)
    trained(model, Task(model, 24, 5, 4))
    return model


def attention_task(dropout=0.0):
    model = copy.deepcopy(trained_attention(dropout))
    torch.manual_seed(0)
    return Task(model, 24, 5, 4)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("head_only", [False, True])
def test_products_agree_on_fused_attention(mode, head_only):
    task = attention_task(dropout=0.2)
    task.model.train(mode == "train")
    parameters = list((task.model.heads if head_only else task.model).parameters())
    exact, differences = (task.hypergradient(parameters, product=product) for product in PRODUCTS)
    assert exact.value == pytest.approx(differences.value, rel=0.01)
    assert exact.cosine == pytest.approx(differences.cosine, rel=0.01)
    assert exact.iterations == differences.iterations > 0


@pytest.mark.parametrize("seed", range(3))
def test_central_differences_are_accurate_in_float32(seed):
    task = attention_task()
    parameters = list(task.model.parameters())
    space = module._Space(parameters)
    inner = module._InnerProblem(task.loss_cls, task.loss_mm, space, 0.7)
    vector = space.gradient(task.loss_outer()) if seed == 0 else draw(len(space.flatten(parameters)), seed=seed)
    vector = 1e-3 * vector
    with module._reproducible(parameters, "double_backward"):
        exact = inner.linearize("double_backward", True)[0](vector)
        approximate = inner.linearize("central_difference", True)[0](vector)
    assert (approximate - exact).norm() < 1e-3 * exact.norm()


@pytest.mark.parametrize("model_mode", ["train", "eval"])
def test_transformers_encoder(model_mode):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    encoder = AutoModel.from_config(BertConfig(vocab_size=50, **sizes), attn_implementation="sdpa")
    head = nn.Linear(16, 3)
    ids = torch.arange(48).view(8, 6)
    labels = torch.arange(8) % 3

    def logits(shift):
        return head(encoder(input_ids=(ids + shift) % 50).last_hidden_state.mean(1))

    encoder.train(model_mode == "train")
    parameters = [*encoder.parameters(), *head.parameters()]  # the pooler's are unused
    closures = (
        lambda: classification_loss(logits(0), labels),
        lambda: jensen_shannon([logits(0), logits(1)]),
        lambda: classification_loss(logits(7), labels),
    )
    exact, differences = (hypergradient(*closures, parameters, 0.9, product=product) for product in PRODUCTS)
    assert exact.value == pytest.approx(differences.value, rel=0.01)


def test_batch_normalisation_in_train_mode():
    torch.manual_seed(0)
    towers = [
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3)) for _ in "12"
    ]
    model = nn.Module()
    model.towers = nn.ModuleList(towers)
    model.forward = lambda a, b: (lambda x, y: (x + y, (x, y)))(towers[0](a), towers[1](b))
    task = trained(model, Task(model, 24, 4))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with frozen_norm_statistics(model):
        exact, differences = (task.hypergradient(product=product) for product in PRODUCTS)
    assert exact.value == pytest.approx(differences.value, rel=0.01)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_leaves_no_trace_and_repeats_itself(product, solver):
    task = attention_task(dropout=0.2)
    before = [p.detach().clone() for p in task.model.parameters()]
    random, precision = torch.get_rng_state(), torch.get_float32_matmul_precision()
    first, second = (task.hypergradient(product=product, solver=solver) for _ in range(2))
    assert first == second
    assert torch.equal(random, torch.get_rng_state())
    assert torch.get_float32_matmul_precision() == precision
    assert all(torch.equal(p, saved) for p, saved in zip(task.model.parameters(), before, strict=True))
    assert all(p.grad is None for p in task.model.parameters())


@pytest.mark.parametrize("failing_pass", [2, 3, 5])
def test_parameters_come_back_after_an_error(failing_pass):
    task = attention_task()
    before = [p.detach().clone() for p in task.model.parameters()]
    loss_mm, task.forwards = task.loss_mm, 0

    def fails():
        if task.forwards == failing_pass:
            assert not all(torch.equal(p, b) for p, b in zip(task.model.parameters(), before, strict=True))
            raise KeyboardInterrupt
        return loss_mm()

    task.loss_mm = fails
    with pytest.raises(KeyboardInterrupt):
        task.hypergradient(product="central_difference")
    assert all(torch.equal(p, b) for p, b in zip(task.model.parameters(), before, strict=True))


def test_one_forward_pass_serves_all_exact_products():
    task = attention_task()
    task.forwards = 0
    task.hypergradient(iterations=5)
    assert task.forwards == 1


@pytest.mark.parametrize("product", PRODUCTS)
def test_autocast_and_no_grad_outside_do_not_matter(product):
    task = attention_task()
    expected = task.hypergradient(product=product)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            assert task.hypergradient(product=product) == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("product", PRODUCTS)
def test_frozen_unused_and_repeated_parameters(product):
    task = attention_task()
    used = list(task.model.heads.parameters())
    unused, frozen = torch.ones(5, requires_grad=True), torch.ones(2)
    expected = task.hypergradient(used, product=product)
    result = task.hypergradient([*used, used[0], frozen], product=product)
    assert result == expected
    result = task.hypergradient([unused, *used], product=product)
    assert result.value == pytest.approx(expected.value, rel=1e-4)
    assert torch.equal(unused, torch.ones(5))


def test_half_precision_parameters():
    task = attention_task()
    task.model.bfloat16()
    task.inner, task.outer = ([t.bfloat16() for t in tensors] for tensors in (task.inner, task.outer))
    assert math.isfinite(task.hypergradient().value)
    with pytest.raises(ValueError, match=r"float32 parameters, got torch.bfloat16.*double_backward"):
        task.hypergradient(product="central_difference")


def test_logs_are_json():
    logs = attention_task().hypergradient().as_dict()
    assert json.loads(json.dumps(logs)) == logs
    assert {"hypergradient", "hypergradient_cosine", "hypergradient_negative_curvature"} <= logs.keys()
    assert "hypergradient_step" not in logs


def test_central_differences_of_a_compiled_model():
    task = attention_task()
    expected = task.hypergradient(product="central_difference")
    eager, task.model = task.model, torch.compile(task.model, backend="aot_eager")
    result = task.hypergradient(eager.parameters(), product="central_difference")
    assert result.value == pytest.approx(expected.value, rel=1e-3)
