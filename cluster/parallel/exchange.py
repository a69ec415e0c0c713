"""What the ranks of a group tell each other within a forward pass. For inference: nothing here goes backwards.

On CUDA, heads need no word with the host, whose lengths say who sends how much. How many rows go to which expert only
the router knows, so each routed layer waits for its counts once.

A token that several experts of a rank have chosen goes there once, and one row comes back: their weighted sum.

Messages travel on a stream of their own. Queries fly while keys are made, keys while values are. A layer's tokens may
go in several chunks: while the experts work on one, the next one comes and the results of the last one leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist

from cluster.parallel.collectives import Flight, send_rows
from kernels import CuSeqlens, Permutation, arrange_arrivals, combine_experts, dispatch_tokens, varlen_attention
from kernels.compiler import opaque
from kernels.dispatch import TOTALS
from model.exchange import ApplyExperts, Meanwhile, Route


@dataclass(frozen=True)
class GangExchange:
    """See `model.exchange.Exchange`; for one batch.

    Attributes:
        group: the ranks.
        cu: lengths of all sequences, whoever has their tokens.
        parts: tokens of each rank, in the order of the batch.
        chunks: in which a rank's tokens go to the experts, the same number on every rank; `cluster.overlap` chooses it.
    """

    group: dist.ProcessGroup
    cu: CuSeqlens
    parts: CuSeqlens
    chunks: int = 1

    @property
    def ranks(self) -> int:
        return len(self.parts.lengths)

    @opaque
    def share(self, x: torch.Tensor) -> Flight:
        """All heads of some tokens become some heads of all tokens (DeepSpeed-Ulysses, 2309.14509)."""
        n, heads, _ = x.shape
        if heads % self.ranks:
            raise ValueError(f"{heads} heads cannot be split evenly over {self.ranks} ranks")
        leaving = x.unflatten(1, (self.ranks, heads // self.ranks)).transpose(0, 1).contiguous()
        return send_rows(leaving.flatten(0, 1), [n] * self.ranks, self.parts.lengths, self.group)

    @opaque
    def attend(self, q: Flight, k: Flight, v: Flight, cu: CuSeqlens) -> torch.Tensor:
        """Of these heads, whose results go back to where their tokens are."""
        out = varlen_attention(q.land(), k.land(), v.land(), self.cu, self.cu)
        mine = [cu.total] * self.ranks
        back = send_rows(out.contiguous(), self.parts.lengths, mine, self.group).land()
        gathered: torch.Tensor = back.unflatten(0, (self.ranks, cu.total)).transpose(0, 1).flatten(1, 2)
        return gathered

    @opaque
    def experts(
        self,
        x: torch.Tensor,
        route: Route,
        apply: ApplyExperts,
        bias: torch.Tensor | None = None,
        meanwhile: Meanwhile | None = None,
    ) -> torch.Tensor:
        """Tokens to the ranks that own their experts, `E / ranks` neighbours each, through them, and back.

        ``meanwhile`` runs while the tokens are under way.
        """
        chunks = x.tensor_split(self.chunks)
        leaving = [dispatch_tokens(route(chunk), self.ranks) for chunk in chunks]
        told = torch.stack([departures.counts for departures in leaving], dim=1)
        heard = torch.empty_like(told)
        dist.all_to_all_single(heard, told, group=self.group)
        on_host = _to_host(torch.stack([_sizes(told), _sizes(heard)]))
        sent, received = ([Sizes(*lists) for lists in side] for side in on_host())
        coming = []
        for i, chunk in enumerate(chunks):
            heralds = send_rows(leaving[i].pairs, sent[i].pairs, received[i].pairs, self.group)
            tokens = chunk.index_select(0, leaving[i].tokens[: sum(sent[i].rows)])
            coming.append((heralds, send_rows(tokens, sent[i].rows, received[i].rows, self.group)))
        beside = None if meanwhile is None else meanwhile()
        going = []
        for i, (heralds, flight) in enumerate(coming):
            came = arrange_arrivals(heard[:, i], heralds.land(), sum(received[i].rows), max(received[i].most))
            arrived = flight.land()
            if arrived.shape[0]:
                arrived = _sum(apply(arrived, came.offsets, came.rows), came.position, came.gate)
            going.append(send_rows(arrived, received[i].rows, sent[i].rows, self.group))
        shared = [None] * len(chunks) if beside is None else beside.tensor_split(self.chunks)
        made = [_sum(back.land(), leaving[i].home, None, bias, shared[i]) for i, back in enumerate(going)]
        return made[0] if len(made) == 1 else torch.cat(made)


class Sizes(NamedTuple):
    """By rank, what a message has, and how many pairs a row has at the most."""

    pairs: list[int]
    rows: list[int]
    most: list[int]


def _sizes(counts: torch.Tensor) -> torch.Tensor:
    """Of `kernels.Departures.counts` of each chunk, ``[ranks, chunks, ...]``: ``[chunks, 3, ranks]``."""
    return counts[..., -TOTALS:].permute(1, 2, 0)


def _sum(
    y: torch.Tensor,
    position: torch.Tensor,
    gate: torch.Tensor | None,
    bias: torch.Tensor | None = None,
    beside: torch.Tensor | None = None,
) -> torch.Tensor:
    """The rows that each line of ``position`` names, weighted and added up."""
    nothing = position.new_empty(0)  # only weights and positions are looked at
    gate = y.new_ones(y.shape[0], dtype=torch.float32) if gate is None else gate
    return combine_experts(y, Permutation(nothing, gate, nothing, nothing, position), bias, beside)


def _to_host(counts: torch.Tensor) -> Callable[[], list[list[list[list[int]]]]]:
    """Begin to copy counts; the result waits for them, and not for what was started after them."""
    if counts.device.type != "cuda":
        return counts.tolist
    host = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=True)
    host.copy_(counts, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> list[list[list[list[int]]]]:
        copied.synchronize()
        there: list[list[list[list[int]]]] = host.tolist()
        return there

    return wait
