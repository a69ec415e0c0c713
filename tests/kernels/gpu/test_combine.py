"""The weighted sum of expert rows, by kernel and by reference, against a loop in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.kernels.numbers import DEVICE, DTYPES, LIMITS, randn, relative_error
from zoetrope.kernels.gpu import combine as gpu
from zoetrope.kernels.gpu.tiles import RowTile
from zoetrope.kernels.reference import combine as reference
from zoetrope.kernels.reference.routing import permute_by_expert
from zoetrope.kernels.types.permutation import Permutation

few = settings(deadline=None, max_examples=draws(6))
seeds = st.integers(0, 2**31)
both = pytest.mark.parametrize("combine", [gpu, reference], ids=["kernel", "reference"])


def random_rows(tokens: int, experts: int, k: int, seed: int) -> Permutation:
    choices = randn(tokens, experts, seed=seed).argsort(dim=1)[:, :k]
    return permute_by_expert(choices, randn(tokens, k, seed=seed + 1), experts)


def expected(
    y: torch.Tensor, rows: Permutation, bias: torch.Tensor | None, shared: torch.Tensor | None
) -> torch.Tensor:
    tokens, k = rows.position.shape
    out = torch.zeros(tokens, y.shape[1], dtype=torch.float64, device=y.device)
    for n in range(tokens):
        for j in range(k):
            row = int(rows.position[n, j])
            out[n] += y[row].double() * rows.gate[row].double()
        if bias is not None:
            out[n] += bias.double()
        if shared is not None:
            out[n] += shared[n].double()
    return out


@both
@pytest.mark.parametrize("dtype", DTYPES)
@given(
    st.integers(1, 20),
    st.sampled_from([8, 24, 128, 768, 1040]),
    st.sampled_from([(1, 1), (5, 2), (8, 8)]),
    st.booleans(),
    st.booleans(),
    seeds,
)
@few
def test_weighted_sums(
    combine: ModuleType,
    dtype: torch.dtype,
    tokens: int,
    width: int,
    routed: tuple[int, int],
    biased: bool,
    beside: bool,
    seed: int,
) -> None:
    rows = random_rows(tokens, *routed, seed=seed)
    y = randn(tokens * routed[1], width, seed=seed + 2, dtype=dtype)
    bias = randn(width, seed=seed + 3, dtype=dtype) if biased else None
    shared = randn(tokens, width, seed=seed + 4, dtype=dtype) if beside else None
    out = combine.combine_experts(y, rows, bias, shared)
    assert out.dtype == dtype
    assert relative_error(out, expected(y, rows, bias, shared)) < LIMITS[dtype]


@both
def test_no_tokens(combine: ModuleType) -> None:
    rows = random_rows(0, 4, 2, seed=0)
    y, bias = torch.zeros(0, 16, device=DEVICE), torch.ones(16, device=DEVICE)
    assert combine.combine_experts(y, rows, bias, y).shape == (0, 16)


@both
def test_operands_of_other_dtypes_and_rows_further_apart(combine: ModuleType) -> None:
    rows = random_rows(7, 4, 2, seed=1)
    y, shared = randn(14, 64, seed=2, dtype=torch.float16)[:, 8:48], randn(7, 80, seed=3)[:, 16:56]
    bias = randn(40, seed=4)
    out = combine.combine_experts(y, rows, bias, shared)
    assert out.dtype == torch.float16 and out.is_contiguous()
    assert relative_error(out, expected(y, rows, bias, shared)) < LIMITS[torch.float16]


def test_any_tiling_gives_the_same_bits() -> None:
    rows, y = random_rows(9, 6, 3, seed=5), randn(27, 40, seed=6)
    results = [gpu.combine_experts(y, rows, tile=tile) for tile in (None, RowTile(1, 1), RowTile(4, 2), RowTile(4, 2))]
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_position_that_no_row_has_gives_nan_and_reads_nothing() -> None:
    rows, y = random_rows(3, 3, 2, seed=13), randn(6, 16, seed=14)
    position = rows.position.clone()
    position[0, 1], position[2, 0] = -2, 6
    out = gpu.combine_experts(y, replace(rows, position=position))
    assert out.isnan().all(1).tolist() == [True, False, True]
    assert bool(out[1].isfinite().all())


@both
def test_tokens_with_fewer_rows_than_others(combine: ModuleType) -> None:
    """A row that is not theirs does not reach them, be it NaN."""
    position = torch.tensor([[-1, 2], [0, 1], [-1, -1]], dtype=torch.int32, device=DEVICE)
    y = randn(3, 16, seed=15)
    y[0] = torch.nan
    nothing = position.new_empty(0)
    rows = Permutation(nothing, randn(3, seed=16), nothing, nothing, position)
    out = combine.combine_experts(y, rows, y[1])
    assert torch.allclose(out[0], y[2] * rows.gate[2] + y[1], atol=1e-6)
    assert bool(out[1].isnan().all())
    assert torch.equal(out[2], y[1])
    none = Permutation(nothing, rows.gate[:0], nothing, nothing, torch.full_like(position, -1))
    assert torch.equal(combine.combine_experts(y[:0], none, y[1]), y[1].expand(3, 16))


def test_the_reference_is_differentiable() -> None:
    rows = random_rows(4, 3, 2, seed=7)
    gate = rows.gate.clone().requires_grad_()
    y, bias, shared = (randn(*shape, seed=8 + i).requires_grad_() for i, shape in enumerate([(8, 8), (8,), (4, 8)]))
    factor = randn(4, 8, seed=12)
    (reference.combine_experts(y, replace(rows, gate=gate), bias, shared) * factor).sum().backward()
    assert y.grad is not None and gate.grad is not None and bias.grad is not None and shared.grad is not None
    source = rows.token.long()
    assert torch.allclose(y.grad, factor[source] * gate.detach()[:, None], atol=1e-6)
    assert torch.allclose(gate.grad, (factor[source] * y.detach()).sum(1), atol=1e-5)
    assert torch.allclose(bias.grad, factor.sum(0), atol=1e-6)
    assert torch.equal(shared.grad, factor)


def test_bad_input() -> None:
    rows = random_rows(4, 3, 2, seed=9)
    y = torch.zeros(8, 16, device=DEVICE)
    bad: list[tuple[str, Callable[[], object]]] = [
        (r"y is \(8, 12\)", lambda: gpu.combine_experts(torch.zeros(8, 12, device=DEVICE), rows)),
        ("y is torch.float64", lambda: gpu.combine_experts(y.double(), rows)),
        ("M = 6, the rows of y", lambda: gpu.combine_experts(y[:6], rows)),
        (r"rows.gate \(7,\)", lambda: gpu.combine_experts(y, replace(rows, gate=rows.gate[:7]))),
        ("rows.position is torch.int64", lambda: gpu.combine_experts(y, replace(rows, position=rows.position.long()))),
        ("rows.gate is torch.float64", lambda: gpu.combine_experts(y, replace(rows, gate=rows.gate.double()))),
        (r"bias is \(8,\)", lambda: gpu.combine_experts(y, rows, torch.zeros(8, device=DEVICE))),
        (r"shared is \(8, 16\)", lambda: gpu.combine_experts(y, rows, None, y)),
        ("shared is torch.int32", lambda: gpu.combine_experts(y, rows, None, y[:4].int())),
        ("y has strides", lambda: gpu.combine_experts(torch.zeros(16, 8, device=DEVICE).T, rows)),
        ("y starts at an address", lambda: gpu.combine_experts(torch.zeros(8, 17, device=DEVICE)[:, 1:], rows)),
        ("y has stride 17", lambda: gpu.combine_experts(torch.zeros(8, 17, device=DEVICE)[:, :16], rows)),
        ("bias is on meta", lambda: gpu.combine_experts(y, rows, torch.zeros(16, device="meta"))),
    ]
    for message, call in bad:
        with pytest.raises(ValueError, match=message):
            call()
