"""Copy each token's row to its places among rows sorted by expert: read once, written once a choice.

The order of the tokens is the order of reading: a row is fetched a single time and stays in registers for its ``k``
stores, where a gather in the order of the experts reads it ``k`` times. The copy then feeds products whose operands
arrive by the tensor memory accelerator alone (`kernels.gpu.grouped_gemm`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from zoetrope.kernels.gpu.launch import require_device, require_rows_contiguous
from zoetrope.kernels.gpu.tiles import RowTile, column_block, row_key, row_tile, tuned
from zoetrope.kernels.gpu.variant import Variant
from zoetrope.kernels.types.permutation import Permutation

TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float8_e4m3fn: "fp8"}
MAX_CHOICES = 64


@triton.jit(do_not_specialize=["tokens", "rows"])  # they change with every batch
def _permute_rows(
    x,
    position,
    scale,
    out,
    out_scale,
    tokens,
    rows,
    x_stride,
    D: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    part = tl.program_id(0) % ((D + BLOCK - 1) // BLOCK)  # neighbours write the same rows at about the same time
    token = (tl.program_id(0) // ((D + BLOCK - 1) // BLOCK)).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = part * BLOCK + tl.arange(0, BLOCK)
    here = token < tokens
    inside = here[:, None] & (column < D)[None, :]
    value = tl.load(x + token[:, None] * x_stride + column[None, :], mask=inside, cache_modifier=".cg")
    if scale is not None:
        factor = tl.load(scale + token, mask=here, other=0.0)
    for j in tl.static_range(K):
        target = tl.load(position + token * K + j, mask=here, other=-1).to(tl.int64)
        known = (target >= 0) & (target < rows)  # -1: none; wrong numbers never lead outside the tensors
        tl.store(out + target[:, None] * D + column[None, :], value, mask=inside & known[:, None])
        if scale is not None:
            tl.store(out_scale + target, factor, mask=known & (part == 0))


def permute_rows(
    x: torch.Tensor, rows: Permutation, scale: torch.Tensor | None = None, *, tile: RowTile | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute ``out[position[n, j]] = x[n]``, bit by bit.

    Args:
        x: ``[N, D]`` bf16, fp16, fp32 or float8_e4m3fn; rows of a multiple of 16 bytes, which may be further apart.
        rows: ``position`` ``[N, k]`` int32 has each of the ``M`` sorted rows once, and -1 where a token has fewer than
            ``k``; ``token`` ``[M]`` says only how many there are.
        scale: ``[N]`` float32, one number a row to be copied beside it, such as that of an 8-bit row.
        tile: instead of the tuned or default one (the tuner and the tests).

    Returns:
        ``[M, D]`` in the dtype of ``x``, contiguous; with ``scale`` also ``[M]`` float32. Values of ``position`` are on
        the device and are not looked at: wrong ones give a wrong result, but no access outside the tensors.

    Raises:
        ValueError: a shape, dtype, device or stride that the kernel cannot take.
    """
    if x.ndim != 2 or not x.shape[1] or x.shape[1] * x.element_size() % 16:
        raise ValueError(f"x is {tuple(x.shape)} {x.dtype}: it must be [N, D], its rows a multiple of 16 bytes")
    if x.dtype not in TYPES:
        raise ValueError(f"x is {x.dtype}: it must be float32, float16, bfloat16 or float8_e4m3fn")
    position = rows.position
    if position.ndim != 2 or position.shape[0] != x.shape[0] or position.shape[1] > MAX_CHOICES:
        raise ValueError(
            f"rows.position is {tuple(position.shape)}: it must be [{x.shape[0]}, k] with k up to {MAX_CHOICES}"
        )
    if position.dtype != torch.int32 or not position.is_contiguous():
        raise ValueError(f"rows.position is {position.dtype}: it must be int32 and contiguous")
    if scale is not None and (scale.shape != x.shape[:1] or scale.dtype != torch.float32 or not scale.is_contiguous()):
        raise ValueError(f"scale is {tuple(scale.shape)} {scale.dtype}: it must be [{x.shape[0]}] float32, contiguous")
    device = require_device(x=x, position=position, scale=scale)
    require_rows_contiguous(x=x)
    (tokens, width), total = x.shape, rows.token.shape[0]
    out = x.new_empty(total, width)
    out_scale = None if scale is None else scale.new_empty(total)
    if tokens and total:
        block = column_block(width)
        if tile is None:
            tile = tuned(row_key("permute_rows", width), row_tile(block), device)
        eight = x.element_size() == 1
        with torch.cuda.device_of(x):
            _permute_rows[(triton.cdiv(tokens, tile.rows) * triton.cdiv(width, block),)](
                x.view(torch.uint8) if eight else x,  # bits are copied; no 8-bit float is ever computed with
                position,
                scale,
                out.view(torch.uint8) if eight else out,
                out_scale,
                tokens,
                total,
                x.stride(0),
                D=width,
                K=position.shape[1],
                ROWS=tile.rows,
                BLOCK=block,
                num_warps=tile.num_warps,
            )
    return out if out_scale is None else (out, out_scale)


def variants() -> list[Variant]:
    """List the widths of the models with experts, in 16 and 32 bits, and in 8 with scales."""
    forms: list[Variant] = []
    for dtype in ("bf16", "fp16", "fp32", "u8"):
        for width, choices in ((2048, 8), (3072, 8), (5120, 8)):
            tile, scaled = row_tile(column_block(width)), dtype == "u8"
            scales = dict.fromkeys(("scale", "out_scale"), "*fp32" if scaled else "constexpr")
            constants = {"D": width, "K": choices, "ROWS": tile.rows, "BLOCK": column_block(width)}
            types = {"x": f"*{dtype}", "position": "*i32", "out": f"*{dtype}", **scales}
            types |= dict.fromkeys(("tokens", "rows", "x_stride"), "i32") | dict.fromkeys(constants, "constexpr")
            pointers = {name for name, kind in types.items() if kind.startswith("*")}
            forms.append(
                Variant(
                    name=f"permute_rows/triton/{'fp8-scale' if scaled else dtype}/d{width}-k{choices}",
                    kernel=_permute_rows,
                    signature={name: types[name] for name in _permute_rows.arg_names},
                    constexprs={**constants, **({} if scaled else {"scale": None, "out_scale": None})},
                    divisible=frozenset(pointers | {"x_stride"}),
                    num_warps=tile.num_warps,
                )
            )
    return forms
