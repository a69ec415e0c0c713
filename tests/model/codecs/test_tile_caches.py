"""Caches of tiles in host memory: the same frames, whenever the copies happen, and as many bytes as planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from tests.model.codecs.test_wan_autoencoder import joined, latents_of, network
from zoetrope.model.codecs.autoencoder import WanAutoencoder
from zoetrope.model.codecs.decode_plan import DecodePlanner, Decoding
from zoetrope.model.codecs.tiling import Tiling

__all__ = ["network"]  # the fixture
CPU = torch.device("cpu")


@dataclass
class Event:
    """A copy that happens as late as its order allows: when somebody waits for it."""

    copy: tuple[torch.Tensor, torch.Tensor] | None
    after: Sequence[Event]

    def happen(self) -> None:
        if self.copy is None:
            return
        to, source = self.copy
        self.copy = None
        for event in self.after:
            event.happen()
        to.copy_(source)


class SimulatedCopies:
    """Copies that happen at once, or as late as they may; new memory holds garbage."""

    def __init__(self, late: bool) -> None:
        self.late, self.bytes, self.buffers, self.blocks = late, 0, 0, 0

    def host(self, size: int) -> torch.Tensor:
        self.blocks += size
        return torch.full((size,), 0x7F, dtype=torch.uint8)

    def device(self, size: int) -> torch.Tensor:
        self.buffers += size
        return torch.full((size,), 0x7F, dtype=torch.uint8)

    def mark(self) -> Event:
        return Event(None, ())

    def wait(self, event: Event) -> None:
        event.happen()

    def load(self, to: torch.Tensor, source: torch.Tensor, after: Sequence[Event]) -> Event:
        assert len(to) == len(source)
        self.bytes += len(to)
        event = Event((to, source), list(after))
        if not self.late:
            event.happen()
        return event

    store = load


@pytest.mark.parametrize(
    ("dtype", "late", "devices"),
    [("float32", True, 1), ("float32", False, 1), ("bfloat16", True, 2), ("bfloat16", False, 6)],
)
def test_caches_on_the_host_change_nothing(network: AutoencoderKLWan, dtype: Any, late: bool, devices: int) -> None:
    frames, scale = 3, int(network.config.scale_factor_spatial)
    tiling, latents = Tiling(4 * scale, 4 * scale, 2 * scale), latents_of(network, frames, 4, 8)  # 3 tiles
    decoding = Decoding(dtype=dtype, tiles="always", devices=devices)
    plans = DecodePlanner(network.config, "cuda", decoding).options(4 * scale, 8 * scale, tiling)
    assert [plan.caches for plan in plans] == ["device", "host"]
    host = plans[1]
    more = [CPU] * (devices - 1)
    made: list[SimulatedCopies] = []

    def copies(_: torch.device) -> SimulatedCopies:
        made.append(SimulatedCopies(late))
        return made[-1]

    autoencoder = WanAutoencoder(network, decoding, more, copies)
    expected = joined(autoencoder.decode_stream(latents, tiling))

    assert torch.equal(joined(autoencoder.decode_as(latents, host)), expected)
    assert len(made) == host.devices
    frame_bytes = 3 * (1 + (frames - 1) * 4) * 4 * scale * 8 * scale
    assert sum(c.bytes for c in made) + latents.nbytes + frame_bytes == host.moved_bytes(frames)
    assert sum(c.blocks for c in made) == host.host_bytes
    assert all(c.buffers == 2 * host.tile.caches for c in made)
