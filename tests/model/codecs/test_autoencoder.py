"""The linear autoencoder: principal components of blocks of pixels, streamed latent frame by latent frame."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from zoetrope.model.codecs.linear_autoencoder import LinearAutoencoder, LinearConfig, blocks_of
from zoetrope.model.nano.world import render, sample_scenes

CONFIG = LinearConfig(z_dim=12, scale_factor_temporal=2, scale_factor_spatial=4)


def clips(count: int, frames: int = 5, height: int = 32, width: int = 40, seed: int = 0) -> torch.Tensor:
    scenes = sample_scenes(count, height, width, frames, torch.Generator().manual_seed(seed))
    return render(scenes, height, width, frames)


@pytest.fixture(scope="module")
def fitted() -> LinearAutoencoder:
    return LinearAutoencoder.fit([clips(12), clips(12, height=40, width=32)], CONFIG)


def decode(autoencoder: LinearAutoencoder, latents: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(autoencoder.decode_stream(latents)), dim=1)


def test_shapes(fitted: LinearAutoencoder) -> None:
    clip = clips(1, frames=9)[0]
    latents = fitted.encode(clip)
    assert latents.shape == (12, 5, 8, 10)
    assert latents.dtype == torch.float32
    chunks = list(fitted.decode_stream(latents))
    assert [chunk.shape[1] for chunk in chunks] == [1, 2, 2, 2, 2]
    assert torch.cat(chunks, dim=1).shape == clip.shape


def test_with_all_components_nothing_is_lost() -> None:
    full = LinearAutoencoder.fit(
        [clips(40, frames=9)], LinearConfig(z_dim=96, scale_factor_temporal=2, scale_factor_spatial=4)
    )
    clip = clips(1, frames=9, seed=1)[0]
    assert torch.allclose(decode(full, full.encode(clip)), clip, rtol=0, atol=1e-3)


def test_more_components_lose_less() -> None:
    clip = clips(1, seed=2)[0]
    errors = []
    for z_dim in (3, 12, 48):
        autoencoder = LinearAutoencoder.fit(
            [clips(12)], LinearConfig(z_dim=z_dim, scale_factor_temporal=2, scale_factor_spatial=4)
        )
        errors.append(float((decode(autoencoder, autoencoder.encode(clip)) - clip).square().mean()))
    assert errors[0] > errors[1] > errors[2]


def test_the_transformer_sees_variances_near_one(fitted: LinearAutoencoder) -> None:
    latents = fitted.encode_batch(clips(12))
    assert 0.8 < float((latents - latents.mean((0, 2, 3, 4), keepdim=True)).square().mean()) < 1.25
    spread = latents.std((0, 2, 3, 4))
    assert float(spread[0]) == float(spread.max()), "the coarsest component keeps the most weight"


def test_chunks_come_in_order_and_depend_on_their_own_latents_only(fitted: LinearAutoencoder) -> None:
    latents = fitted.encode(clips(1)[0])
    changed = latents.clone()
    changed[:, 1] += 0.5
    before, after = list(fitted.decode_stream(latents)), list(fitted.decode_stream(changed))
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True]
    stream = fitted.decode_stream(latents)
    assert torch.equal(next(stream), before[0]), "the first frame is there before the rest is decoded"


def test_the_first_frame_is_the_mean_of_its_block(fitted: LinearAutoencoder) -> None:
    one = 0.05 * torch.randn(12, 1, 8, 10)  # small: nothing is clamped
    first, second = fitted.decode_stream(one.expand(-1, 2, -1, -1))
    assert float((second[:, 0] - second[:, 1]).abs().max()) > 1e-3
    assert torch.allclose(first, second.mean(1, keepdim=True), atol=1e-6)


def test_a_still_clip_stays_still(fitted: LinearAutoencoder) -> None:
    still = clips(1)[0][:, :1].expand(-1, 5, -1, -1)
    latents = fitted.encode(still)
    assert torch.allclose(latents, latents[:, :1].expand_as(latents), atol=1e-4)
    alone = decode(fitted, fitted.encode(still[:, :1]))
    assert torch.allclose(alone, decode(fitted, latents)[:, :1], atol=1e-5)


def test_decoded_pixels_stay_in_range(fitted: LinearAutoencoder) -> None:
    decoded = decode(fitted, 10 * torch.randn(12, 3, 8, 10))
    assert float(decoded.min()) == -1
    assert float(decoded.max()) == 1


def test_a_batch_is_its_clips(fitted: LinearAutoencoder) -> None:
    batch = clips(3)
    assert torch.allclose(fitted.encode_batch(batch), torch.stack([fitted.encode(c) for c in batch]), atol=1e-5)


def test_saved_and_loaded_it_gives_the_same(fitted: LinearAutoencoder, tmp_path: Path) -> None:
    fitted.save(tmp_path / "vae")
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    assert config["_class_name"] == LinearAutoencoder.CLASS_NAME
    loaded = LinearAutoencoder.load(tmp_path / "vae")
    assert (loaded.z_dim, loaded.temporal, loaded.spatial) == (12, 2, 4)
    clip = clips(1)[0]
    assert torch.equal(loaded.encode(clip), fitted.encode(clip))
    assert torch.equal(decode(loaded, loaded.encode(clip)), decode(fitted, fitted.encode(clip)))


@pytest.mark.parametrize("shape", [(1, 3, 4, 32, 32), (1, 3, 5, 30, 32), (1, 3, 5, 32, 30)])
def test_clips_that_do_not_divide_are_refused(fitted: LinearAutoencoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"frames must be 2n\+1, sides multiples of 4"):
        fitted.encode(torch.zeros(shape)[0])


def test_blocks_are_the_pixels_they_stand_for() -> None:
    batch = torch.randn(2, 3, 5, 8, 12)
    rows, grid = blocks_of(batch, 2, 4)
    assert grid == (2, 3, 2, 3)
    blocks = rows.reshape(2, 3, 2, 3, 3, 2, 4, 4)
    assert torch.equal(blocks[1, 2, 1, 2], batch[1, :, 3:5, 4:8, 8:12])
    assert torch.equal(blocks[0, 0, 0, 1], batch[0, :, :1, :4, 4:8].expand(-1, 2, -1, -1)), (
        "the first frame stands twice"
    )
