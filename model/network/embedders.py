"""Embed timesteps, text and CLIP tokens; names are those of diffusers' condition_embedder."""

from __future__ import annotations

import math

import torch
from torch import nn

from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.blocks import LayerNorm32


class PatchEmbedding(nn.Conv3d):
    """A convolution whose windows do not overlap, as a product with windows that are cut out already."""

    def __init__(self, channels: int, dim: int, patch: tuple[int, int, int]) -> None:
        super().__init__(channels, dim, kernel_size=patch, stride=patch)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """``[N, channels * patch volume]``, features in the order of the weight, -> ``[N, D]``."""
        weight = self.weight.flatten(1)
        return nn.functional.linear(tokens.to(weight.dtype), weight, self.bias)


class TwoLinears(nn.Module):
    """Two linear layers; the caller applies what is between them."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, dim)
        self.linear_2 = nn.Linear(dim, dim)


class _Projection(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(self.proj(x))  # the exact one, unlike the blocks'


class _FeedForward(nn.Module):
    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(_Projection(width), nn.Identity(), nn.Linear(width, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out


class ImageEmbedder(nn.Module):
    """Projects CLIP tokens to the width of the network, with learned positions if the checkpoint has them."""

    def __init__(self, width: int, dim: int, positions: int | None) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(width)
        self.ff = _FeedForward(width, dim)
        self.norm2 = LayerNorm32(dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, width)) if positions is not None else None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """``[K, image_dim]`` -> ``[K, D]``; with positions, K is a multiple of their number."""
        if self.pos_embed is not None:
            tokens = (tokens.unflatten(0, (-1, self.pos_embed.shape[1])) + self.pos_embed).flatten(0, 1)
        out: torch.Tensor = self.norm2(self.ff(self.norm1(tokens)))
        return out


class ConditionEmbedder(nn.Module):
    """Embeds timesteps as modulation, and text and image tokens in the width of the network."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.freq_dim = config.freq_dim
        self.time_embedder = TwoLinears(config.freq_dim, config.dim)
        self.time_proj = nn.Linear(config.dim, 6 * config.dim)
        self.text_embedder = TwoLinears(config.text_dim, config.dim)
        self.image_embedder: ImageEmbedder | None = None
        if config.image_dim is not None:
            self.image_embedder = ImageEmbedder(config.image_dim, config.dim, config.pos_embed_seq_len)

    def time(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``[R]`` -> ``(temb [R, D], modulation [R, 6, D])``, both float32."""
        half = self.freq_dim // 2
        freqs = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half)
        angles = timesteps.float()[:, None] * freqs
        x = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.time_embedder.linear_1.weight.dtype)
        temb = self.time_embedder.linear_2(nn.functional.silu(self.time_embedder.linear_1(x)))
        temb = temb.to(self.time_proj.weight.dtype)  # the embedder stays in float32 if the rest is narrower
        modulation = self.time_proj(nn.functional.silu(temb))
        return temb.float(), modulation.float().unflatten(-1, (6, -1))

    def text(self, embeddings: torch.Tensor) -> torch.Tensor:
        """``[M, text_dim]`` -> ``[M, D]``."""
        hidden = nn.functional.gelu(self.text_embedder.linear_1(embeddings), approximate="tanh")
        out: torch.Tensor = self.text_embedder.linear_2(hidden)
        return out

    def image(self, tokens: torch.Tensor) -> torch.Tensor:
        """``[K, image_dim]`` -> ``[K, D]``."""
        assert self.image_embedder is not None
        out: torch.Tensor = self.image_embedder(tokens)
        return out
