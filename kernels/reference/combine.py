"""The weighted sum of a token's expert rows, in plain torch; `kernels.gpu.combine` does the same."""

from __future__ import annotations

import torch

from zoetrope.kernels.types.permutation import Permutation


def combine_experts(
    y: torch.Tensor,
    rows: Permutation,
    bias: torch.Tensor | None = None,
    shared: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute ``out[n] = sum_j y[position[n, j]] * gate[position[n, j]] + bias + shared[n]``, in float32 and in this
    order.

    Args:
        y: ``[M, D]``, rows sorted by expert. rows: where each token's rows are, and their weights; -1 for none.
        bias: ``[D]``, any float dtype. shared: ``[N, D]``, any float dtype, such as a shared expert's result.

    Returns:
        ``[N, D]`` in the dtype of ``y``; differentiable in ``y``, ``rows.gate``, ``bias`` and ``shared``.
    """
    tokens, choices = rows.position.shape
    out = torch.zeros(tokens, y.shape[1], dtype=torch.float32, device=y.device)
    complete = tokens * choices == y.shape[0]
    for j in range(choices if y.shape[0] else 0):
        row = rows.position[:, j]
        known = row if complete else row.clamp_min(0)
        more = y.index_select(0, known).float() * rows.gate.index_select(0, known)[:, None]
        out = out + (more if complete else more.where(row[:, None] >= 0, 0.0))
    if bias is not None:
        out = out + bias.float()
    if shared is not None:
        out = out + shared.float()
    return out.to(y.dtype)
