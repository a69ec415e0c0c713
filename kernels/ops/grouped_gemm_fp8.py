"""One product of 8-bit floats per expert over rows that are sorted by expert."""

from __future__ import annotations

import torch

from zoetrope.kernels.ops.linear_fp8 import FAST_SUMS
from zoetrope.kernels.ops.quantise_fp8 import refuse_gradients
from zoetrope.kernels.reference import grouped_gemm_fp8 as reference
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import choose
from zoetrope.kernels.select.no_compile import opaque
from zoetrope.kernels.select.shapes import product_class


@opaque
def grouped_gemm_fp8(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
    backend: str | None = None,
) -> torch.Tensor:
    """Compute ``y[r] = (x[r] * x_scale) @ (weight[e of r] * weight_scale).T + bias[e of r]``.

    Args:
        x: ``[M, K]`` float8_e4m3fn, rows sorted by expert. x_scale: ``[M]`` float32.
        weight: ``[E, N, K]`` float8_e4m3fn, contiguous. weight_scale: ``[E, N]`` float32.
        offsets: ``[E + 1]`` int32: expert ``e`` has the rows ``offsets[e]:offsets[e + 1]``; an expert may have none.
        bias: ``[E, N]`` contiguous, of ``out_dtype`` or float32, or nothing.
        out_dtype: bf16, fp16 or fp32.
        backend: ``triton``; ``scaled_grouped_mm``, torch's product, for bf16 results on Hopper; or ``torch``, which
            dequantises and multiplies in float32, and on a GPU waits for the offsets. By default the first trusted one.

    Returns:
        ``[M, N]`` in ``out_dtype``.

    Raises:
        ValueError: an argument breaks a rule above, a gradient is wanted, or the requested backend cannot take them.
    """
    m, n, k, _ = reference.check_operands(x, x_scale, weight, weight_scale, offsets, bias, out_dtype)
    shape = product_class(m, len(weight), k, n)
    call = KernelCall.of(x, x_scale, weight, weight_scale, bias, shape=shape)
    refuse_gradients("grouped_gemm_fp8", call)
    chosen = choose("grouped_gemm_fp8", call, backend)
    if chosen == "triton":
        from zoetrope.kernels.gpu.grouped_gemm_fp8 import grouped_gemm_fp8 as triton

        return triton(x, x_scale, weight, weight_scale, offsets, bias, out_dtype=out_dtype)
    if chosen == "scaled_grouped_mm" and out_dtype == torch.bfloat16 and n % 16 == 0 and k % 16 == 0:
        return _scaled_grouped_mm(x, x_scale, weight, weight_scale, offsets, bias, m, n)
    if chosen == backend == "scaled_grouped_mm":
        raise ValueError(
            f"grouped_gemm_fp8 by scaled_grouped_mm: out_dtype is {out_dtype}, K {k}, N {n}: it needs bfloat16 and "
            "multiples of 16"
        )
    return reference.grouped_gemm_fp8(x, x_scale, weight, weight_scale, offsets, bias, out_dtype=out_dtype)


def _scaled_grouped_mm(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None,
    m: int,
    n: int,
) -> torch.Tensor:
    """Multiply by torch's own kernel; the bias, which it does not take, follows. Nothing is copied to the host."""
    if not m:
        return x.new_empty((0, n), dtype=torch.bfloat16)
    y: torch.Tensor = torch._scaled_grouped_mm(
        x,
        weight.mT,
        x_scale,
        weight_scale,
        offs=offsets[1:],
        out_dtype=torch.bfloat16,
        use_fast_accum=FAST_SUMS,
    )
    if bias is not None:
        expert = torch.arange(len(bias), device=x.device).repeat_interleave(offsets.diff(), output_size=m)
        y = (y + bias.index_select(0, expert)).to(y.dtype)
    return y
