"""What the ranks of a group tell each other within a forward pass. For inference: nothing here goes backwards.

On CUDA, heads need no word with the host, whose lengths say who sends how much. How many rows go to which expert only
the router knows, so each routed layer waits for its counts once.

A token that several experts of a rank have chosen goes there once, and one row comes back: their weighted sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist

from cluster.parallel.collectives import send_rows
from cluster.parallel.dispatch import Arrivals, Departures
from kernels import CuSeqlens, Permutation, varlen_attention
from model.exchange import ApplyExperts, Meanwhile


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

    def experts(
        self,
        x: torch.Tensor,
        rows: Permutation,
        apply: ApplyExperts,
        bias: torch.Tensor | None = None,
        meanwhile: Meanwhile | None = None,
    ) -> torch.Tensor:
        """Tokens to the ranks that own their experts, `E / ranks` neighbours each, through them, and back.

        ``meanwhile`` runs while the tokens are under way. (Nothing is left for the way back: the next norm needs it.)
        """
        leaving = Departures.of(rows, self.ranks)
        counts = torch.empty_like(leaving.counts)
        dist.all_to_all_single(counts, leaving.counts, group=self.group)
        on_host = _to_host(torch.stack([_sizes(leaving.counts), _sizes(counts)]))
        pairs = leaving.pairs()
        sent, received = (Sizes(*lists) for lists in on_host())
        heralds = send_rows(pairs, sent.pairs, received.pairs, self.group)
        tokens = x.index_select(0, leaving.tokens(sum(sent.rows)))
        flight = send_rows(tokens, sent.rows, received.rows, self.group)
        beside = None if meanwhile is None else meanwhile()
        came = Arrivals.of(counts, heralds.land(), sum(received.rows), max(received.most))
        arrived = flight.land()
        if arrived.shape[0]:
            arrived = came.sum(apply(arrived, came.offsets, came.rows))
        back = send_rows(arrived, received.rows, sent.rows, self.group).land()
        return leaving.sum(back, bias, beside)


class Sizes(NamedTuple):
    """By rank, what a message has, and how many pairs a row has at the most."""

    pairs: list[int]
    rows: list[int]
    most: list[int]


def _sizes(counts: torch.Tensor) -> torch.Tensor:
    """Of `Departures.counts`: ``[3, ranks]``."""
    return torch.stack([counts[:, :-2].sum(1), counts[:, -2], counts[:, -1]])


def _to_host(counts: torch.Tensor) -> Callable[[], list[list[list[int]]]]:
    """Begin to copy counts; the result waits for them, and not for what was started after them."""
    if counts.device.type != "cuda":
        return counts.tolist
    host = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=True)
    host.copy_(counts, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> list[list[list[int]]]:
        copied.synchronize()
        there: list[list[list[int]]] = host.tolist()
        return there

    return wait
