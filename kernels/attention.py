"""Attention over packed sequences of different lengths (self- and cross-attention, non-causal)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels.compiler import opaque
from kernels.varlen import CuSeqlens, equal_runs


@opaque
def varlen_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: CuSeqlens, cu_k: CuSeqlens
) -> torch.Tensor:
    """Softmax attention in which sequence ``i`` of the queries sees only sequence ``i`` of the keys.

    Args:
        q: ``[Nq, heads, head_dim]``. k, v: ``[Nk, heads, head_dim]``, the same dtype.
        cu_q, cu_k: lengths that add up to ``Nq`` and ``Nk``, as many sequences in both.

    Returns:
        ``[Nq, heads, head_dim]`` in the dtype of ``q``. Scores are scaled by ``head_dim ** -0.5``.

    Raises:
        ValueError: the lengths do not describe the tensors.
    """
    if len(cu_q.lengths) != len(cu_k.lengths):
        raise ValueError(f"cu_q has {len(cu_q.lengths)} sequences, cu_k has {len(cu_k.lengths)}")
    if q.shape[0] != cu_q.total or k.shape[0] != cu_k.total:
        raise ValueError(f"q has {q.shape[0]} rows for {cu_q.total}, k has {k.shape[0]} rows for {cu_k.total}")
    parts: list[torch.Tensor] = []
    for first, count in equal_runs(cu_q, cu_k):
        rows_q = slice(cu_q.offsets[first], cu_q.offsets[first + count])
        rows_k = slice(cu_k.offsets[first], cu_k.offsets[first + count])
        qs, ks, vs = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in (q[rows_q], k[rows_k], v[rows_k]))
        out = _attend(qs, ks, vs)
        parts.append(out.transpose(1, 2).flatten(0, 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """``[B, heads, L, head_dim]``; spelled out where the CPU has to go backwards, which torch's own does slowly."""
    if q.device.type == "cpu" and torch.is_grad_enabled() and q.requires_grad:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        out: torch.Tensor = scores.softmax(-1) @ v
        return out
    return F.scaled_dot_product_attention(q, k, v)
