"""A block of Wan's transformer over packed tokens; parameter names are those of diffusers' WanTransformerBlock."""

from __future__ import annotations

import torch
from torch import nn

from kernels import CuSeqlens, norm_modulate, qk_norm_rope, residual_gate, varlen_attention
from model.config import TransformerConfig
from model.experts import DenseFeedForward, MoEFeedForward
from model.sequences import PackedBatch


class LayerNorm32(nn.LayerNorm):
    """LayerNorm in float32 whatever the dtype of its input, which the result has."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        return nn.functional.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(input.dtype)


class Attention(nn.Module):
    """Multi-head attention with RMSNorm over all heads of q and k.

    With ``added_kv_dim`` the same queries also attend to image tokens of that width, and both results are summed.
    """

    def __init__(self, dim: int, heads: int, eps: float, added_kv_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.eps = eps
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)
        if added_kv_dim is not None:
            self.add_k_proj = nn.Linear(added_kv_dim, dim)
            self.add_v_proj = nn.Linear(added_kv_dim, dim)
            self.norm_added_k = nn.RMSNorm(dim, eps=eps)

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor,
        cu_q: CuSeqlens,
        cu_k: CuSeqlens,
        rope: tuple[torch.Tensor, torch.Tensor] | None,
        image: torch.Tensor | None = None,
        cu_image: CuSeqlens | None = None,
    ) -> torch.Tensor:
        """Queries from ``x`` [N, D], keys and values from ``context`` [M, D]; rotated only when ``rope`` is given.

        ``image`` [K, D] are the image tokens of all sequences, ``cu_image`` their lengths.
        """
        cos, sin = rope if rope is not None else (None, None)
        q = qk_norm_rope(self.to_q(x), self.norm_q.weight, cos, sin, self.heads, self.eps)
        k = qk_norm_rope(self.to_k(context), self.norm_k.weight, cos, sin, self.heads, self.eps)
        v = self.to_v(context).unflatten(-1, (self.heads, -1))
        attended = varlen_attention(q, k, v, cu_q, cu_k).flatten(1)
        if image is not None and cu_image is not None:
            k = qk_norm_rope(self.add_k_proj(image), self.norm_added_k.weight, None, None, self.heads, self.eps)
            v = self.add_v_proj(image).unflatten(-1, (self.heads, -1))
            attended = attended + varlen_attention(q, k, v, cu_q, cu_image).flatten(1)
        out: torch.Tensor = self.to_out[0](attended)
        return out


class Block(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; the first and last gated by the noise level."""

    def __init__(self, config: TransformerConfig, layer: int | None) -> None:
        """``layer`` counts the network's blocks; None for one beside them, whose feed-forward is always dense."""
        super().__init__()
        dim, eps = config.dim, config.eps
        self.eps = eps
        self.attn1 = Attention(dim, config.num_attention_heads, eps)
        self.attn2 = Attention(dim, config.num_attention_heads, eps, config.added_kv_proj_dim)
        self.norm2 = LayerNorm32(dim, eps=eps) if config.cross_attn_norm else nn.Identity()
        moe = config.moe
        self.ffn: nn.Module
        if moe is not None and layer in moe.layers:
            self.ffn = MoEFeedForward(
                dim,
                moe.expert_dim,
                moe.num_experts,
                moe.top_k,
                moe.shared_dim,
                groups=moe.groups if moe.router == "grouped_top1" else None,
                bias=moe.expert_bias,
            )
        else:
            self.ffn = DenseFeedForward(dim, config.ffn_dim)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        x: torch.Tensor,
        text: torch.Tensor,
        image: torch.Tensor | None,
        modulation: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        batch: PackedBatch,
    ) -> torch.Tensor:
        """``x`` [N, D]; ``text`` [M, D]; ``image`` [K, D]; ``modulation`` [R, 6, D] float32, a row per noise level."""
        row = batch.noise_row
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table.float() + modulation).unbind(1)
        h = norm_modulate(x, shift1, scale1, row, self.eps)
        x = residual_gate(x, self.attn1(h, h, batch.cu_tokens, batch.cu_tokens, rope), gate1, row)
        x = x + self.attn2(self.norm2(x), text, batch.cu_tokens, batch.cu_text, None, image, batch.cu_image)
        h = norm_modulate(x, shift2, scale2, row, self.eps)
        return residual_gate(x, self.ffn(h), gate2, row)
