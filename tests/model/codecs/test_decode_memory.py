"""The predicted memory of decoding: what a real run holds."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan

from tests.model.codecs.test_wan_autoencoder import CONFIGS, WAN22, latents_of
from zoetrope.model.codecs.chunk_decoder import ChunkDecoder
from zoetrope.model.codecs.decode_memory import LiveBytes, cache_bytes, tile_memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("version", CONFIGS)
def test_the_estimate_is_what_a_real_run_holds(version: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = AutoencoderKLWan(**CONFIGS[version]).eval()
    scale = network.config.scale_factor_spatial
    estimate = tile_memory(CONFIGS[version], 4 * scale, 6 * scale, dtype)
    decoder, live, sizes = ChunkDecoder.of(network, dtype), LiveBytes(), []
    caches, z = decoder.new_caches(), latents_of(network, 5)
    with torch.inference_mode(), live:
        for index in range(5):
            decoder.decode(z[:, index : index + 1].clone(), caches, first=index == 0).float().clamp(-1, 1)
            sizes.append(cache_bytes(caches))
    assert estimate.working == pytest.approx(live.peak, rel=0.03)
    assert estimate.elements == live.elements
    assert sizes == [estimate.first_caches, *[estimate.caches] * 4]
    assert estimate.weights == decoder.weight_bytes


def test_half_the_bytes_take_half_the_memory() -> None:
    exact, half = (tile_memory(WAN22, 256, 256, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert (half.caches, half.first_caches, half.weights) == (
        exact.caches // 2,
        exact.first_caches // 2,
        exact.weights // 2,
    )
    assert half.working < 0.55 * exact.working
    with pytest.raises(ValueError, match="must be multiples of 16"):
        tile_memory(WAN22, 250, 256)


def test_caches_of_the_public_network_at_full_size() -> None:
    """Wan 2.1's autoencoder (diffusers' defaults) at 1080p."""
    memory = tile_memory({}, 1088, 1920, torch.bfloat16)
    assert memory.caches == pytest.approx(9.9e9, rel=0.01)
    assert memory.weights == pytest.approx(73.3e6 * 2, rel=0.01)
    assert memory.working == pytest.approx(19.5e9, rel=0.05)
