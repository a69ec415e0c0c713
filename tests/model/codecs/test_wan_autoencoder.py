"""The wrapper of AutoencoderKLWan: streams what diffusers decodes at once, in tiles where it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from hypothesis import given
from hypothesis import strategies as st

from zoetrope.model.codecs.autoencoder import WanAutoencoder
from zoetrope.model.codecs.decode_plan import Decoding
from zoetrope.model.codecs.tiling import Tiling, spans

WAN21: dict[str, Any] = {
    "base_dim": 4,
    "z_dim": 4,
    "dim_mult": [1, 2, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [1.5, 2.0, 0.5, 1.0],
}
WAN22 = WAN21 | {
    "decoder_base_dim": 8,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}
CONFIGS = {"2.1": WAN21, "2.2": WAN22}
CPU = torch.device("cpu")
TILED = Decoding(tiles="always")


@pytest.fixture(params=CONFIGS)
def network(request: pytest.FixtureRequest) -> AutoencoderKLWan:
    torch.manual_seed(0)
    made = AutoencoderKLWan(**CONFIGS[request.param]).eval()
    with torch.no_grad():
        made.decoder.conv_out.weight.mul_(0.3)  # within -1..1, so that nothing is clamped
    return made


def latents_of(network: AutoencoderKLWan, frames: int, high: int = 4, wide: int = 6, seed: int = 1) -> torch.Tensor:
    return torch.randn(network.config.z_dim, frames, high, wide, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def whole(network: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """What diffusers gives for normalised latents."""
    shape = (1, -1, 1, 1, 1)
    mean, std = (torch.tensor(network.config[name]).reshape(shape) for name in ("latents_mean", "latents_std"))
    decoded: torch.Tensor = network.decode(latents[None] * std + mean, return_dict=False)[0][0]
    return decoded


def joined(chunks: Iterator[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(chunks), dim=1)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_stream_is_what_diffusers_decodes(network: AutoencoderKLWan, frames: int) -> None:
    autoencoder, latents = WanAutoencoder(network), latents_of(network, frames)
    chunks = list(autoencoder.decode_stream(latents))
    assert [chunk.shape[1] for chunk in chunks] == [1, *[4] * (frames - 1)]
    expected = whole(network, latents)
    assert expected.shape[1:] == (4 * frames - 3, 4 * autoencoder.spatial, 6 * autoencoder.spatial)
    assert expected.std() > 0.01, "a picture, not a constant"
    torch.testing.assert_close(torch.cat(chunks, dim=1), expected, rtol=0, atol=1e-6)


def test_chunks_come_before_the_rest_is_looked_at(network: AutoencoderKLWan) -> None:
    before, after = latents_of(network, 4), latents_of(network, 4, seed=2)
    after[:, :2] = before[:, :2]
    latents = before.clone()
    stream = WanAutoencoder(network).decode_stream(latents)
    chunks = [next(stream), next(stream)]
    latents.copy_(after)
    chunks += list(stream)
    torch.testing.assert_close(torch.cat(chunks, dim=1), whole(network, after), rtol=0, atol=1e-6)


def test_streams_do_not_disturb_each_other(network: AutoencoderKLWan) -> None:
    autoencoder = WanAutoencoder(network)
    first, second = latents_of(network, 3, seed=3), latents_of(network, 3, 2, 2, seed=4)
    a, b = autoencoder.decode_stream(first), autoencoder.decode_stream(second)
    heads = next(a), next(b)
    clip = torch.rand(3, 5, 32, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1
    autoencoder.encode(clip)  # diffusers resets the caches that it keeps in the network
    torch.testing.assert_close(torch.cat([heads[0], *a], 1), whole(network, first), rtol=0, atol=2e-6)
    torch.testing.assert_close(torch.cat([heads[1], *b], 1), whole(network, second), rtol=0, atol=2e-6)


@pytest.mark.parametrize("frames", [1, 9])
def test_pictures_and_clips_are_encoded_as_diffusers_does(network: AutoencoderKLWan, frames: int) -> None:
    autoencoder = WanAutoencoder(network)
    clip = torch.rand(3, frames, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = autoencoder.encode(clip)
    scale = autoencoder.spatial
    assert latents.shape == (4, 1 + (frames - 1) // 4, 32 // scale, 64 // scale)
    with torch.inference_mode():
        mode = network.encode(clip[None]).latent_dist.mode()[0]
    shape = (-1, 1, 1, 1)
    mean, std = (torch.tensor(network.config[name]).reshape(shape) for name in ("latents_mean", "latents_std"))
    torch.testing.assert_close(latents, (mode - mean) / std, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4, 32, 32), (3, 5, 40, 32), (3, 5, 32, 24)])
def test_clips_that_do_not_divide_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"frames must be 4n\+1, sides multiples of 16"):
        WanAutoencoder(AutoencoderKLWan(**WAN22)).encode(torch.zeros(shape))


# Tiles


def test_one_tile_for_all_is_exact(network: AutoencoderKLWan) -> None:
    autoencoder, latents = WanAutoencoder(network, TILED), latents_of(network, 3)
    tiling = Tiling(4 * autoencoder.spatial, 10 * autoencoder.spatial, autoencoder.spatial)
    assert torch.equal(joined(autoencoder.decode_stream(latents, tiling)), joined(autoencoder.decode_stream(latents)))


@pytest.mark.parametrize("tile, overlap", [((2, 3), 1), ((4, 4), 2), ((3, 4), 0), ((2, 6), 1)])
def test_tiles_are_blended_linearly(network: AutoencoderKLWan, tile: tuple[int, int], overlap: int) -> None:
    """Against tiles that diffusers decodes one by one, weighted as a tent each."""
    autoencoder, latents = WanAutoencoder(network, TILED), latents_of(network, 2)
    s = autoencoder.spatial
    chunks = list(autoencoder.decode_stream(latents, Tiling(tile[0] * s, tile[1] * s, overlap * s)))
    assert [chunk.shape for chunk in chunks] == [(3, 1, 4 * s, 6 * s), (3, 4, 4 * s, 6 * s)]
    total, expected = torch.zeros(4 * s, 6 * s), torch.zeros(3, 5, 4 * s, 6 * s)
    tops = sorted({min(top, 4 - tile[0]) for top in range(0, 4, tile[0] - overlap)})
    lefts = sorted({min(left, 6 - tile[1]) for left in range(0, 6, tile[1] - overlap)})
    for top in tops:
        for left in lefts:
            part = whole(network, latents[:, :, top : top + tile[0], left : left + tile[1]].contiguous())
            weights = torch.ones(tile[0] * s, tile[1] * s)
            for i in range(overlap * s):
                weight = (i + 0.5) / (overlap * s)
                weights[i] *= weight if top > 0 else 1
                weights[-1 - i] *= weight if top + tile[0] < 4 else 1
                weights[:, i] *= weight if left > 0 else 1
                weights[:, -1 - i] *= weight if left + tile[1] < 6 else 1
            place = (slice(top * s, (top + tile[0]) * s), slice(left * s, (left + tile[1]) * s))
            total[place] += weights
            expected[:, :, *place] += part * weights
    torch.testing.assert_close(torch.cat(chunks, 1), expected / total, rtol=0, atol=1e-5)


def test_tiles_are_lazy_deterministic_and_near_the_whole(network: AutoencoderKLWan) -> None:
    autoencoder, latents = WanAutoencoder(network, TILED), latents_of(network, 3, 6, 8)
    tiling = Tiling(4 * autoencoder.spatial, 4 * autoencoder.spatial, 2 * autoencoder.spatial)
    calls: list[int] = []
    hook = network.decoder.register_forward_hook(lambda *_: calls.append(1))
    stream = autoencoder.decode_stream(latents, tiling)
    first = next(stream)
    assert len(calls) == 2 * 3, "of one latent frame only"
    hook.remove()
    tiled = torch.cat([first, *stream], 1)
    assert torch.equal(tiled, joined(autoencoder.decode_stream(latents, tiling)))
    reference = whole(network, latents)
    assert (tiled - reference).square().mean() < 0.25 * reference.var(), "the same picture but for the borders of tiles"


def test_tilings_that_do_not_fit_are_refused(network: AutoencoderKLWan) -> None:
    autoencoder = WanAutoencoder(network, TILED)
    with pytest.raises(ValueError, match="must be less than the tile's sides, 32 and 16"):
        Tiling(32, 16, 16)
    with pytest.raises(ValueError, match=f"must be multiples of {autoencoder.spatial}"):
        next(autoencoder.decode_stream(latents_of(network, 1), Tiling(32, 36, 16)))


def test_devices_share_tiles_and_change_nothing(network: AutoencoderKLWan) -> None:
    latents = latents_of(network, 2, 4, 8)
    one = WanAutoencoder(network, TILED)
    tiling = Tiling(4 * one.spatial, 4 * one.spatial, 2 * one.spatial)
    for devices in (2, 4):  # of 3 tiles
        decoding = Decoding(tiles="always", devices=devices)
        shared = WanAutoencoder(network, decoding, [CPU] * (devices - 1))
        assert torch.equal(joined(shared.decode_stream(latents, tiling)), joined(one.decode_stream(latents, tiling)))


def test_whole_frames_of_several_clips_go_to_different_devices(network: AutoencoderKLWan) -> None:
    autoencoder, latents = WanAutoencoder(network, Decoding(devices=2), [CPU]), latents_of(network, 2)
    calls: list[int] = []
    network.decoder.register_forward_hook(lambda *_: calls.append(1))  # of the first device
    first, second = autoencoder.decode_stream(latents), autoencoder.decode_stream(latents)
    assert torch.equal(next(first), next(second)) and len(calls) == 1
    assert torch.equal(next(second), next(first)) and len(calls) == 2


@given(size=st.integers(1, 60), tile=st.integers(1, 30), overlap=st.integers(0, 29))
def test_spans_cover_everything_once(size: int, tile: int, overlap: int) -> None:
    overlap = min(overlap, tile - 1)
    found = spans(size, tile, overlap)
    total = torch.zeros(size)
    for span in found:
        assert span.length == min(tile, size) == len(span.weights)
        assert (span.weights > 0).all()
        total[span.start : span.start + span.length] += span.weights
    torch.testing.assert_close(total, torch.ones(size))
    assert all(a.start < b.start <= a.start + tile - overlap for a, b in pairwise(found))


def test_clips_that_are_encoded_at_the_same_time_do_not_mix(network: AutoencoderKLWan) -> None:
    """Diffusers keeps the frames before a chunk in the network itself."""
    autoencoder = WanAutoencoder(network)
    size = 4 * autoencoder.spatial
    clips = [torch.rand(3, 13, size, size, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    expected = [autoencoder.encode(clip) for clip in clips]
    with ThreadPoolExecutor(len(clips)) as threads:
        for _ in range(3):
            made = list(threads.map(autoencoder.encode, clips))
            assert all(torch.equal(*pair) for pair in zip(made, expected, strict=True))
