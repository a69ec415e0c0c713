"""The grouped products of 8-bit floats in plain torch: dequantised to float32, then multiplied."""

from __future__ import annotations

import torch

from zoetrope.kernels.reference.grouped_gemm import check_groups, check_offsets
from zoetrope.kernels.reference.quantise_fp8 import BLOCK, dequantise

RESULTS = (torch.bfloat16, torch.float16, torch.float32)


def check_operands(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None,
    out_dtype: torch.dtype,
) -> tuple[int, int, int, bool]:
    """Return ``(M, N, K, whether scales belong to blocks)``; raise ValueError for what no form can take."""
    if x.ndim != 2 or weight.ndim != 3 or x.shape[1] != weight.shape[2] or not weight.numel():
        raise ValueError(
            f"x has shape {tuple(x.shape)}, weight {tuple(weight.shape)}: they must be [M, K] and [E, N, K], "
            "and E, N and K not 0"
        )
    for name, tensor in (("x", x), ("weight", weight)):
        if tensor.dtype != torch.float8_e4m3fn:
            raise ValueError(f"{name} is {tensor.dtype}: it must be float8_e4m3fn")
    if out_dtype not in RESULTS:
        raise ValueError(f"out_dtype is {out_dtype}: it must be bfloat16, float16 or float32")
    m, k = x.shape
    experts, n, _ = weight.shape
    check_groups(experts, n, out_dtype, offsets, bias)
    blocks = x_scale.ndim == 2
    if blocks and (k % BLOCK or n % BLOCK):
        raise ValueError(f"weight has shape {tuple(weight.shape)}: scales of blocks need N and K multiples of {BLOCK}")
    wanted = (m, k // BLOCK) if blocks else (m,)
    wanted_weight = (experts, n // BLOCK, k // BLOCK) if blocks else (experts, n)
    for name, scale, shape in (("x_scale", x_scale, wanted), ("weight_scale", weight_scale, wanted_weight)):
        if scale.shape != shape or scale.dtype != torch.float32:
            raise ValueError(
                f"{name} has shape {tuple(scale.shape)} and is {scale.dtype}: it must be {shape} float32 "
                f"(scales of {'blocks' if blocks else 'rows'})"
            )
    check_offsets(offsets, m)
    return m, n, k, blocks


def grouped_gemm_fp8(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """Compute ``y[r] = (x[r] * x_scale) @ (weight[e of r] * weight_scale).T + bias[e of r]`` in float32.

    Args:
        x: ``[M, K]`` float8_e4m3fn, rows sorted by expert.
        x_scale: float32, ``[M]``, or ``[M, K / 128]`` for a scale of each 128 columns.
        weight: ``[E, N, K]`` float8_e4m3fn.
        weight_scale: float32, ``[E, N]``, or with scales of blocks ``[E, N / 128, K / 128]``.
        offsets: ``[E + 1]`` int32, expert ``e`` has the rows ``offsets[e]:offsets[e + 1]``, from 0 to ``M``.
        bias: ``[E, N]``, of ``out_dtype`` or float32, or nothing.
        out_dtype: bf16, fp16 or fp32.

    Returns:
        ``[M, N]`` in ``out_dtype``.

    Raises:
        ValueError: shapes or dtypes break a rule above, or offsets do not divide the rows.
    """
    m, n, _, _ = check_operands(x, x_scale, weight, weight_scale, offsets, bias, out_dtype)
    rows = dequantise(x, x_scale)
    y = torch.empty((m, n), dtype=torch.float32, device=x.device)
    ends = offsets.tolist()
    for expert in range(weight.shape[0]):
        begin, end = ends[expert], ends[expert + 1]
        if begin == end:
            continue
        part = rows[begin:end] @ dequantise(weight[expert], weight_scale[expert]).T
        if bias is not None:
            part = part + bias[expert].float()
        y[begin:end] = part
    return y.to(out_dtype)
