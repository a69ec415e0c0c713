"""From projections to the inputs of 8-bit attention, without queries and keys in 16 bits on the way.

Queries are normed, rotated and quantised row by row in one pass (`kernels.gpu.qk_norm_rope`). Keys share a scale in
each tile and lose the mean of their sequence first, so they take two passes: one over rows, for the norm and the sums
of rotated keys, and one over tiles, which norms and rotates again what it quantises. Both read the projection: 5 bytes
an element are moved, where keys that were stored in 16 bits, summed and then quantised would take 9.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from zoetrope.kernels.gpu.launch import on_device, require_device, require_rows_contiguous
from zoetrope.kernels.gpu.qk_norm_rope import load_heads, qk_norm_rope, turn_heads
from zoetrope.kernels.gpu.quantise_qkv import (
    NAMES,
    ROWS,
    chunk_statistics_kernel,
    key_tables,
    sequence_statistics_kernel,
    store_keys,
    store_values,
)
from zoetrope.kernels.gpu.tiles import row_parts, row_tile
from zoetrope.kernels.gpu.variant import Variant
from zoetrope.kernels.reference.quantise_qkv import PV, QuantisedQKV, check_inputs, key_tiles
from zoetrope.kernels.types.varlen import CuSeqlens

CHUNK = 32  # keys that one program sums, one after the other
GROUP = 128  # chunks that the second step takes at once
GROUP_WARPS = 16
EACH = 4  # heads that one program quantises, with the same angles


@triton.jit
def key_sums_kernel(
    k_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    inverse_ptr,
    sum_ptr,
    chunk_ptr,
    k_row,
    cos_row,
    sin_row,
    eps,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    REST: tl.constexpr,
):
    """Compute ``1 / rms`` of each row of a chunk, and the chunk's sum of normed and rotated keys ``[chunks, heads,
    d]``."""
    FIRST: tl.constexpr = BLOCK_HEADS <= HEADS
    LAST: tl.constexpr = BLOCK_HEADS + REST == HEADS
    chunk = tl.program_id(0)
    begin, end = tl.load(chunk_ptr + chunk * 2), tl.load(chunk_ptr + chunk * 2 + 1)
    here = tl.full([1, 1, 1], True, tl.int1)
    dim = tl.arange(0, HEAD_DIM)[None, None, :]
    a = tl.arange(0, BLOCK_HEADS)[None, :, None]
    sums = tl.zeros([1, BLOCK_HEADS, HEAD_DIM], tl.float32)
    if REST:
        b = BLOCK_HEADS + tl.arange(0, REST)[None, :, None]
        rest = tl.zeros([1, REST, HEAD_DIM], tl.float32)
    for row in range(begin, end):
        token = row + tl.zeros([1, 1, 1], tl.int64)
        v = load_heads(k_ptr, token, here, a, dim, k_row, HEADS, HEAD_DIM, FIRST)
        squares = v * v
        if REST:
            w = load_heads(k_ptr, token, here, b, dim, k_row, HEADS, HEAD_DIM, LAST)
            squares = tl.sum(tl.reshape(squares, [1, BLOCK_HEADS // REST, REST, HEAD_DIM]), 1) + w * w
        total = tl.sum(tl.sum(squares, 2, keep_dims=True), 1, keep_dims=True)
        inverse = tl.rsqrt(total / (HEADS * HEAD_DIM) + eps)
        tl.store(inverse_ptr + token, inverse)
        sums += turn_heads(
            v * inverse, weight_ptr, cos_ptr, sin_ptr, token, here, a, dim, cos_row, sin_row,
            HEADS, HEAD_DIM, 1, BLOCK_HEADS, HEAD_DIM,
        )  # fmt: skip
        if REST:
            rest += turn_heads(
                w * inverse, weight_ptr, cos_ptr, sin_ptr, token, here, b, dim, cos_row, sin_row,
                HEADS, HEAD_DIM, 1, REST, HEAD_DIM,
            )  # fmt: skip
    out = sum_ptr + chunk.to(tl.int64) * (HEADS * HEAD_DIM) + dim
    tl.store(out + a * HEAD_DIM, sums, mask=a < HEADS)
    if REST:
        tl.store(out + b * HEAD_DIM, rest, mask=b < HEADS)


@triton.jit(do_not_specialize=["tiles"])
def quantise_normed_keys_kernel(
    k_ptr,
    v_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    inverse_ptr,
    mean_ptr,
    v_scale_ptr,
    k_out_ptr,
    k_scale_ptr,
    v_out_ptr,
    tile_ptr,
    k_row,
    v_row,
    v_head,
    cos_row,
    sin_row,
    tiles,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    EACH: tl.constexpr,
):
    """Norm, rotate and quantise one tile of keys, and quantise that of the values, of ``EACH`` heads."""
    # Neighbouring programs have the same tile, whose angles then stay in L2.
    PARTS: tl.constexpr = (HEADS + EACH - 1) // EACH
    tile, part = tl.program_id(0) // PARTS, tl.program_id(0) % PARTS
    begin, end = tl.load(tile_ptr + tile * 3), tl.load(tile_ptr + tile * 3 + 1)
    sequence = tl.load(tile_ptr + tile * 3 + 2).to(tl.int64)
    dim = tl.arange(0, HEAD_DIM)
    row = (begin + tl.arange(0, BLOCK)).to(tl.int64)[:, None]
    inside = row < end
    inverse = tl.load(inverse_ptr + row, mask=inside, other=0.0)
    if cos_ptr is not None:
        pair = tl.arange(0, HEAD_DIM // 2)[None, :]
        cos = tl.load(cos_ptr + row * cos_row + pair, mask=inside, other=0.0)
        sin = tl.load(sin_ptr + row * sin_row + pair, mask=inside, other=0.0)
    for i in range(0, tl.minimum(EACH, HEADS - part * EACH)):
        head = part * EACH + i
        column = head * HEAD_DIM + dim
        k = tl.load(k_ptr + row * k_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
        k = k * inverse * tl.load(weight_ptr + column).to(tl.float32)[None, :]
        if cos_ptr is not None:
            even, odd = tl.split(tl.reshape(k, [BLOCK, HEAD_DIM // 2, 2]))
            k = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), [BLOCK, HEAD_DIM])
        channel = sequence * (HEADS * HEAD_DIM) + column
        k = tl.where(inside, k - tl.load(mean_ptr + channel)[None, :], 0.0)
        number = head.to(tl.int64) * tiles + tile
        store_keys(k, k_out_ptr, k_scale_ptr, number, BLOCK, HEAD_DIM)
        if v_out_ptr is not None:
            v = v_ptr + head.to(tl.int64) * v_head
            store_values(v, v_scale_ptr + channel, v_out_ptr, v_row, begin, end, number, BLOCK, HEAD_DIM)


def quantise_normed_qkv(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    eps: float,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    *,
    pv: PV = "fp16",
    block: int = 64,
) -> QuantisedQKV:
    """Norm, rotate and quantise as `kernels.reference.quantise_qkv.quantise_normed_qkv`, which describes the result.

    Args:
        q: ``[Nq, heads * d]``. k: ``[Nk, heads * d]``. v: ``[Nk, heads, d]``. The last dimension of each is contiguous,
            rows start at multiples of 16 bytes.
        q_weight, k_weight, cos, sin, eps: as in `kernels.gpu.qk_norm_rope.qk_norm_rope`; one table of angles for both.

    Raises:
        ValueError: shapes, dtypes, lengths, strides or devices that it cannot take.
    """
    heads, dim = v.shape[1:]
    check_inputs(q.unflatten(1, (heads, dim)), k.unflatten(1, (heads, dim)), v, cu_q, cu_k, pv, block)
    device = require_device(q=q, k=k, v=v, k_weight=k_weight, cos=cos, sin=sin)
    require_rows_contiguous(k=k, v=v, k_weight=k_weight, cos=cos, sin=sin)
    if k_weight.shape != (heads * dim,):
        raise ValueError(f"k_weight is {tuple(k_weight.shape)}: it must be {(heads * dim,)}")
    if cos is not None and q.shape[0] != k.shape[0]:
        raise ValueError(f"q has {q.shape[0]} rows, k {k.shape[0]}: rotated by the same angles, they must have as many")
    q_int, q_scale = qk_norm_rope(q, q_weight, cos, sin, heads, eps, int8=True)
    fp8, sequences, tiles = pv == "fp8", len(cu_k.lengths), key_tiles(cu_k, block)[-1]
    tables = key_tables(cu_k, block, CHUNK, device)
    chunks = tables.chunks.shape[0]
    options: dict[str, Any] = {"dtype": torch.float32, "device": device}
    inverse = torch.empty(k.shape[0], **options)
    mean = torch.empty(sequences, heads, dim, **options)
    k_int = torch.empty(heads, tiles, block, dim, dtype=torch.int8, device=device)
    k_scale = torch.empty(heads, tiles, **options)
    v_out = torch.empty(heads, tiles, dim, block, dtype=torch.float8_e4m3fn, device=device) if fp8 else v
    v_scale = torch.empty(sequences, heads, dim, **options) if fp8 else None
    angles = tuple(0 if t is None else t.stride(0) for t in (cos, sin))
    with on_device(device):
        if sequences:
            sums = torch.empty(chunks, heads, dim, **options)
            tops = torch.empty(chunks, heads, dim, **options) if fp8 else None
            if chunks:
                key_sums_kernel[(chunks,)](
                    k, k_weight, cos, sin, inverse, sums, tables.chunks, k.stride(0), *angles, eps,
                    **_shape(heads, dim), num_warps=row_tile(heads * dim).num_warps,
                )  # fmt: skip
                if fp8:
                    chunk_statistics_kernel[(chunks, heads)](
                        v, v, None, tops, tables.chunks, v.stride(0), v.stride(1), v.stride(0), v.stride(1),
                        HEAD_DIM=dim, ROWS=ROWS, MEAN=False, MAX=True, num_warps=4,
                    )  # fmt: skip
            sequence_statistics_kernel[(sequences, heads)](
                sums,
                tops,
                mean,
                v_scale,
                tables.ranges,
                HEAD_DIM=dim,
                GROUP=GROUP,
                MEAN=True,
                MAX=fp8,
                num_warps=GROUP_WARPS,
            )
        if tiles:
            quantise_normed_keys_kernel[(tiles * triton.cdiv(heads, EACH),)](
                k,
                v,
                k_weight,
                cos,
                sin,
                inverse,
                mean,
                v_scale,
                k_int,
                k_scale,
                v_out if fp8 else None,
                tables.tiles,
                k.stride(0),
                v.stride(0),
                v.stride(1),
                *angles,
                tiles,
                HEADS=heads,
                HEAD_DIM=dim,
                BLOCK=block,
                EACH=EACH,
                num_warps=block // 8,
            )
    return QuantisedQKV(q_int, q_scale, k_int, k_scale, v_out, v_scale, None, key_tiles(cu_k, block)[:-1], block)


def _shape(heads: int, dim: int) -> dict[str, int]:
    block_heads, rest = row_parts(heads)
    return {"HEADS": heads, "HEAD_DIM": dim, "BLOCK_HEADS": block_heads, "REST": rest}


def variants() -> list[Variant]:
    """List both passes over keys for the presets' heads, values staying and becoming e4m3."""
    found: list[Variant] = []
    for dtype, heads, dim in (
        (torch.bfloat16, 24, 128),
        (torch.bfloat16, 40, 128),
        (torch.bfloat16, 12, 128),
        (torch.float16, 40, 128),
        (torch.bfloat16, 4, 32),
    ):
        name = NAMES[dtype]
        types = dict.fromkeys(("k_ptr", "v_ptr", "weight_ptr"), f"*{name}")
        types |= dict.fromkeys(
            ("cos_ptr", "sin_ptr", "inverse_ptr", "sum_ptr", "mean_ptr", "v_scale_ptr", "k_scale_ptr"), "*fp32"
        )
        types |= {"k_out_ptr": "*i8", "v_out_ptr": "*fp8e4nv", "tile_ptr": "*i32", "chunk_ptr": "*i32", "eps": "fp32"}
        types |= dict.fromkeys(("k_row", "v_row", "v_head", "cos_row", "sin_row", "tiles"), "i32")
        warps = row_tile(heads * dim).num_warps
        label = f"{name}/h{heads}-d{dim}"
        found.append(_variant(f"quantise_normed/sums/{label}", key_sums_kernel, types, _shape(heads, dim), warps))
        for fp8, block in ((False, 64), (True, 64), (True, 128)):
            given = {key: kind for key, kind in types.items() if fp8 or key not in ("v_scale_ptr", "v_out_ptr")}
            constants = {"HEADS": heads, "HEAD_DIM": dim, "BLOCK": block, "EACH": EACH}
            title = f"quantise_normed/keys/{label}{f'/fp8-{block}' if fp8 else ''}"
            found.append(_variant(title, quantise_normed_keys_kernel, given, constants, block // 8))
    types = dict.fromkeys(("sum_ptr", "max_ptr", "mean_ptr", "v_scale_ptr"), "*fp32") | {"range_ptr": "*i32"}
    constants = {"HEAD_DIM": 128, "GROUP": GROUP, "MEAN": True, "MAX": True}
    found.append(_variant("quantise_normed/sequences/d128", sequence_statistics_kernel, types, constants, GROUP_WARPS))
    return found


def _variant(name: str, kernel: Any, types: dict[str, str], constants: dict[str, int], warps: int) -> Variant:
    signature = {key: types.get(key, "constexpr") for key in kernel.arg_names}
    constexprs = {key: constants.get(key) for key, kind in signature.items() if kind == "constexpr"}
    aligned = {key for key, kind in signature.items() if kind.startswith("*") or key.endswith(("_row", "_head"))}
    return Variant(name, kernel, signature, constexprs, frozenset(aligned), num_warps=warps)
