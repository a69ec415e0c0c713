"""The adaptive LayerNorm of a diffusion transformer, in one pass with the residual sum before it."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch.compiler import is_compiling

from zoetrope.kernels.reference import residual_norm as reference
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import choose


@overload
def residual_norm(
    residual: torch.Tensor,
    update: torch.Tensor | None,
    gate: torch.Tensor | None,
    row: torch.Tensor,
    *,
    shift: torch.Tensor | None = ...,
    scale: torch.Tensor | None = ...,
    weight: torch.Tensor | None = ...,
    bias: torch.Tensor | None = ...,
    eps: float,
    quantise: Literal[False] = ...,
    backend: str | None = ...,
) -> tuple[torch.Tensor, torch.Tensor]: ...


@overload
def residual_norm(
    residual: torch.Tensor,
    update: torch.Tensor | None,
    gate: torch.Tensor | None,
    row: torch.Tensor,
    *,
    shift: torch.Tensor | None = ...,
    scale: torch.Tensor | None = ...,
    weight: torch.Tensor | None = ...,
    bias: torch.Tensor | None = ...,
    eps: float,
    quantise: Literal[True],
    backend: str | None = ...,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]: ...


def residual_norm(
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
    quantise: bool = False,
    backend: str | None = None,
) -> tuple[torch.Tensor, ...]:
    """Compute ``x = residual + update * gate[row]``, then ``LayerNorm(x) * (1 + scale[row]) + shift[row]``, all in
    float32.

    Args:
        residual, update: ``[N, D]``; without ``update``, x is ``residual``; without ``gate``, the plain sum.
        gate, shift, scale: ``[R, D]`` float32, one row for each distinct noise level in the batch.
        row: ``[N]`` int64, which row of the tables a token uses.
        weight, bias: ``[D]``, an affine norm instead of an adaptive one; with neither, the norm alone.
        quantise: also give the norm in 8 bits, for `kernels.ops.linear_fp8` and its kind.
        backend: the implementation to use (`kernels.select.backends`); by default the first trusted one.

    Returns:
        ``(x, normed)``, both ``[N, D]`` in the dtype of ``residual``. The norm is that of the rounded ``x``. With
        ``quantise``, ``(x, normed, q, scale)``: the norm is also about ``q * scale``, ``q`` ``[N, D]`` float8_e4m3fn
        and ``scale`` ``[N]`` float32, quantised from float32.

    Raises:
        ValueError: shapes do not fit each other, the norm is adaptive and affine at once, or the requested
            backend cannot take the tensors.
    """
    _check(residual, update, gate, row, shift, scale, weight, bias)
    tensors = (residual, update, gate, shift, scale, weight, bias)
    if not is_compiling() and choose("residual_norm", KernelCall.of(*tensors), backend) == "triton":
        from zoetrope.kernels.gpu.residual_norm import residual_norm as triton

        return triton(
            residual, update, gate, row, shift=shift, scale=scale, weight=weight, bias=bias, eps=eps, quantise=quantise
        )
    return reference.residual_norm(
        residual, update, gate, row, shift=shift, scale=scale, weight=weight, bias=bias, eps=eps, quantise=quantise
    )


def residual_gate(
    residual: torch.Tensor,
    update: torch.Tensor,
    gate: torch.Tensor | None,
    row: torch.Tensor,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """Compute the first half of `residual_norm` alone: ``residual + update * gate[row]``."""
    _check(residual, update, gate, row, None, None, None, None)
    if not is_compiling() and choose("residual_norm", KernelCall.of(residual, update, gate), backend) == "triton":
        from zoetrope.kernels.gpu.residual_norm import residual_gate as triton

        return triton(residual, update, gate, row)
    return reference.residual_gate(residual, update, gate, row)


def _check(
    residual: torch.Tensor,
    update: torch.Tensor | None,
    gate: torch.Tensor | None,
    row: torch.Tensor,
    shift: torch.Tensor | None,
    scale: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> None:
    if residual.ndim != 2 or row.shape != residual.shape[:1]:
        raise ValueError(f"residual is {tuple(residual.shape)}, row {tuple(row.shape)}: [N, D] and [N]")
    if update is not None and (update.shape != residual.shape or update.dtype != residual.dtype):
        raise ValueError(
            f"update is {tuple(update.shape)} {update.dtype}, it must be as residual, "
            f"{tuple(residual.shape)} {residual.dtype}"
        )
    if (shift is None) != (scale is None):
        raise ValueError("shift and scale: give both or neither")
    if shift is not None and (weight is not None or bias is not None):
        raise ValueError("weight and bias: a norm is adaptive (shift, scale) or affine, not both")
    width = residual.shape[1]
    tables = {"gate": gate, "shift": shift, "scale": scale}
    for name, table in tables.items():
        if table is not None and (table.ndim != 2 or table.shape[1] != width or table.dtype != torch.float32):
            raise ValueError(f"{name} is {tuple(table.shape)} {table.dtype}: it must be [R, {width}] float32")
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None and vector.shape != (width,):
            raise ValueError(f"{name} is {tuple(vector.shape)}, it must be {(width,)}")
