"""Every kernel against a plain loop in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import (
    CuSeqlens,
    grouped_gemm,
    norm_modulate,
    permute_by_expert,
    qk_norm_rope,
    residual_gate,
    route_top_k,
    varlen_attention,
)
from kernels.varlen import equal_runs

few = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**31)
lengths = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6)


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(result: torch.Tensor, expected: torch.Tensor) -> bool:
    return result.shape == expected.shape and torch.allclose(result.double(), expected.double(), rtol=1e-4, atol=1e-5)


@given(lengths, st.integers(1, 3), seeds)
@few
def test_attention_over_ragged_lengths(pairs: list[tuple[int, int]], heads: int, seed: int) -> None:
    cu_q, cu_k = CuSeqlens.of(a for a, _ in pairs), CuSeqlens.of(b for _, b in pairs)
    q = randn(cu_q.total, heads, 8, seed=seed)
    k, v = randn(2, cu_k.total, heads, 8, seed=seed + 1)
    expected = torch.zeros(q.shape, dtype=torch.float64)
    for i in range(len(pairs)):
        for row in range(cu_q.offsets[i], cu_q.offsets[i + 1]):
            for head in range(heads):
                span = slice(cu_k.offsets[i], cu_k.offsets[i + 1])
                scores = k[span, head].double() @ q[row, head].double() / math.sqrt(8)
                expected[row, head] = scores.softmax(0) @ v[span, head].double()
    assert close(varlen_attention(q, k, v, cu_q, cu_k), expected)


def test_attention_refuses_lengths_that_do_not_fit() -> None:
    x = torch.zeros(5, 1, 8)
    with pytest.raises(ValueError, match="sequences"):
        varlen_attention(x, x, x, CuSeqlens.of([5]), CuSeqlens.of([2, 3]))
    with pytest.raises(ValueError, match="5 rows for 4"):
        varlen_attention(x, x, x, CuSeqlens.of([4]), CuSeqlens.of([5]))
    with pytest.raises(ValueError, match="5 rows for 6"):
        varlen_attention(x, x, x, CuSeqlens.of([5]), CuSeqlens.of([6]))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.booleans(), seeds)
@few
def test_grouped_gemm_with_empty_experts(counts: list[int], gelu: bool, seed: int) -> None:
    x, weight = randn(sum(counts), 7, seed=seed), randn(len(counts), 7, 5, seed=seed + 1)
    owner = [expert for expert, count in enumerate(counts) for _ in range(count)]
    expected = torch.zeros(sum(counts), 5, dtype=torch.float64)
    for row, expert in enumerate(owner):
        y = x[row].double() @ weight[expert].double()
        inner = math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)
        expected[row] = 0.5 * y * (1 + inner.tanh()) if gelu else y
    assert close(grouped_gemm(x, weight, torch.tensor(counts), gelu=gelu), expected)


def test_grouped_gemm_refuses_another_number_of_experts() -> None:
    with pytest.raises(ValueError, match="weight has 2 experts, counts has 3"):
        grouped_gemm(torch.zeros(1, 4), torch.zeros(2, 4, 4), torch.tensor([1, 0, 0]))


@given(st.integers(1, 9), st.integers(1, 6), st.data(), seeds)
@few
def test_routing_and_the_order_by_expert(tokens: int, experts: int, data: st.DataObject, seed: int) -> None:
    k = data.draw(st.integers(1, experts))
    logits, correction = randn(tokens, experts, seed=seed), randn(experts, seed=seed + 1)
    chosen, gates = route_top_k(logits, correction, k)
    assert chosen.shape == gates.shape == (tokens, k)
    for token in range(tokens):
        scores = [1 / (1 + math.exp(-float(v))) for v in logits[token]]
        ranked = sorted(range(experts), key=lambda e: -(scores[e] + float(correction[e])))
        assert set(chosen[token].tolist()) == set(ranked[:k])
        total = sum(scores[e] for e in ranked[:k])
        for expert, gate in zip(chosen[token].tolist(), gates[token].tolist(), strict=True):
            assert gate == pytest.approx(scores[expert] / total, rel=1e-4)

    rows = permute_by_expert(chosen, gates, experts)
    expected = [
        (expert, token, float(gates[token, choice]))
        for expert in range(experts)
        for token in range(tokens)
        for choice in range(k)
        if int(chosen[token, choice]) == expert
    ]
    assert rows.counts.tolist() == [sum(e == expert for e, _, _ in expected) for expert in range(experts)]
    assert rows.token.tolist() == [token for _, token, _ in expected]
    assert rows.gate.tolist() == [gate for _, _, gate in expected]


@given(st.integers(1, 6), st.integers(1, 3), st.integers(2, 9), seeds)
@few
def test_modulation_with_a_row_for_each_noise_level(tokens: int, levels: int, dim: int, seed: int) -> None:
    x, residual = randn(2, tokens, dim, seed=seed)
    shift, scale, gate = randn(3, levels, dim, seed=seed + 1)
    row = torch.randint(levels, (tokens,), generator=torch.Generator().manual_seed(seed))
    normed, gated = [], []
    for token in range(tokens):
        value, level = x[token].double(), int(row[token])
        variance = value.var(unbiased=False)
        value = (value - value.mean()) / (variance + 1e-6).sqrt()
        normed.append(value * (1 + scale[level].double()) + shift[level].double())
        gated.append(residual[token].double() + x[token].double() * gate[level].double())
    # a layer norm of two nearly equal numbers magnifies rounding
    assert torch.allclose(norm_modulate(x, shift, scale, row, 1e-6).double(), torch.stack(normed), rtol=1e-3, atol=1e-3)
    assert close(residual_gate(residual, x, gate, row), torch.stack(gated))


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.booleans(), seeds)
@few
def test_norm_and_rotation_of_queries_and_keys(tokens: int, heads: int, half: int, rotate: bool, seed: int) -> None:
    dim = heads * 2 * half
    x, weight, angle = randn(tokens, dim, seed=seed), randn(dim, seed=seed + 1), randn(tokens, half, seed=seed + 2)
    expected = torch.zeros(tokens, heads, 2 * half, dtype=torch.float64)
    for token in range(tokens):
        value = x[token].double()
        value = value / (value.square().mean() + 1e-6).sqrt() * weight.double()
        for head in range(heads):
            for pair in range(half):
                at = head * 2 * half + 2 * pair
                z = complex(float(value[at]), float(value[at + 1]))
                if rotate:
                    turn = float(angle[token, pair])
                    z *= complex(math.cos(turn), math.sin(turn))
                expected[token, head, 2 * pair], expected[token, head, 2 * pair + 1] = z.real, z.imag
    cos, sin = (angle.cos(), angle.sin()) if rotate else (None, None)
    assert close(qk_norm_rope(x, weight, cos, sin, heads, 1e-6), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_results_have_the_dtype_of_their_input(dtype: torch.dtype) -> None:
    x = torch.randn(4, 8).to(dtype)
    table, row = torch.randn(2, 8), torch.tensor([0, 1, 1, 0])
    cu = CuSeqlens.of([3, 1])
    q = qk_norm_rope(x, torch.ones(8, dtype=dtype), torch.ones(4, 2), torch.zeros(4, 2), 2, 1e-6)
    assert q.dtype == dtype
    assert varlen_attention(q, q, q, cu, cu).dtype == dtype
    assert norm_modulate(x, table, table, row, 1e-6).dtype == dtype
    assert residual_gate(x, x, table, row).dtype == dtype
    assert grouped_gemm(x, torch.randn(2, 8, 3).to(dtype), torch.tensor([4, 0]), gelu=True).dtype == dtype


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(5, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    cu = CuSeqlens.of([1, 4])
    assert torch.autograd.gradcheck(lambda a, b, c: varlen_attention(a, b, c, cu, cu), (q, k, v))
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([2, 0, 3])
    assert torch.autograd.gradcheck(lambda a, w: grouped_gemm(a, w, counts, gelu=True), (x, weight))


def test_offsets_and_runs_of_equal_neighbours() -> None:
    cu = CuSeqlens.of([3, 3, 1, 3])
    assert (cu.offsets, cu.total) == ((0, 3, 6, 7, 10), 10)
    assert cu.tensor(torch.device("cpu")).tolist() == [0, 3, 6, 7, 10]
    assert cu.tensor(torch.device("cpu")).dtype == torch.int32
    assert equal_runs(cu, cu) == [(0, 2), (2, 1), (3, 1)]
    assert equal_runs(cu, CuSeqlens.of([2, 4, 4, 4])) == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert CuSeqlens.of([]).total == 0
