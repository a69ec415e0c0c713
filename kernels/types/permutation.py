"""The order of rows sorted by expert."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Permutation:
    """The ``M = N * k`` (token, choice) pairs sorted by expert, those of an expert in the order of their tokens.

    Attributes:
        token: ``[M]`` int32, the token that a sorted row comes from.
        gate: ``[M]`` float32, its weight.
        counts: ``[E]`` int32, rows of each expert.
        offsets: ``[E + 1]`` int32: expert ``e`` has the rows ``offsets[e]:offsets[e + 1]``.
        position: ``[N, k]`` int32, the sorted row of a token's choice: ``token[position[n, j]] == n``.
    """

    token: torch.Tensor
    gate: torch.Tensor
    counts: torch.Tensor
    offsets: torch.Tensor
    position: torch.Tensor
