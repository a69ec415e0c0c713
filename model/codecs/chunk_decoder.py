"""Decode one latent frame after the other on one device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:  # it takes seconds to import, and many processes do not need it
    from diffusers import AutoencoderKLWan


@dataclass(frozen=True)
class ChunkDecoder:
    """The decoder of an AutoencoderKLWan on one device.

    The network is causal in time. Each convolution takes the last frames of its earlier input from a list of caches;
    callers keep such a list for each tile of each clip.

    Attributes:
        entry: the convolution before the decoder. patch: side of the patches that it gives in place of pixels.
        convolutions: the number of caches.
    """

    entry: nn.Module
    decoder: nn.Module
    patch: int | None
    convolutions: int
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, network: AutoencoderKLWan, dtype: torch.dtype) -> ChunkDecoder:
        """Take the decoder of a float32 network.

        In float32 it computes as diffusers does. In another ``dtype`` it is rebuilt (`model.codecs.fast_decoder`),
        inside ``network`` too, whose encoder stays as it is.
        """
        from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

        convolutions = sum(isinstance(module, WanCausalConv3d) for module in network.decoder.modules())
        if dtype != torch.float32:
            from zoetrope.model.codecs.fast_decoder import rebuild

            network.post_quant_conv = rebuild(network.post_quant_conv, dtype)
            network.decoder = rebuild(network.decoder, dtype)
        patch = network.config.patch_size
        return cls(network.post_quant_conv, network.decoder, patch, convolutions, network.device, dtype)

    def on(self, device: torch.device) -> ChunkDecoder:
        """Return a copy on another device."""
        entry, decoder = (copy.deepcopy(part).to(device) for part in (self.entry, self.decoder))
        return replace(self, entry=entry, decoder=decoder, device=device)

    @property
    def weight_bytes(self) -> int:
        return sum(parameter.nbytes for part in (self.entry, self.decoder) for parameter in part.parameters())

    def new_caches(self) -> list[Any]:
        """Return empty caches, for `decode`."""
        return [None] * self.convolutions

    def decode(self, z: torch.Tensor, caches: list[Any], *, first: bool) -> torch.Tensor:
        """Decode one latent frame ``[z_dim, 1, h, w]``, not normalised, to frames ``[3, f, H, W]``, not clamped, in
        ``dtype``.

        ``caches`` are those that earlier chunks of the same tile have left; they are updated.
        """
        x = z[None].to(self.dtype)
        if self.dtype != torch.float32:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        with _fastest_convolutions():
            pixels: torch.Tensor = self.decoder(self.entry(x), feat_cache=caches, feat_idx=[0], first_chunk=first)
        if self.patch is not None:
            from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

            pixels = unpatchify(pixels, patch_size=self.patch)
        return pixels[0]


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Let cuDNN try its algorithms at the first convolution of each shape; a clip has few shapes and many frames."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
