"""What the ranks of a gang do with a network of twelve blocks, resident or streamed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from tests.cluster.parallel.gangs import EXCHANGE
from tests.cluster.parallel.jobs import CPU, Wish, take_steps
from zoetrope.cluster.parallel.mesh import Mesh
from zoetrope.cluster.parallel.runner import run_gang
from zoetrope.model.catalog.model_card import scheduler_config
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.denoising.denoise import Denoiser
from zoetrope.model.denoising.forward import InParts, Runner, run_alone
from zoetrope.model.network.protocol import Network
from zoetrope.model.request.tasks import ModelCard
from zoetrope.model.streaming.copies import ThreadSlabCopies
from zoetrope.model.streaming.loading import StreamedLoading, WeightRoom
from zoetrope.model.streaming.store import BlockStore

FAILS = 7  # the block at which a pass is broken off


class CountedCopies(ThreadSlabCopies):
    """Tells whether copies were ended after a failure."""

    drained: tuple[bool, ...] = ()

    def drain(self, seconds: float) -> bool:
        done = super().drain(seconds)
        self.drained = (*self.drained, done)
        return done


@dataclass(frozen=True)
class Measured:
    """``bytes``: behind the tensors of all blocks, ``largest``: of one block. ``host``: of the streamed ones."""

    latents: list[torch.Tensor]
    bytes: int
    largest: int
    host: int


def denoise(card: ModelCard, wishes: list[Wish], steps: int, groups: int, streamed: bool, most: int = 0) -> Measured:
    """Take steps; ``groups`` 0: in this process alone. ``most``: tokens of a forward pass; 0: all."""
    mesh = Mesh.build(CPU, groups, EXCHANGE) if groups else Mesh()
    loading = StreamedLoading(WeightRoom(0), CPU) if streamed else None
    denoiser = load(card, mesh, loading, most)
    store = loading.finish() if loading is not None else None
    _, latents = take_steps(denoiser, card, wishes, steps)
    layers = denoiser.transformer.layers()
    storages = [t.untyped_storage() for layer in layers for t in (*layer.parameters(), *layer.buffers())]
    sizes = [sum(t.nbytes for t in (*layer.parameters(), *layer.buffers())) for layer in layers]
    unique = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return Measured(latents, sum(unique.values()), max(sizes), 0 if store is None else store.host_bytes)


def broken_off(card: ModelCard, wishes: list[Wish], groups: int) -> None:
    """Fail in the middle of a pass, on every rank at once; says what became of the copies."""
    copies = CountedCopies()
    loading = StreamedLoading(WeightRoom(0), CPU, lambda device: copies)
    mesh = Mesh.build(CPU, groups, EXCHANGE)
    denoiser = load(card, mesh, loading)
    store = loading.finish()
    assert isinstance(store, BlockStore)
    layer = denoiser.transformer.layers()[FAILS]

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    if mesh.place == 0:
        layer.forward = fail
    try:
        take_steps(denoiser, card, wishes, 1)
    except RuntimeError as error:
        raise RuntimeError(f"{error}; copies ended: {copies.drained}") from None


def load(card: ModelCard, mesh: Mesh, loading: StreamedLoading | None, most: int = 0) -> Denoiser:
    """In float32."""
    network: Network = load_transformer(
        card, CPU, dtype=torch.float32, rank=mesh.place, ranks=mesh.ranks, streaming=loading
    )
    runner: Runner = partial(run_gang, mesh) if mesh.sequence is not None or mesh.across is not None else run_alone
    return Denoiser(network, scheduler_config(card), None, card.boundary, InParts(runner, most) if most else runner)
