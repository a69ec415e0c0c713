"""The communication of a group's ranks within a forward pass. For inference only: there is no backward pass.

The exchange of heads needs no synchronisation with the host, because all sizes are known there. Only the router knows
how many rows go to which expert, so each routed layer waits for its counts once.

A token with several experts on a rank is sent there once, and one row comes back: their weighted sum. Layers in 8 bits
are sent rows of half the bytes, and the scales of these; what comes back is as exact as of other layers.

Messages travel on a stream of their own. Queries are sent while keys are computed, and keys while values are. A layer's
tokens may go in several chunks: while the experts work on one, the next arrives and the results of the last one leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist

from zoetrope.cluster.parallel.collectives import Flight, send_rows
from zoetrope.kernels import (
    CuSeqlens,
    Fp8Rows,
    Permutation,
    arrange_arrivals,
    combine_experts,
    dispatch_tokens,
    varlen_attention,
)
from zoetrope.kernels.ops.dispatch import TOTALS
from zoetrope.kernels.select.no_compile import opaque
from zoetrope.model.network.exchange import ApplyExperts, Meanwhile, Route, permuted


@dataclass(frozen=True)
class GangExchange:
    """See `model.network.exchange.Exchange`; for one batch.

    Attributes:
        group: the ranks.
        cu: lengths of all sequences, whichever rank holds their tokens.
        parts: tokens of each rank, in the order of the batch.
        chunks: into which a rank's tokens are split on their way to the experts, equally many on every rank; chosen by
            `cluster.planning.overlap`.
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
        """Turn all heads of some tokens into some heads of all tokens (DeepSpeed-Ulysses, arXiv 2309.14509)."""
        n, heads, _ = x.shape
        if heads % self.ranks:
            raise ValueError(f"{heads} heads cannot be split evenly over {self.ranks} ranks")
        leaving = x.unflatten(1, (self.ranks, heads // self.ranks)).transpose(0, 1).contiguous()
        return send_rows(leaving.flatten(0, 1), [n] * self.ranks, self.parts.lengths, self.group)

    @opaque
    def attend(self, q: Flight, k: Flight, v: Flight, cu: CuSeqlens) -> torch.Tensor:
        """Attend with these heads, and send the results back to the ranks of their tokens."""
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
        quantised: Fp8Rows | None = None,
    ) -> torch.Tensor:
        """Send tokens to the ranks that own their experts (`E / ranks` consecutive ones each), apply those, and send
        the results back. ``meanwhile`` runs while the tokens are in flight.
        """
        chunks = x.tensor_split(self.chunks)
        carried: Sequence[torch.Tensor | Fp8Rows] = chunks if quantised is None else quantised.split(self.chunks)
        leaving = [dispatch_tokens(route(chunk), self.ranks) for chunk in chunks]
        told = torch.stack([departures.counts for departures in leaving], dim=1)
        heard = torch.empty_like(told)
        dist.all_to_all_single(heard, told, group=self.group)
        on_host = _to_host(torch.stack([_sizes(told), _sizes(heard)]))
        sent, received = ([ExchangeSizes(*lists) for lists in side] for side in on_host())
        coming = []
        for i, chunk in enumerate(carried):
            heralds = send_rows(leaving[i].pairs, sent[i].pairs, received[i].pairs, self.group)
            tokens = leaving[i].tokens[: sum(sent[i].rows)]
            coming.append((heralds, _send_tokens(chunk, tokens, sent[i].rows, received[i].rows, self.group)))
        beside = None if meanwhile is None else meanwhile()
        going = []
        for i, (heralds, flight) in enumerate(coming):
            count = sum(received[i].rows)
            came = arrange_arrivals(heard[:, i], heralds.land(), count, max(received[i].most))
            arrived = _land_tokens(flight)
            done = x.new_empty(0, x.shape[1])
            if count:
                nothing = came.offsets[:0]  # counts are not read
                rows = Permutation(came.rows, came.gate, nothing, came.offsets, came.position)
                done = combine_experts(apply(permuted(arrived, rows), came.offsets), rows)
            going.append(send_rows(done, received[i].rows, sent[i].rows, self.group))
        shared = [None] * len(chunks) if beside is None else beside.tensor_split(self.chunks)
        made = [_sum(back.land(), leaving[i].home, None, bias, shared[i]) for i, back in enumerate(going)]
        return made[0] if len(made) == 1 else torch.cat(made)


def _send_tokens(
    x: torch.Tensor | Fp8Rows,
    tokens: torch.Tensor,
    sent: Sequence[int],
    received: Sequence[int],
    group: dist.ProcessGroup,
) -> list[Flight]:
    """Send rows of ``x``, in 8 bits as bytes, with the scales behind them."""
    if isinstance(x, Fp8Rows):
        q, scale = x.take(tokens)
        return [send_rows(part, sent, received, group) for part in (q.view(torch.uint8), scale)]
    return [send_rows(x.index_select(0, tokens), sent, received, group)]


def _land_tokens(flights: list[Flight]) -> torch.Tensor | Fp8Rows:
    """Return what `_send_tokens` of other ranks sent."""
    rows, *scales = [flight.land() for flight in flights]
    return Fp8Rows(rows.view(torch.float8_e4m3fn), *scales) if scales else rows


class ExchangeSizes(NamedTuple):
    """Sizes of a message by rank; ``most``: the largest number of pairs of a row."""

    pairs: list[int]
    rows: list[int]
    most: list[int]


def _sizes(counts: torch.Tensor) -> torch.Tensor:
    """Extract the sizes ``[chunks, 3, ranks]`` from each chunk's `kernels.Departures.counts` ``[ranks, chunks,
    ...]``."""
    return counts[..., -TOTALS:].permute(1, 2, 0)


def _sum(
    y: torch.Tensor,
    position: torch.Tensor,
    gate: torch.Tensor | None,
    bias: torch.Tensor | None = None,
    beside: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum the rows that each line of ``position`` lists, weighted."""
    nothing = position.new_empty(0)  # only weights and positions are used
    gate = y.new_ones(y.shape[0], dtype=torch.float32) if gate is None else gate
    return combine_experts(y, Permutation(nothing, gate, nothing, nothing, position), bias, beside)


def _to_host(counts: torch.Tensor) -> Callable[[], list[list[list[list[int]]]]]:
    """Start copying counts to the host. The result waits for the copy, but not for work launched after it."""
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
