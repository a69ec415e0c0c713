"""Grouped routing and biases of experts against plain loops; the sigmoid router is in test_reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from zoetrope.kernels import Permutation, grouped_gemm, route_grouped_top1
from zoetrope.model.network.experts import MoEFeedForward

few = settings(deadline=None, max_examples=draws(25))
seeds = st.integers(0, 2**31)


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def experts_of(rows: Permutation) -> torch.Tensor:
    """``[N, k]``: the expert of each of a token's choices."""
    owner = torch.arange(len(rows.counts)).repeat_interleave(rows.counts)
    return owner[rows.position.long()]


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.sampled_from([1.0, 1e4]), seeds)
@few
def test_the_best_of_each_group_with_weight_one(
    tokens: int, groups: int, replicas: int, scale: float, seed: int
) -> None:
    logits = randn(tokens, groups * replicas, seed=seed) * scale
    correction = randn(groups * replicas, seed=seed + 1) * scale
    rows = route_grouped_top1(logits, correction, groups)
    experts = experts_of(rows)
    assert experts.shape == (tokens, groups)
    assert bool((rows.gate == 1).all())
    for token in range(tokens):
        for group in range(groups):
            members = range(group * replicas, (group + 1) * replicas)
            assert int(experts[token, group]) == max(members, key=lambda e: float(logits[token, e] + correction[e]))
    assert rows.counts.view(groups, replicas).sum(1).tolist() == [tokens] * groups


def test_a_grouped_router_learns_by_the_log_probability_of_its_choice() -> None:
    logits = randn(5, 6, seed=0).requires_grad_()
    rows = route_grouped_top1(logits, torch.zeros(6), 2)
    rows.gate.sum().backward()
    assert logits.grad is not None
    shares = logits.detach().view(5, 2, 3).softmax(-1).view(5, 6)
    chosen = torch.zeros(5, 6).scatter(1, experts_of(rows), 1.0)
    assert torch.allclose(logits.grad, chosen - shares, atol=1e-6)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.booleans(), seeds)
@few
def test_grouped_gemm_with_a_bias(counts: list[int], gelu: bool, seed: int) -> None:
    x, weight = randn(sum(counts), 7, seed=seed), randn(len(counts), 7, 5, seed=seed + 1)
    bias = randn(len(counts), 5, seed=seed + 2)
    owner = [expert for expert, count in enumerate(counts) for _ in range(count)]
    offsets = torch.tensor([0, *counts]).cumsum(0).int()
    y = grouped_gemm(x, weight, offsets, bias, gelu=gelu)
    assert y.shape == (sum(counts), 5)
    for row, expert in enumerate(owner):
        value = x[row].double() @ weight[expert].double() + bias[expert].double()
        inner = math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)
        expected = 0.5 * value * (1 + inner.tanh()) if gelu else value
        assert torch.allclose(y[row].double(), expected, rtol=1e-4, atol=1e-5)


def test_a_layer_of_groups_adds_up_slices_and_its_bias_once() -> None:
    torch.manual_seed(0)
    layer = MoEFeedForward(8, 3, 6, 2, 0, groups=2, bias=True)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(4, 8)
    assert layer.b1 is not None and layer.b2 is not None
    experts = experts_of(layer.route(x))
    expected = torch.zeros(4, 8)
    for token in range(4):
        expected[token] = layer.b2.detach()
        for expert in experts[token].tolist():
            hidden = torch.nn.functional.gelu(x[token] @ layer.w1[expert] + layer.b1[expert], approximate="tanh")
            expected[token] += (hidden @ layer.w2[expert]).detach()
    assert torch.allclose(layer(x), expected, atol=1e-5)
    layer(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in layer.parameters())


def test_rebalancing_evens_out_the_replicas() -> None:
    torch.manual_seed(1)
    layer = MoEFeedForward(8, 4, 8, 2, 0, groups=2)
    layer.correction += torch.tensor([2.0, 0, 0, 0, 0, 0, 0, 2.0])
    x = torch.randn(400, 8)

    def imbalance() -> float:
        layer(x)
        assert layer.last_counts is not None
        return float(layer.last_counts.max()) / 100

    before = imbalance()
    assert before > 2.5
    for _ in range(150):
        imbalance()
        layer.rebalance(0.02)
    assert imbalance() < 1.4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dtypes(dtype: torch.dtype) -> None:
    layer = MoEFeedForward(8, 4, 4, 2, 0, groups=2, bias=True).to(dtype)
    assert layer(torch.randn(3, 8).to(dtype)).dtype == dtype
