"""A linear layer whose input and weight are 8-bit floats with a scale for each row."""

from __future__ import annotations

import torch
from torch.compiler import is_compiling

from zoetrope.kernels.ops.quantise_fp8 import refuse_gradients
from zoetrope.kernels.reference import linear_fp8 as reference
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import choose

# Sums within the tensor cores, as in `kernels.gpu.grouped_gemm_fp8` with scales of rows: what they drop is small beside
# the rounding to 8 bits, and promoting every 128 of K to float32 is slow (pytorch/pytorch issue 147971).
FAST_SUMS = True


def linear_fp8(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
    backend: str | None = None,
) -> torch.Tensor:
    """Compute ``(x * x_scale) @ (weight * weight_scale).T + bias``.

    Args:
        x: ``[M, K]`` float8_e4m3fn. x_scale: ``[M]`` float32.
        weight: ``[H, K]`` float8_e4m3fn, contiguous. weight_scale: ``[H]`` float32. bias: ``[H]`` or nothing.
        out_dtype: bf16, fp16 or fp32.
        backend: ``scaled_mm``, torch's product of 8-bit floats, for bf16 results on CUDA, K and H multiples of 16; or
            ``torch``, which dequantises and multiplies in float32.

    Returns:
        ``[M, H]`` in ``out_dtype``.

    Raises:
        ValueError: an argument breaks a rule above, a gradient is wanted, or the requested backend cannot take them.
    """
    reference.check_linear(x, x_scale, weight, weight_scale, bias, out_dtype)
    call = KernelCall.of(x, x_scale, weight, weight_scale, bias)
    refuse_gradients("linear_fp8", call)
    fits = out_dtype == torch.bfloat16 and x.shape[1] % 16 == 0 and weight.shape[0] % 16 == 0
    chosen = backend or ("torch" if is_compiling() or not fits else None)
    if choose("linear_fp8", call, chosen) == "torch":
        return reference.linear_fp8(x, x_scale, weight, weight_scale, bias, out_dtype=out_dtype)
    if not fits:
        raise ValueError(
            f"linear_fp8 by scaled_mm: out_dtype is {out_dtype}, K {x.shape[1]}, H {weight.shape[0]}: it needs "
            "bfloat16 and multiples of 16"
        )
    return _scaled_mm(x, x_scale, weight, weight_scale, bias)


def _scaled_mm(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    if not x.shape[0]:
        return x.new_empty((0, weight.shape[0]), dtype=torch.bfloat16)
    y: torch.Tensor = torch._scaled_mm(
        x,
        weight.mT,
        x_scale[:, None],
        weight_scale[None],
        bias=None if bias is None else bias.to(torch.bfloat16),
        out_dtype=torch.bfloat16,
        use_fast_accum=FAST_SUMS,
    )
    return y
