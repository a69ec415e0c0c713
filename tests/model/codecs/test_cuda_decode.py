"""Decoding on a GPU: streams, memory and copies as planned. Skipped where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from tests.model.codecs.test_fast_decoder import LIKE_WAN21, LIKE_WAN22
from tests.model.codecs.test_wan_autoencoder import joined
from zoetrope.benchmarks.memory_copies import copied_bytes
from zoetrope.model.codecs.autoencoder import WanAutoencoder
from zoetrope.model.codecs.decode_plan import Decoding
from zoetrope.model.codecs.tiling import Tiling

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(params=[LIKE_WAN21, LIKE_WAN22], ids=["2.1", "2.2"])
def autoencoder(request: pytest.FixtureRequest) -> WanAutoencoder:
    torch.manual_seed(0)
    with torch.device("cuda"):
        return WanAutoencoder(AutoencoderKLWan(**request.param).eval(), Decoding("bfloat16"))


def plans(autoencoder: WanAutoencoder, high: int, wide: int) -> tuple[Any, ...]:
    scale = autoencoder.spatial
    tiling = Tiling(8 * scale, 8 * scale, 2 * scale)
    return tuple(autoencoder.planner.options(high * scale, wide * scale, tiling))


def test_caches_in_pinned_memory_change_nothing(autoencoder: WanAutoencoder) -> None:
    _, tiles, host = plans(autoencoder, 14, 20)
    latents = torch.randn(autoencoder.z_dim, 5, 14, 20, generator=torch.Generator().manual_seed(0))
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        expected = joined(autoencoder.decode_as(latents, tiles))
        for _ in range(3):
            torch.testing.assert_close(joined(autoencoder.decode_as(latents, host)), expected, rtol=0, atol=1e-2)


def test_caches_never_pass_through_pageable_memory(autoencoder: WanAutoencoder) -> None:
    frames = 4
    _, _, host = plans(autoencoder, 14, 20)
    latents = torch.randn(autoencoder.z_dim, frames, 14, 20)
    copied = copied_bytes(lambda: list(autoencoder.decode_as(latents, host)))
    assert copied is not None
    pinned = sum(size for kind, size in copied.items() if "Pinned" in kind)
    caches = 2 * host.tiles * (host.tile.first_caches + (frames - 2) * host.tile.caches)
    assert pinned == caches
    assert sum(copied.values()) - pinned < 2 * latents.nbytes + 100_000


def test_the_predicted_memory_is_enough(autoencoder: WanAutoencoder) -> None:
    latents = torch.randn(autoencoder.z_dim, 4, 28, 40)
    for plan in plans(autoencoder, 28, 40):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in autoencoder.decode_as(latents, plan):
            pass
        assert torch.cuda.max_memory_allocated() - before <= plan.device_bytes
