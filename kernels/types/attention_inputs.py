"""Check what every implementation of attention requires of its inputs."""

from __future__ import annotations

import torch

from zoetrope.kernels.types.block_mask import BLOCK_K, BLOCK_Q, BlockMask
from zoetrope.kernels.types.varlen import CuSeqlens


def check_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: CuSeqlens, cu_k: CuSeqlens, mask: BlockMask | None = None
) -> None:
    """Raise ValueError if tensors, lengths and mask do not fit each other."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.ndim != 3:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: it must be [tokens, heads, head_dim]")
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, q is {q.dtype}: they must be the same")
        if tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device}, q on {q.device}: all tensors must be on one device")
    if k.shape != v.shape:
        raise ValueError(f"v has shape {tuple(v.shape)}, k has {tuple(k.shape)}: they must be the same")
    if q.shape[1:] != k.shape[1:]:
        raise ValueError(f"k has heads {tuple(k.shape[1:])}, q has {tuple(q.shape[1:])}: they must be the same")
    if len(cu_q.lengths) != len(cu_k.lengths):
        raise ValueError(f"cu_q has {len(cu_q.lengths)} sequences, cu_k has {len(cu_k.lengths)}")
    for name, cu in (("cu_q", cu_q), ("cu_k", cu_k)):
        if any(length < 0 for length in cu.lengths):
            raise ValueError(f"{name} has lengths {cu.lengths}: none can be negative")
    if q.shape[0] != cu_q.total or k.shape[0] != cu_k.total:
        raise ValueError(f"q has {q.shape[0]} rows for {cu_q.total}, k has {k.shape[0]} rows for {cu_k.total}")
    if mask is not None:
        _check_mask(mask, q, cu_q, cu_k)


def _check_mask(mask: BlockMask, q: torch.Tensor, cu_q: CuSeqlens, cu_k: CuSeqlens) -> None:
    tiles = tuple((-(-lq // BLOCK_Q), -(-lk // BLOCK_K)) for lq, lk in zip(cu_q.lengths, cu_k.lengths, strict=True))
    if mask.tiles != tiles:
        raise ValueError(f"mask is for tiles {mask.tiles} of queries and keys, the sequences have {tiles}")
    if mask.heads != q.shape[1]:
        raise ValueError(f"mask has {mask.heads} heads, q has {q.shape[1]}")
    if mask.count.device != q.device or mask.index.device != q.device:
        raise ValueError(f"mask is on {mask.count.device}, q on {q.device}: all tensors must be on one device")
