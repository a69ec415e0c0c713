"""The scores of a router for every expert, in plain torch; `kernels.gpu.router_logits` does the same in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def router_logits(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Compute ``x @ weight.T`` in float32: ``x`` [N, D], ``weight`` [E, D] -> ``[N, E]``; differentiable."""
    return F.linear(x.float(), weight.float())
