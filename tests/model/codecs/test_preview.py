"""Latents seen without the autoencoder."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import configure_torch, load_autoencoder
from zoetrope.model.codecs.autoencoder import Autoencoder
from zoetrope.model.codecs.preview import LatentView
from zoetrope.model.denoising.sampling import Sampler


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    return load_autoencoder(find_model("nano"), configure_torch(find_model("nano")))


def test_colours_of_pictures_that_it_has_not_seen(autoencoder: Autoencoder) -> None:
    view = LatentView.fit(autoencoder)
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand((3, 3, 5), generator=generator)
    picture = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    frames = view.frames(autoencoder.encode(picture[:, None] * 2 - 1))
    expected = functional.avg_pool2d(picture, autoencoder.spatial).permute(1, 2, 0)
    assert frames.shape == (1, *expected.shape)
    error = (torch.from_numpy(frames[0]).float() / 255 - expected).abs()
    assert error.mean() < 0.03
    assert error.max() < 0.25


def test_every_latent_frame_is_a_picture(autoencoder: Autoencoder) -> None:
    view = LatentView.fit(autoencoder)
    clip = torch.zeros(3, 9, 16, 24)
    clip[0] = torch.linspace(-1, 1, 9)[:, None, None]
    frames = view.frames(autoencoder.encode(clip))
    assert frames.shape == (1 + 8 // autoencoder.temporal, 16 // autoencoder.spatial, 24 // autoencoder.spatial, 3)
    reds = frames[..., 0].mean(axis=(1, 2))
    assert reds[0] < 40 < 180 < reds[-1]


@pytest.mark.parametrize("scheduler", ["FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_the_estimate_of_a_perfect_network_is_the_clip(scheduler: str) -> None:
    config = {"_class_name": scheduler, "num_train_timesteps": 1000}
    if scheduler == "UniPCMultistepScheduler":
        config |= {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    sampler = Sampler(config, 6)
    assert sampler.estimate() is None
    generator = torch.Generator().manual_seed(1)
    clip = torch.randn((4, 2, 3, 3), generator=generator)
    noise = torch.randn(clip.shape, generator=generator)
    latents = (1 - sampler.sigma) * clip + sampler.sigma * noise
    for _ in range(3):
        latents = sampler.advance(noise - clip, latents)
        estimate = sampler.estimate()
        assert estimate is not None
        torch.testing.assert_close(estimate, clip, atol=1e-4, rtol=1e-4)
