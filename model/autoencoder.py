"""Pixels to latents and back: diffusers' AutoencoderKLWan, or a linear autoencoder with the same file layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch

from model.linear_autoencoder import WEIGHTS_NAME, LinearAutoencoder, LinearConfig, blocks_of
from model.tiling import Span, Tiling, spans

if TYPE_CHECKING:  # it takes seconds to load, and many processes have no use for it
    from diffusers import AutoencoderKLWan

__all__ = [
    "WEIGHTS_NAME",
    "Autoencoder",
    "LinearAutoencoder",
    "LinearConfig",
    "Tiling",
    "WanAutoencoder",
    "blocks_of",
]


class Autoencoder(Protocol):
    """What the stages need of an autoencoder. Clips are ``[3, F, H, W]`` float32 in -1..1; pictures have F = 1."""

    z_dim: int
    temporal: int
    spatial: int

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        """Normalised latents ``[z_dim, 1 + (F - 1) / temporal, H / spatial, W / spatial]`` (posterior mode).

        Raises:
            ValueError: F is not 1 modulo ``temporal``, or a side is not a multiple of ``spatial``.
        """

    def decode_stream(self, latents: torch.Tensor, tiling: Tiling | None = None) -> Iterator[torch.Tensor]:
        """Chunks ``[3, f, H, W]`` of the clip in order, as soon as they are ready, clamped to -1..1.

        One chunk per latent frame: the first of one frame, the others of ``temporal``. A latent frame is not looked at
        before its chunk is asked for. Several streams of one autoencoder may be under way at the same time.

        Args:
            tiling: decode in tiles, for less memory and other pixels near their borders.

        Raises:
            ValueError: the tiles are not made of whole latent cells.
        """


class WanAutoencoder:
    """diffusers' AutoencoderKLWan (Wan 2.1's and 2.2's); latents are normalised as Wan's pipelines do,
    ``(z - mean) / std``.

    The network is causal in time. Its convolutions take the last frames of what they saw before from a list of caches,
    one for each; we keep these lists ourselves, a list for each tile of each stream.
    """

    def __init__(self, network: AutoencoderKLWan) -> None:
        self._network = network
        config = network.config
        self.z_dim = int(config.z_dim)
        self.temporal = int(config.scale_factor_temporal)
        self.spatial = int(config.scale_factor_spatial)
        self._device = network.device
        shape = (1, self.z_dim, 1, 1, 1)
        self._mean = torch.tensor(config.latents_mean, device=self._device).reshape(shape)
        self._std = torch.tensor(config.latents_std, device=self._device).reshape(shape)

    @torch.inference_mode()
    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        """See `Autoencoder.encode`."""
        _, frames, height, width = clip.shape
        if (frames - 1) % self.temporal or height % self.spatial or width % self.spatial:
            raise ValueError(
                f"clip of {frames} x {height} x {width}: frames must be {self.temporal}n+1, "
                f"sides multiples of {self.spatial}"
            )
        posterior = self._network.encode(clip[None].to(self._device)).latent_dist
        latents: torch.Tensor = ((posterior.mode() - self._mean) / self._std)[0]
        return latents

    @torch.inference_mode()
    def decode_stream(self, latents: torch.Tensor, tiling: Tiling | None = None) -> Iterator[torch.Tensor]:
        """See `Autoencoder.decode_stream`. The memory it takes: `model.decode_memory`."""
        _, count, high, wide = latents.shape
        rows, columns = self._grid(high, wide, tiling)
        tiles = [(row, column, new_caches(self._network)) for row in rows for column in columns]
        for index in range(count):
            z = latents[None, :, index : index + 1].to(self._device) * self._std + self._mean
            if len(tiles) == 1:
                yield decode_chunk(self._network, z, tiles[0][2], first=index == 0)[0].clamp(-1, 1)
                continue
            frames = self.temporal if index else 1
            chunk = torch.zeros(3, frames, high * self.spatial, wide * self.spatial, device=self._device)
            for row, column, caches in tiles:
                part = z[..., self._cells(row), self._cells(column)]
                pixels = decode_chunk(self._network, part, caches, first=index == 0)[0]
                weights = row.weights[:, None].to(pixels) * column.weights.to(pixels)
                place = (
                    ...,
                    slice(row.start, row.start + row.length),
                    slice(column.start, column.start + column.length),
                )
                chunk[place] += pixels * weights
                # The network fetches them back one by one, so that the device holds those of one tile only.
                caches[:] = [cache.cpu() if isinstance(cache, torch.Tensor) else cache for cache in caches]
            yield chunk.clamp(-1, 1)

    def _grid(self, high: int, wide: int, tiling: Tiling | None) -> tuple[list[Span], list[Span]]:
        """Rows and columns of tiles, in pixels, over latents of ``high x wide`` cells."""
        height, width = high * self.spatial, wide * self.spatial
        if tiling is None:
            return spans(height, height, 0), spans(width, width, 0)
        if any(side % self.spatial for side in (tiling.tile_height, tiling.tile_width, tiling.overlap)):
            raise ValueError(f"{tiling}: sides and overlap must be multiples of {self.spatial}")
        return (
            spans(height, tiling.tile_height, tiling.overlap),
            spans(width, tiling.tile_width, tiling.overlap),
        )

    def _cells(self, span: Span) -> slice:
        return slice(span.start // self.spatial, (span.start + span.length) // self.spatial)


def new_caches(network: AutoencoderKLWan) -> list[Any]:
    """Empty caches of the decoder's causal convolutions, for `decode_chunk`."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    return [None] * sum(isinstance(module, WanCausalConv3d) for module in network.decoder.modules())


def decode_chunk(network: AutoencoderKLWan, z: torch.Tensor, caches: list[Any], *, first: bool) -> torch.Tensor:
    """One latent frame ``[1, z_dim, 1, h, w]``, not normalised, to its frames ``[1, 3, f, H, W]``, not clamped.

    ``caches`` is what the earlier chunks of the same tile left behind; it is updated.
    """
    x = network.post_quant_conv(z)
    pixels: torch.Tensor = network.decoder(x, feat_cache=caches, feat_idx=[0], first_chunk=first)
    patch = network.config.patch_size
    if patch is None:
        return pixels
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

    unfolded: torch.Tensor = unpatchify(pixels, patch_size=patch)
    return unfolded
