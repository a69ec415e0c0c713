"""How frames are decoded: by settings, memory and size."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from hypothesis import given
from hypothesis import strategies as st

from tests.model.codecs.test_wan_autoencoder import WAN21, WAN22, joined, latents_of
from zoetrope.model.codecs.autoencoder import WanAutoencoder
from zoetrope.model.codecs.chunk_decoder import ChunkDecoder
from zoetrope.model.codecs.decode_memory import TileMemory, empty_network
from zoetrope.model.codecs.decode_plan import CPU_LIMIT, DecodePlan, DecodePlanner, Decoding
from zoetrope.model.codecs.tiling import Tiling

TILING = Tiling(64, 64, 32)


def planner(device: str = "cuda", **decoding: Any) -> DecodePlanner:
    return DecodePlanner(empty_network(WAN21).config, device, Decoding(**decoding))


@cache
def plans() -> list[DecodePlan]:
    return planner().options(96, 160, TILING)


def test_whole_frames_come_first_and_caches_on_the_host_last() -> None:
    whole, tiles, host = plans()
    assert (whole.tiling, whole.tiles) == (None, 1)
    assert (tiles.tiling, tiles.tiles, tiles.caches) == (TILING, 8, "device")
    assert (host.tiling, host.tiles, host.caches) == (TILING, 8, "host")
    assert whole.host_bytes == tiles.host_bytes == 0
    assert host.host_bytes == 8 * host.tile.caches
    assert tiles.device_bytes - host.device_bytes == (7 - 2) * tiles.tile.caches
    assert whole.tile.caches < 8 * tiles.tile.caches, "tiles overlap"
    room = tiles.device_bytes
    assert planner().fitting(96, 160, TILING, room) == [p for p in (whole, tiles, host) if p.device_bytes <= room]
    assert planner().fitting(96, 160, TILING, 0) == [host], "the last way, if none fits"


def test_settings_leave_out_ways() -> None:
    assert [plan.tiles for plan in planner(tiles="never").options(96, 160, TILING)] == [1]
    assert [plan.caches for plan in planner(tiles="always").options(96, 160, TILING)] == ["device", "host"]
    assert [plan.tiles for plan in planner(tiles="always").options(96, 160, None)] == [1], "720p and less have no tiles"
    assert [plan.caches for plan in planner("cpu", tiles="always").options(96, 160, TILING)] == ["device"]
    one, four = (planner(tiles="always", devices=n).options(96, 160, TILING)[0] for n in (1, 4))
    assert four.devices == 4
    assert one.device_bytes - four.device_bytes == (7 - 1) * one.tile.caches


def test_tensors_that_cuda_cannot_index_are_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = TileMemory(weights=1, working=1, caches=1, first_caches=1, elements=2**31)
    monkeypatch.setattr("zoetrope.model.codecs.decode_plan.tile_memory", lambda *_: huge)
    assert [plan.tiles for plan in planner().options(96, 160, TILING)] == [8, 8]


@given(latent_frames=st.integers(1, 40))
def test_only_caches_on_the_host_travel(latent_frames: int) -> None:
    frames = 1 + 4 * (latent_frames - 1)
    always = latent_frames * 4 * 4 * 12 * 20 + 3 * frames * 96 * 160
    whole, tiles, host = plans()
    assert whole.moved_bytes(latent_frames) == tiles.moved_bytes(latent_frames) == always
    sizes = [0, host.tile.first_caches, *[host.tile.caches] * 40][:latent_frames]  # before each latent frame
    assert host.moved_bytes(latent_frames) == always + 2 * 8 * sum(sizes)


def small_network() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(**WAN21).eval()


def test_a_decoder_decides_once_by_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    free = [10**12]
    monkeypatch.setattr("zoetrope.model.codecs.device_memory.DeviceMemory.available", lambda _: free[0])
    latents, scale = latents_of(network, 1, 4, 6), int(network.config.scale_factor_spatial)
    tiling = Tiling(4 * scale, 4 * scale, 2 * scale)
    roomy = WanAutoencoder(network)
    whole = joined(roomy.decode_stream(latents))
    assert torch.equal(joined(roomy.decode_stream(latents, tiling)), whole)
    free[0] = 1
    tight = WanAutoencoder(network)
    tiled = joined(tight.decode_stream(latents, tiling))
    assert not torch.equal(tiled, whole)
    assert torch.equal(joined(roomy.decode_stream(latents, tiling)), whole), "as before"
    free[0] = 10**12
    assert torch.equal(joined(tight.decode_stream(latents, tiling)), tiled), "as before"


def test_a_frame_that_did_not_fit_after_all_is_tiled_at_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    latents, scale = latents_of(network, 1, 4, 6), int(network.config.scale_factor_spatial)
    tiling = Tiling(4 * scale, 4 * scale, 2 * scale)
    expected = joined(WanAutoencoder(network, Decoding(tiles="always")).decode_stream(latents, tiling))
    autoencoder = WanAutoencoder(network)
    decode = ChunkDecoder.decode

    def short(self: Any, z: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if z.device.type == "cpu" and z.shape[-1] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, z, *args, **options)

    monkeypatch.setattr(ChunkDecoder, "decode", short)
    with pytest.raises(torch.OutOfMemoryError):
        list(autoencoder.decode_stream(latents, tiling))
    assert torch.equal(joined(autoencoder.decode_stream(latents, tiling)), expected)


def test_on_a_cpu_the_limit_is_fixed() -> None:
    """So that a seed does not depend on what else runs there."""
    small = DecodePlanner(empty_network(WAN22).config, "cpu", Decoding()).options(96, 160, TILING)
    assert all(plan.device_bytes < CPU_LIMIT for plan in small)
    assert [plan.caches for plan in small] == ["device", "device"]


def test_settings_come_from_the_environment() -> None:
    assert Decoding.from_environment({}) == Decoding("auto", "auto", 1)
    given = {"ZOETROPE_VAE_DTYPE": "float32", "ZOETROPE_VAE_TILES": "always", "ZOETROPE_VAE_DEVICES": " 2 "}
    assert Decoding.from_environment(given) == Decoding("float32", "always", 2)
    for name, value in (("DTYPE", "fp8"), ("TILES", "yes"), ("DEVICES", "0"), ("DEVICES", "two")):
        with pytest.raises(ValueError, match=rf"ZOETROPE_VAE_{name} is '{value}', it must be "):
            Decoding.from_environment({f"ZOETROPE_VAE_{name}": value})
