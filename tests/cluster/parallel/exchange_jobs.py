"""Single exchanges, as the ranks of a test do them. Everything random follows from seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.cluster.parallel.gangs import EXCHANGE
from zoetrope.cluster.parallel.exchange import GangExchange
from zoetrope.cluster.parallel.mesh import Mesh
from zoetrope.kernels import CuSeqlens
from zoetrope.model.network.exchange import ALONE, Exchange
from zoetrope.model.network.experts import MoEFeedForward
from zoetrope.model.network.quantized import QuantizedExperts

DIM, EXPERTS = 16, 8


@dataclass(frozen=True)
class Routing:
    """A layer and its tokens.

    Attributes:
        parts: tokens of each rank. groups: of the grouped router; None: the ``top_k`` best.
        favour: what is added to the score of some experts, by number.
        chunks: in which a rank's tokens go.
    """

    parts: tuple[int, ...]
    top_k: int = 2
    groups: int | None = None
    favour: tuple[tuple[int, float], ...] = ()
    dtype: torch.dtype = torch.float32
    seed: int = 0
    chunks: int = 1


@dataclass(frozen=True)
class Sent:
    """One all-to-all as a rank began it: rows for each rank, and what they are made of."""

    rows: list[int]
    dtype: torch.dtype


def layer_of(case: Routing) -> MoEFeedForward:
    torch.manual_seed(case.seed)
    layer = MoEFeedForward(DIM, 16, EXPERTS, case.top_k, 8, groups=case.groups, bias=case.groups is not None)
    for bias in (layer.b1, layer.b2):
        if bias is not None:
            torch.nn.init.normal_(bias)
    for expert, score in case.favour:
        layer.correction[expert] = score
    gate = layer.gate.weight.data
    layer = layer.to(case.dtype).requires_grad_(False)
    layer.gate.weight.data = gate  # the router stays in float32
    return layer


def tokens_of(case: Routing) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 + case.seed)
    return torch.randn(sum(case.parts), DIM, generator=generator).to(case.dtype)


@torch.inference_mode()
def route(cases: list[Routing]) -> list[tuple[torch.Tensor, list[Sent]]]:
    """Of each case what the layer makes of this rank's tokens, with its share of the experts, and what it sent."""
    mesh = Mesh.build(torch.device("cpu"), 1, EXCHANGE)
    made = []
    for case in cases:
        layer, x, parts = layer_of(case), tokens_of(case), CuSeqlens.of(case.parts)
        each = EXPERTS // mesh.ranks
        own = slice(mesh.place * each, (mesh.place + 1) * each)
        for name in ("w1", "w2", "b1"):
            stack = getattr(layer, name)
            setattr(layer, name, None if stack is None else torch.nn.Parameter(stack[own], requires_grad=False))
        exchange: Exchange = ALONE
        if mesh.sequence is not None:
            exchange = GangExchange(mesh.sequence, CuSeqlens.of([parts.total]), parts, case.chunks)
        mine = x[parts.offsets[mesh.place] : parts.offsets[mesh.place + 1]]
        with pytest.MonkeyPatch.context() as patch:
            sent = _listen(patch)
            made.append((layer(mine, exchange), sent))
    return made


def quantised_layer_of(case: Routing, own: slice = slice(None)) -> QuantizedExperts:
    """`layer_of` in 8 bits, with some of the experts."""
    exact = layer_of(case)
    with torch.device("meta"):
        shape = MoEFeedForward(DIM, 16, EXPERTS, case.top_k, 0, groups=case.groups)
    layer = QuantizedExperts(shape, case.dtype)
    layer.gate, layer.correction, layer.shared = exact.gate, exact.correction, None
    layer.b1, layer.b2 = exact.b1, exact.b2
    if layer.b1 is not None:
        layer.b1 = torch.nn.Parameter(layer.b1[own], requires_grad=False)
    layer.take("up", exact.w1[own])
    layer.take("down", exact.w2[own])
    return layer


@torch.inference_mode()
def route_in_8_bits(case: Routing) -> tuple[torch.Tensor, list[Sent]]:
    """What a layer in 8 bits makes of this rank's tokens, with its share of the experts, and what it sent."""
    mesh = Mesh.build(torch.device("cpu"), 1, EXCHANGE)
    assert mesh.sequence is not None
    each, parts = EXPERTS // mesh.ranks, CuSeqlens.of(case.parts)
    layer = quantised_layer_of(case, slice(mesh.place * each, (mesh.place + 1) * each))
    mine = tokens_of(case)[parts.offsets[mesh.place] : parts.offsets[mesh.place + 1]]
    with pytest.MonkeyPatch.context() as patch:
        sent = _listen(patch)
        exchange = GangExchange(mesh.sequence, CuSeqlens.of([parts.total]), parts, case.chunks)
        return layer(mine, exchange), sent


@torch.inference_mode()
def meet_in_flight(case: Routing) -> tuple[torch.Tensor, list[str]]:
    """What the layer makes of this rank's tokens, and what it did in which order.

    The last rank sends its tokens only once all others are within their shared expert, so whoever waits for tokens
    before that waits forever.
    """
    mesh = Mesh.build(torch.device("cpu"), 1, EXCHANGE)
    assert mesh.sequence is not None
    layer, x, parts = layer_of(case), tokens_of(case), CuSeqlens.of(case.parts)
    each = EXPERTS // mesh.ranks
    own = slice(mesh.place * each, (mesh.place + 1) * each)
    layer.w1, layer.w2 = (torch.nn.Parameter(w[own], requires_grad=False) for w in (layer.w1, layer.w2))
    assert layer.shared is not None
    met, last, done = dist.distributed_c10d._get_default_store(), mesh.ranks - 1, []
    real, shared = dist.all_to_all_single, layer.shared.forward

    class Watched:
        def __init__(self, work: Any, name: str) -> None:
            self.work, self.name = work, name

        def wait(self) -> None:
            self.work.wait()
            done.append(f"{self.name} landed")

    def send(output: torch.Tensor, input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        name = "counts" if not args else "pairs" if input.dtype == torch.int32 else "tokens"
        name = "results" if "tokens landed" in done and name == "tokens" else name
        if name == "tokens" and mesh.place == last:
            met.wait([f"rank {other}" for other in range(last)], EXCHANGE)
        done.append(f"{name} sent")
        work = real(output, input, *args, **kwargs)
        return Watched(work, name) if kwargs.get("async_op") else work

    def beside(x: torch.Tensor) -> torch.Tensor:
        met.set(f"rank {mesh.place}", "there")
        done.append("shared expert")
        return shared(x)

    layer.shared.forward = beside  # type: ignore[method-assign, assignment]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_to_all_single", send)
        exchange = GangExchange(mesh.sequence, CuSeqlens.of([parts.total]), parts, case.chunks)
        return layer(x[parts.offsets[mesh.place] : parts.offsets[mesh.place + 1]], exchange), done


@torch.inference_mode()
def attend(lengths: list[int], parts: list[int], heads: int, dtype: torch.dtype) -> tuple[torch.Tensor, list[Sent]]:
    """Attention of this rank's tokens of `qkv`, and what it sent."""
    mesh = Mesh.build(torch.device("cpu"), 1, EXCHANGE)
    assert mesh.sequence is not None
    cuts = CuSeqlens.of(parts)
    rows = slice(*cuts.offsets[mesh.place : mesh.place + 2])
    q, k, v = (x[rows] for x in qkv(sum(lengths), heads, dtype))
    with pytest.MonkeyPatch.context() as patch:
        sent = _listen(patch)
        exchange = GangExchange(mesh.sequence, CuSeqlens.of(lengths), cuts)
        return attend_all(exchange, q, k, v), sent


def attend_all(exchange: GangExchange, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention among all tokens, of this rank's ``[n, heads, dim]``."""
    return exchange.attend(exchange.share(q), exchange.share(k), exchange.share(v), CuSeqlens.of([len(q)]))


def qkv(tokens: int, heads: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    q, k, v = (torch.randn(tokens, heads, 8, generator=generator).to(dtype) for _ in range(3))
    return q, k, v


def _listen(patch: pytest.MonkeyPatch) -> list[Sent]:
    heard: list[Sent] = []
    real = dist.all_to_all_single

    def listen(output: torch.Tensor, input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        ranks = dist.get_world_size()
        heard.append(Sent(list(args[1]) if args else [len(input) // ranks] * ranks, input.dtype))
        return real(output, input, *args, **kwargs)

    patch.setattr(dist, "all_to_all_single", listen)
    return heard
