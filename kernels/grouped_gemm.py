"""One matrix product per expert over rows that are sorted by expert."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels.compiler import opaque


@opaque
def grouped_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
) -> torch.Tensor:
    """``y[rows of e] = x[rows of e] @ weight[e] + bias[e]``, optionally followed by GELU (tanh form).

    Args:
        x: ``[M, K]``, rows sorted by expert.
        weight: ``[E, K, N]``, the dtype of ``x``.
        counts: ``[E]`` int, rows of each expert; zero is allowed, the sum is ``M``.
        bias: ``[E, N]`` or nothing.

    Returns:
        ``[M, N]`` in the dtype of ``x``.
    """
    if weight.shape[0] != counts.shape[0]:
        raise ValueError(f"weight has {weight.shape[0]} experts, counts has {counts.shape[0]}")
    rows = x.split(counts.tolist())
    if bias is None:
        y = torch.cat([r @ w for r, w in zip(rows, weight.unbind(0), strict=True)])
    else:
        y = torch.cat([torch.addmm(b, r, w) for r, w, b in zip(rows, weight.unbind(0), bias.unbind(0), strict=True)])
    return F.gelu(y, approximate="tanh") if gelu else y
