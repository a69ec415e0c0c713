"""The one form of an adapter's changes, into which every file format is parsed.

Each patch is for one tensor of the network, by its name in diffusers' layout. The forms are those of LoRA (2106.09685),
LoHa (2108.06098), LoKr (2309.14859), and whole differences between two checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

Factor = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class LowRank:
    """A product of two thin matrices: ``scale * b @ a``, with ``a`` [r, in] and ``b`` [out, r]."""

    target: str
    a: torch.Tensor
    b: torch.Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def delta(self) -> torch.Tensor:
        """Return the change ``[out, in]`` float32."""
        return self.scale * (self.b.float() @ self.a.float())


@dataclass(frozen=True)
class Hadamard:
    """An elementwise product of two low-rank ones: ``scale * (w1a @ w1b) * (w2a @ w2b)``, LoHa."""

    target: str
    w1a: torch.Tensor
    w1b: torch.Tensor
    w2a: torch.Tensor
    w2b: torch.Tensor
    scale: float = 1.0

    def delta(self) -> torch.Tensor:
        """Return the change ``[out, in]`` float32."""
        return self.scale * (self.w1a.float() @ self.w1b.float()) * (self.w2a.float() @ self.w2b.float())


@dataclass(frozen=True)
class Kronecker:
    """A Kronecker product: ``scale * kron(w1, w2)``, LoKr; each factor whole, or as the two factors of a product."""

    target: str
    w1: Factor
    w2: Factor
    scale: float = 1.0

    def delta(self) -> torch.Tensor:
        """Return the change ``[out, in]`` float32."""
        return self.scale * torch.kron(_whole(self.w1), _whole(self.w2))


@dataclass(frozen=True)
class Difference:
    """A change to a whole tensor: weight, bias, norm or modulation, in the tensor's shape."""

    target: str
    value: torch.Tensor
    scale: float = 1.0

    def delta(self) -> torch.Tensor:
        """Return the change in the tensor's shape, float32."""
        return self.scale * self.value.float()


Patch = LowRank | Hadamard | Kronecker | Difference


def _whole(factor: Factor) -> torch.Tensor:
    return factor[0].float() @ factor[1].float() if isinstance(factor, tuple) else factor.float()
