"""The bookkeeping of expert parallelism: which token goes to which rank, and to which expert there.

A token is sent once to each rank that has any of its experts. Each rank gets tokens in ascending order, and with them
the *pairs*: which expert takes which of these tokens with which weight. Pairs are sorted by expert, so counts tell
their experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zoetrope.kernels.reference import dispatch as reference
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import choose
from zoetrope.kernels.select.no_compile import opaque
from zoetrope.kernels.select.shapes import rows_class
from zoetrope.kernels.types.permutation import Permutation

PAIR_BYTES = 12  # row, ordinal and weight
TOTALS = 3  # columns behind the counts by expert


@dataclass(frozen=True)
class Departures:
    """What a rank's ``n`` tokens, with ``k`` choices each, send to each of ``ranks``.

    Attributes:
        counts: ``[ranks, E / ranks + 3]`` int32: pairs for each expert of a rank, then its pairs, its rows, and how
            many of a rank's experts a token has chosen at most (the same for all ranks).
        pairs: ``[n * k, 3]`` int32, by rank and expert: the token's row among those of its rank, the index of the
            choice among the token's choices on that rank, and the bits of its weight.
        tokens: ``[n * min(k, ranks)]`` int32: the token of each row, by rank; entries past the number of rows are
            undefined.
        home: ``[n, min(k, ranks)]`` int32: the rows of a token, by rank; -1 behind the last one.
    """

    counts: torch.Tensor
    pairs: torch.Tensor
    tokens: torch.Tensor
    home: torch.Tensor


@dataclass(frozen=True)
class Arrivals:
    """What all ranks have sent for the ``E / ranks`` experts of one: ``M`` pairs for some rows.

    Attributes:
        offsets: ``[E / ranks + 1]`` int32 of the pairs by expert. rows: ``[M]`` int32, the row of each pair.
        gate: ``[M]`` float32, its weight.
        position: ``[rows, most]`` int32: the pairs of a row; -1 where it has fewer than ``most``.
    """

    offsets: torch.Tensor
    rows: torch.Tensor
    gate: torch.Tensor
    position: torch.Tensor


@opaque
def dispatch_tokens(rows: Permutation, ranks: int, *, backend: str | None = None) -> Departures:
    """Assign tokens to ranks; rank ``r`` has the experts ``r * E / ranks .. (r + 1) * E / ranks - 1``.

    Args:
        rows: the experts that each token has chosen.
        backend: the implementation to take (`kernels.select.backends`); by itself the first one that is trusted.

    Raises:
        ValueError: ``ranks`` do not divide the experts, or the requested backend cannot take the tensors.
    """
    experts = rows.counts.shape[0]
    if ranks < 1 or experts % ranks:
        raise ValueError(f"{experts} experts cannot be split evenly over {ranks} ranks")
    if choose("dispatch", KernelCall.of(rows.gate), backend) == "triton":
        from zoetrope.kernels.gpu.dispatch import dispatch_tokens as triton

        return Departures(*triton(rows, ranks))
    return Departures(*reference.dispatch_tokens(rows, ranks))


@opaque
def arrange_arrivals(
    counts: torch.Tensor, pairs: torch.Tensor, rows: int, most: int, *, backend: str | None = None
) -> Arrivals:
    """Sort arrivals by expert, and give the way back to rows.

    Args:
        counts: ``[ranks, E / ranks + 3]``, each rank's part of `Departures.counts`.
        pairs: ``[M, 3]``, theirs, one rank after the other. rows: of all messages. most: the greatest of ``counts``.
        backend: the implementation to take (`kernels.select.backends`); by itself the first one that is trusted.

    Raises:
        ValueError: shapes do not fit each other, or the requested backend cannot take the tensors.
    """
    if counts.ndim != 2 or counts.shape[1] <= TOTALS or pairs.ndim != 2 or pairs.shape[1] != 3:
        raise ValueError(f"counts is {tuple(counts.shape)}, pairs {tuple(pairs.shape)}: [ranks, E + 3] and [M, 3]")
    shape = rows_class(len(pairs), 1)
    call = KernelCall(pairs.device, torch.float32, grad=False, shape=shape)  # of the weights in the pairs
    if choose("dispatch", call, backend) == "triton":
        from zoetrope.kernels.gpu.dispatch import arrange_arrivals as triton

        return Arrivals(*triton(counts, pairs, rows, most))
    return Arrivals(*reference.arrange_arrivals(counts, pairs, rows, most))
