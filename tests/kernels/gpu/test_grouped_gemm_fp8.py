"""8-bit products and the pass before them: the Triton kernels and the plain forms, against float64.

The interpreter multiplies 8-bit floats rightly, and rounds to them rightly with the help of `to_fp8`; on a GPU the same
tests see the device's own rounding, and its tensor cores' short sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.numbers import DEVICE, DTYPES, randn, relative_error
from zoetrope.kernels.gpu.grouped_gemm_fp8 import grouped_gemm_fp8
from zoetrope.kernels.gpu.launch import interpreting
from zoetrope.kernels.gpu.quantise_fp8 import quantise_rows, to_fp8
from zoetrope.kernels.gpu.tiles import GemmTile, RowTile
from zoetrope.kernels.reference import grouped_gemm_fp8 as plain
from zoetrope.kernels.reference import quantise_fp8 as plain_quantise

# The interpreter's own.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:Conversion of an array")

SMALL = GemmTile(64, 32, 32, group_m=2, num_warps=4, num_stages=2, flatten=True)
SMALL_BLOCKS = GemmTile(64, 64, 128, group_m=2, num_warps=4, num_stages=2, flatten=True)
# Sums of K in float32; a GPU's tensor cores keep fewer bits, over all of K (rows) or over 128 (blocks).
LIMIT = {False: 1e-5, True: 1e-5} if DEVICE.type == "cpu" else {False: 2e-2, True: 5e-3}
Operation = Callable[..., torch.Tensor]
Arguments = dict[str, Any]


def arguments_of(counts: list[int], k: int, n: int, *, blocks: bool, bias: bool = False) -> Arguments:
    """Random operands with scales of their own: what a quantiser makes of them is another test."""
    m, experts = sum(counts), len(counts)
    inner = (k // 128,) if blocks else ()
    found: Arguments = {
        "x": randn(m, k, seed=1, scale=40.0).clamp(-448, 448).to(torch.float8_e4m3fn),
        "x_scale": randn(m, *inner, seed=2).abs() / 40,
        "weight": randn(experts, n, k, seed=3, scale=40.0).clamp(-448, 448).to(torch.float8_e4m3fn),
        "weight_scale": randn(experts, n // 128 if blocks else n, *inner, seed=4).abs() / 40,
        "offsets": torch.tensor([0, *counts]).cumsum(0).to(DEVICE, torch.int32),
        "out_dtype": torch.float32,
    }
    if bias:
        found["bias"] = randn(experts, n, seed=5)
    return found


def exact(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The product of the values that the operands stand for, in float64."""
    if x_scale.ndim == 1:
        x_scale, weight_scale = x_scale[:, None], weight_scale[:, :, None]
    else:
        x_scale = x_scale.repeat_interleave(128, 1)
        weight_scale = weight_scale.repeat_interleave(128, 1).repeat_interleave(128, 2)
    rows, matrices = x.double() * x_scale.double(), weight.double() * weight_scale.double()
    expert = torch.repeat_interleave(torch.arange(len(weight), device=x.device), offsets.diff().long())
    y = (
        torch.stack([matrices[e] @ row for e, row in zip(expert.tolist(), rows, strict=True)])
        if len(rows)
        else (torch.zeros(0, weight.shape[1], dtype=torch.float64))
    )
    if bias is not None:
        y = y + bias.double()[expert]
    return y


groups = st.lists(st.sampled_from([0, 1, 5, 33, 64, 70]), min_size=1, max_size=24).filter(lambda c: sum(c) <= 200)


@settings(max_examples=10, deadline=None)
@given(groups, st.sampled_from([16, 32, 80]), st.sampled_from([8, 24, 40]), st.booleans())
def test_scales_of_rows(counts: list[int], k: int, n: int, bias: bool) -> None:
    arguments = arguments_of(counts, k, n, blocks=False, bias=bias)
    expected = exact(**arguments)
    assert relative_error(grouped_gemm_fp8(**arguments, tile=SMALL), expected) <= LIMIT[False]
    assert relative_error(plain.grouped_gemm_fp8(**arguments), expected) <= 1e-5


@settings(max_examples=6, deadline=None)
@given(groups, st.sampled_from([128, 384]), st.sampled_from([128, 256]), st.booleans())
def test_scales_of_blocks(counts: list[int], k: int, n: int, bias: bool) -> None:
    arguments = arguments_of(counts, k, n, blocks=True, bias=bias)
    expected = exact(**arguments)
    assert relative_error(grouped_gemm_fp8(**arguments, tile=SMALL_BLOCKS), expected) <= LIMIT[True]
    assert relative_error(plain.grouped_gemm_fp8(**arguments), expected) <= 1e-5
    turned = {**arguments, "x_scale": arguments["x_scale"].T.contiguous().T}
    assert torch.equal(grouped_gemm_fp8(**turned, tile=SMALL_BLOCKS), grouped_gemm_fp8(**arguments, tile=SMALL_BLOCKS))


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("counts", [[30, 0, 9], [140, 3]])
def test_default_tiles_and_results_of_16_bit(counts: list[int], blocks: bool) -> None:
    arguments = arguments_of(counts, 256, 384, blocks=blocks, bias=True)
    if blocks:
        arguments["x_scale"] = arguments["x_scale"].T.contiguous().T  # as the quantiser stores them
    for dtype, limit in ((torch.float16, 2e-3), (torch.float32, 0.0)):
        result = grouped_gemm_fp8(**{**arguments, "out_dtype": dtype})
        assert result.dtype == dtype
        assert relative_error(result, exact(**arguments)) <= max(limit, LIMIT[blocks])


@pytest.mark.parametrize("blocks", [False, True])
def test_no_rows(blocks: bool) -> None:
    arguments = arguments_of([0, 0], 128, 128, blocks=blocks)
    assert grouped_gemm_fp8(**arguments).shape == plain.grouped_gemm_fp8(**arguments).shape == (0, 128)


@pytest.mark.parametrize("blocks", [False, True])
def test_from_16_bit_and_back(blocks: bool) -> None:
    """The whole way: a product of quantised operands is near the product of the operands."""
    x, weight = randn(40, 256, seed=1), randn(2, 256, 128, seed=2)
    x[:, 7] *= 30
    offsets = torch.tensor([0, 11, 40], dtype=torch.int32, device=DEVICE)
    block = 128 if blocks else None
    q, scale = quantise_rows(x, block)
    w, w_scale = plain_quantise.quantise_weight(weight, block)
    result = grouped_gemm_fp8(q, scale, w, w_scale, offsets, out_dtype=torch.float32)
    expected = torch.cat([x[:11] @ weight[0], x[11:] @ weight[1]]).double()
    assert relative_error(result, expected) <= 0.05


@triton.jit  # type: ignore[untyped-decorator]
def _round(x: Any, y: Any, N: tl.constexpr, ROUND: tl.constexpr) -> None:
    at = tl.arange(0, N)
    tl.store(y + at, to_fp8(tl.load(x + at), ROUND))


def test_rounding_to_8_bits_is_to_nearest_even() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    values = values[values.isfinite()].sort().values
    middle = (values[1:] + values[:-1]) / 2
    inputs = torch.cat([values, middle, torch.nextafter(middle, values[1:]), torch.nextafter(middle, values[:-1])])
    inputs = torch.cat([inputs, torch.zeros(1024 - len(inputs))]).to(DEVICE)
    found = torch.empty(1024, dtype=torch.float8_e4m3fn, device=DEVICE)
    _round[(1,)](inputs, found, N=1024, ROUND=interpreting())
    assert torch.equal(found.float(), inputs.to(torch.float8_e4m3fn).float())


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 9),
    st.sampled_from([128, 256, 384]),
    st.sampled_from([None, 128]),
    st.sampled_from(DTYPES),
    st.sampled_from([1e-3, 1.0, 300.0]),
)
def test_rows_quantised(m: int, k: int, block: int | None, dtype: torch.dtype, size: float) -> None:
    x = randn(m, k, seed=m, dtype=dtype, scale=size)
    if m > 1:
        x[0, :128] = 0
        x[1] *= 1e-3
    q, scale = quantise_rows(x, block)
    expected, expected_scale = plain_quantise.quantise_rows(x, block)
    assert torch.equal(scale, expected_scale)
    assert torch.equal(q.float(), expected.float())
    blocks = x.double().reshape(m, k // (block or k), block or k)
    largest = blocks.abs().amax(2)
    assert torch.allclose(scale.double().reshape(largest.shape), torch.where(largest == 0, 1.0, largest / 448))
    step = scale.double().reshape(m, blocks.shape[1], 1)
    error = (plain_quantise.dequantise(q, scale).double().reshape(blocks.shape) - blocks).abs()
    assert (error <= torch.maximum(blocks.abs() / 16, step * 2.0**-10) * 1.001).all()  # half a unit in the last place


@pytest.mark.parametrize("block", [None, 128])
@pytest.mark.parametrize("gelu", [False, True])
def test_rows_of_a_program_change_nothing(block: int | None, gelu: bool) -> None:
    x = randn(11, 384, seed=1, dtype=torch.float16, scale=3.0)
    expected, expected_scale = quantise_rows(x, block, gelu=gelu, tile=RowTile(1, 4))
    for tile in (RowTile(4, 4), RowTile(16, 8), None):
        q, scale = quantise_rows(x, block, gelu=gelu, tile=tile)
        assert torch.equal(q.float(), expected.float()) and torch.equal(scale, expected_scale)


@pytest.mark.parametrize("block", [None, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_before_quantising(block: int | None, dtype: torch.dtype) -> None:
    """As exact as rounding to 8 bits allows, by both: GELU is not rounded to the dtype of the rows before."""
    x = randn(9, 256, seed=1, dtype=dtype, scale=3.0)
    exact = torch.nn.functional.gelu(x.double(), approximate="tanh")
    for quantise in (quantise_rows, plain_quantise.quantise_rows):
        q, scale = quantise(x, block, gelu=True)
        step = scale.double().reshape(9, -1).repeat_interleave(256 // scale.reshape(9, -1).shape[1], 1)
        error = (plain_quantise.dequantise(q, scale).double() - exact).abs()
        assert (error <= torch.maximum(exact.abs() / 16, step * 2.0**-10) * 1.001 + 1e-6).all()
    largest = exact.reshape(9, -1, block or 256).abs().amax(2)
    assert torch.allclose(scale.double().reshape(largest.shape), largest / 448, rtol=1e-5)


@pytest.mark.parametrize("k", [8, 24, 200])
def test_odd_widths_and_hard_values(k: int) -> None:
    x = randn(6, k, seed=1)
    x[1], x[2] = 0.0, 1e-42
    x[3] *= 1e36
    x[4] *= 1e-30
    x[5, 3] = torch.nan
    q, scale = quantise_rows(x)
    expected, expected_scale = plain_quantise.quantise_rows(x)
    assert torch.equal(q[:5].float(), expected[:5].float())
    assert torch.equal(scale[:5], expected_scale[:5])
    assert plain_quantise.dequantise(q, scale)[5].isnan().all()  # stays visible
    assert scale[1] == scale[2] == 1


@pytest.mark.parametrize("block", [None, 128])
def test_weight_quantised(block: int | None) -> None:
    weight = randn(3, 256, 128, seed=1, dtype=torch.bfloat16)
    q, scale = plain_quantise.quantise_weight(weight, block)
    again, again_scale = plain_quantise.quantise_weight(weight.mT.contiguous().mT, block)
    assert q.shape == (3, 128, 256) and q.is_contiguous() and q.dtype == torch.float8_e4m3fn
    assert scale.shape == ((3, 1, 2) if block else (3, 128)) and scale.dtype == torch.float32
    assert torch.equal(q.float(), again.float()) and torch.equal(scale, again_scale)
    assert relative_error(plain_quantise.dequantise(q, scale).mT, weight.double()) <= 0.04


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(9, 128)}, "x is torch.float32"),
        ({"weight": torch.zeros(2, 128, 128)}, "weight is torch.float32"),
        ({"x": torch.zeros(9, 64).to(torch.float8_e4m3fn)}, "x has shape"),
        ({"x_scale": torch.zeros(8)}, "x_scale has shape"),
        ({"x_scale": torch.zeros(9, dtype=torch.float16)}, "x_scale has shape"),
        ({"x_scale": torch.zeros(9, 1)}, "weight_scale has shape"),
        ({"weight_scale": torch.zeros(2, 127)}, "weight_scale has shape"),
        ({"offsets": torch.zeros(3)}, "offsets has shape"),
        ({"bias": torch.zeros(2, 64)}, "bias has shape"),
        ({"out_dtype": torch.float64}, "out_dtype is"),
        ({"tile": SMALL, "x_scale": torch.zeros(9, 1), "weight_scale": torch.zeros(2, 1, 1)}, "tile is"),
    ],
)
def test_bad_products(change: Arguments, message: str) -> None:
    arguments = arguments_of([4, 5], 128, 128, blocks=False)
    moved = {name: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for name, value in change.items()}
    with pytest.raises(ValueError, match=message):
        grouped_gemm_fp8(**{**arguments, **moved})


def test_layouts_that_tma_cannot_read() -> None:
    arguments = arguments_of([4, 5], 24, 32, blocks=False)
    with pytest.raises(ValueError, match="x has rows of 24 values"):
        grouped_gemm_fp8(**arguments)
    arguments = arguments_of([4, 5], 32, 32, blocks=False)
    with pytest.raises(ValueError, match="weight has shape"):
        grouped_gemm_fp8(**{**arguments, "weight": arguments["weight"].mT.contiguous().mT})
    with pytest.raises(ValueError, match="weight_scale has strides"):
        grouped_gemm_fp8(**{**arguments, "weight_scale": arguments["weight_scale"].T.contiguous().T})


@pytest.mark.parametrize("operation", [quantise_rows, plain_quantise.quantise_rows])
def test_bad_rows(operation: Callable[..., Any]) -> None:
    for x, block, message in (
        (torch.zeros(4), None, "x has shape"),
        (torch.zeros(4, 8, dtype=torch.float64), None, "x is torch.float64"),
        (torch.zeros(4, 136), 128, "K is 136"),
        (torch.zeros(4, 128), 64, "block is 64"),
    ):
        with pytest.raises(ValueError, match=message):
            operation(x.to(DEVICE), block)


def test_bad_weights() -> None:
    for weight, block, message in (
        (torch.zeros(2, 8), None, "weight has shape"),
        (torch.zeros(2, 128, 136), 128, "N is 136"),
        (torch.zeros(2, 128, 128, dtype=torch.int8), None, "weight is torch.int8"),
    ):
        with pytest.raises(ValueError, match=message):
            plain_quantise.quantise_weight(weight, block)
