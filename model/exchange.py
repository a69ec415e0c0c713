"""How the tokens and the experts of a step are shared: one process has all of them, the ranks of a gang each a part.

The network knows only this interface; what stands behind it in a gang is in `cluster.parallel`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from kernels import CuSeqlens, Permutation, combine_experts, varlen_attention

# (x [M or N, D], offsets [E_local + 1], rows [M] or None) -> [M, D]: a layer's own experts over rows sorted by expert
ApplyExperts = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]

# (x [n, D]) -> the (token, choice) pairs of these tokens sorted by expert, all experts of the layer counted
Route = Callable[[torch.Tensor], Permutation]

# What can be made while tokens are on their way to other ranks, such as a shared expert's result: [n, D]
Meanwhile = Callable[[], torch.Tensor]


class Exchange(Protocol):
    """What a network needs from the other ranks in the middle of a forward pass."""

    def share(self, x: torch.Tensor) -> Any:
        """Queries, keys or values of this rank's tokens ``[n, heads, head_dim]``, as `attend` takes them. They may be
        on their way to other ranks from now on, while the next ones are made."""
        ...

    def attend(self, q: Any, k: Any, v: Any, cu: CuSeqlens) -> torch.Tensor:
        """Self-attention among all tokens of the batch.

        Args:
            q, k, v: each from `share`, in this order. cu: the lengths of the sequences of this rank's tokens.

        Returns:
            ``[n, heads, head_dim]`` of this rank's tokens.
        """
        ...

    def experts(
        self,
        x: torch.Tensor,
        route: Route,
        apply: ApplyExperts,
        bias: torch.Tensor | None = None,
        meanwhile: Meanwhile | None = None,
    ) -> torch.Tensor:
        """Each token through the experts that it goes to, wherever they are.

        Args:
            x: ``[n, D]``, this rank's tokens. route: which experts some of them go to. apply: this rank's experts.
            bias: ``[D]``, added once. meanwhile: run once; what it makes is added too.

        Returns:
            ``[n, D]`` in the dtype of ``x``: the weighted sums, in float32.
        """
        ...


class Alone:
    """One process: nothing to exchange."""

    def share(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu: CuSeqlens) -> torch.Tensor:
        return varlen_attention(q, k, v, cu, cu)

    def experts(
        self,
        x: torch.Tensor,
        route: Route,
        apply: ApplyExperts,
        bias: torch.Tensor | None = None,
        meanwhile: Meanwhile | None = None,
    ) -> torch.Tensor:
        rows = route(x)
        made = apply(x, rows.offsets, rows.token)
        return combine_experts(made, rows, bias, None if meanwhile is None else meanwhile())


ALONE = Alone()
