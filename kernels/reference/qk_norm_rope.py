"""RMSNorm across all heads and rotary positions in plain torch, which `kernels.gpu.qk_norm_rope` does in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.compiler import is_compiling

INT8_MAX = 127.0
TINY = 1e-30  # a head of nothing larger counts as zeros, so that no scale has an infinite inverse


def qk_norm_rope(
    x: torch.Tensor,
    weight: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    heads: int,
    eps: float,
    *,
    int8: bool = False,
    smooth: torch.Tensor | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Normalise ``x`` over its whole width, then rotate neighbouring pairs inside each head, as Wan does.

    The normed value is rounded to the dtype of ``x`` before the rotation, as diffusers rounds it.

    Args:
        x: ``[N, heads * d]``. weight: ``[heads * d]``.
        cos, sin: ``[N, d / 2]`` float32, or None for no rotation (cross-attention).
        int8: quantise, with one scale for each row and head (SageAttention, 2410.02367).
        smooth: ``[heads, d]`` float32, subtracted after the rotation and before quantisation (the mean of the keys).

    Returns:
        ``[N, heads, d]`` in the dtype of ``x``; with ``int8``, int8 ``[N, heads, d]`` and scale ``[N, heads]`` float32:
        the value is their product, the scale ``max|.| / 127`` (1 where all are 0).

    Raises:
        ValueError: ``smooth`` without ``int8``.
    """
    if smooth is not None and not int8:
        raise ValueError("smooth is given with int8=False: only quantised keys are smoothed")
    y: torch.Tensor = F.rms_norm(x, (x.shape[-1],), weight, eps).unflatten(-1, (heads, -1))
    if cos is not None and sin is not None:
        y = _rotated(y.float().contiguous(), cos, sin)
    if not int8:
        return y.to(x.dtype)
    y = y.float()
    if smooth is not None:
        y = y - smooth
    largest = y.abs().amax(dim=-1)
    scale = torch.where(largest < TINY, 1.0, largest / INT8_MAX)
    return (y / scale[..., None]).round().to(torch.int8), scale


def _rotated(y: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs of ``y`` [N, heads, d] float32, which nothing else needs: in place, as complex numbers, where no
    gradient is recorded."""
    pairs = y.unflatten(-1, (-1, 2))
    if torch.is_grad_enabled() or is_compiling():
        even, odd = pairs.unbind(-1)
        c, s = cos[:, None], sin[:, None]
        return torch.stack((even * c - odd * s, even * s + odd * c), dim=-1).flatten(-2)
    torch.view_as_complex(pairs).mul_(torch.complex(cos, sin)[:, None])
    return y
