"""How the tokens and the experts of a step are shared: one process has all of them, the ranks of a gang each a part.

The network knows only this interface; what stands behind it in a gang is in `cluster.parallel`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from kernels import CuSeqlens, Permutation, varlen_attention

# (x [M or N, D], offsets [E_local + 1], rows [M] or None) -> [M, D]: a layer's own experts over rows sorted by expert
ApplyExperts = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


class Exchange(Protocol):
    """What a network needs from the other ranks in the middle of a forward pass."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu: CuSeqlens) -> torch.Tensor:
        """Self-attention among all tokens of the batch.

        Args:
            q, k, v: ``[n, heads, head_dim]``, this rank's tokens. cu: the lengths of their sequences.

        Returns:
            ``[n, heads, head_dim]`` of this rank's tokens.
        """
        ...

    def experts(self, x: torch.Tensor, rows: Permutation, apply: ApplyExperts) -> torch.Tensor:
        """Each (token, choice) pair through the expert that it goes to, wherever that is.

        Args:
            x: ``[n, D]``, this rank's tokens. rows: their pairs sorted by expert, all experts of the layer counted.
            apply: this rank's experts.

        Returns:
            ``[n * k, D]`` in the order of ``rows``.
        """
        ...


class Alone:
    """One process: nothing to exchange."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu: CuSeqlens) -> torch.Tensor:
        return varlen_attention(q, k, v, cu, cu)

    def experts(self, x: torch.Tensor, rows: Permutation, apply: ApplyExperts) -> torch.Tensor:
        return apply(x, rows.offsets, rows.token)


ALONE = Alone()
