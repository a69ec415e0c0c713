"""What the experts of a token made, added up."""

from __future__ import annotations

import torch
from torch.compiler import is_compiling

from kernels.backends import Call, choose
from kernels.permutation import Permutation
from kernels.reference import combine as reference


def combine_experts(
    y: torch.Tensor,
    rows: Permutation,
    bias: torch.Tensor | None = None,
    shared: torch.Tensor | None = None,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """The weighted sum of each token's rows, in float32 and in the order of its choices, so always the same bits.

    Args:
        y: ``[M, D]`` sorted by expert. rows: how they were sorted; only positions and weights are looked at. A position
            of -1 adds nothing, so that tokens may have fewer rows than others.
        bias: ``[D]``, added once. shared: ``[N, D]``, what the shared expert made.
        backend: the implementation to take (`kernels.backends`); by itself the first one that is trusted.

    Returns:
        ``[N, D]`` in the dtype of ``y``.

    Raises:
        ValueError: shapes do not fit each other, or the backend asked for cannot take them.
    """
    if y.ndim != 2 or y.shape[0] != rows.gate.shape[0]:
        raise ValueError(f"y is {tuple(y.shape)} for {rows.gate.shape[0]} sorted rows")
    tokens, width = rows.position.shape[0], y.shape[1]
    if bias is not None and bias.shape != (width,):
        raise ValueError(f"bias is {tuple(bias.shape)}, it must be {(width,)}")
    if shared is not None and shared.shape != (tokens, width):
        raise ValueError(f"shared is {tuple(shared.shape)}, it must be {(tokens, width)}")
    if not is_compiling() and choose("combine", Call.of(y, rows.gate, bias, shared), backend) == "triton":
        from kernels.gpu.combine import combine_experts as triton

        return triton(y, rows, bias, shared)
    return reference.combine_experts(y, rows, bias, shared)
