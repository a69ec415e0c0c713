"""Every kernel against a plain loop in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from zoetrope.kernels import (
    CuSeqlens,
    combine_experts,
    grouped_gemm,
    linear_gelu,
    qk_norm_rope,
    residual_gate,
    residual_norm,
    route_top_k,
    varlen_attention,
)
from zoetrope.kernels.reference.attention import attention as reference_attention
from zoetrope.kernels.types.varlen import equal_runs

few = settings(deadline=None, max_examples=draws(25))
seeds = st.integers(0, 2**31)
lengths = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6)


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def offsets_of(counts: list[int]) -> torch.Tensor:
    return torch.tensor([0, *counts]).cumsum(0).int()


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
    out, lse = reference_attention(q, k, v, cu_q, cu_k, return_lse=True)
    assert close(out, expected)
    for i in range(len(pairs)):
        queries, span = slice(cu_q.offsets[i], cu_q.offsets[i + 1]), slice(cu_k.offsets[i], cu_k.offsets[i + 1])
        scores = torch.einsum("qhd,khd->hqk", q[queries].double(), k[span].double()) / math.sqrt(8)
        assert close(lse[:, queries], scores.logsumexp(-1))


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
    assert close(grouped_gemm(x, weight, offsets_of(counts), gelu=gelu), expected)


def test_grouped_gemm_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"weight is \(2, 4, 4\), offsets \(4,\)"):
        grouped_gemm(torch.zeros(1, 4), torch.zeros(2, 4, 4), offsets_of([1, 0, 0]))
    with pytest.raises(ValueError, match=r"x must be \[M, 4\]"):
        grouped_gemm(torch.zeros(1, 5), torch.zeros(2, 4, 4), offsets_of([1, 0]))
    with pytest.raises(ValueError, match=r"bias is \(4,\), it must be \(2, 4\)"):
        grouped_gemm(torch.zeros(1, 4), torch.zeros(2, 4, 4), offsets_of([1, 0]), torch.zeros(4))


def test_a_linear_layer_with_gelu() -> None:
    x, weight, bias = randn(6, 8, seed=0), randn(5, 8, seed=1), randn(5, seed=2)
    y = x.double() @ weight.double().T + bias.double()
    expected = 0.5 * y * (1 + (math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)).tanh())
    assert close(linear_gelu(x, weight, bias), expected)


@given(st.integers(1, 9), st.integers(1, 6), st.data(), seeds)
@few
def test_routing_and_the_order_by_expert(tokens: int, experts: int, data: st.DataObject, seed: int) -> None:
    k = data.draw(st.integers(1, experts))
    logits, correction = randn(tokens, experts, seed=seed), randn(experts, seed=seed + 1)
    rows = route_top_k(logits, correction, k)
    assert rows.position.shape == (tokens, k)
    expected: list[tuple[int, int, float]] = []
    for token in range(tokens):
        scores = [1 / (1 + math.exp(-float(v))) for v in logits[token]]
        ranked = sorted(range(experts), key=lambda e: -(scores[e] + float(correction[e])))[:k]
        total = sum(scores[e] for e in ranked)
        expected += [(e, token, scores[e] / total) for e in ranked]
    expected.sort(key=lambda row: row[:2])
    assert rows.counts.tolist() == [sum(e == expert for e, _, _ in expected) for expert in range(experts)]
    assert rows.offsets.tolist() == offsets_of(rows.counts.tolist()).tolist()
    assert rows.token.tolist() == [token for _, token, _ in expected]
    assert rows.gate.tolist() == pytest.approx([gate for _, _, gate in expected], rel=1e-4)
    assert rows.token[rows.position.long()].tolist() == [[token] * k for token in range(tokens)]
    assert {f.dtype for f in (rows.token, rows.counts, rows.offsets, rows.position)} == {torch.int32}

    y, bias, shared = randn(tokens * k, 5, seed=seed), randn(5, seed=seed + 2), randn(tokens, 5, seed=seed + 3)
    summed = bias.double() + shared.double()
    for row, (_, token, gate) in zip(y.double(), expected, strict=True):
        summed[token] += row * gate
    assert close(combine_experts(y, rows, bias, shared), summed)


@pytest.mark.parametrize("k", [0, 4])
def test_routing_refuses_more_choices_than_experts(k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}: it must be 1 to 3"):
        route_top_k(torch.zeros(2, 3), torch.zeros(3), k)


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
    same, plain = residual_norm(x, None, None, row, shift=shift, scale=scale, eps=1e-6)
    assert torch.equal(same, x)
    assert torch.allclose(plain.double(), torch.stack(normed), rtol=1e-3, atol=1e-3)
    assert close(residual_gate(residual, x, gate, row), torch.stack(gated))
    assert close(residual_gate(residual, x, None, row), residual.double() + x.double())
    total, after = residual_norm(residual, x, gate, row, shift=shift, scale=scale, eps=1e-6)
    assert torch.equal(total, residual_gate(residual, x, gate, row))
    assert torch.equal(after, residual_norm(total, None, None, row, shift=shift, scale=scale, eps=1e-6)[1])
    weight, bias = randn(2, dim, seed=seed + 2)
    _, affine = residual_norm(residual, x, gate, row, weight=weight, bias=bias, eps=1e-6)
    alone = torch.nn.functional.layer_norm(total.double(), (dim,), weight.double(), bias.double(), 1e-6)
    assert torch.allclose(affine.double(), alone, rtol=1e-3, atol=1e-3)


def test_a_norm_refuses_what_does_not_fit() -> None:
    x, row, table = torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), torch.zeros(1, 4)
    with pytest.raises(ValueError, match="shift and scale"):
        residual_norm(x, None, None, row, shift=table, eps=1e-6)
    with pytest.raises(ValueError, match="adaptive"):
        residual_norm(x, None, None, row, shift=table, scale=table, weight=torch.ones(4), eps=1e-6)
    with pytest.raises(ValueError, match=r"gate is \(1, 5\)"):
        residual_norm(x, x, torch.zeros(1, 5), row, eps=1e-6)
    with pytest.raises(ValueError, match="update"):
        residual_gate(x, x[:2], None, row)
    with pytest.raises(ValueError, match=r"row \(2,\)"):
        residual_gate(x, x, None, row[:2])


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
    assert {t.dtype for t in residual_norm(x, x, table, row, shift=table, scale=table, eps=1e-6)} == {dtype}
    assert residual_gate(x, x, table, row).dtype == dtype
    assert grouped_gemm(x, torch.randn(2, 8, 8).to(dtype), offsets_of([4, 0]), gelu=True).dtype == dtype
    rows = route_top_k(torch.randn(4, 3), torch.zeros(3), 2)
    assert combine_experts(torch.randn(8, 8).to(dtype), rows).dtype == dtype


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(5, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    cu = CuSeqlens.of([1, 4])
    assert torch.autograd.gradcheck(lambda a, b, c: varlen_attention(a, b, c, cu, cu), (q, k, v))
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    offsets = offsets_of([2, 0, 3])
    assert torch.autograd.gradcheck(lambda a, w: grouped_gemm(a, w, offsets, gelu=True), (x, weight))


def test_offsets_and_runs_of_equal_neighbours() -> None:
    cu = CuSeqlens.of([3, 3, 1, 3])
    assert (cu.offsets, cu.total) == ((0, 3, 6, 7, 10), 10)
    assert cu.tensor(torch.device("cpu")).tolist() == [0, 3, 6, 7, 10]
    assert cu.tensor(torch.device("cpu")).dtype == torch.int32
    assert equal_runs(cu, cu) == [(0, 2), (2, 1), (3, 1)]
    assert equal_runs(cu, CuSeqlens.of([2, 4, 4, 4])) == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert CuSeqlens.of([]).total == 0
