"""Fused attention for Hopper in Gluon: TMA, asynchronous products, softmax overlapped with them.

After FlashAttention-3 (arXiv 2407.08608); `kernels.gpu.attention_gluon_kernel` says how it works and why it is safe.
The work list and the meaning of the inputs are those of `kernels.gpu.attention`, the plain twin. Gluon has no
interpreter: ``tests/kernels/gpu/gluon_model.py`` runs the kernel's source on a model of barriers, copies and
asynchronous products.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from zoetrope.kernels.gpu.attention_gluon_kernel import attention_kernel
from zoetrope.kernels.gpu.launch import on_device, require_device, require_rows_contiguous
from zoetrope.kernels.gpu.schedule import FIELDS, query_tiles
from zoetrope.kernels.gpu.tiles import AttentionTile, attention_tile, tuned
from zoetrope.kernels.gpu.variant import Variant
from zoetrope.kernels.types.attention_inputs import check_attention
from zoetrope.kernels.types.block_mask import BlockMask
from zoetrope.kernels.types.varlen import CuSeqlens

HEAD_DIMS = (64, 128)
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}
TYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}
BLOCK_M = 128


def why_not(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask | None = None, return_lse: bool = False
) -> str | None:
    """Return why `attention` cannot take this call, or None."""
    if q.dtype not in NAMES:
        return f"it takes float16 and bfloat16, not {q.dtype}"
    if q.shape[-1] not in HEAD_DIMS:
        return f"it takes heads of {', '.join(map(str, HEAD_DIMS))}, not {q.shape[-1]}"
    if mask is not None:
        return "it takes no block mask"
    if any(x.stride(dim) == 0 and x.shape[dim] > 1 for x in (q, k, v) for dim in (0, 1)):
        return "it takes no expanded tensors (stride 0)"
    if q.device.type != "cuda":
        return f"it needs a CUDA device, not {q.device.type}"
    capability = torch.cuda.get_device_capability(q.device)
    return None if capability == (9, 0) else f"it is made for Hopper (9.0), this is {capability[0]}.{capability[1]}"


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
        q: ``[Nq, heads, head_dim]`` bfloat16 or float16 on a Hopper GPU, head_dim 64 or 128.
        k, v: ``[Nk, heads, head_dim]``, the same dtype. The last dimension of each tensor is contiguous; the others may
            have any stride of a multiple of 16 bytes.
        cu_q, cu_k: lengths that add up to ``Nq`` and ``Nk``, as many sequences in both; any may be 0.
        mask: must be None.
        return_lse: also give the natural logarithm of the sum of the exponentials of the scaled scores.
        tile: instead of the tuned one; 128 queries.

    Returns:
        ``[Nq, heads, head_dim]`` in the dtype of ``q``, scores scaled by ``head_dim ** -0.5`` and summed in float32;
        with ``return_lse`` also ``[heads, Nq]`` float32. Queries without keys give zeros and minus infinity.

    Raises:
        ValueError: the inputs do not fit each other, or this kernel cannot take them.
    """
    check_attention(q, k, v, cu_q, cu_k, mask)
    reason = why_not(q, k, v, mask, return_lse)
    if reason is not None:
        raise ValueError(f"attention by gluon: {reason}")
    device = require_device(q=q, k=k, v=v)
    require_rows_contiguous(q=q, k=k, v=v)
    if tile is None:
        key = f"attention/gluon/{NAMES[q.dtype]}/d{q.shape[2]}"
        tile = tuned(key, attention_tile(q.shape[2], q.dtype, "gluon"), device)
    if tile.block_m != BLOCK_M:
        raise ValueError(f"tile has block_m {tile.block_m}: it must be {BLOCK_M}")
    out = torch.empty(q.shape, dtype=q.dtype, device=device)
    lse = torch.empty(q.shape[1], q.shape[0], dtype=torch.float32, device=device) if return_lse else None
    if k.shape[0] == 0:  # nothing to describe to the accelerator
        out.zero_()
        if lse is not None:
            lse.fill_(-math.inf)
    elif out.numel() > 0:
        _launch(q, k, v, out, lse, query_tiles(cu_q, cu_k, BLOCK_M, device), tile)
    return out if lse is None else (out, lse)


def _launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor | None,
    tiles: torch.Tensor,
    tile: AttentionTile,
) -> None:
    queries, heads, head_dim = q.shape
    with on_device(q.device):
        attention_kernel[(tiles.shape[0] * heads,)](
            _descriptor(q, 64),
            _descriptor(k, tile.block_n),
            _descriptor(v, tile.block_n),
            out,
            lse,
            tiles,
            out.stride(0),
            queries,
            heads,
            head_dim**-0.5 * math.log2(math.e),
            HEAD_DIM=head_dim,
            BLOCK_N=tile.block_n,
            STAGES=tile.num_stages,
            FIELDS=FIELDS,
            LSE=lse is not None,
            PINGPONG=tile.pingpong,
            num_warps=4,
        )


@lru_cache(maxsize=64)  # found anew it takes nearly half of a call's time on the host
def _layout(dtype: torch.dtype, rows: int, head_dim: int) -> Any:
    return gl.NVMMASharedLayout.get_default_for([rows, 1, head_dim], TYPES[dtype])


def _descriptor(x: torch.Tensor, rows: int) -> TensorDescriptor:
    """Describe boxes of ``rows`` tokens of one head. A dimension of size 1 may have any stride, so it gets a valid
    one."""
    head = x.stride(1) if x.shape[1] > 1 else x.shape[2]
    row = x.stride(0) if x.shape[0] > 1 else x.shape[1] * x.shape[2]
    return TensorDescriptor(x, list(x.shape), [row, head, 1], [rows, 1, x.shape[2]], _layout(x.dtype, rows, x.shape[2]))


def variants() -> list[Variant]:
    """List the default form of each dtype and head, and the one with turns."""
    found: list[Variant] = []
    for dtype in NAMES:
        for head_dim in HEAD_DIMS:
            tile = attention_tile(head_dim, dtype, "gluon")
            found.append(_variant(dtype, head_dim, tile))
    found.append(_variant(torch.bfloat16, 128, replace(attention_tile(128, torch.bfloat16, "gluon"), pingpong=True)))
    return found


def _variant(dtype: torch.dtype, head_dim: int, tile: AttentionTile) -> Variant:
    name = NAMES[dtype]
    constexprs: dict[str, Any] = {
        "HEAD_DIM": head_dim,
        "BLOCK_N": tile.block_n,
        "STAGES": tile.num_stages,
        "FIELDS": FIELDS,
        "LSE": True,
        "PINGPONG": tile.pingpong,
    }
    boxes = {"q_desc": 64, "k_desc": tile.block_n, "v_desc": tile.block_n}
    signature = {
        desc: f"tensordesc<{name}[{rows}, 1, {head_dim}],{_layout(dtype, rows, head_dim)!r}>"
        for desc, rows in boxes.items()
    }
    signature |= {"out_ptr": f"*{name}", "lse_ptr": "*fp32", "tiles_ptr": "*i32", "out_row": "i32", "queries": "i32"}
    signature |= {"heads": "i32", "scale": "fp32"} | dict.fromkeys(constexprs, "constexpr")
    return Variant(
        name=f"attention/gluon/{name}/d{head_dim}" + ("/pingpong" if tile.pingpong else ""),
        kernel=attention_kernel,
        signature=signature,
        constexprs=constexprs,
        divisible=frozenset({"out_ptr", "lse_ptr", "tiles_ptr", "out_row"}),
        num_warps=4,
        gluon=True,
        wgmma=True,
        tma=True,
        setmaxnreg=True,
    )
