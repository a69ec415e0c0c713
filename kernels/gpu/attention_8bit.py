"""Attention over packed sequences with 8-bit queries and keys, and 16-bit or 8-bit probabilities and values.

After SageAttention (2410.02367) and SageAttention2 (2411.10958): queries are int8 with a scale for each row, keys int8
with a scale for each tile after their mean was taken off, so that ``q @ k.T`` is exact in int32 and one multiplication
gives the scores. The softmax is that of FlashAttention (2205.14135), in float32 and in powers of two.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from zoetrope.kernels.gpu.launch import interpreting, on_device, require_device
from zoetrope.kernels.gpu.quantise_qkv import NAMES, quantise_qkv
from zoetrope.kernels.gpu.schedule import FIELDS, query_tiles
from zoetrope.kernels.gpu.tiles import AttentionTile, attention_tile, tuned
from zoetrope.kernels.gpu.variant import Variant
from zoetrope.kernels.reference.quantise_qkv import HEAD_DIMS, PV, QuantisedQKV
from zoetrope.kernels.types.attention_inputs import check_attention
from zoetrope.kernels.types.block_mask import BLOCK_K, BLOCK_Q, BlockMask
from zoetrope.kernels.types.upload import upload
from zoetrope.kernels.types.varlen import CuSeqlens

BACKENDS: dict[PV, str] = {"fp16": "int8", "fp8": "int8_fp8"}


@triton.jit
def _attend_tile(
    q,
    row_scale,
    k,
    key_scale,
    v,
    top,
    total,
    acc,
    columns,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FP8: tl.constexpr,
    SHIFT: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Process one tile of keys, of which ``columns`` count if ``MASKED``. The state is (top, total, acc)."""
    scores = tl.dot(q, tl.trans(k)).to(tl.float32)
    scale = row_scale * key_scale  # positive, so that the largest product belongs to the largest score
    if MASKED:
        scaled = tl.where(tl.arange(0, BLOCK_N)[None, :] < columns, scores * scale[:, None], float("-inf"))
        new_top = tl.maximum(top, tl.max(scaled, 1))
        p = tl.exp2(scaled - (new_top - SHIFT)[:, None])
    else:
        new_top = tl.maximum(top, tl.max(scores, 1) * scale)
        p = tl.exp2(scores * scale[:, None] - (new_top - SHIFT)[:, None])
    keep = tl.exp2(top - new_top)
    total = total * keep + tl.sum(p, 1)
    if FP8:
        # In the order in which a thread holds the scores it is also given the 8-bit operand: the values were stored so.
        ordered = p.to(tl.float8e4nv).reshape(BLOCK_M, BLOCK_N // 16, 2, 4, 2).permute(0, 1, 3, 2, 4)
        # Tensor cores sum fp8 products in less than float32: each tile is summed alone and added here.
        acc = acc * keep[:, None] + tl.dot(ordered.reshape(BLOCK_M, BLOCK_N), tl.trans(v))
    else:
        # float32 is multiplied as tf32, which has the digits of float16; the interpreter keeps all of them.
        acc = tl.dot(p.to(v.dtype), v, acc * keep[:, None], input_precision="tf32")
    return new_top, total, acc


@triton.jit(do_not_specialize=["rows", "heads", "tiles", "mask_tiles", "mask_most"])
def attention_8bit_kernel(
    q_ptr,
    q_scale_ptr,
    k_desc,
    k_scale_ptr,
    v_desc,
    v_ptr,
    v_scale_ptr,
    shift_ptr,
    out_ptr,
    lse_ptr,
    work_ptr,
    first_tile_ptr,
    count_ptr,
    index_ptr,
    v_row,
    rows,
    heads,
    tiles,
    mask_tiles,
    mask_most,
    score_scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FIELDS: tl.constexpr,
    FP8: tl.constexpr,
    SPARSE: tl.constexpr,
    LSE: tl.constexpr,
    SMOOTH: tl.constexpr,
):
    # Neighbouring programs share a sequence and a head, whose keys then stay in L2.
    program = tl.program_id(0)
    entry = work_ptr + program // heads * FIELDS
    group, count = tl.load(entry + 6), tl.load(entry + 7)
    inner = program - group * heads
    head, entry = inner // count, work_ptr + (group + inner % count) * FIELDS
    q_begin, q_end = tl.load(entry), tl.load(entry + 1)
    k_begin, k_end = tl.load(entry + 2), tl.load(entry + 3)
    number, sequence = tl.load(entry + 4), tl.load(entry + 5)
    # The keys of a sequence are padded to whole tiles: tile t of this sequence is tile first + t of this head.
    first = head * tiles + tl.load(first_tile_ptr + sequence)
    last = tl.cdiv(k_end - k_begin, BLOCK_N) - 1
    steps = last + 1
    if SPARSE:
        steps = tl.load(count_ptr + head * mask_tiles + number)
        index_ptr += (head * mask_tiles + number).to(tl.int64) * mask_most

    row = q_begin + tl.arange(0, BLOCK_M)
    dim = tl.arange(0, HEAD_DIM)
    inside = row < q_end
    at = (row.to(tl.int64)[:, None] * heads + head) * HEAD_DIM + dim[None, :]  # of the queries and of the result
    q = tl.load(q_ptr + at, mask=inside[:, None], other=0)
    flat = head.to(tl.int64) * rows + row
    row_scale = tl.load(q_scale_ptr + flat, mask=inside, other=1.0) * score_scale

    SHIFT: tl.constexpr = 8.0 if FP8 else 0.0  # e4m3 has its bits between 2 ** -9 and 448: probabilities up to 256
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    for step in range(0, steps - 1):
        tile = step
        if SPARSE:
            tile = tl.load(index_ptr + step)
        k = k_desc.load([(first + tile) * BLOCK_N, 0])
        key_scale = tl.load(k_scale_ptr + first + tile)
        if FP8:
            v = v_desc.load([(first + tile) * HEAD_DIM, 0])
        else:
            v = v_desc.load([k_begin + tile * BLOCK_N, head * HEAD_DIM])
        top, total, acc = _attend_tile(
            q, row_scale, k, key_scale, v, top, total, acc, BLOCK_N, BLOCK_M, BLOCK_N, FP8, SHIFT, False
        )
    if steps > 0:  # the last tile may end inside
        tile = last
        if SPARSE:
            tile = tl.load(index_ptr + steps - 1)
        k = k_desc.load([(first + tile) * BLOCK_N, 0])
        key_scale = tl.load(k_scale_ptr + first + tile)
        key = k_begin + tile * BLOCK_N + tl.arange(0, BLOCK_N)
        if FP8:
            v = v_desc.load([(first + tile) * HEAD_DIM, 0])
        else:  # the rows behind belong to another sequence: 0 times its NaN would be NaN
            v_offset = key.to(tl.int64)[:, None] * v_row + head * HEAD_DIM + dim[None, :]
            v = tl.load(v_ptr + v_offset, mask=key[:, None] < k_end, other=0.0)
        columns = k_end - k_begin - tile * BLOCK_N
        top, total, acc = _attend_tile(
            q, row_scale, k, key_scale, v, top, total, acc, columns, BLOCK_M, BLOCK_N, FP8, SHIFT, True
        )

    total = tl.where(total == 0.0, 1.0, total)  # a query without keys: 0 / 1 and log 1 - infinity
    out = acc / total[:, None]
    if FP8:
        out *= tl.load(v_scale_ptr + (sequence * heads + head) * HEAD_DIM + dim)[None, :]
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside[:, None])
    if LSE:
        lse = (top - SHIFT + tl.log2(total)) * 0.6931471805599453
        if SMOOTH:  # what the mean key adds to every score of a row
            lse += tl.load(shift_ptr + flat, mask=inside, other=0.0)
        tl.store(lse_ptr + flat, lse, mask=inside)


def why_not(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask | None = None, *, pv: PV = "fp16"
) -> str | None:
    """Return why `attention_8bit` cannot take this call, or None."""
    if q.dtype not in NAMES:
        return f"it takes float32, float16 and bfloat16, not {q.dtype}"
    if q.shape[-1] not in HEAD_DIMS:
        return f"it takes heads of {', '.join(map(str, HEAD_DIMS))}, not {q.shape[-1]}"
    if q.device.type != "cuda":
        if not interpreting():
            return f"it needs a CUDA device, not {q.device.type}"
        return "the interpreter does not round to 8-bit floats as a GPU does" if pv == "fp8" else None
    needed = (8, 9) if pv == "fp8" else (8, 0)
    if torch.cuda.get_device_capability(q.device) < needed:
        return f"it needs compute capability {needed[0]}.{needed[1]}"
    return None


def attention_8bit(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    *,
    pv: PV = "fp16",
    smooth: bool = True,
    mask: BlockMask | None = None,
    return_lse: bool = False,
    tile: AttentionTile | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Attend from sequence ``i`` of the queries to sequence ``i`` of the keys in 8 bits, quantising the inputs first.

    ``benchmarks/results/attention-error.md`` has its error. Inputs that are not finite give results that are not.

    Args:
        q: ``[Nq, heads, head_dim]`` bfloat16, float16 or float32, head_dim 32, 64 or 128.
        k, v: ``[Nk, heads, head_dim]``, the same dtype. The last dimension of all three is contiguous; the others may
            have any stride of a multiple of 16 bytes.
        cu_q, cu_k: lengths that add up to ``Nq`` and ``Nk``, as many sequences in both; any may be 0.
        pv: probabilities and values in the dtype of ``v`` (``fp16``) or in e4m3 (``fp8``).
        smooth: take the mean key of each sequence and head from its keys first, which changes no result but the error.
        mask: the blocks of scores to compute; None for all.
        return_lse: also give the natural logarithm of the sum of the exponentials of the scaled scores.
        tile: instead of the tuned one. ``block_n``, 64 or 128, is also the number of keys that share a scale.

    Returns:
        ``[Nq, heads, head_dim]`` in the dtype of ``q``, scores scaled by ``head_dim ** -0.5``; with ``return_lse`` also
        ``[heads, Nq]`` float32. Queries without keys give zeros and minus infinity.

    Raises:
        ValueError: the inputs do not fit each other, or this kernel cannot take them.
    """
    check_attention(q, k, v, cu_q, cu_k, mask)
    if pv not in BACKENDS:
        raise ValueError(f"pv is {pv!r}: it must be one of {', '.join(BACKENDS)}")
    device = require_device(q=q, k=k, v=v)
    reason = why_not(q, k, v, mask, pv=pv)
    if reason is not None:
        raise ValueError(f"attention by int8: {reason}")
    rows, heads, dim = q.shape
    if tile is None:
        key = f"attention/{BACKENDS[pv]}/{NAMES[q.dtype]}/d{dim}"
        tile = tuned(key, attention_tile(dim, q.dtype, BACKENDS[pv]), device)
    if mask is not None:
        tile = replace(tile, block_m=min(tile.block_m, BLOCK_Q), block_n=BLOCK_K)
    if pv == "fp16" and heads > 1 and v.stride(1) != dim:
        v = v.contiguous()  # its heads must lie side by side for the copies of whole tiles
    quantised = quantise_qkv(q, k, v, cu_q, cu_k, pv=pv, smooth=smooth, shift=return_lse, block=tile.block_n)
    if k.shape[0] == 0:
        out, lse = torch.zeros_like(q), torch.full((heads, rows), -torch.inf, device=device)
    else:
        out = torch.empty(q.shape, dtype=q.dtype, device=device)
        lse = torch.empty(heads, rows, dtype=torch.float32, device=device)
        if out.numel():
            work = query_tiles(cu_q, cu_k, tile.block_m, device)
            _launch(quantised, out, lse if return_lse else None, work, mask, tile)
    return (out, lse) if return_lse else out


@lru_cache(maxsize=64)
def _first_tiles(first: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return upload(first, device)


def _launch(
    x: QuantisedQKV,
    out: torch.Tensor,
    lse: torch.Tensor | None,
    work: torch.Tensor,
    mask: BlockMask | None,
    tile: AttentionTile,
) -> None:
    rows, heads, dim = out.shape
    fp8 = x.v_scale is not None
    # Of a single row, the stride may be anything.
    v_row = heads * dim if fp8 or x.v.shape[0] == 1 else x.v.stride(0)
    if fp8:
        values = TensorDescriptor(x.v, [x.v.numel() // x.block, x.block], [x.block, 1], [dim, x.block])
    else:
        values = TensorDescriptor(x.v, [x.v.shape[0], heads * dim], [v_row, 1], [x.block, dim])
    with on_device(out.device):
        attention_8bit_kernel[(work.shape[0] * heads,)](
            x.q,
            x.q_scale.T,
            TensorDescriptor(x.k, [x.k.numel() // dim, dim], [dim, 1], [x.block, dim]),
            x.k_scale,
            values,
            x.v,
            x.v_scale,
            x.shift,
            out,
            lse,
            work,
            _first_tiles(x.first, out.device),
            None if mask is None else mask.count.contiguous(),
            None if mask is None else mask.index.contiguous(),
            v_row,
            rows,
            heads,
            x.k.shape[1],
            0 if mask is None else mask.count.shape[1],
            0 if mask is None else mask.index.shape[2],
            dim**-0.5 * math.log2(math.e),
            HEAD_DIM=dim,
            BLOCK_M=tile.block_m,
            BLOCK_N=x.block,
            FIELDS=FIELDS,
            FP8=fp8,
            SPARSE=mask is not None,
            LSE=lse is not None,
            SMOOTH=x.shift is not None,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )


def variants() -> list[Variant]:
    """List every form worth compiling: heads of 128 and 64 as the models have them, 32 as nano has."""
    found: list[Variant] = []
    for dtype in (torch.bfloat16, torch.float16):
        for head_dim in HEAD_DIMS:
            found += [_variant(dtype, head_dim, "fp16"), _variant(dtype, head_dim, "fp8")]
        found += [_variant(dtype, 128, "fp16", sparse=True), _variant(dtype, 128, "fp8", sparse=True)]
    return found


def _variant(dtype: torch.dtype, head_dim: int, pv: PV, *, sparse: bool = False) -> Variant:
    name, fp8 = NAMES[dtype], pv == "fp8"
    tile = attention_tile(head_dim, dtype, BACKENDS[pv])
    constexprs: dict[str, Any] = {
        "HEAD_DIM": head_dim,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "FIELDS": FIELDS,
        "FP8": fp8,
        "SPARSE": sparse,
        "LSE": True,
        "SMOOTH": True,
    }
    v_name, v_block = ("fp8e4nv", [head_dim, tile.block_n]) if fp8 else (name, [tile.block_n, head_dim])
    signature = {
        "q_ptr": "*i8",
        "q_scale_ptr": "*fp32",
        "k_desc": f"tensordesc<i8{[tile.block_n, head_dim]}>",
        "k_scale_ptr": "*fp32",
        "v_desc": f"tensordesc<{v_name}{v_block}>",
        "v_ptr": f"*{v_name}",
        "v_scale_ptr": "*fp32" if fp8 else "constexpr",
        "shift_ptr": "*fp32",
        "out_ptr": f"*{name}",
        "lse_ptr": "*fp32",
        "work_ptr": "*i32",
        "first_tile_ptr": "*i32",
        "count_ptr": "*i32" if sparse else "constexpr",
        "index_ptr": "*i32" if sparse else "constexpr",
    }
    signature |= dict.fromkeys(("v_row", "rows", "heads", "tiles", "mask_tiles", "mask_most"), "i32")
    signature |= {"score_scale": "fp32"} | dict.fromkeys(constexprs, "constexpr")
    absent = {key: None for key, kind in signature.items() if kind == "constexpr" and key not in constexprs}
    pointers = {key for key, kind in signature.items() if kind.startswith("*")}
    return Variant(
        name=f"attention/{BACKENDS[pv]}/{name}/d{head_dim}{'/sparse' if sparse else ''}",
        kernel=attention_8bit_kernel,
        signature=signature,
        constexprs=constexprs | absent,
        divisible=frozenset(pointers | {"v_row"}),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        wgmma=True,
        tma=True,
    )
