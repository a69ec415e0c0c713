"""The scores of a router for every expert, in plain torch; `kernels.gpu.router_logits` does the same in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.compiler import is_compiling


def router_logits(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Compute ``x @ weight.T`` in float32: ``x`` [N, D], ``weight`` [E, D] -> ``[N, E]``; differentiable.

    Where the process lets float32 products have fewer digits (``torch.set_float32_matmul_precision``, or
    TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which some images set), it multiplies in float64: experts are chosen by the
    result. Compiled, it cannot ask.
    """
    exact = is_compiling() or torch.get_float32_matmul_precision() == "highest"
    wide = torch.float32 if exact else torch.float64
    return F.linear(x.to(wide), weight.to(wide)).float()
