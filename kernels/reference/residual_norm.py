"""Gated residual, LayerNorm and modulation in plain torch; `kernels.gpu.residual_norm` does the same in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from zoetrope.kernels.reference.quantise_fp8 import quantise_rows


def residual_norm(
    residual: torch.Tensor,
    update: torch.Tensor | None,
    gate: torch.Tensor | None,
    row: torch.Tensor | None,
    *,
    shift: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float,
    quantise: bool = False,
) -> tuple[torch.Tensor, ...]:
    """Compute ``sum = residual + update * gate[row]`` and its LayerNorm, modulated by ``row`` or affine.

    The statistics are those of the sum as it is stored, in float32.

    Args:
        residual, update: ``[N, D]``; no update leaves the residual as it is.
        gate, shift, scale: ``[R, D]`` float32, one row for each distinct noise level in the batch. Without a gate the
            update is added as it is; ``shift`` and ``scale`` come together: ``norm * (1 + scale[row]) + shift[row]``.
        row: ``[N]`` int32 or int64, which row of the tables a token uses; may be None where there is no table.
        weight, bias: ``[D]``, any float dtype: ``norm * weight + bias`` instead.
        eps: added to the variance. quantise: also give the norm in 8 bits, with a scale for each row.

    Returns:
        ``(sum, normed)``, both ``[N, D]`` in the dtype of ``residual``; the sum is ``residual`` itself where there is
        no update. With ``quantise``, ``(sum, normed, q, scale)``: ``q`` ``[N, D]`` float8_e4m3fn and ``scale`` ``[N]``
        float32 are `quantise_rows` of the norm before it is rounded to its dtype.
    """
    total = residual if update is None else residual_gate(residual, update, gate, row)
    width = (residual.shape[-1],)
    if shift is not None and scale is not None and row is not None:
        normed = F.layer_norm(total.float(), width, eps=eps)
        factor, shift = _by_row(1 + scale, row), _by_row(shift, row)
        normed = normed * factor + shift if torch.is_grad_enabled() else normed.mul_(factor).add_(shift)
    else:
        w, b = (None if t is None else t.float() for t in (weight, bias))
        normed = F.layer_norm(total.float(), width, w, b, eps)
    rounded = normed.to(residual.dtype)
    return (total, rounded, *quantise_rows(normed)) if quantise else (total, rounded)


def residual_gate(
    residual: torch.Tensor, update: torch.Tensor, gate: torch.Tensor | None, row: torch.Tensor | None
) -> torch.Tensor:
    """Compute ``residual + update * gate[row]``, or ``residual + update`` without a gate; shapes as in `residual_norm`.

    Returns:
        ``[N, D]`` in the dtype of ``residual``.
    """
    change = update.float()
    if gate is None or row is None:
        return (residual.float() + change).to(residual.dtype)
    change = change * _by_row(gate, row)
    total = residual.float() + change if torch.is_grad_enabled() else change.add_(residual)
    return total.to(residual.dtype)


def _by_row(table: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """Return the line of ``table`` [R, D] for each row, ``[N, D]``; the only one as it is, which saves the copies."""
    return table if table.shape[0] == 1 else table.index_select(0, row)
