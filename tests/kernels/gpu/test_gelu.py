"""GELU of the epilogues against float64, by Triton's interpreter or a GPU."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tests.kernels.numbers import DEVICE
from zoetrope.kernels.gpu.gelu import gelu_tanh

SIZE = 1 << 16
# The interpreter's own.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")


@triton.jit  # type: ignore[untyped-decorator]
def _apply(x: Any, y: Any, N: tl.constexpr) -> None:
    at = tl.arange(0, N)
    tl.store(y + at, gelu_tanh(tl.load(x + at)))


def gelu(x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    _apply[(1,)](x, y, N=len(x))
    return y


def exact(x: torch.Tensor) -> torch.Tensor:
    """GELU's tanh form in float64, without cancellation: ``x / (1 + exp(-2 u))``."""
    x = x.double()
    return x / (1 + torch.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def test_each_value_is_far_closer_than_rounding_to_bf16() -> None:
    """The error of the power grows with its exponent: 2^-23 of at most 126. bf16 rounds to 2^-9."""
    x = torch.linspace(-8.0, 12.0, SIZE, device=DEVICE)
    want = exact(x)
    error = ((gelu(x).double() - want).abs() / want.abs().clamp_min(2.0**-100)).max()
    assert float(error) < 2.0**-14


def test_small_and_large_values() -> None:
    x = torch.logspace(-37, 37, SIZE // 2, device=DEVICE)
    assert torch.allclose(gelu(x).double(), exact(x), rtol=1e-6, atol=0)
    low = gelu(-x).double()
    near = x < 5  # below, the result may become 0, as the exact one nearly does
    assert torch.allclose(low[near], exact(-x)[near], rtol=2.0**-16, atol=1e-37)
    assert (low[x > 20] == 0).all()


def test_infinity_and_nan() -> None:
    x = torch.tensor([math.inf, math.nan, 0.0, -3e38], device=DEVICE).repeat(2)
    found = gelu(x)[:4].tolist()
    assert found[0] == math.inf and math.isnan(found[1]) and found[2:] == [0, 0]


def test_tanh_of_the_hardware_would_not_do() -> None:
    """``tanh.approx.f32`` is off by up to 2^-11 of its result (PTX ISA): beyond the rounding of bf16 for x < -1."""
    x = torch.linspace(-4.0, -1.5, 1000, dtype=torch.float64)
    tanh = torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)) * (1 + 2.0**-11)
    error = ((0.5 * x * (1 + tanh) - exact(x)) / exact(x)).abs()
    assert float(error.min()) > 2.0**-9
