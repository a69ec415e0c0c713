"""What the ranks of a group tell each other within a forward pass. For inference: nothing here goes backwards.

On CUDA, heads need no word with the host, whose lengths say who sends how much. How many rows go to which expert only
the router knows, so each routed layer waits for its counts once: they leave first, and the rows are gathered meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from cluster.parallel.collectives import send_rows
from kernels import CuSeqlens, Permutation, varlen_attention
from model.exchange import ApplyExperts


@dataclass(frozen=True)
class GangExchange:
    """See `model.exchange.Exchange`; for one batch.

    Attributes:
        group: the ranks.
        cu: lengths of all sequences, whoever has their tokens.
        parts: tokens of each rank, in the order of the batch.
    """

    group: dist.ProcessGroup
    cu: CuSeqlens
    parts: CuSeqlens

    @property
    def ranks(self) -> int:
        return len(self.parts.lengths)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu: CuSeqlens) -> torch.Tensor:
        """DeepSpeed-Ulysses (2309.14509): all heads of some tokens become some heads of all tokens, and back."""
        n, heads, dim = q.shape
        if heads % self.ranks:
            raise ValueError(f"{heads} heads cannot be split evenly over {self.ranks} ranks")
        mine = [n] * self.ranks
        each = heads // self.ranks
        leaving = q.new_empty(self.ranks, n, 3, each, dim)
        for i, x in enumerate((q, k, v)):
            leaving[:, :, i] = x.unflatten(1, (self.ranks, each)).transpose(0, 1)
        theirs = send_rows(leaving.flatten(0, 1), mine, self.parts.lengths, self.group).land()
        out = varlen_attention(theirs[:, 0], theirs[:, 1], theirs[:, 2], self.cu, self.cu)
        back = send_rows(out.contiguous(), self.parts.lengths, mine, self.group).land()
        gathered: torch.Tensor = back.unflatten(0, (self.ranks, n)).transpose(0, 1).flatten(1, 2)
        return gathered

    def experts(self, x: torch.Tensor, rows: Permutation, apply: ApplyExperts) -> torch.Tensor:
        """Rows to the ranks that own their experts, `E / ranks` neighbours each, through them, and back."""
        counts = self._counts(rows.counts)
        on_host = _to_host(counts.sum(2))
        leaving = x.index_select(0, rows.token)
        sent, received = on_host()
        flight = send_rows(leaving, sent, received, self.group)
        order = ExpertOrder.of(counts[1], sum(received))
        arrived = flight.land()
        if arrived.shape[0]:
            # From (rank, expert) to expert order and back; the kernel gathers on the way in.
            arrived = apply(arrived, order.offsets, order.rows).index_select(0, order.back)
        return send_rows(arrived, received, sent, self.group).land()

    def _counts(self, counts: torch.Tensor) -> torch.Tensor:
        """Rows that this rank has for each expert -> ``[2, ranks, E / ranks]``: those for the experts of each rank, and
        those that each rank has for the experts of this one."""
        if counts.shape[0] % self.ranks:
            raise ValueError(f"{counts.shape[0]} experts cannot be split evenly over {self.ranks} ranks")
        both = counts.new_empty(2, self.ranks, counts.shape[0] // self.ranks)
        both[0] = counts.view(self.ranks, -1)
        dist.all_to_all_single(both[1], both[0], group=self.group)
        return both


def _to_host(counts: torch.Tensor) -> Callable[[], list[list[int]]]:
    """Begin to copy a matrix of counts; the result waits for them, and not for what was started after them."""
    if counts.device.type != "cuda":
        return counts.tolist
    host = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=True)
    host.copy_(counts, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> list[list[int]]:
        copied.synchronize()
        there: list[list[int]] = host.tolist()
        return there

    return wait


@dataclass(frozen=True)
class ExpertOrder:
    """How rows that came sorted by (rank, expert) are sorted by (expert, rank).

    Attributes:
        offsets: ``[E + 1]`` int32 of the expert order. rows: ``[M]`` int32, where in the first order a row of the
            second is. back: ``[M]`` int32, the other way round.
    """

    offsets: torch.Tensor
    rows: torch.Tensor
    back: torch.Tensor

    @classmethod
    def of(cls, counts: torch.Tensor, total: int) -> ExpertOrder:
        """``counts`` ``[ranks, E]`` int32: rows that each rank sent for each expert; ``total`` is their sum."""
        came, wanted = counts.flatten(), counts.T.flatten()
        # Where each block of rows starts in both orders, [E, ranks].
        start_came = (came.cumsum(0) - came).view(counts.shape).T
        start_wanted = (wanted.cumsum(0) - wanted).view(counts.T.shape)
        shift = start_came - start_wanted
        place = torch.arange(total, device=counts.device)
        rows = place + shift.flatten().repeat_interleave(wanted, output_size=total)
        back = place - shift.T.flatten().repeat_interleave(came, output_size=total)
        offsets = torch.nn.functional.pad(counts.sum(0).cumsum(0), (1, 0))
        return cls(offsets.int(), rows.int(), back.int())
