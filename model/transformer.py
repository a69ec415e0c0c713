"""Wan's diffusion transformer over packed sequences; parameter names are those of diffusers' WanTransformer3DModel."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from kernels import norm_modulate, qk_norm_rope, residual_gate, varlen_attention
from kernels.varlen import CuSeqlens
from model.experts import DenseFeedForward, MoEFeedForward
from model.sequences import WAN_THETA, PackedBatch, Sequence, pack


class MoEConfig(BaseModel):
    """Which layers route their tokens to experts, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: tuple[int, ...]
    num_experts: int = Field(ge=1)
    top_k: int = Field(ge=1)
    expert_dim: int = Field(ge=1)
    shared_dim: int = Field(default=0, ge=0)
    router: Literal["sigmoid"] = "sigmoid"


class TransformerConfig(BaseModel):
    """The fields of diffusers' config.json that shape the network, plus ``moe``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = Field(ge=1)
    attention_head_dim: int = Field(ge=8)
    in_channels: int = Field(ge=1)
    out_channels: int = Field(ge=1)
    text_dim: int = Field(ge=1)
    freq_dim: int = Field(default=256, ge=2)
    ffn_dim: int = Field(ge=1)
    num_layers: int = Field(ge=1)
    cross_attn_norm: bool = True
    qk_norm: Literal["rms_norm_across_heads"] = "rms_norm_across_heads"
    eps: float = 1e-6
    rope_theta: float = Field(default=WAN_THETA, gt=1)
    moe: MoEConfig | None = None

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


class Attention(nn.Module):
    """Multi-head attention with RMSNorm over all heads of q and k."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.eps = eps
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor,
        cu_q: CuSeqlens,
        cu_k: CuSeqlens,
        rope: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """Queries from ``x`` [N, D], keys and values from ``context`` [M, D]; rotated only when ``rope`` is given."""
        cos, sin = rope if rope is not None else (None, None)
        q = qk_norm_rope(self.to_q(x), self.norm_q.weight, cos, sin, self.heads, self.eps)
        k = qk_norm_rope(self.to_k(context), self.norm_k.weight, cos, sin, self.heads, self.eps)
        v = self.to_v(context).unflatten(-1, (self.heads, -1))
        out: torch.Tensor = self.to_out[0](varlen_attention(q, k, v, cu_q, cu_k).flatten(1))
        return out


class Block(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; the first and last gated by the noise level."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.eps = eps
        self.attn1 = Attention(dim, config.num_attention_heads, eps)
        self.attn2 = Attention(dim, config.num_attention_heads, eps)
        self.norm2 = nn.LayerNorm(dim, eps=eps) if config.cross_attn_norm else nn.Identity()
        moe = config.moe
        self.ffn: nn.Module
        if moe is not None and layer in moe.layers:
            self.ffn = MoEFeedForward(dim, moe.expert_dim, moe.num_experts, moe.top_k, moe.shared_dim)
        else:
            self.ffn = DenseFeedForward(dim, config.ffn_dim)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        x: torch.Tensor,
        text: torch.Tensor,
        modulation: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        batch: PackedBatch,
    ) -> torch.Tensor:
        """``x`` [N, D]; ``text`` [M, D]; ``modulation`` [R, 6, D] float32, a row for each noise level."""
        row = batch.noise_row
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table.float() + modulation).unbind(1)
        h = norm_modulate(x, shift1, scale1, row, self.eps)
        x = residual_gate(x, self.attn1(h, h, batch.cu_tokens, batch.cu_tokens, rope), gate1, row)
        x = x + self.attn2(self.norm2(x), text, batch.cu_tokens, batch.cu_text, None)
        h = norm_modulate(x, shift2, scale2, row, self.eps)
        return residual_gate(x, self.ffn(h), gate2, row)


class TwoLinears(nn.Module):
    """Two linear layers; what stands between them is up to the user."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, dim)
        self.linear_2 = nn.Linear(dim, dim)


class ConditionEmbedder(nn.Module):
    """Timesteps to modulation, text embeddings to the width of the network."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.freq_dim = config.freq_dim
        self.time_embedder = TwoLinears(config.freq_dim, config.dim)
        self.time_proj = nn.Linear(config.dim, 6 * config.dim)
        self.text_embedder = TwoLinears(config.text_dim, config.dim)

    def time(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``[R]`` -> ``(temb [R, D], modulation [R, 6, D])``, both float32."""
        half = self.freq_dim // 2
        freqs = torch.exp(
            -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
        )
        angles = timesteps.float()[:, None] * freqs
        x = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.time_embedder.linear_1.weight.dtype)
        temb = self.time_embedder.linear_2(nn.functional.silu(self.time_embedder.linear_1(x)))
        modulation = self.time_proj(nn.functional.silu(temb))
        return temb.float(), modulation.float().unflatten(-1, (6, -1))

    def text(self, embeddings: torch.Tensor) -> torch.Tensor:
        """``[M, text_dim]`` -> ``[M, D]``."""
        hidden = nn.functional.gelu(self.text_embedder.linear_1(embeddings), approximate="tanh")
        out: torch.Tensor = self.text_embedder.linear_2(hidden)
        return out


class WanTransformer(nn.Module):
    """Predicts the flow velocity (noise - clean latents) of every token of a packed batch."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        patch = config.patch_size
        self.patch_embedding = nn.Conv3d(config.in_channels, config.dim, kernel_size=patch, stride=patch)
        self.condition_embedder = ConditionEmbedder(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.proj_out = nn.Linear(config.dim, config.out_channels * math.prod(patch))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        """Returns ``[N, patch volume * out_channels]`` for all tokens; `unpack_targets` picks the clips out of it."""
        weight = self.patch_embedding.weight.flatten(1)
        x = nn.functional.linear(batch.tokens.to(weight.dtype), weight, self.patch_embedding.bias)
        temb, modulation = self.condition_embedder.time(batch.timesteps)
        text = self.condition_embedder.text(batch.text.to(weight.dtype))
        rope = (batch.cos, batch.sin)
        for block in self.blocks:
            x = block(x, text, modulation, rope, batch)
        shift, scale = (self.scale_shift_table.float() + temb[:, None]).unbind(1)
        out: torch.Tensor = self.proj_out(norm_modulate(x, shift, scale, batch.noise_row, self.config.eps))
        return out

    def pack(self, sequences: list[Sequence]) -> PackedBatch:
        """Lay sequences end to end with this network's patch and positions."""
        config = self.config
        return pack(sequences, config.patch_size, config.attention_head_dim, config.rope_theta)

    def layers(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def moe_layers(self) -> list[MoEFeedForward]:
        return [block.ffn for block in self.layers() if isinstance(block.ffn, MoEFeedForward)]
