"""Random inputs, and how far a result is from float64."""

from __future__ import annotations

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The interpreter gets bf16 products wrong; a GPU has no reason to.
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE.type == "cuda" else [])
# Largest relative error against float64; what a GPU's float32 products round to (tf32) is the kernels' choice to avoid.
LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
    """Normal numbers, the same on every device."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) * scale
    return x.to(DEVICE, dtype)


def relative_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    """``||result - expected|| / ||expected||`` in float64; NaN or another shape is infinitely far."""
    if result.shape != expected.shape:
        return float("inf")
    got, want = result.double().cpu(), expected.double().cpu()
    norm = float(want.norm())
    difference = float((got - want).norm())
    if difference != difference:
        return float("inf")
    return difference / norm if norm else difference
