"""Products of 8-bit floats: what they compute, what they refuse, and that torch's own kernels take such operands."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from zoetrope.kernels import Fp8Rows, grouped_gemm_fp8, linear_fp8, quantise_rows, quantise_weight, residual_norm
from zoetrope.kernels.ops.grouped_gemm_fp8 import _scaled_grouped_mm
from zoetrope.kernels.ops.linear_fp8 import _scaled_mm

SIZES = st.integers(1, 40)
STEP = 2.0**-4  # half of the distance of two numbers of e4m3, relative to the smaller
TINIEST = 2.0**-10  # half of the smallest number of e4m3


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def exact(rows: Fp8Rows) -> torch.Tensor:
    return rows.q.double() * rows.scale.double().unsqueeze(-1)


@settings(deadline=None, max_examples=30)
@given(m=st.integers(0, 9), k=SIZES, power=st.integers(-12, 12), seed=st.integers(0, 99))
def test_a_row_is_as_near_as_e4m3_can_be(m: int, k: int, power: int, seed: int) -> None:
    x = randn(m, k, seed=seed) * 10.0**power
    rows = quantise_rows(x)
    assert rows.q.shape == x.shape and rows.scale.shape == (m,)
    limit = torch.maximum(STEP * x.double().abs(), TINIEST * rows.scale.double()[:, None])
    assert bool(((exact(rows) - x.double()).abs() <= 1.001 * limit).all())
    assert not m or bool((rows.q.float().abs().amax(1) == 448).all()), "a row fills the range"


@settings(deadline=None, max_examples=30)
@given(m=st.integers(0, 9), k=SIZES, n=SIZES, bias=st.booleans(), seed=st.integers(0, 99))
def test_a_linear_layer_is_that_of_the_numbers_it_is_given(m: int, k: int, n: int, bias: bool, seed: int) -> None:
    x, weight = quantise_rows(randn(m, k, seed=seed)), quantise_weight(randn(n, k, seed=seed + 1))
    add = randn(n, seed=seed + 2) if bias else None
    made = linear_fp8(*x, *weight, add, out_dtype=torch.float32)
    expected = exact(x) @ exact(weight).mT + (0 if add is None else add.double())
    assert made.shape == (m, n) and made.dtype == torch.float32
    assert torch.allclose(made.double(), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=5), k=SIZES, n=SIZES, seed=st.integers(0, 99))
def test_products_of_experts_are_those_of_the_numbers_they_are_given(
    lengths: list[int], k: int, n: int, seed: int
) -> None:
    x, weight = quantise_rows(randn(sum(lengths), k, seed=seed)), quantise_weight(randn(len(lengths), k, n, seed=seed))
    bias = randn(len(lengths), n, seed=seed + 2)
    offsets = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()
    made = grouped_gemm_fp8(*x, *weight, offsets, bias, out_dtype=torch.float32)
    expert = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    products = torch.einsum("mk,mnk->mn", exact(x), exact(weight)[expert]) + bias.double()[expert]
    assert weight.q.shape == (len(lengths), n, k) and weight.q.is_contiguous()
    assert torch.allclose(made.double(), products, rtol=1e-5, atol=1e-5)


def test_rows_are_taken_and_split() -> None:
    x = randn(5, 8)
    rows, index = quantise_rows(x), torch.tensor([4, 0, 4], dtype=torch.int32)
    assert torch.equal(exact(rows.take(index)), exact(rows)[[4, 0, 4]])
    assert [len(part.q) for part in rows.split(3)] == [2, 2, 1]
    assert torch.equal(torch.cat([exact(part) for part in rows.split(3)]), exact(rows))


def test_a_norm_gives_its_rows_in_8_bits_too() -> None:
    x, update, row = randn(6, 32), randn(6, 32, seed=1), torch.tensor([0, 1, 0, 1, 1, 0])
    gate, shift, scale = (randn(2, 32, seed=seed) for seed in (2, 3, 4))
    total, normed = residual_norm(x, update, gate, row, shift=shift, scale=scale, eps=1e-6)
    both = residual_norm(x, update, gate, row, shift=shift, scale=scale, eps=1e-6, quantise=True)
    assert torch.equal(both[0], total) and torch.equal(both[1], normed)
    found, wanted = exact(Fp8Rows(*both[2:])), exact(quantise_rows(normed))
    assert float((found - wanted).norm()) <= 1e-3 * float(wanted.norm())


def test_what_is_not_possible_is_refused() -> None:
    x, weight = quantise_rows(randn(3, 16)), quantise_weight(randn(8, 16))
    stack, offsets = quantise_weight(randn(2, 16, 8)), torch.tensor([0, 1, 3], dtype=torch.int32)
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: quantise_rows(randn(3, 16).requires_grad_()), "no backward pass"),
        (lambda: linear_fp8(*x, *weight, randn(8).requires_grad_()), "no backward pass"),
        (lambda: grouped_gemm_fp8(*x, *stack, offsets, randn(2, 8).requires_grad_()), "no backward pass"),
        (lambda: linear_fp8(x.q.float(), x.scale, *weight), "x is torch.float32: it must be float8_e4m3fn"),
        (lambda: linear_fp8(*x, weight.q, weight.scale[:3]), r"weight_scale has shape \(3,\).* must be \(8,\) float32"),
        (lambda: linear_fp8(*x, weight.q[:, :8], weight.scale), r"must be \[M, K\] and \[H, K\]"),
        (lambda: linear_fp8(*x, *weight, randn(7)), r"bias has shape \(7,\): it must be \(8,\)"),
        (lambda: linear_fp8(*x, *weight, out_dtype=torch.int32), "out_dtype is torch.int32"),
        (lambda: linear_fp8(*x, *weight, backend="scaled_mm"), "linear_fp8 by scaled_mm: it needs a CUDA device"),
        (lambda: grouped_gemm_fp8(*x, *stack, offsets, backend="scaled_grouped_mm"), "it needs a CUDA device"),
    ]
    for call, reason in wrong:
        with pytest.raises(ValueError, match=reason):
            call()


@pytest.mark.parametrize("m", [0, 1, 7])
def test_torch_s_product_is_the_same(m: int) -> None:
    """It runs on CPUs as well, though it is not chosen there."""
    x, weight, bias = quantise_rows(randn(m, 32)), quantise_weight(randn(48, 32)), randn(48).bfloat16()
    made = _scaled_mm(*x, *weight, bias)
    assert made.dtype == torch.bfloat16
    assert torch.allclose(made.float(), linear_fp8(*x, *weight, bias, out_dtype=torch.float32), rtol=1e-2, atol=1e-2)


def test_torch_s_product_of_experts_takes_such_operands() -> None:
    """As far as its own checks of shapes, strides and dtypes tell; it runs on a GPU alone."""

    def fp8(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float8_e4m3fn, device="meta")

    def floats(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    offsets = torch.empty(5, dtype=torch.int32, device="meta")
    made = _scaled_grouped_mm(fp8(7, 32), floats(7), fp8(4, 48, 32), floats(4, 48), offsets, floats(4, 48), 7, 48)
    assert made.shape == (7, 48) and made.dtype == torch.bfloat16
