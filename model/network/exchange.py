"""How tokens and experts of a step are shared: one process has all of them, each rank of a gang a part.

The network knows only this interface; a gang's implementation is in `cluster.parallel`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from zoetrope.kernels import CuSeqlens, Fp8Rows, Permutation, combine_experts, permute_rows, varlen_attention

# (x [M, D], offsets [E_local + 1]) -> [M, D]: a layer's own experts over rows sorted by expert; of a layer in 8 bits, x
# is `Fp8Rows`
ApplyExperts = Callable[[Any, torch.Tensor], torch.Tensor]

# (x [n, D]) -> the (token, choice) pairs of these tokens sorted by expert, all experts of the layer counted
Route = Callable[[torch.Tensor], Permutation]

# Computed while tokens travel to other ranks, such as a shared expert's result: [n, D]
Meanwhile = Callable[[], torch.Tensor]


class Exchange(Protocol):
    """What a network needs of the other ranks during a forward pass."""

    def share(self, x: torch.Tensor) -> Any:
        """Prepare queries, keys or values ``[n, heads, head_dim]`` of this rank's tokens for `attend`. Their transfer
        to other ranks may start now, while the next ones are computed."""
        ...

    def attend(self, q: Any, k: Any, v: Any, cu: CuSeqlens) -> torch.Tensor:
        """Compute self-attention among all tokens of the batch.

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
        quantised: Fp8Rows | None = None,
    ) -> torch.Tensor:
        """Run each token through its experts, whichever ranks hold them.

        Args:
            x: ``[n, D]``, this rank's tokens. route: chooses experts for some of them. apply: this rank's experts.
            bias: ``[D]``, added once. meanwhile: run once; its result is added too.
            quantised: ``x`` in 8 bits, which the experts get in its place.

        Returns:
            ``[n, D]`` in the dtype of ``x``: the weighted sums, in float32.
        """
        ...


class Alone:
    """The exchange of a single process."""

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
        quantised: Fp8Rows | None = None,
    ) -> torch.Tensor:
        rows = route(x)
        made = apply(permuted(x if quantised is None else quantised, rows), rows.offsets)
        return combine_experts(made, rows, bias, None if meanwhile is None else meanwhile())


def permuted(x: torch.Tensor | Fp8Rows, rows: Permutation) -> torch.Tensor | Fp8Rows:
    """Return the rows of all (token, choice) pairs sorted by expert, of whichever kind ``x`` is."""
    return Fp8Rows(*permute_rows(x.q, rows, x.scale)) if isinstance(x, Fp8Rows) else permute_rows(x, rows)


ALONE = Alone()
