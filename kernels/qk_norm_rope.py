"""RMSNorm across all heads followed by rotary positions, as Wan applies them to queries and keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def qk_norm_rope(
    x: torch.Tensor,
    weight: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    heads: int,
    eps: float,
) -> torch.Tensor:
    """Normalise ``x`` over its whole width, then rotate neighbouring pairs inside each head.

    Args:
        x: ``[N, heads * head_dim]``. weight: ``[heads * head_dim]``.
        cos, sin: ``[N, head_dim / 2]`` float32, or None for no rotation (cross-attention).

    Returns:
        ``[N, heads, head_dim]`` in the dtype of ``x``.
    """
    y: torch.Tensor = F.rms_norm(x, (x.shape[-1],), weight, eps).unflatten(-1, (heads, -1))
    if cos is None or sin is None:
        return y
    even, odd = y.float().unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[:, None], sin[:, None]
    return torch.stack((even * c - odd * s, even * s + odd * c), dim=-1).flatten(-2).to(x.dtype)
