"""One matrix product per expert over rows that are sorted by expert."""

from __future__ import annotations

import torch

from zoetrope.kernels.reference import grouped_gemm as reference
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import choose
from zoetrope.kernels.select.no_compile import opaque
from zoetrope.kernels.select.shapes import product_class


@opaque
def grouped_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    backend: str | None = None,
) -> torch.Tensor:
    """Compute ``y[rows of e] = x[rows of e] @ weight[e] + bias[e]``, optionally followed by GELU (tanh form).

    Args:
        x: ``[M, K]``, rows sorted by expert.
        weight: ``[E, K, N]``, the dtype of ``x``; contiguous, or a transposed view of contiguous ``[E, N, K]``.
        offsets: ``[E + 1]`` int32: expert ``e`` has the rows ``offsets[e]:offsets[e + 1]``; an expert may have none.
        bias: ``[E, N]`` or nothing.
        backend: the implementation to use (`kernels.select.backends`); by default the first trusted one.

    Returns:
        ``[M, N]`` in the dtype of ``x``; sums in float32.

    Raises:
        ValueError: shapes do not fit each other, or the requested backend cannot take them.
    """
    if weight.ndim != 3 or offsets.shape != (weight.shape[0] + 1,):
        raise ValueError(f"weight is {tuple(weight.shape)}, offsets {tuple(offsets.shape)}: [E, K, N] and [E + 1]")
    if x.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x is {tuple(x.shape)}, weight {tuple(weight.shape)}: x must be [M, {weight.shape[1]}]")
    if bias is not None and bias.shape != (weight.shape[0], weight.shape[2]):
        raise ValueError(f"bias is {tuple(bias.shape)}, it must be {(weight.shape[0], weight.shape[2])}")
    shape = product_class(len(x), *weight.shape)
    if choose("grouped_gemm", KernelCall.of(x, weight, bias, shape=shape), backend) == "triton":
        from zoetrope.kernels.gpu.grouped_gemm import grouped_gemm as triton

        return triton(x, weight, offsets, bias, gelu=gelu)
    return reference.grouped_gemm(x, weight, offsets, bias, gelu=gelu)
