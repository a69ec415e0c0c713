"""What a norm hands to the layers after it: its result, and in a network of 8-bit floats its rows in these too."""

from __future__ import annotations

from typing import NamedTuple

import torch

from zoetrope.kernels import Fp8Rows, residual_norm


class Normed(NamedTuple):
    """A norm ``[N, D]`` with its rows in 8 bits."""

    exact: torch.Tensor
    rows: Fp8Rows


def norm_of_sum(
    residual: torch.Tensor,
    update: torch.Tensor | None,
    gate: torch.Tensor | None,
    row: torch.Tensor,
    *,
    shift: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float,
    quantise: bool,
) -> tuple[torch.Tensor, torch.Tensor | Normed]:
    """Return a residual sum and the norm after it, in one pass; arguments are those of `kernels.residual_norm`."""
    if not quantise:
        return residual_norm(residual, update, gate, row, shift=shift, scale=scale, weight=weight, bias=bias, eps=eps)
    total, exact, q, q_scale = residual_norm(
        residual, update, gate, row, shift=shift, scale=scale, weight=weight, bias=bias, eps=eps, quantise=True
    )
    return total, Normed(exact, Fp8Rows(q, q_scale))
