"""The pass before 8-bit attention: mean keys, scales, int8 queries and keys, e4m3 values laid out for tensor cores.

Everything is bound by memory. Means and maxima are reduced in two steps, chunks of a sequence and then their results,
in an order that depends on nothing but its length; there are no atomics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from zoetrope.kernels.gpu.launch import on_device, require_device, require_rows_contiguous
from zoetrope.kernels.gpu.schedule import FIELDS, query_tiles
from zoetrope.kernels.gpu.variant import Variant
from zoetrope.kernels.reference.quantise_qkv import HEAD_DIMS, PV, QuantisedQKV, check_inputs, key_tiles
from zoetrope.kernels.types.upload import keep_tables, upload_numbers
from zoetrope.kernels.types.varlen import CuSeqlens

CHUNK = 1024  # keys that one program reduces
ROWS = 32  # of a step inside a chunk
GROUP = 32  # chunks that the second step takes at once
BLOCK_Q = 64
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@triton.jit
def _round(x):
    """Round to the nearest integer, ties to even, for |x| < 2 ** 22: the sum has no bits left for a fraction."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def scales_of(largest, poison, TOP: tl.constexpr):
    """Return ``(scale, 1 / scale)``, (1, 0) for zeros; ``poison`` is 0, or NaN where an element was not finite."""
    usable = largest >= 1e-30
    safe = tl.where(usable, largest, 1.0)
    return tl.where(usable, safe / TOP, 1.0) + poison, tl.where(usable, TOP / safe, 0.0)


@triton.jit
def chunk_statistics_kernel(
    k_ptr,
    v_ptr,
    sum_ptr,
    max_ptr,
    chunk_ptr,
    k_row,
    k_head,
    v_row,
    v_head,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    MEAN: tl.constexpr,
    MAX: tl.constexpr,
):
    """Reduce to sums of the keys and maxima of the values' magnitudes of one chunk and head: ``[chunks, heads, d]``."""
    chunk, head = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(chunk_ptr + chunk * 2), tl.load(chunk_ptr + chunk * 2 + 1)
    dim = tl.arange(0, HEAD_DIM)
    k_ptr += head.to(tl.int64) * k_head
    v_ptr += head.to(tl.int64) * v_head
    sums = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    tops = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    for first in range(begin, end, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < end)[:, None]
        if MEAN:
            at = row.to(tl.int64)[:, None] * k_row + dim[None, :]
            sums += tl.load(k_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if MAX:
            at = row.to(tl.int64)[:, None] * v_row + dim[None, :]
            tops = tl.maximum(tops, tl.abs(tl.load(v_ptr + at, mask=inside, other=0.0).to(tl.float32)))
    out = (chunk.to(tl.int64) * tl.num_programs(1) + head) * HEAD_DIM + dim
    if MEAN:
        tl.store(sum_ptr + out, tl.sum(sums, 0))
    if MAX:
        tl.store(max_ptr + out, tl.max(tops, 0))


@triton.jit
def sequence_statistics_kernel(
    sum_ptr,
    max_ptr,
    mean_ptr,
    v_scale_ptr,
    range_ptr,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    MEAN: tl.constexpr,
    MAX: tl.constexpr,
):
    """Compute the mean key and scales of the values of one sequence and head: ``[sequences, heads, d]``."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    heads = tl.num_programs(1)
    first, last = tl.load(range_ptr + sequence * 3), tl.load(range_ptr + sequence * 3 + 1)
    length = tl.load(range_ptr + sequence * 3 + 2)
    dim = tl.arange(0, HEAD_DIM)
    sums = tl.zeros([GROUP, HEAD_DIM], tl.float32)
    tops = tl.zeros([GROUP, HEAD_DIM], tl.float32)
    for begin in range(first, last, GROUP):
        chunk = begin + tl.arange(0, GROUP)
        at = (chunk.to(tl.int64)[:, None] * heads + head) * HEAD_DIM + dim[None, :]
        inside = (chunk < last)[:, None]
        if MEAN:
            sums += tl.load(sum_ptr + at, mask=inside, other=0.0)
        if MAX:
            tops = tl.maximum(tops, tl.load(max_ptr + at, mask=inside, other=0.0))
    out = (sequence.to(tl.int64) * heads + head) * HEAD_DIM + dim
    if MEAN:
        tl.store(mean_ptr + out, tl.sum(sums, 0) / tl.maximum(length, 1).to(tl.float32))
    if MAX:  # what is not finite needs no help here: it stays so in e4m3
        scale, _ = scales_of(tl.max(tops, 0), 0.0, 448.0)
        tl.store(v_scale_ptr + out, scale)


@triton.jit
def store_keys(k, k_out_ptr, k_scale_ptr, number, BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Quantise one tile of keys ``[BLOCK, HEAD_DIM]``, the ``number``-th of all heads."""
    scale, inverse = scales_of(tl.max(tl.abs(k)), tl.sum(k * 0.0), 127.0)
    out = number * (BLOCK * HEAD_DIM) + tl.arange(0, BLOCK)[:, None] * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(k_out_ptr + out, _round(k * inverse).to(tl.int8))
    tl.store(k_scale_ptr + number, scale)


@triton.jit
def store_values(v_ptr, scale_ptrs, v_out_ptr, v_row, begin, end, number, BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Quantise one tile of values, transposed, its keys in the order of `key_order` in the reference."""
    row, dim = tl.arange(0, BLOCK), tl.arange(0, HEAD_DIM)
    key = begin + row // 16 * 16 + row // 2 % 2 * 8 + row // 4 % 4 * 2 + row % 2
    at = key.to(tl.int64)[:, None] * v_row + dim[None, :]
    v = tl.load(v_ptr + at, mask=(key < end)[:, None], other=0.0).to(tl.float32)
    v = (v / tl.load(scale_ptrs)[None, :]).to(tl.float8e4nv)
    turned = number * (BLOCK * HEAD_DIM) + dim[:, None] * BLOCK + row[None, :]
    tl.store(v_out_ptr + turned, tl.trans(v))


@triton.jit(do_not_specialize=["tiles"])
def quantise_keys_kernel(
    k_ptr,
    v_ptr,
    mean_ptr,
    v_scale_ptr,
    k_out_ptr,
    k_scale_ptr,
    v_out_ptr,
    tile_ptr,
    k_row,
    k_head,
    v_row,
    v_head,
    tiles,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    SMOOTH: tl.constexpr,
    FP8: tl.constexpr,
):
    """Quantise one tile of keys, and of transposed values, of one head."""
    tile, head = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(tile_ptr + tile * 3), tl.load(tile_ptr + tile * 3 + 1)
    sequence = tl.load(tile_ptr + tile * 3 + 2)
    row, dim = tl.arange(0, BLOCK), tl.arange(0, HEAD_DIM)
    inside = (begin + row < end)[:, None]
    channel = (sequence.to(tl.int64) * tl.num_programs(1) + head) * HEAD_DIM + dim
    number = head.to(tl.int64) * tiles + tile

    at = head.to(tl.int64) * k_head + (begin + row).to(tl.int64)[:, None] * k_row + dim[None, :]
    k = tl.load(k_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if SMOOTH:
        k = tl.where(inside, k - tl.load(mean_ptr + channel)[None, :], 0.0)
    store_keys(k, k_out_ptr, k_scale_ptr, number, BLOCK, HEAD_DIM)
    if FP8:
        v_ptr += head.to(tl.int64) * v_head
        store_values(v_ptr, v_scale_ptr + channel, v_out_ptr, v_row, begin, end, number, BLOCK, HEAD_DIM)


@triton.jit(do_not_specialize=["rows"])
def quantise_queries_kernel(
    q_ptr,
    mean_ptr,
    q_out_ptr,
    q_scale_ptr,
    shift_ptr,
    work_ptr,
    q_row,
    q_head,
    rows,
    score_scale,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    FIELDS: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """Quantise one tile of queries of one head; ``shift`` is what the mean key adds to their scores."""
    entry = work_ptr + tl.program_id(0) * FIELDS
    head, heads = tl.program_id(1), tl.num_programs(1)
    row = tl.load(entry) + tl.arange(0, BLOCK)
    inside = row < tl.load(entry + 1)
    dim = tl.arange(0, HEAD_DIM)
    at = head.to(tl.int64) * q_head + row.to(tl.int64)[:, None] * q_row + dim[None, :]
    q = tl.load(q_ptr + at, mask=inside[:, None], other=0.0).to(tl.float32)
    scale, inverse = scales_of(tl.max(tl.abs(q), 1), tl.sum(q * 0.0, 1), 127.0)
    out = (row.to(tl.int64)[:, None] * heads + head) * HEAD_DIM + dim[None, :]
    tl.store(q_out_ptr + out, _round(q * inverse[:, None]).to(tl.int8), mask=inside[:, None])
    flat = head.to(tl.int64) * rows + row
    tl.store(q_scale_ptr + flat, scale, mask=inside)
    if SHIFT:
        sequence = tl.load(entry + 5)
        mean = tl.load(mean_ptr + (sequence.to(tl.int64) * heads + head) * HEAD_DIM + dim)
        tl.store(shift_ptr + flat, tl.sum(q * mean[None, :], 1) * score_scale, mask=inside)


@dataclass(frozen=True)
class KeyTables:
    """``tiles [.., 3]``: first key, end of the sequence, sequence. ``chunks [.., 2]``: first key and end.
    ``ranges [sequences, 3]``: first chunk, end of the chunks, keys."""

    tiles: torch.Tensor
    chunks: torch.Tensor
    ranges: torch.Tensor


@keep_tables
def key_tables(cu_k: CuSeqlens, block: int, chunk: int, device: torch.device) -> KeyTables:
    tiles: list[tuple[int, int, int]] = []
    chunks: list[tuple[int, int]] = []
    ranges: list[tuple[int, int, int]] = []
    for sequence, length in enumerate(cu_k.lengths):
        begin, end = cu_k.offsets[sequence], cu_k.offsets[sequence + 1]
        first = len(chunks)
        tiles += [(at, end, sequence) for at in range(begin, end, block)]
        chunks += [(at, min(at + chunk, end)) for at in range(begin, end, chunk)]
        ranges.append((first, len(chunks), length))

    parts = ((tiles, 3), (chunks, 2), (ranges, 3))
    return KeyTables(*(upload_numbers(rows, device).reshape(-1, width) for rows, width in parts))


def quantise_qkv(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    *,
    pv: PV = "fp16",
    smooth: bool = True,
    shift: bool = False,
    block: int = 64,
) -> QuantisedQKV:
    """Quantise as `kernels.reference.quantise_qkv.quantise_qkv`, which describes the result, in at most four launches.

    Queries have a scale for each row and not for a tile of rows: the row's maximum is at hand when it is rounded,
    attention multiplies by a number for each row anyway, and a row of outliers then spoils no other.

    Raises:
        ValueError: shapes, dtypes, lengths, strides or devices that it cannot take.
    """
    check_inputs(q, k, v, cu_q, cu_k, pv, block)
    device = require_device(q=q, k=k, v=v)
    require_rows_contiguous(q=q, k=k, v=v)
    fp8, sequences = pv == "fp8", len(cu_k.lengths)
    rows, heads, dim = q.shape
    tiles = key_tiles(cu_k, block)[-1]
    options: dict[str, Any] = {"dtype": torch.float32, "device": device}
    tables = key_tables(cu_k, block, CHUNK, device)
    q_int = torch.empty(q.shape, dtype=torch.int8, device=device)
    q_scale = torch.empty(heads, rows, **options)
    k_int = torch.empty(heads, tiles, block, dim, dtype=torch.int8, device=device)
    k_scale = torch.empty(heads, tiles, **options)
    mean = torch.empty(sequences, heads, dim, **options) if smooth else None
    v_out = torch.empty(heads, tiles, dim, block, dtype=torch.float8_e4m3fn, device=device) if fp8 else v
    v_scale = torch.empty(sequences, heads, dim, **options) if fp8 else None
    moved = torch.empty(heads, rows, **options) if smooth and shift else None
    key_strides = (k.stride(0), k.stride(1), v.stride(0), v.stride(1))
    with on_device(device):
        if (smooth or fp8) and sequences and heads:
            chunks = tables.chunks.shape[0]
            sums = torch.empty(chunks, heads, dim, **options) if smooth else None
            tops = torch.empty(chunks, heads, dim, **options) if fp8 else None
            flags = {"HEAD_DIM": dim, "MEAN": smooth, "MAX": fp8, "num_warps": 4}
            if chunks:
                chunk_statistics_kernel[(chunks, heads)](
                    k, v, sums, tops, tables.chunks, *key_strides, ROWS=ROWS, **flags
                )
            sequence_statistics_kernel[(sequences, heads)](
                sums, tops, mean, v_scale, tables.ranges, GROUP=GROUP, **flags
            )
        if tiles and heads:
            quantise_keys_kernel[(tiles, heads)](
                k,
                v,
                mean,
                v_scale,
                k_int,
                k_scale,
                v_out if fp8 else None,
                tables.tiles,
                *key_strides,
                tiles,
                HEAD_DIM=dim,
                BLOCK=block,
                SMOOTH=smooth,
                FP8=fp8,
                num_warps=4,
            )
        if rows and heads:
            work = query_tiles(cu_q, cu_k, BLOCK_Q, device)
            quantise_queries_kernel[(work.shape[0], heads)](
                q,
                mean,
                q_int,
                q_scale,
                moved,
                work,
                q.stride(0),
                q.stride(1),
                rows,
                dim**-0.5,
                HEAD_DIM=dim,
                BLOCK=BLOCK_Q,
                FIELDS=FIELDS,
                SHIFT=moved is not None,
                num_warps=4,
            )
    return QuantisedQKV(q_int, q_scale.T, k_int, k_scale, v_out, v_scale, moved, key_tiles(cu_k, block)[:-1], block)


def variants() -> list[Variant]:
    """List every kernel of the pass, values staying and becoming e4m3: all sizes of heads in bfloat16, 128 in float16;
    e4m3 of such heads also by 128 keys."""
    found: list[Variant] = []
    for name in ("bf16", "fp16"):
        for dim in HEAD_DIMS if name == "bf16" else (128,):
            for fp8 in (False, True):
                found += _variants(name, dim, fp8)
            found += _variants(name, dim, True, 128)[2:] if dim == 128 else []
            found.append(_queries(name, dim))
    return found


def _variants(name: str, dim: int, fp8: bool, block: int = 64) -> list[Variant]:
    value = {
        "k_ptr": f"*{name}",
        "v_ptr": f"*{name}",
        "mean_ptr": "*fp32",
        "sum_ptr": "*fp32",
        "max_ptr": "*fp32" if fp8 else "constexpr",
        "v_scale_ptr": "*fp32" if fp8 else "constexpr",
        "k_out_ptr": "*i8",
        "k_scale_ptr": "*fp32",
        "v_out_ptr": "*fp8e4nv" if fp8 else "constexpr",
        **dict.fromkeys(("chunk_ptr", "range_ptr", "tile_ptr"), "*i32"),
        **dict.fromkeys(("k_row", "k_head", "v_row", "v_head", "tiles"), "i32"),
    }
    flags = {"HEAD_DIM": dim, "ROWS": ROWS, "GROUP": GROUP, "BLOCK": block}
    flags |= {"MEAN": True, "MAX": fp8, "SMOOTH": True, "FP8": fp8}
    label = f"{name}/d{dim}{'/fp8' if fp8 else ''}{'-128' if block == 128 else ''}"
    kernels = {
        "chunks": chunk_statistics_kernel,
        "sequences": sequence_statistics_kernel,
        "keys": quantise_keys_kernel,
    }
    return [_variant(f"quantise_qkv/{part}/{label}", kernel, value, flags) for part, kernel in kernels.items()]


def _queries(name: str, dim: int) -> Variant:
    value = {"q_ptr": f"*{name}", "q_out_ptr": "*i8", "work_ptr": "*i32", "score_scale": "fp32"}
    value |= dict.fromkeys(("mean_ptr", "q_scale_ptr", "shift_ptr"), "*fp32")
    value |= dict.fromkeys(("q_row", "q_head", "rows"), "i32")
    flags = {"HEAD_DIM": dim, "BLOCK": BLOCK_Q, "FIELDS": FIELDS, "SHIFT": True}
    return _variant(f"quantise_qkv/queries/{name}/d{dim}", quantise_queries_kernel, value, flags)


def _variant(name: str, kernel: Any, types: Mapping[str, str], flags: Mapping[str, Any]) -> Variant:
    """Return a variant with the parameters of a kernel, in its order."""
    signature = {key: "constexpr" if key in flags else types[key] for key in kernel.arg_names}
    constexprs = {key: flags.get(key) for key, kind in signature.items() if kind == "constexpr"}
    aligned = {key for key, kind in signature.items() if kind.startswith("*") or key.endswith(("_row", "_head"))}
    return Variant(name, kernel, signature, constexprs, frozenset(aligned), num_warps=4)
