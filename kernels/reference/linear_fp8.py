"""A linear layer of 8-bit floats in plain torch: dequantised to float32, then multiplied. And what all forms check."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from zoetrope.kernels.reference.grouped_gemm_fp8 import RESULTS
from zoetrope.kernels.reference.quantise_fp8 import dequantise


def check_linear(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
    out_dtype: torch.dtype,
) -> None:
    """Raise ValueError for shapes and dtypes that no form of `linear_fp8` can take."""
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1] or not weight.numel():
        raise ValueError(
            f"x has shape {tuple(x.shape)}, weight {tuple(weight.shape)}: they must be [M, K] and [H, K], and H and K "
            "not 0"
        )
    for name, tensor in (("x", x), ("weight", weight)):
        if tensor.dtype != torch.float8_e4m3fn:
            raise ValueError(f"{name} is {tensor.dtype}: it must be float8_e4m3fn")
    for name, scale, rows in (("x_scale", x_scale, x.shape[0]), ("weight_scale", weight_scale, weight.shape[0])):
        if scale.shape != (rows,) or scale.dtype != torch.float32:
            raise ValueError(
                f"{name} has shape {tuple(scale.shape)} and is {scale.dtype}: it must be {(rows,)} float32"
            )
    if bias is not None and bias.shape != (weight.shape[0],):
        raise ValueError(f"bias has shape {tuple(bias.shape)}: it must be {(weight.shape[0],)}")
    if out_dtype not in RESULTS:
        raise ValueError(f"out_dtype is {out_dtype}: it must be bfloat16, float16 or float32")


def linear_fp8(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """Compute ``(x * x_scale) @ (weight * weight_scale).T + bias`` in float32, see `kernels.ops`."""
    y = F.linear(dequantise(x, x_scale), dequantise(weight, weight_scale), None if bias is None else bias.float())
    return y.to(out_dtype)
