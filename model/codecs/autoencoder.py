"""Encode pixels to latents and decode them: diffusers' AutoencoderKLWan, or a linear autoencoder in the same layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch

from zoetrope.model.codecs.tiling import TileSpan, Tiling, spans

if TYPE_CHECKING:  # it takes seconds to import, and many processes do not need it
    from diffusers import AutoencoderKLWan


class Autoencoder(Protocol):
    """What callers need of an autoencoder. Clips are ``[3, F, H, W]`` float32 in -1..1; pictures have F = 1."""

    z_dim: int
    temporal: int
    spatial: int

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        """Return normalised latents ``[z_dim, 1 + (F - 1) / temporal, H / spatial, W / spatial]`` (posterior mode).

        Raises:
            ValueError: F is not 1 modulo ``temporal``, or a side is not a multiple of ``spatial``.
        """

    def decode_stream(self, latents: torch.Tensor, tiling: Tiling | None = None) -> Iterator[torch.Tensor]:
        """Yield chunks ``[3, f, H, W]`` of the clip in order, as soon as they are ready, clamped to -1..1.

        One chunk per latent frame: one frame for the first, ``temporal`` for the others. A latent frame is not read
        before its chunk is requested. Several streams of one autoencoder may be open at a time.

        Args:
            tiling: decode in tiles, which takes less memory and changes pixels near their borders.

        Raises:
            ValueError: the tiles do not consist of whole latent cells.
        """


class WanAutoencoder:
    """diffusers' AutoencoderKLWan (of Wan 2.1 and 2.2); latents are normalised as in Wan's pipelines,
    ``(z - mean) / std``.

    The network is causal in time. Each convolution takes the last frames of its earlier input from a list of caches; we
    keep such a list for each tile of each stream.
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
        """See `Autoencoder.decode_stream`. For the memory that it takes see `benchmarks.decode_memory`."""
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
                # The network fetches them one by one, so the device holds only those of one tile.
                caches[:] = [cache.cpu() if isinstance(cache, torch.Tensor) else cache for cache in caches]
            yield chunk.clamp(-1, 1)

    def _grid(self, high: int, wide: int, tiling: Tiling | None) -> tuple[list[TileSpan], list[TileSpan]]:
        """Return rows and columns of tiles, in pixels, over latents of ``high x wide`` cells."""
        height, width = high * self.spatial, wide * self.spatial
        if tiling is None:
            return spans(height, height, 0), spans(width, width, 0)
        if any(side % self.spatial for side in (tiling.tile_height, tiling.tile_width, tiling.overlap)):
            raise ValueError(f"{tiling}: sides and overlap must be multiples of {self.spatial}")
        return (
            spans(height, tiling.tile_height, tiling.overlap),
            spans(width, tiling.tile_width, tiling.overlap),
        )

    def _cells(self, span: TileSpan) -> slice:
        return slice(span.start // self.spatial, (span.start + span.length) // self.spatial)


def new_caches(network: AutoencoderKLWan) -> list[Any]:
    """Return empty caches of the decoder's causal convolutions, for `decode_chunk`."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    return [None] * sum(isinstance(module, WanCausalConv3d) for module in network.decoder.modules())


def decode_chunk(network: AutoencoderKLWan, z: torch.Tensor, caches: list[Any], *, first: bool) -> torch.Tensor:
    """Decode one latent frame ``[1, z_dim, 1, h, w]``, not normalised, to frames ``[1, 3, f, H, W]``, not clamped.

    ``caches`` are those that earlier chunks of the same tile have left; they are updated.
    """
    x = network.post_quant_conv(z)
    pixels: torch.Tensor = network.decoder(x, feat_cache=caches, feat_idx=[0], first_chunk=first)
    patch = network.config.patch_size
    if patch is None:
        return pixels
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

    unfolded: torch.Tensor = unpatchify(pixels, patch_size=patch)
    return unfolded
