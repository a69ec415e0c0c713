"""Blocks that torch.compile has traced read what is in their slab now, not what was there when they were traced."""

from __future__ import annotations

import pytest
import torch

from tests.model.streaming.hazards import HazardCopies
from tests.model.streaming.streamed_networks import latents, network, streamed
from zoetrope.model.network.protocol import Network


def compiled(made: Network) -> Network:
    for layer in made.layers():
        layer.compile(dynamic=True, backend="eager")
    return made


@pytest.mark.long
def test_compiled_blocks_are_streamed() -> None:
    made = streamed("dense", HazardCopies("thread"))
    compiled(made.networks[0])
    ours, theirs = latents(made.networks), latents([compiled(network("dense"))])
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(bool(x.isfinite().all()) for x in ours)
    torch._dynamo.reset()
