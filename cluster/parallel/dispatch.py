"""Tokens on their way to the experts of other ranks: each once for a rank, whichever of its experts have chosen it.

What leaves is, for each rank, its tokens in rising order, and beside them the *pairs*: which expert takes which of
these tokens with which weight. Pairs are sorted by expert, so that counts say which expert they are for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kernels import Permutation, combine_experts

PAIR_BYTES = 12  # row, ordinal and weight


@dataclass(frozen=True)
class Departures:
    """What a rank sends to each of ``ranks``.

    Attributes:
        counts: ``[ranks, E / ranks + 2]`` int32: pairs for each expert of a rank, its rows, and `most`: how many of its
            experts a token has chosen at the most (the same for all ranks, so it may be more than is so for one).
    """

    counts: torch.Tensor
    _rows: Permutation
    _to: torch.Tensor  # [M] of a pair: its rank
    _at: torch.Tensor  # [M] and its cell in tables of [ranks, n]
    _hit: torch.Tensor  # [ranks, n] 1 where a token goes
    _place: torch.Tensor  # [M] the row that the pair is about
    _ordinal: torch.Tensor  # [M] the how manieth of its token's choices on its rank

    @classmethod
    def of(cls, rows: Permutation, ranks: int) -> Departures:
        """Nothing here waits for the device.

        Raises:
            ValueError: ``ranks`` do not divide the experts.
        """
        experts, (n, k), device = rows.counts.shape[0], rows.position.shape, rows.counts.device
        if experts % ranks:
            raise ValueError(f"{experts} experts cannot be split evenly over {ranks} ranks")
        pairs = rows.counts.view(ranks, -1)
        to = torch.arange(ranks, device=device).repeat_interleave(pairs.sum(1), output_size=n * k)
        at = to * n + rows.token
        hit = torch.zeros(ranks, n, dtype=torch.int32, device=device)
        hit.view(-1)[at] = 1
        place = (hit.view(-1).cumsum(0) - 1)[at]
        rank = to[rows.position.flatten()].view(n, k)
        earlier = (rank[:, :, None] == rank[:, None, :]).tril(-1).sum(-1)
        ordinal = torch.empty_like(to).scatter(0, rows.position.flatten().long(), earlier.flatten())
        most = ordinal.amax() + 1 if n else ordinal.sum()
        counts = torch.cat([pairs, hit.sum(1)[:, None], most.expand(ranks, 1)], dim=1).int()
        return cls(counts, rows, to, at, hit, place, ordinal)

    def pairs(self) -> torch.Tensor:
        """``[M, 3]`` int32, by rank and expert: the token's row among those of its rank, ordinal, weight's bits."""
        rows = self._hit.sum(1)
        first = rows.cumsum(0) - rows
        row = self._place - first[self._to]
        weight = self._rows.gate.view(torch.int32)
        return torch.stack([row.int(), self._ordinal.int(), weight], dim=1)

    def tokens(self, total: int) -> torch.Tensor:
        """``[total]``: the token of each row, by rank; ``total`` is the sum of rows in `counts`."""
        return torch.empty(total, dtype=torch.int64, device=self._at.device).scatter(
            0, self._place, self._rows.token.long()
        )

    def sum(self, back: torch.Tensor, bias: torch.Tensor | None, beside: torch.Tensor | None) -> torch.Tensor:
        """What came back for each row, added up by token, with what is beside it ``[n, D]``: ``[n, D]``."""
        n, k = self._rows.position.shape
        width = min(k, self._hit.shape[0])
        ordinal = (self._hit.cumsum(0) - 1).view(-1)[self._at]
        token = self._rows.token
        position = _table(n, width, token * width + ordinal, self._place, back.shape[0])
        return _add_up(back, position, torch.ones_like(back[:, 0], dtype=torch.float32), bias, beside)


@dataclass(frozen=True)
class Arrivals:
    """What came from all ranks, for the experts of this one.

    Attributes:
        offsets: ``[E / ranks + 1]`` int32 of the pairs by expert. rows: ``[M]`` int32, the row that each is about.
    """

    offsets: torch.Tensor
    rows: torch.Tensor
    _gate: torch.Tensor
    _position: torch.Tensor

    @classmethod
    def of(cls, counts: torch.Tensor, pairs: torch.Tensor, total: int, most: int) -> Arrivals:
        """
        Args:
            counts: as in `Departures`, of each rank for this one. pairs: theirs, one rank after the other.
            total, most: the sum of rows and the greatest ``most`` in ``counts``.
        """
        by_expert, rows = counts[:, :-2], counts[:, -2]
        order = ExpertOrder.of(by_expert, pairs.shape[0])
        first = rows.cumsum(0) - rows
        row = pairs[:, 0] + first.repeat_interleave(by_expert.sum(1), output_size=pairs.shape[0])
        gate = pairs[:, 2].contiguous().view(torch.float32)
        position = _table(total, most, row * most + pairs[:, 1], order.back, pairs.shape[0])
        return cls(order.offsets, row[order.rows].int(), gate[order.rows], position)

    def sum(self, made: torch.Tensor) -> torch.Tensor:
        """What the experts made of each pair ``[M, D]``, weighted and added up by row: ``[total, D]``."""
        return _add_up(made, self._position, self._gate)


@dataclass(frozen=True)
class ExpertOrder:
    """How what came sorted by (rank, expert) is sorted by (expert, rank).

    Attributes:
        offsets: ``[E + 1]`` int32 of the expert order. rows: ``[M]`` int32, where in the first order one of the second
            is. back: ``[M]`` int32, the other way round.
    """

    offsets: torch.Tensor
    rows: torch.Tensor
    back: torch.Tensor

    @classmethod
    def of(cls, counts: torch.Tensor, total: int) -> ExpertOrder:
        """``counts`` ``[ranks, E]`` int32: how many each rank sent for each expert; ``total`` is their sum."""
        came, wanted = counts.flatten(), counts.T.flatten()
        # Where each block starts in both orders, [E, ranks].
        start_came = (came.cumsum(0) - came).view(counts.shape).T
        start_wanted = (wanted.cumsum(0) - wanted).view(counts.T.shape)
        shift = start_came - start_wanted
        place = torch.arange(total, device=counts.device)
        rows = place + shift.flatten().repeat_interleave(wanted, output_size=total)
        back = place - shift.T.flatten().repeat_interleave(came, output_size=total)
        offsets = F.pad(counts.sum(0).cumsum(0), (1, 0))
        return cls(offsets.int(), rows.int(), back.int())


def _table(rows: int, width: int, cell: torch.Tensor, value: torch.Tensor, other: int) -> torch.Tensor:
    """``[rows, width]`` int32 with a value in each of some cells, and ``other`` in the rest."""
    table = torch.full((rows * width,), other, dtype=torch.int32, device=cell.device)
    return table.scatter(0, cell.long(), value.int()).view(rows, width)


def _add_up(
    y: torch.Tensor,
    position: torch.Tensor,
    gate: torch.Tensor,
    bias: torch.Tensor | None = None,
    beside: torch.Tensor | None = None,
) -> torch.Tensor:
    """`combine_experts` where some have fewer rows than others: those that they lack are zeros behind ``y``."""
    missing = position.numel() - y.shape[0]
    if missing:
        y, gate = F.pad(y, (0, 0, 0, missing)), F.pad(gate, (0, missing))
    nothing = position.new_empty(0)  # only weights and positions are looked at
    rows = Permutation(token=position.view(-1), gate=gate, counts=nothing, offsets=nothing, position=position)
    return combine_experts(y, rows, bias, beside)
