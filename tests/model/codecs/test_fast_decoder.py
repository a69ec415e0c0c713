"""The decoder rebuilt for GPUs: the same arithmetic as diffusers', and what bfloat16 costs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from tests.model.codecs.test_wan_autoencoder import joined, latents_of, network, whole
from zoetrope.model.checkpoints.original import public_autoencoder
from zoetrope.model.codecs.autoencoder import WanAutoencoder
from zoetrope.model.codecs.chunk_decoder import ChunkDecoder
from zoetrope.model.codecs.decode_plan import Decoding

__all__ = ["network"]  # the fixture
BOUND = 45.0  # dB
LIKE_WAN21: dict[str, Any] = {"base_dim": 32, "z_dim": 16, "num_res_blocks": 1}
LIKE_WAN22 = {**public_autoencoder(48), "base_dim": 8, "decoder_base_dim": 32, "num_res_blocks": 1}


def psnr(frames: torch.Tensor, reference: torch.Tensor) -> float:
    """Of frames in -1..1."""
    return float(10 * torch.log10(4 / (frames - reference).square().mean()))


@torch.no_grad()
def scale_frames(network: AutoencoderKLWan, factor: float) -> None:
    for parameter in network.decoder.conv_out.parameters():
        parameter.mul_(factor)


def test_the_arithmetic_is_that_of_diffusers(network: AutoencoderKLWan) -> None:
    """In float64 nothing but a wrong term is left to see."""
    latents, expected = latents_of(network, 4), whole(network, latents_of(network, 4))
    decoder = ChunkDecoder.of(copy.deepcopy(network), torch.float64)
    shape = (-1, 1, 1, 1)
    mean, std = (torch.tensor(network.config[name]).reshape(shape) for name in ("latents_mean", "latents_std"))
    caches = decoder.new_caches()
    with torch.inference_mode():
        z = latents * std + mean
        frames = [decoder.decode(z[:, i : i + 1], caches, first=i == 0) for i in range(4)]
    torch.testing.assert_close(torch.cat(frames, 1).float(), expected, rtol=0, atol=2e-6)


def test_everything_stays_channels_last(network: AutoencoderKLWan) -> None:
    decoder, latents = ChunkDecoder.of(network, torch.bfloat16), latents_of(network, 3)
    caches = decoder.new_caches()
    with torch.inference_mode():
        for index in range(3):
            decoder.decode(latents[:, index : index + 1], caches, first=index == 0)
    kept = [cache for cache in caches if isinstance(cache, torch.Tensor)]
    assert len(kept) > 10
    assert all(cache.is_contiguous(memory_format=torch.channels_last_3d) for cache in kept)


@pytest.mark.parametrize("config", [LIKE_WAN21, LIKE_WAN22], ids=["2.1", "2.2"])
def test_frames_in_bfloat16_are_near_those_in_float32(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    exact = AutoencoderKLWan(**config).eval()
    latents = latents_of(exact, 2, 2, 3)
    scale_frames(exact, 0.1)
    raw = joined(WanAutoencoder(exact).decode_stream(latents))
    assert raw.abs().max() < 1, "nothing is clamped"
    contrast = float(0.4 / raw.std())  # as much as a video has
    reference = (raw * contrast).clamp(-1, 1)
    scale_frames(exact, contrast)
    clip = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoded = WanAutoencoder(exact).encode(clip)
    rounded = WanAutoencoder(exact, Decoding(dtype="bfloat16"))
    frames = joined(rounded.decode_stream(latents))
    assert frames.dtype is torch.float32 and reference.std() > 0.3
    assert psnr(frames, reference) >= BOUND
    assert torch.equal(rounded.encode(clip), encoded), "the encoder stays as it was"


@pytest.mark.parametrize(
    ("choice", "device", "channels", "expected"),
    [
        ("auto", "cpu", 96, torch.float32),
        ("auto", "cuda", 96, torch.bfloat16),
        ("auto", "cuda", 16, torch.float32),
        ("float32", "cuda", 96, torch.float32),
        ("bfloat16", "cpu", 16, torch.bfloat16),
    ],
)
def test_the_dtype_depends_on_device_and_width(choice: Any, device: str, channels: int, expected: torch.dtype) -> None:
    assert Decoding(dtype=choice).dtype_on(device, channels) is expected
