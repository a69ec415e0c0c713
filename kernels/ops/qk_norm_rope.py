"""RMSNorm across all heads followed by rotary positions, as Wan applies them to queries and keys."""

from __future__ import annotations

import torch
from torch.compiler import is_compiling

from zoetrope.kernels.reference import qk_norm_rope as reference
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import choose


def qk_norm_rope(
    x: torch.Tensor,
    weight: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    heads: int,
    eps: float,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """Normalise ``x`` over its whole width, then rotate neighbouring pairs inside each head.

    Args:
        x: ``[N, heads * head_dim]``. weight: ``[heads * head_dim]``.
        cos, sin: ``[N, head_dim / 2]`` float32, or None for no rotation (cross-attention).
        backend: the implementation to use (`kernels.select.backends`); by default the first trusted one.

    Returns:
        ``[N, heads, head_dim]`` in the dtype of ``x``.

    Raises:
        ValueError: shapes do not fit each other, or the requested backend cannot take them.
    """
    if x.ndim != 2 or x.shape[1] % heads or weight.shape != x.shape[1:]:
        raise ValueError(f"x is {tuple(x.shape)}, weight {tuple(weight.shape)} for {heads} heads")
    if (cos is None) != (sin is None):
        raise ValueError("cos and sin: give both or neither")
    for name, table in (("cos", cos), ("sin", sin)):
        wanted = (x.shape[0], x.shape[1] // heads // 2)
        if table is not None and (table.shape != wanted or table.dtype != torch.float32):
            raise ValueError(f"{name} is {tuple(table.shape)} {table.dtype}, it must be {wanted} float32")
    if not is_compiling() and choose("qk_norm_rope", KernelCall.of(x, weight), backend) == "triton":
        from zoetrope.kernels.gpu.qk_norm_rope import qk_norm_rope as triton

        result = triton(x, weight, cos, sin, heads, eps)
    else:
        result = reference.qk_norm_rope(x, weight, cos, sin, heads, eps)
    assert isinstance(result, torch.Tensor)
    return result
