"""The scores of a router for every expert."""

from __future__ import annotations

import torch
from torch.compiler import is_compiling

from zoetrope.kernels.reference import router_logits as reference
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import choose


def router_logits(x: torch.Tensor, weight: torch.Tensor, *, backend: str | None = None) -> torch.Tensor:
    """Compute ``x @ weight.T`` with products and sums in float32, whatever the dtype of ``x``.

    Args:
        x: ``[N, D]``. weight: ``[E, D]``.
        backend: the implementation to use (`kernels.select.backends`); by default the first trusted one.

    Returns:
        ``[N, E]`` float32.

    Raises:
        ValueError: shapes do not fit each other, or the requested backend cannot take them.
    """
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x is {tuple(x.shape)}, weight {tuple(weight.shape)}: [N, D] and [E, D]")
    if not is_compiling() and choose("router_logits", KernelCall.of(x, weight), backend) == "triton":
        from zoetrope.kernels.gpu.router_logits import router_logits as triton

        return triton(x, weight)
    return reference.router_logits(x, weight)
