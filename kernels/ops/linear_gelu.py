"""A linear layer with GELU (tanh) in the epilogue of its product."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.compiler import is_compiling

from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import choose
from zoetrope.kernels.select.shapes import product_class


def linear_gelu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, backend: str | None = None
) -> torch.Tensor:
    """Compute ``GELU(x @ weight.T + bias)``: by our kernel as the grouped GEMM of one expert.

    Args:
        x: ``[N, K]``. weight: ``[H, K]``, as nn.Linear stores it. bias: ``[H]``.
        backend: ``triton``, ``cublas`` (its own epilogue) or ``torch`` (a pass of its own).

    Returns:
        ``[N, H]`` in the dtype of ``x``.
    """
    match "torch" if is_compiling() else choose("linear_gelu", _call(x, weight, bias), backend):
        case "triton":
            from zoetrope.kernels.gpu.grouped_gemm import linear_gelu as triton

            return triton(x, weight, bias)
        case "cublas":
            fused: torch.Tensor = torch._addmm_activation(bias, x, weight.mT, use_gelu=True)
            return fused
        case _:
            hidden = F.linear(x, weight, bias)
            if torch.is_grad_enabled() or is_compiling():
                return F.gelu(hidden, approximate="tanh")
            made: torch.Tensor = torch.ops.aten.gelu_(hidden, approximate="tanh")  # in place: no one needs what it was
            return made


def _call(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> KernelCall:
    return KernelCall.of(x, weight, bias, shape=product_class(len(x), 1, weight.shape[1], weight.shape[0]))
