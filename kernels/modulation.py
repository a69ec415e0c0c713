"""The adaptive LayerNorm of a diffusion transformer, with a noise level of its own for every token."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def norm_modulate(
    x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, row: torch.Tensor, eps: float
) -> torch.Tensor:
    """``LayerNorm(x) * (1 + scale[row]) + shift[row]``, the norm without affine parameters and in float32.

    Args:
        x: ``[N, D]``. shift, scale: ``[R, D]`` float32, one row for each distinct noise level in the batch.
        row: ``[N]`` int64, which row of the tables a token uses.

    Returns:
        ``[N, D]`` in the dtype of ``x``.
    """
    normed = F.layer_norm(x.float(), (x.shape[-1],), eps=eps)
    return (normed * (1 + scale.index_select(0, row)) + shift.index_select(0, row)).to(x.dtype)


def residual_gate(residual: torch.Tensor, x: torch.Tensor, gate: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """``residual + x * gate[row]`` in float32, returned in the dtype of ``residual``; shapes as in `norm_modulate`."""
    return (residual.float() + x.float() * gate.index_select(0, row)).to(residual.dtype)
