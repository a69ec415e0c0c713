"""The weighted sum of a token's expert rows in one pass: each row is read once, and each result written once.

A program takes some tokens and one block of columns; the ``k`` rows of a token are gathered through ``position`` and
added in the order of its choices, so that the same input gives the same bits. Sorted rows go back to their tokens
within the kernel that weights them, as in ScatterMoE (Tan et al., arXiv 2403.08245), but as a gather, which needs no
atomics.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from zoetrope.kernels.gpu.launch import on_device, require_device, require_rows_contiguous
from zoetrope.kernels.gpu.tiles import RowTile, column_block, row_key, row_tile, tuned
from zoetrope.kernels.gpu.variant import Variant
from zoetrope.kernels.types.permutation import Permutation

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@triton.jit
def _combine(
    y,
    position,
    gate,
    bias,
    shared,
    out,
    tokens,
    rows,
    y_stride,
    shared_stride,
    D: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = token < tokens
    inside = here[:, None] & (column < D)[None, :]
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for j in tl.static_range(K):
        source = tl.load(position + token * K + j, mask=here, other=0).to(tl.int64)
        known = here & (source >= 0) & (source < rows)
        factor = tl.load(gate + source, mask=known, other=float("nan"))
        factor = tl.where(source == -1, 0.0, factor)
        place = y + source[:, None] * y_stride + column[None, :]
        value = tl.load(place, mask=inside & known[:, None], other=0.0, cache_modifier=".cg")
        total += value.to(tl.float32) * factor[:, None]
    if bias is not None:
        total += tl.load(bias + column, mask=column < D, other=0.0).to(tl.float32)[None, :]
    if shared is not None:
        beside = shared + token[:, None] * shared_stride + column[None, :]
        total += tl.load(beside, mask=inside, other=0.0, cache_modifier=".cg").to(tl.float32)
    tl.store(out + token[:, None] * D + column[None, :], total.to(out.dtype.element_ty), mask=inside)


def combine_experts(
    y: torch.Tensor,
    rows: Permutation,
    bias: torch.Tensor | None = None,
    shared: torch.Tensor | None = None,
    *,
    tile: RowTile | None = None,
) -> torch.Tensor:
    """Compute ``out[n] = sum_j y[position[n, j]] * gate[position[n, j]] + bias + shared[n]``, in float32 and in this
    order.

    Args:
        y: ``[M, D]`` float32, float16 or bfloat16, rows sorted by expert; D a multiple of 8. Rows may be further apart
            than D.
        rows: where each token's rows are, and their weights. A position of -1 adds nothing; any other that is not in
            0..M-1 counts as NaN, since looking at the numbers would stop the host.
        bias: ``[D]``, any of these dtypes. shared: ``[N, D]``, any of these dtypes, such as a shared expert's result.
        tile: instead of the tuned or default one (the tuner and the tests).

    Returns:
        ``[N, D]`` in the dtype of ``y``, contiguous.

    Raises:
        ValueError: a shape, dtype, device or stride that the kernel cannot take.
    """
    if y.ndim != 2 or y.shape[1] < 8 or y.shape[1] % 8:
        raise ValueError(f"y is {tuple(y.shape)}: it must be [M, D] with D a multiple of 8")
    if rows.position.ndim != 2:
        raise ValueError(f"rows.position is {tuple(rows.position.shape)}: it must be [N, k]")
    (tokens, choices), width = rows.position.shape, y.shape[1]
    if tokens * choices < y.shape[0] or rows.gate.shape != (y.shape[0],):
        raise ValueError(
            f"rows.position is {tuple(rows.position.shape)} and rows.gate {tuple(rows.gate.shape)}: "
            f"they must be [N, k] and [M] with M = {y.shape[0]}, the rows of y, at most N * k"
        )
    if bias is not None and bias.shape != (width,):
        raise ValueError(f"bias is {tuple(bias.shape)}: it must be {(width,)}")
    if shared is not None and shared.shape != (tokens, width):
        raise ValueError(f"shared is {tuple(shared.shape)}: it must be {(tokens, width)}")
    for name, tensor in {"y": y, "bias": bias, "shared": shared}.items():
        if tensor is not None and tensor.dtype not in FLOATS:
            raise ValueError(f"{name} is {tensor.dtype}: it must be float32, float16 or bfloat16")
    if rows.position.dtype != torch.int32 or not rows.position.is_contiguous():
        raise ValueError(f"rows.position is {rows.position.dtype}: it must be int32 and contiguous")
    if rows.gate.dtype != torch.float32 or not rows.gate.is_contiguous():
        raise ValueError(f"rows.gate is {rows.gate.dtype}: it must be float32 and contiguous")
    device = require_device(y=y, position=rows.position, gate=rows.gate, bias=bias, shared=shared)
    require_rows_contiguous(y=y, bias=bias, shared=shared)
    out = torch.empty(tokens, width, dtype=y.dtype, device=device)
    if tokens == 0:
        return out
    block = column_block(width)
    if tile is None:
        tile = tuned(row_key("combine", width), row_tile(block), device)
    with on_device(device):
        _combine[(triton.cdiv(tokens, tile.rows), triton.cdiv(width, block))](
            y,
            rows.position,
            rows.gate,
            bias,
            shared,
            out,
            tokens,
            y.shape[0],
            y.stride(0),
            shared.stride(0) if shared is not None else 0,
            D=width,
            K=choices,
            ROWS=tile.rows,
            BLOCK=block,
            num_warps=tile.num_warps,
        )
    return out


def variants() -> list[Variant]:
    """List both production widths, with and without addends."""
    forms: list[Variant] = []
    for dtype in ("bf16", "fp16", "fp32"):
        for width, choices, extra in ((3072, 8, True), (5120, 2, True), (5120, 8, False)):
            tile = row_tile(column_block(width))
            pointer = {"y": f"*{dtype}", "position": "*i32", "gate": "*fp32", "out": f"*{dtype}"}
            added = dict.fromkeys(("bias", "shared"), f"*{dtype}" if extra else "constexpr")
            sizes = dict.fromkeys(("tokens", "rows", "y_stride", "shared_stride"), "i32")
            constants = {"D": width, "K": choices, "ROWS": tile.rows, "BLOCK": column_block(width)}
            signature = {**pointer, **added, **sizes, **dict.fromkeys(constants, "constexpr")}
            forms.append(
                Variant(
                    name=f"combine/triton/{dtype}/d{width}-k{choices}{'-bias-shared' if extra else ''}",
                    kernel=_combine,
                    signature={name: signature[name] for name in _combine.arg_names},
                    constexprs={**constants, **({} if extra else {"bias": None, "shared": None})},
                    divisible=frozenset({*pointer, "y_stride", "shared_stride"} | (set(added) if extra else set())),
                    num_warps=tile.num_warps,
                )
            )
    return forms
