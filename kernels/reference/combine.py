"""The weighted sum of a token's expert rows, in plain torch; `kernels.gpu.combine` does the same."""

from __future__ import annotations

import torch

from kernels.permutation import Permutation


def combine_experts(
    y: torch.Tensor,
    rows: Permutation,
    bias: torch.Tensor | None = None,
    shared: torch.Tensor | None = None,
) -> torch.Tensor:
    """``out[n] = sum_j y[position[n, j]] * gate[position[n, j]] + bias + shared[n]``, in float32 and in this order.

    Args:
        y: ``[M, D]``, rows sorted by expert. rows: where each token's rows are, and their weights.
        bias: ``[D]``, any float dtype. shared: ``[N, D]``, any float dtype, such as a shared expert's result.

    Returns:
        ``[N, D]`` in the dtype of ``y``; differentiable in ``y``, ``rows.gate``, ``bias`` and ``shared``.
    """
    tokens, choices = rows.position.shape
    out = torch.zeros(tokens, y.shape[1], dtype=torch.float32, device=y.device)
    for j in range(choices):
        row = rows.position[:, j]
        out = out + y.index_select(0, row).float() * rows.gate.index_select(0, row)[:, None]
    if bias is not None:
        out = out + bias.float()
    if shared is not None:
        out = out + shared.float()
    return out.to(y.dtype)
