"""Fused attention over packed sequences in plain Triton: forward, non-causal, optionally block-sparse.

The online softmax of FlashAttention (arXiv 2205.14135, 2307.08691), in base 2: one program has one tile of queries of
one head and walks the tiles of its sequence's keys. Full tiles come without a mask, by the tensor memory accelerator
where the layout allows; the last, partial one is loaded with a mask, so that nothing of the next sequence in the packed
tensors, not even a NaN, gets into the sums. Values do not depend on what else is packed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from zoetrope.kernels.gpu.fence import fence_copies, needs_fence
from zoetrope.kernels.gpu.launch import interpreting, on_device, require_device, require_rows_contiguous
from zoetrope.kernels.gpu.schedule import FIELDS, query_tiles
from zoetrope.kernels.gpu.tiles import AttentionTile, attention_tile, tuned
from zoetrope.kernels.gpu.variant import Variant
from zoetrope.kernels.types.attention_inputs import check_attention
from zoetrope.kernels.types.block_mask import BLOCK_K, BLOCK_Q, BlockMask
from zoetrope.kernels.types.varlen import CuSeqlens

HEAD_DIMS = (32, 64, 128)
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@triton.jit
def _find(tiles_ptr, program, heads, FIELDS: tl.constexpr):
    """Return a program's head and entry of the work list; neighbours share a sequence and a head."""
    entry = tiles_ptr + program // heads * FIELDS
    first = tl.load(entry + 6)
    count = tl.load(entry + 7)
    at = program - first * heads
    return at // count, tiles_ptr + (first + at % count) * FIELDS


@triton.jit
def _update(q, k, v, acc, row_max, row_sum, valid, scale, MASKED: tl.constexpr, PRECISION: tl.constexpr):
    """Add one tile of keys to the running maximum (scaled, base 2), sum and weighted sum of the values."""
    scores = tl.dot(q, k, input_precision=PRECISION)
    if MASKED:
        scores = tl.where(valid[None, :], scores, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, 1) * scale)
    p = tl.exp2(scores * scale - new_max[:, None])
    shrink = tl.exp2(row_max - new_max)
    acc = acc * shrink[:, None]
    row_sum = row_sum * shrink + tl.sum(p, 1)
    acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)
    return acc, new_max, row_sum


@triton.jit(do_not_specialize=["queries", "heads", "mask_tiles", "mask_most"])
def _attention(
    q_ptr,
    k_ptr,
    v_ptr,
    k_desc,
    v_desc,
    out_ptr,
    lse_ptr,
    tiles_ptr,
    count_ptr,
    index_ptr,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    out_row,
    queries,
    heads,
    mask_tiles,
    mask_most,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FIELDS: tl.constexpr,
    PARTS: tl.constexpr,  # tiles of keys in a block of the mask
    TMA: tl.constexpr,
    FENCE: tl.constexpr,
    SPARSE: tl.constexpr,
    LSE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    head, entry = _find(tiles_ptr, tl.program_id(0), heads, FIELDS)
    q_begin = tl.load(entry)
    q_end = tl.load(entry + 1)
    k_begin = tl.load(entry + 2)
    k_end = tl.load(entry + 3)

    rows = q_begin + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, HEAD_DIM)
    keys = tl.arange(0, BLOCK_N)
    head64 = head.to(tl.int64)
    live = rows < q_end
    q = tl.load(
        q_ptr + head64 * q_head + rows.to(tl.int64)[:, None] * q_row + columns[None, :], mask=live[:, None], other=0.0
    )
    # of the first key of the sequence
    k_base = k_ptr + head64 * k_head + k_begin.to(tl.int64) * k_row
    v_base = v_ptr + head64 * v_head + k_begin.to(tl.int64) * v_row
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)

    length = k_end - k_begin
    full = length // BLOCK_N  # whole tiles of keys
    listed = index_ptr
    walk = full
    partial = length > full * BLOCK_N  # whether a tile remains that is not whole
    if SPARSE:
        # The list ascends, so if the block with the end of the keys is listed, it is last: stop before its part tile.
        number = (head * mask_tiles + tl.load(entry + 4)).to(tl.int64)
        listed = index_ptr + number * mask_most
        blocks = tl.load(count_ptr + number)
        last = tl.load(listed + tl.maximum(blocks - 1, 0)) * PARTS
        ends = (blocks > 0) & (last + PARTS > full)
        walk = tl.where(ends, (blocks - 1) * PARTS + full - last, blocks * PARTS)
        partial = ends & partial

    for i in tl.range(0, walk):
        tile = i
        if SPARSE:
            tile = tl.load(listed + i // PARTS) * PARTS + i % PARTS
        start = tile * BLOCK_N
        if TMA:
            k = k_desc.load([k_begin + start, head * HEAD_DIM])
            v = v_desc.load([k_begin + start, head * HEAD_DIM])
        else:
            at = (start + keys).to(tl.int64)[:, None]
            k = tl.load(k_base + at * k_row + columns[None, :])
            v = tl.load(v_base + at * v_row + columns[None, :])
            if FENCE:
                fence_copies()
        acc, row_max, row_sum = _update(q, tl.trans(k), v, acc, row_max, row_sum, live, scale, False, PRECISION)

    if partial:
        valid = full * BLOCK_N + keys < length
        at = (full * BLOCK_N + keys).to(tl.int64)[:, None]
        k = tl.load(k_base + at * k_row + columns[None, :], mask=valid[:, None], other=0.0)
        v = tl.load(v_base + at * v_row + columns[None, :], mask=valid[:, None], other=0.0)
        acc, row_max, row_sum = _update(q, tl.trans(k), v, acc, row_max, row_sum, valid, scale, True, PRECISION)

    # A query without keys: 0 / 1 and log 1 - infinity.
    row_sum = tl.where(row_max == float("-inf"), 1.0, row_sum)
    out = acc / row_sum[:, None]
    tl.store(
        out_ptr + rows.to(tl.int64)[:, None] * out_row + (head * HEAD_DIM + columns)[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=live[:, None],
    )
    if LSE:
        lse = (row_max + tl.log2(row_sum)) * 0.6931471805599453
        tl.store(lse_ptr + head64 * queries + rows, lse, mask=live)


def why_not(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask | None = None, return_lse: bool = False
) -> str | None:
    """Return why `attention` cannot take this call, or None."""
    if q.dtype not in NAMES:
        return f"it takes float32, float16 and bfloat16, not {q.dtype}"
    if q.shape[-1] not in HEAD_DIMS:
        return f"it takes heads of {', '.join(map(str, HEAD_DIMS))}, not {q.shape[-1]}"
    if q.device.type != "cuda":
        return None if interpreting() else f"it needs a CUDA device, not {q.device.type}"
    if torch.cuda.get_device_capability(q.device) < (8, 0):
        return "it needs compute capability 8.0"
    return None


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    *,
    mask: BlockMask | None = None,
    return_lse: bool = False,
    tile: AttentionTile | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute softmax attention in which sequence ``i`` of the queries sees only sequence ``i`` of the keys.

    Args:
        q: ``[Nq, heads, head_dim]`` bfloat16, float16 or float32, head_dim 32, 64 or 128.
        k, v: ``[Nk, heads, head_dim]``, the same dtype. The last dimension of each tensor is contiguous; the others may
            have any stride of a multiple of 16 bytes (slices of a fused projection, for example).
        cu_q, cu_k: lengths that add up to ``Nq`` and ``Nk``, as many sequences in both; any may be 0.
        mask: the blocks of scores to compute; None for all.
        return_lse: also give the natural logarithm of the sum of the exponentials of the scaled scores.
        tile: instead of the tuned one.

    Returns:
        ``[Nq, heads, head_dim]`` in the dtype of ``q``, scores scaled by ``head_dim ** -0.5`` and summed in float32;
        with ``return_lse`` also ``[heads, Nq]`` float32. Queries without keys give zeros and minus infinity.

    Raises:
        ValueError: the inputs do not fit each other, or this kernel cannot take them.
    """
    check_attention(q, k, v, cu_q, cu_k, mask)
    device = require_device(q=q, k=k, v=v)
    reason = why_not(q, k, v, mask, return_lse)
    if reason is not None:
        raise ValueError(f"attention by triton: {reason}")
    require_rows_contiguous(q=q, k=k, v=v)
    queries, heads, head_dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=device)
    lse = torch.empty(heads, queries, dtype=torch.float32, device=device) if return_lse else None
    if out.numel() > 0:
        if tile is None:
            key = f"attention/triton/{NAMES[q.dtype]}/d{head_dim}"
            tile = tuned(key, attention_tile(head_dim, q.dtype), device)
        if mask is not None:
            tile = _sparse(tile)
        _launch(q, k, v, out, lse, query_tiles(cu_q, cu_k, tile.block_m, device), mask, tile)
    return out if lse is None else (out, lse)


def _launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor | None,
    tiles: torch.Tensor,
    mask: BlockMask | None,
    tile: AttentionTile,
) -> None:
    queries, heads, head_dim = q.shape
    tma = tile.tma and _tma_takes(k) and _tma_takes(v)
    with on_device(q.device):
        _attention[(tiles.shape[0] * heads,)](
            q,
            k,
            v,
            _descriptor(k, tile.block_n) if tma else None,
            _descriptor(v, tile.block_n) if tma else None,
            out,
            lse,
            tiles,
            None if mask is None else mask.count.contiguous(),
            None if mask is None else mask.index.contiguous(),
            q.stride(0),
            q.stride(1),
            k.stride(0),
            k.stride(1),
            v.stride(0),
            v.stride(1),
            out.stride(0),
            queries,
            heads,
            0 if mask is None else mask.count.shape[1],
            0 if mask is None else mask.index.shape[2],
            head_dim**-0.5 * math.log2(math.e),
            HEAD_DIM=head_dim,
            BLOCK_M=tile.block_m,
            BLOCK_N=tile.block_n,
            FIELDS=FIELDS,
            PARTS=BLOCK_K // tile.block_n if mask is not None else 1,
            TMA=tma,
            FENCE=not tma and needs_fence(q),
            SPARSE=mask is not None,
            LSE=lse is not None,
            PRECISION=_precision(q.dtype),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )


def _sparse(tile: AttentionTile) -> AttentionTile:
    """Return the tile for block masks; loading the list takes half the stages of the pipeline."""
    m, n = min(tile.block_m, BLOCK_Q), min(tile.block_n, BLOCK_K)
    return replace(tile, block_m=m, block_n=n, num_stages=5 if tile.tma else tile.num_stages)


def _precision(dtype: torch.dtype) -> str:
    return "ieee" if dtype == torch.float32 else "tf32"  # says nothing for 16 bits


def _tma_takes(x: torch.Tensor) -> bool:
    """Tell whether the heads of a row are adjacent, so that rows form a matrix, on a device with the accelerator."""
    if x.shape[0] == 0 or (x.shape[1] > 1 and x.stride(1) != x.shape[2]) or (x.shape[0] > 1 and x.stride(0) == 0):
        return False
    return x.device.type != "cuda" or torch.cuda.get_device_capability(x.device) >= (9, 0)


def _descriptor(x: torch.Tensor, rows: int) -> TensorDescriptor:
    row = x.stride(0) if x.shape[0] > 1 else x.shape[1] * x.shape[2]  # of one row, the stride may be anything
    return TensorDescriptor(x, [x.shape[0], x.shape[1] * x.shape[2]], [row, 1], [rows, x.shape[2]])


def variants() -> list[Variant]:
    """List every form worth compiling: heads of 128 and 64 as the models have them, 32 as nano has."""
    found: list[Variant] = []
    for dtype in (torch.bfloat16, torch.float16):
        for head_dim in HEAD_DIMS:
            tile = attention_tile(head_dim, dtype)
            found += [_variant(dtype, head_dim, tile), _variant(dtype, head_dim, tile, sparse=True)]
        found.append(_variant(dtype, 128, replace(attention_tile(128, dtype), tma=False), special="/strided"))
    found += [_variant(torch.float32, head_dim, attention_tile(head_dim, torch.float32)) for head_dim in HEAD_DIMS]
    found.append(_variant(torch.float32, 128, attention_tile(128, torch.float32), sparse=True))
    return found


def _variant(
    dtype: torch.dtype, head_dim: int, tile: AttentionTile, *, sparse: bool = False, special: str = ""
) -> Variant:
    name = NAMES[dtype]
    if sparse:
        tile = _sparse(tile)
        special += "/sparse"
    constexprs: dict[str, Any] = {
        "HEAD_DIM": head_dim,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "FIELDS": FIELDS,
        "PARTS": BLOCK_K // tile.block_n if sparse else 1,
        "TMA": tile.tma,
        "FENCE": not tile.tma and dtype != torch.float32,
        "SPARSE": sparse,
        "LSE": True,
        "PRECISION": _precision(dtype),
    }
    signature = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr"), f"*{name}")
    for desc in ("k_desc", "v_desc"):
        signature[desc] = f"tensordesc<{name}[{tile.block_n}, {head_dim}]>" if tile.tma else "constexpr"
    signature |= {"out_ptr": f"*{name}", "lse_ptr": "*fp32", "tiles_ptr": "*i32"}
    signature |= dict.fromkeys(("count_ptr", "index_ptr"), "*i32" if sparse else "constexpr")
    strides = ("q_row", "q_head", "k_row", "k_head", "v_row", "v_head", "out_row")
    signature |= dict.fromkeys((*strides, "queries", "heads", "mask_tiles", "mask_most"), "i32")
    signature |= {"scale": "fp32"} | dict.fromkeys(constexprs, "constexpr")
    given_none = [parameter for parameter, kind in signature.items() if kind == "constexpr"]
    absent = {parameter: None for parameter in given_none if parameter not in constexprs}
    pointers = {parameter for parameter, kind in signature.items() if kind.startswith("*")}
    return Variant(
        name=f"attention/triton/{name}/d{head_dim}{special}",
        kernel=_attention,
        signature=signature,
        constexprs=constexprs | absent,
        divisible=frozenset(pointers | set(strides)),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        wgmma=dtype != torch.float32,
        tma=tile.tma,
    )
