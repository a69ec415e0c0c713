"""Rows of activations to 8-bit floats, with one scale for a row or for each 128 of its columns, in one pass, and with
GELU before it if asked for."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from zoetrope.kernels.gpu.gelu import gelu_tanh
from zoetrope.kernels.gpu.launch import interpreting, require_device, require_rows_contiguous
from zoetrope.kernels.gpu.tiles import RowTile, row_key, tuned
from zoetrope.kernels.gpu.variant import Variant
from zoetrope.kernels.reference.quantise_fp8 import check_rows, quantise_weight

__all__ = ["quantise_rows", "quantise_weight", "scale_of", "to_fp8"]


@triton.jit
def scale_of(largest):
    """Return the scale that maps ``largest`` to 448; 1 if it would be zero or too small to divide by."""
    scale = tl.div_rn(largest, 448.0)
    return tl.where(scale < 1.1754943508222875e-38, 1.0, scale)


@triton.jit
def to_fp8(x, ROUND: tl.constexpr):
    """Convert float32 to e4m3, to nearest even.

    The device does so by itself. The interpreter truncates instead: with ``ROUND`` digits are rounded away before, by
    adding and subtracting a number so large that the sum keeps only the bits that e4m3 has (at least 2^-9).
    """
    if ROUND:
        power = (x.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        large = tl.maximum(power, 0.015625) * 1572864.0  # 1.5 * 2^20 times the power of two of x: its unit is power / 8
        x = (x + large) - large
    return x.to(tl.float8e4nv)


@triton.jit(do_not_specialize=["rows"])  # they change with every batch
def _quantise_rows(
    x,
    y,
    scale,
    k,
    x_stride,
    rows,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    WIDTH: tl.constexpr,
    GELU: tl.constexpr,
    ROUND: tl.constexpr,
):
    """Quantise some rows: ``BLOCKS`` blocks of ``WIDTH`` columns in each, a scale for each block."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    block = tl.arange(0, BLOCKS)[None, :, None]
    column = block * WIDTH + tl.arange(0, WIDTH)[None, None, :]
    inside = (row < rows) & (column < k)
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        value = gelu_tanh(value)
    bits = value.to(tl.int32, bitcast=True) & 0x7FFFFFFF  # ordered as |value|; NaN, which a float max drops, is largest
    found = scale_of(tl.max(bits, 2, keep_dims=True).to(tl.float32, bitcast=True))
    tl.store(scale + row + block.to(tl.int64) * rows, found, mask=(row < rows) & (block * WIDTH < k))
    inverse = tl.div_rn(1.0, found)
    tl.store(y + row * k + column, to_fp8(value * inverse, ROUND), mask=inside)


def quantise_rows(
    x: torch.Tensor, block: int | None = None, *, gelu: bool = False, tile: RowTile | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``(q, scale)`` with ``x`` about ``q * scale``: each row, or each 128 columns of it, fills the range of
    e4m3.

    The block form is the quantisation of activations of DeepSeek-V3 (arXiv:2412.19437, section 3.3.2). With ``gelu``
    this pass takes GELU over from the product before it: an epilogue cannot scale a row, of which its tile is a part,
    and would compute GELU while the tensor cores wait, where here the memory is what takes the time.

    Args:
        x: ``[M, K]``, bf16, fp16 or fp32; the last dimension is contiguous, rows start at multiples of 16 bytes.
        block: nothing for one scale a row, or 128 (``K`` is then a multiple of it).
        gelu: whether GELU (tanh form, in float32) is applied first.
        tile: instead of the tuned or default one (the tuner and the tests).

    Returns:
        ``q`` ``[M, K]`` float8_e4m3fn, contiguous, rounded to nearest even from ``x * (1 / scale)``; ``scale`` ``[M]``
        or ``[M, K / 128]`` float32, ``max|x| / 448``, and 1 where all are zero. The block form's is stored with a
        block's rows side by side (strides ``(1, M)``), as the products read it.

    Raises:
        ValueError: an argument breaks a rule above.
    """
    m, k = check_rows(x, block)
    device = require_device(x=x)
    require_rows_contiguous(x=x)
    y = torch.empty((m, k), dtype=torch.float8_e4m3fn, device=device)
    scale = x.new_empty((1 if block is None else k // block, m), dtype=torch.float32).T
    if m:
        shape = _shape(k, block)
        if tile is None:
            tile = tuned(row_key("quantise_fp8", k), _tile(k, block), device)
        with torch.cuda.device_of(x):
            _quantise_rows[(triton.cdiv(m, tile.rows),)](
                x,
                y,
                scale,
                k,
                x.stride(0),
                m,
                ROWS=tile.rows,
                **shape,
                GELU=gelu,
                ROUND=interpreting(),
                num_warps=tile.num_warps,
            )
    return y, scale.squeeze(1) if block is None else scale


def _shape(k: int, block: int | None) -> dict[str, int]:
    """Return the powers of two that cover a row."""
    if block is None:
        return {"BLOCKS": 1, "WIDTH": triton.next_power_of_2(k)}
    return {"BLOCKS": triton.next_power_of_2(k // block), "WIDTH": block}


def _tile(k: int, block: int | None) -> RowTile:
    """Return as many rows as make 4,096 values, and the warps for 16 of them each, as far as a program can have
    threads."""
    shape = _shape(k, block)
    width = shape["BLOCKS"] * shape["WIDTH"]
    rows = max(1, VALUES // width)
    return RowTile(rows, min(16, max(1, rows * width // 512)))


VALUES = 4096


def variants() -> list[Variant]:
    """List a row of each width that enters the products, with one scale and with one for each 128, and the rows that
    GELU makes."""
    found = []
    for name, k in (("dim3072", 3072), ("width1792", 1792), ("dim5120", 5120), ("ffn13824", 13824)):
        for dtype in ("bf16", "fp16"):
            for form, block, gelu in (("rows", None, False), ("blocks", 128, False), ("gelu", None, True)):
                if gelu and name.startswith("dim"):
                    continue  # the rows of a block's stream
                tile = _tile(k, block)
                constants = {"ROWS": tile.rows, **_shape(k, block), "GELU": gelu, "ROUND": False}
                signature = {
                    "x": f"*{dtype}",
                    "y": "*fp8e4nv",
                    "scale": "*fp32",
                    **dict.fromkeys(("k", "x_stride", "rows"), "i32"),
                    **dict.fromkeys(constants, "constexpr"),
                }
                found.append(
                    Variant(
                        f"quantise_fp8/{form}/{dtype}/{name}",
                        _quantise_rows,
                        signature,
                        constants,
                        frozenset({"x", "y", "scale", "k", "x_stride"}),
                        num_warps=tile.num_warps,
                    )
                )
    return found
