"""Add up the results of a token's experts."""

from __future__ import annotations

import torch
from torch.compiler import is_compiling

from zoetrope.kernels.reference import combine as reference
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import choose
from zoetrope.kernels.types.permutation import Permutation


def combine_experts(
    y: torch.Tensor,
    rows: Permutation,
    bias: torch.Tensor | None = None,
    shared: torch.Tensor | None = None,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """Return the weighted sum of each token's rows, in float32 and in the order of its choices: deterministic.

    Args:
        y: ``[M, D]`` sorted by expert. rows: how they were sorted; only positions and weights are read. A position of
            -1 adds nothing, so tokens may have different numbers of rows.
        bias: ``[D]``, added once. shared: ``[N, D]``, the shared expert's result.
        backend: the implementation to use (`kernels.select.backends`); by default the first trusted one.

    Returns:
        ``[N, D]`` in the dtype of ``y``.

    Raises:
        ValueError: shapes do not fit each other, or the requested backend cannot take them.
    """
    if y.ndim != 2 or y.shape[0] != rows.gate.shape[0]:
        raise ValueError(f"y is {tuple(y.shape)} for {rows.gate.shape[0]} sorted rows")
    tokens, width = rows.position.shape[0], y.shape[1]
    if bias is not None and bias.shape != (width,):
        raise ValueError(f"bias is {tuple(bias.shape)}, it must be {(width,)}")
    if shared is not None and shared.shape != (tokens, width):
        raise ValueError(f"shared is {tuple(shared.shape)}, it must be {(tokens, width)}")
    if not is_compiling() and choose("combine", KernelCall.of(y, rows.gate, bias, shared), backend) == "triton":
        from zoetrope.kernels.gpu.combine import combine_experts as triton

        return triton(y, rows, bias, shared)
    return reference.combine_experts(y, rows, bias, shared)
