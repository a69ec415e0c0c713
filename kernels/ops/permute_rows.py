"""Copy tokens' rows into the order of their experts."""

from __future__ import annotations

from typing import overload

import torch
from torch.compiler import is_compiling

from zoetrope.kernels.reference import permute_rows as reference
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import choose
from zoetrope.kernels.types.permutation import Permutation


@overload
def permute_rows(
    x: torch.Tensor, rows: Permutation, scale: None = None, *, backend: str | None = None
) -> torch.Tensor: ...


@overload
def permute_rows(
    x: torch.Tensor, rows: Permutation, scale: torch.Tensor, *, backend: str | None = None
) -> tuple[torch.Tensor, torch.Tensor]: ...


def permute_rows(
    x: torch.Tensor, rows: Permutation, scale: torch.Tensor | None = None, *, backend: str | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of all (token, choice) pairs sorted by expert, as the grouped products read them.

    Args:
        x: ``[N, D]``, one row a token: float32, float16, bfloat16 or float8_e4m3fn.
        rows: how they are sorted; only ``token`` ``[M]`` and ``position`` ``[N, k]`` are read. A position of -1 is
            none, so tokens may have different numbers of rows.
        scale: ``[N]`` float32, the scales of 8-bit rows, or nothing.
        backend: the implementation to use (`kernels.select.backends`); by default the first trusted one.

    Returns:
        ``[M, D]``, copied bit by bit; with ``scale`` also ``[M]``, the scale of each.

    Raises:
        ValueError: shapes do not fit each other, or the requested backend cannot take them.
    """
    if x.ndim != 2 or rows.position.ndim != 2 or rows.position.shape[0] != x.shape[0]:
        raise ValueError(f"x is {tuple(x.shape)}, rows.position {tuple(rows.position.shape)}: [N, D] and [N, k]")
    if rows.token.ndim != 1 or rows.token.shape[0] > rows.position.numel():
        raise ValueError(
            f"rows.token is {tuple(rows.token.shape)}: [M], at most one of each of {rows.position.numel()}"
        )
    if scale is not None and scale.shape != x.shape[:1]:
        raise ValueError(f"scale is {tuple(scale.shape)}, it must be {tuple(x.shape[:1])}")
    if not is_compiling() and choose("permute_rows", KernelCall.of(x, scale), backend) == "triton":
        from zoetrope.kernels.gpu.permute_rows import permute_rows as triton

        return triton(x, rows, scale)
    return reference.permute_rows(x, rows, scale)
