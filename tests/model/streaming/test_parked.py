"""A parked module is on its device while someone uses it, with the same weights, and not otherwise."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import torch
from diffusers import AutoencoderKLWan

from zoetrope.model.codecs.autoencoder import WanAutoencoder
from zoetrope.model.streaming.parked import Parked

CPU = torch.device("cpu")


def test_users_share_one_copy_and_the_last_takes_it_away() -> None:
    layer = torch.nn.Linear(5, 3).requires_grad_(False)
    x, expected = torch.ones(2, 5), layer(torch.ones(2, 5))
    parked = Parked(layer, CPU)
    home = layer.weight.data_ptr()
    with parked.here():
        first = layer.weight.data_ptr()
        assert first != home and torch.equal(layer(x), expected)
        with parked.here():
            assert layer.weight.data_ptr() == first
        assert layer.weight.data_ptr() == first, "someone is still there"
    assert layer.weight.data_ptr() == home and parked.host_bytes >= 4 * (15 + 3)
    with pytest.raises(RuntimeError), parked.here():
        raise RuntimeError
    assert layer.weight.data_ptr() == home
    with parked.here():
        assert torch.equal(layer(x), expected)


def autoencoder(*, stays: bool) -> WanAutoencoder:
    torch.manual_seed(0)
    network = AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4, scale_factor_spatial=2, scale_factor_temporal=2,
    )  # fmt: skip
    return WanAutoencoder(network.eval().requires_grad_(False), stays=stays)


def test_an_autoencoder_that_is_parked_encodes_and_decodes_the_same() -> None:
    here, parked = autoencoder(stays=True), autoencoder(stays=False)
    clip = torch.rand(3, 5, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = here.encode(clip)
    assert torch.equal(parked.encode(clip), latents)
    home = [p.data_ptr() for p in parked._network.parameters()]
    stream = parked.decode_stream(latents)
    chunks = [next(stream)]
    assert [p.data_ptr() for p in parked._network.parameters()] != home, "while a clip is decoded"
    chunks += list(stream)
    assert [p.data_ptr() for p in parked._network.parameters()] == home
    assert torch.equal(torch.cat(chunks, dim=1), torch.cat(list(here.decode_stream(latents)), dim=1))
    stream = parked.decode_stream(latents)
    next(stream)
    assert isinstance(stream, Generator)
    stream.close()
    assert [p.data_ptr() for p in parked._network.parameters()] == home, "a clip that nobody wants any more"
