"""Activations and weights to 8-bit floats (e4m3) with a scale for each row."""

from __future__ import annotations

import torch
from torch.compiler import is_compiling

from zoetrope.kernels.reference import quantise_fp8 as reference
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import choose
from zoetrope.kernels.types.fp8_rows import Fp8Rows


def quantise_rows(x: torch.Tensor, *, gelu: bool = False, backend: str | None = None) -> Fp8Rows:
    """Return ``(q, scale)`` with ``x`` about ``q * scale``, so that each row fills the range of e4m3.

    Args:
        x: ``[M, K]``, bf16, fp16 or fp32.
        gelu: whether GELU (tanh form, in float32) is applied first: the epilogue of a product cannot scale a row, of
            which its tile is a part, so this pass takes it over.
        backend: the implementation to use (`kernels.select.backends`); by default the first trusted one.

    Returns:
        ``q`` ``[M, K]`` float8_e4m3fn, rounded to nearest even from ``x * (1 / scale)``; ``scale`` ``[M]`` float32,
        ``max|x| / 448``, and 1 where all are zero.

    Raises:
        ValueError: the shape or dtype breaks a rule above, a gradient is wanted, or the requested backend cannot take
            the tensor.
    """
    call = KernelCall.of(x)
    refuse_gradients("quantise_rows", call)
    if not is_compiling() and choose("quantise_fp8", call, backend) == "triton":
        from zoetrope.kernels.gpu.quantise_fp8 import quantise_rows as triton

        return Fp8Rows(*triton(x, gelu=gelu))
    return Fp8Rows(*reference.quantise_rows(x, gelu=gelu))


def quantise_weight(weight: torch.Tensor) -> Fp8Rows:
    """Quantise weights by their outputs, once when they are loaded, with a float32 copy of one matrix at a time.

    Args:
        weight: ``[H, K]`` as nn.Linear stores it, or ``[E, K, N]``, a matrix for each expert; bf16, fp16 or fp32.

    Returns:
        ``q`` ``[H, K]`` and ``scale`` ``[H]``, or ``[E, N, K]``, as the products read them, and ``[E, N]``.

    Raises:
        ValueError: another shape or dtype.
    """
    made = reference.quantise_rows(weight) if weight.ndim == 2 else reference.quantise_weight(weight)
    return Fp8Rows(*made)


def refuse_gradients(name: str, call: KernelCall) -> None:
    """Raise ValueError for a call that needs a backward pass: products of 8 bits have none."""
    if call.grad:
        raise ValueError(f"{name}: an input requires a gradient: operations on 8-bit floats have no backward pass")
