"""The grouped products of 8-bit floats (e4m3), scaled by row or by block of 128.

With scales of rows the tensor cores sum all of K by themselves and the scales are applied once, in the epilogue. Their
sums keep fewer bits than float32, so with scales of blocks each 128 of K are summed there, scaled, and added to a
float32 accumulator: the scheme of DeepSeek-V3 (arXiv:2412.19437, section 3.3.2) and DeepGEMM. The list of tiles is that
of `kernels.gpu.grouped_gemm`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from zoetrope.kernels.gpu.grouped_gemm import (
    count_tiles,
    expert_slots,
    find_tile,
    require_operand_rows,
    row_descriptor,
)
from zoetrope.kernels.gpu.launch import multiprocessors, require_device
from zoetrope.kernels.gpu.tiles import GemmTile, gemm_candidates, gemm_key, gemm_tile, tuned
from zoetrope.kernels.gpu.variant import Variant
from zoetrope.kernels.reference.grouped_gemm_fp8 import check_operands


@triton.jit(do_not_specialize=["m", "scale_block"])  # they change with every batch
def _grouped_gemm_fp8(
    x,  # tensor descriptor [M, K]
    weight,  # tensor descriptor [E, N, K]
    y,
    x_scale,
    weight_scale,
    offsets,
    bias,
    m,
    n,
    k,
    experts,
    scale_row,
    scale_block,
    BLOCKS: tl.constexpr,
    EXPERTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    FLATTEN: tl.constexpr,
):
    tl.assume(k > 0)
    n_tiles = tl.cdiv(n, BLOCK_N)
    ends = count_tiles(offsets, m, n_tiles, experts, EXPERTS, BLOCK_M)
    for tile in tl.range(tl.program_id(0), tl.max(ends, 0), tl.num_programs(0), flatten=FLATTEN):
        expert, row, row_end, column = find_tile(tile, ends, offsets, m, n_tiles, BLOCK_M, GROUP_M)
        column *= BLOCK_N
        row_of = row + tl.arange(0, BLOCK_M)
        column_of = column + tl.arange(0, BLOCK_N)
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        x_scales = x_scale + row_of.to(tl.int64) * scale_row
        if BLOCKS:
            tl.static_assert(BLOCK_K == 128 and 128 % BLOCK_N == 0, "one scale of the weight for a tile and 128 of K")
            depth = k // 128
            w_scale = weight_scale + (expert * (n // 128) + column // 128).to(tl.int64) * depth
            for block in range(depth):
                a = x.load([row, block * 128])
                b = weight.load([expert, column, block * 128]).reshape(BLOCK_N, BLOCK_K).T
                scale = tl.load(x_scales, mask=row_of < row_end, other=0.0)
                x_scales += scale_block
                of_weight = tl.load(w_scale + block)
                acc += tl.dot(a, b) * (scale * of_weight)[:, None]  # scales are loaded while the product runs
        else:
            for start in range(0, k, BLOCK_K):
                a = x.load([row, start])
                b = weight.load([expert, column, start]).reshape(BLOCK_N, BLOCK_K).T
                acc = tl.dot(a, b, acc)
            acc *= tl.load(x_scales, mask=row_of < row_end, other=0.0)[:, None]
            w_scale = weight_scale + expert.to(tl.int64) * n + column_of
            acc *= tl.load(w_scale, mask=column_of < n, other=0.0)[None, :]
        if bias is not None:
            add = tl.load(bias + expert.to(tl.int64) * n + column_of, mask=column_of < n, other=0.0)
            acc += add.to(tl.float32)[None, :]
        place = y + row_of.to(tl.int64)[:, None] * n + column_of[None, :]
        tl.store(place, acc.to(y.dtype.element_ty), mask=(row_of < row_end)[:, None] & (column_of[None, :] < n))


def grouped_gemm_fp8(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
    tile: GemmTile | None = None,
) -> torch.Tensor:
    """Compute ``y[r] = (x[r] * x_scale) @ (weight[e of r] * weight_scale).T + bias[e of r]`` on the device alone.

    Args:
        x: ``[M, K]`` float8_e4m3fn, rows sorted by expert, the last dimension contiguous; ``K`` is a multiple of 16.
        x_scale: float32, ``[M]``, or ``[M, K / 128]`` for a scale of each 128 columns; any strides, those of a
            transposed contiguous tensor are read best.
        weight: ``[E, N, K]`` float8_e4m3fn, contiguous (the tensor cores read 8-bit operands along K only).
        weight_scale: float32, contiguous, ``[E, N]``, or with scales of blocks ``[E, N / 128, K / 128]``.
        offsets: ``[E + 1]`` int32, expert ``e`` has the rows ``offsets[e]:offsets[e + 1]``, from 0 to ``M``.
        bias: ``[E, N]`` contiguous, of ``out_dtype`` or float32, or nothing.
        out_dtype: bf16, fp16 or fp32.
        tile: the tile to use instead of the tuned or default one (the tuner and the tests).

    Returns:
        ``[M, N]`` in ``out_dtype``.

    Raises:
        ValueError: an argument breaks a rule above. Values of offsets are on the device and are not looked at: wrong
            ones give a wrong result, but no access outside the tensors.
    """
    m, n, k, blocks = check_operands(x, x_scale, weight, weight_scale, offsets, bias, out_dtype)
    device = require_device(x=x, x_scale=x_scale, weight=weight, weight_scale=weight_scale, offsets=offsets, bias=bias)
    require_operand_rows(x, weight)
    if not weight_scale.is_contiguous():
        raise ValueError(f"weight_scale has strides {weight_scale.stride()}: it must be contiguous")
    y = x.new_empty((m, n), dtype=out_dtype)
    if m == 0:
        return y
    experts = weight.shape[0]
    kind = "fp8/blocks" if blocks else "fp8/rows"
    if tile is None:
        tile = tuned(gemm_key(kind, m, experts, n, k), _tile(kind, m, experts, n, out_dtype == torch.float16), device)
    if blocks and (tile.block_k != 128 or 128 % tile.block_n):
        raise ValueError(f"tile is {tile}: with scales of blocks block_k must be 128 and block_n divide 128")
    with torch.cuda.device_of(x):
        _grouped_gemm_fp8[(tile.programs * multiprocessors(device),)](
            row_descriptor(x, tile),
            TensorDescriptor.from_tensor(weight, [1, tile.block_n, tile.block_k]),
            y,
            x_scale,
            weight_scale,
            offsets,
            bias,
            m,
            n,
            k,
            experts,
            x_scale.stride(0),
            x_scale.stride(1) if blocks else 0,
            BLOCKS=blocks,
            EXPERTS=expert_slots(experts),
            BLOCK_M=tile.block_m,
            BLOCK_N=tile.block_n,
            BLOCK_K=tile.block_k,
            GROUP_M=tile.group_m,
            FLATTEN=tile.flatten,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return y


def _tile(kind: str, m: int, experts: int, n: int, half: bool) -> GemmTile:
    """Return a default tile; for results in fp16 (``half``) a narrower one, because the widest spills a register."""
    return gemm_tile("fp8/blocks" if half else kind, m, experts, n)


def _variant(name: str, kind: str, tile: GemmTile, *, out: str, bias: bool = True) -> Variant:
    """Return the kernel with 80 experts."""
    constants: dict[str, Any] = {
        "scale_row": 1,  # an argument of the value 1 is a constant at a launch as well
        "BLOCKS": kind == "fp8/blocks",
        "EXPERTS": expert_slots(80),
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "GROUP_M": tile.group_m,
        "FLATTEN": tile.flatten,
    }
    if not bias:
        constants["bias"] = None
    signature = {
        "x": f"tensordesc<fp8e4nv[{tile.block_m},{tile.block_k}]>",
        "weight": f"tensordesc<fp8e4nv[1,{tile.block_n},{tile.block_k}]>",
        "y": f"*{out}",
        "x_scale": "*fp32",
        "weight_scale": "*fp32",
        "offsets": "*i32",
        "bias": f"*{out}",
        **dict.fromkeys(("m", "n", "k", "experts", "scale_row", "scale_block"), "i32"),
    }
    signature.update(dict.fromkeys(constants, "constexpr"))
    divisible = frozenset(argument for argument, kind in signature.items() if kind.startswith("*")) | {"n", "k"}
    return Variant(
        f"grouped_gemm/fp8/{name}",
        _grouped_gemm_fp8,
        signature,
        constants,
        divisible,
        tile.num_warps,
        tile.num_stages,
        wgmma=True,
        tma=True,
    )


def variants() -> list[Variant]:
    """List both products of 80 experts at 32k tokens and the first one of few tokens, by rows and by blocks."""
    found = []
    for scales in ("rows", "blocks"):
        kind = f"fp8/{scales}"
        small = gemm_tile(kind, 80 * 32, 80, 1792)
        for out in ("bf16", "fp16"):
            large = _tile(kind, 32768 * 8, 80, 1792, out == "fp16")
            found.append(_variant(f"{scales}/{out}/first", kind, large, out=out))
            found.append(_variant(f"{scales}/{out}/second", kind, large, out=out, bias=False))
        found.append(_variant(f"{scales}/bf16/small", kind, small, out="bf16"))
    return found


def candidates() -> list[Variant]:
    """List what the tuner tries, each with a bias: for a longer check than every build's."""
    return [
        _variant(f"candidate/{scales}/{number}", f"fp8/{scales}", tile, out="bf16")
        for scales in ("rows", "blocks")
        for number, tile in enumerate(gemm_candidates(f"fp8/{scales}"))
    ]
