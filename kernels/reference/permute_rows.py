"""Rows by token to rows by expert, in plain torch; `kernels.gpu.permute_rows` does the same."""

from __future__ import annotations

import torch

from zoetrope.kernels.types.permutation import Permutation


def permute_rows(
    x: torch.Tensor, rows: Permutation, scale: torch.Tensor | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute ``out[r] = x[token[r]]``.

    Args:
        x: ``[N, D]``, any dtype. rows: which token each sorted row comes from. scale: ``[N]``, one number a row, or
            nothing.

    Returns:
        ``[M, D]`` in the dtype of ``x``, differentiable in it; with ``scale`` also ``[M]``.
    """
    if x.element_size() == 1:  # torch selects no 8-bit floats
        out = x.view(torch.uint8).index_select(0, rows.token).view(x.dtype)
    else:
        out = x.index_select(0, rows.token)
    return out if scale is None else (out, scale.index_select(0, rows.token))
