"""Attention over packed sequences with 8-bit queries and keys, and 16-bit or 8-bit probabilities and values.

After SageAttention (2410.02367) and SageAttention2 (2411.10958): queries are int8 with a scale for each row, keys int8
with a scale for each tile after their mean was taken off, so that ``q @ k.T`` is exact in int32 and one multiplication
gives the scores. The softmax is that of FlashAttention (2205.14135), in float32 and in powers of two.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from zoetrope.kernels.gpu.attention_8bit_kernel import attention_8bit_kernel
from zoetrope.kernels.gpu.launch import interpreting, on_device, require_device
from zoetrope.kernels.gpu.quantise_normed import quantise_normed_qkv
from zoetrope.kernels.gpu.quantise_qkv import NAMES, quantise_qkv
from zoetrope.kernels.gpu.schedule import FIELDS, query_tiles
from zoetrope.kernels.gpu.tiles import AttentionTile, attention_tile, tuned
from zoetrope.kernels.gpu.variant import Variant
from zoetrope.kernels.reference.quantise_qkv import HEAD_DIMS, PV, QuantisedQKV
from zoetrope.kernels.types.attention_inputs import check_attention
from zoetrope.kernels.types.block_mask import BLOCK_K, BLOCK_Q, BlockMask
from zoetrope.kernels.types.upload import keep_tables, upload_numbers
from zoetrope.kernels.types.varlen import CuSeqlens

BACKENDS: dict[PV, str] = {"fp16": "int8", "fp8": "int8_fp8"}


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
    tile = _tile(tile, q.dtype, q.shape[2], pv, device)
    if mask is not None:
        tile = _sparse(tile)
    v = _adjacent(v, pv)
    quantised = quantise_qkv(q, k, v, cu_q, cu_k, pv=pv, smooth=smooth, shift=return_lse, block=tile.block_n)
    out, lse = _attend(quantised, cu_q, cu_k, q.dtype, mask, return_lse, tile)
    return out if lse is None else (out, lse)


def attention_of_projections(
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
    tile: AttentionTile | None = None,
) -> torch.Tensor:
    """Norm and rotate queries and keys (`kernels.gpu.qk_norm_rope`), then attend in 8 bits, smoothed.

    As `attention_8bit` of these, but queries and keys are quantised where they are normed: they are neither rounded to
    16 bits before nor written and read in them.

    Args:
        q: ``[Nq, heads * d]``. k: ``[Nk, heads * d]``. v: ``[Nk, heads, d]``.
        q_weight, k_weight: ``[heads * d]``. cos, sin: ``[N, d / 2]`` float32 for both, or None.
        eps: of the norm. cu_q, cu_k, pv, tile: as in `attention_8bit`.

    Returns:
        ``[Nq, heads, d]`` in the dtype of ``q``.

    Raises:
        ValueError: the inputs do not fit each other, or these kernels cannot take them.
    """
    if pv not in BACKENDS:
        raise ValueError(f"pv is {pv!r}: it must be one of {', '.join(BACKENDS)}")
    device = require_device(q=q, k=k, v=v)
    reason = why_not(v, v, v, pv=pv)
    if reason is not None:
        raise ValueError(f"attention by int8: {reason}")
    tile = _tile(tile, q.dtype, v.shape[2], pv, device)
    quantised = quantise_normed_qkv(
        q, k, _adjacent(v, pv), q_weight, k_weight, cos, sin, eps, cu_q, cu_k, pv=pv, block=tile.block_n
    )
    return _attend(quantised, cu_q, cu_k, q.dtype, None, False, tile)[0]


def _tile(tile: AttentionTile | None, dtype: torch.dtype, dim: int, pv: PV, device: torch.device) -> AttentionTile:
    if tile is not None:
        return tile
    key = f"attention/{BACKENDS[pv]}/{NAMES[dtype]}/d{dim}"
    return tuned(key, attention_tile(dim, dtype, BACKENDS[pv]), device)


def _sparse(tile: AttentionTile) -> AttentionTile:
    """Return the tile for block masks."""
    return replace(tile, block_m=min(tile.block_m, BLOCK_Q), block_n=BLOCK_K)


def _adjacent(v: torch.Tensor, pv: PV) -> torch.Tensor:
    """Return 16-bit values whose heads lie side by side, as the copies of whole tiles need them."""
    return v.contiguous() if pv == "fp16" and v.shape[1] > 1 and v.stride(1) != v.shape[2] else v


def _attend(
    x: QuantisedQKV,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    dtype: torch.dtype,
    mask: BlockMask | None,
    return_lse: bool,
    tile: AttentionTile,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    (rows, heads, _), device = x.q.shape, x.q.device
    out = torch.empty(x.q.shape, dtype=dtype, device=device)
    lse = torch.empty(heads, rows, dtype=torch.float32, device=device) if return_lse else None
    if x.k.shape[1] == 0:  # no key in any sequence: nothing to describe to the accelerator
        out.zero_()
        if lse is not None:
            lse.fill_(-math.inf)
    elif out.numel():
        _launch(x, out, lse, query_tiles(cu_q, cu_k, tile.block_m, device), mask, tile)
    return out, lse


@keep_tables
def _first_tiles(first: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return upload_numbers(first, device)


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
            x.q_scale,
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
            x.q_scale.stride(0),
            x.q_scale.stride(1),
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
    if sparse:
        tile = _sparse(tile)
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
    signature |= dict.fromkeys(
        ("q_scale_row", "q_scale_head", "v_row", "rows", "heads", "tiles", "mask_tiles", "mask_most"), "i32"
    )
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
