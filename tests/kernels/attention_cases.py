"""Attention in float64, computed here and not by the code under test."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tests.kernels.numbers import randn


def qkv(
    lengths: Sequence[tuple[int, int]], heads: int, dim: int, dtype: torch.dtype, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random packed queries, keys and values for pairs of lengths."""
    nq, nk = sum(lq for lq, _ in lengths), sum(lk for _, lk in lengths)
    return (
        randn(nq, heads, dim, seed=seed, dtype=dtype, scale=2.0),
        randn(nk, heads, dim, seed=seed + 1, dtype=dtype),
        randn(nk, heads, dim, seed=seed + 2, dtype=dtype),
    )


def expected(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: Sequence[tuple[int, int]],
    masks: Sequence[torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``[Nq, heads, dim]`` and ``[heads, Nq]`` in float64; masks are ``[heads, ceil(Lq / 128), ceil(Lk / 64)]``."""
    q, k, v = (x.double().cpu() for x in (q, k, v))
    out = torch.zeros_like(q)
    lse = torch.full((q.shape[1], q.shape[0]), -torch.inf, dtype=torch.float64)
    at_q = at_k = 0
    for i, (lq, lk) in enumerate(lengths):
        for head in range(q.shape[1]):
            scores = q[at_q : at_q + lq, head] @ k[at_k : at_k + lk, head].T / q.shape[2] ** 0.5
            if masks is not None:
                rows, columns = torch.arange(lq) // 128, torch.arange(lk) // 64
                scores[~masks[i].cpu()[head][rows][:, columns]] = -torch.inf
            if lk:
                # rows without keys: NaN to zero
                out[at_q : at_q + lq, head] = scores.softmax(-1).nan_to_num() @ v[at_k : at_k + lk, head]
                lse[head, at_q : at_q + lq] = scores.logsumexp(-1)
        at_q, at_k = at_q + lq, at_k + lk
    return out, lse
