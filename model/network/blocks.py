"""A block of Wan's transformer over packed tokens; parameter names are those of diffusers' WanTransformerBlock."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from zoetrope.kernels import (
    CuSeqlens,
    attends_in_8bit,
    attention_of_projections,
    qk_norm_rope,
    residual_gate,
    varlen_attention,
)
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.exchange import ALONE, Exchange
from zoetrope.model.network.experts import DenseFeedForward, MoEFeedForward
from zoetrope.model.network.normed import Normed, norm_of_sum
from zoetrope.model.network.remembered import KeysValues
from zoetrope.model.network.sequences import PackedBatch


class Hidden(NamedTuple):  # a tuple, so that module wrappers such as DeepSpeed's ZeRO find its tensors
    """The residual stream between two blocks: ``residual + update * gate[noise_row]``, not yet summed, so that the sum
    is fused with the norm that follows.

    Attributes:
        residual, update: ``[N, D]``. gate: ``[R, D]`` float32, a row per noise level.
    """

    residual: torch.Tensor
    update: torch.Tensor | None = None
    gate: torch.Tensor | None = None

    def settle(self, row: torch.Tensor) -> torch.Tensor:
        """Return the sum ``[N, D]``; ``row`` [N] is each token's noise level."""
        return self.residual if self.update is None else residual_gate(self.residual, self.update, self.gate, row)


class LayerNorm32(nn.LayerNorm):
    """LayerNorm computed in float32; the result has the input's dtype."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        return nn.functional.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(input.dtype)


class ResidualNorm32(LayerNorm32):
    """A residual sum and the norm after it, in one pass."""

    def forward(  # type: ignore[override]
        self, residual: torch.Tensor, update: torch.Tensor, gate: torch.Tensor, row: torch.Tensor, quantise: bool
    ) -> tuple[torch.Tensor, torch.Tensor | Normed]:
        """Return ``(residual + update * gate[row], its norm)``, shapes as in `kernels.ops.residual_norm`."""
        weight, bias = self.weight, self.bias
        return norm_of_sum(residual, update, gate, row, weight=weight, bias=bias, eps=self.eps, quantise=quantise)


def _stay(x: torch.Tensor) -> torch.Tensor:
    return x


class Attention(nn.Module):
    """Multi-head attention with RMSNorm over all heads of q and k.

    With ``added_kv_dim`` the queries also attend to image tokens of that width, and both results are summed.
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

    def remember(self, text: torch.Tensor, image: torch.Tensor | None) -> KeysValues:
        """Compute what `forward` needs of ``text`` [M, D] and of image tokens [K, D]."""
        k = qk_norm_rope(self.to_k(text), self.norm_k.weight, None, None, self.heads, self.eps)
        v = self.to_v(text).unflatten(-1, (self.heads, -1))
        return KeysValues(k, v) if image is None else KeysValues(k, v, *self._of_image(image))

    def _of_image(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        k = qk_norm_rope(self.add_k_proj(image), self.norm_added_k.weight, None, None, self.heads, self.eps)
        return k, self.add_v_proj(image).unflatten(-1, (self.heads, -1))

    def forward(
        self,
        x: torch.Tensor | Normed,
        context: torch.Tensor | Normed | KeysValues,
        cu_q: CuSeqlens,
        cu_k: CuSeqlens,
        rope: tuple[torch.Tensor, torch.Tensor] | None,
        image: torch.Tensor | None = None,
        cu_image: CuSeqlens | None = None,
        exchange: Exchange | None = None,
    ) -> torch.Tensor:
        """Attend from ``x`` [N, D] to ``context`` [M, D], rotated if ``rope`` is given -> ``[N, D]``.

        ``image`` [K, D] are the image tokens of all sequences, ``cu_image`` their lengths. With ``exchange`` the
        context is the tokens themselves, including those of other ranks. Otherwise it may be what `remember` gave.
        """
        cos, sin = rope if rope is not None else (None, None)
        exact = x.exact if isinstance(x, Normed) else x
        if exchange is ALONE and attends_in_8bit(exact, self.norm_q.weight, exact.shape[-1] // self.heads):
            q, k, v = self.to_q(x), self.to_k(context), self.to_v(context).unflatten(-1, (self.heads, -1))
            weights = self.norm_q.weight, self.norm_k.weight
            attended = attention_of_projections(q, k, v, *weights, cos, sin, self.eps, cu_q, cu_k)
            in_8bit: torch.Tensor = self.to_out[0](attended.flatten(1))
            return in_8bit
        # Each is shared as soon as it is made: computing the next one hides the transfer.
        share = _stay if exchange is None else exchange.share
        q = share(qk_norm_rope(self.to_q(x), self.norm_q.weight, cos, sin, self.heads, self.eps))
        if isinstance(context, KeysValues):
            k, v, *of_image = context
        else:
            k = share(qk_norm_rope(self.to_k(context), self.norm_k.weight, cos, sin, self.heads, self.eps))
            v = share(self.to_v(context).unflatten(-1, (self.heads, -1)))
            of_image = [None, None] if image is None else [*self._of_image(image)]
        if exchange is not None:
            attended = exchange.attend(q, k, v, cu_q).flatten(1)
        else:
            attended = varlen_attention(q, k, v, cu_q, cu_k).flatten(1)
        image_k, image_v = of_image
        if image_k is not None and image_v is not None and cu_image is not None:
            attended = attended + varlen_attention(q, image_k, image_v, cu_q, cu_image).flatten(1)
        out: torch.Tensor = self.to_out[0](attended)
        return out


class Block(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; the first and last gated by the noise level.

    ``quantised``: its layers take norms in 8 bits (`model.network.quantized`).
    """

    def __init__(self, config: TransformerConfig, layer: int | None) -> None:
        """``layer`` is the index of the block; None for one outside the main stack, whose feed-forward is always
        dense."""
        super().__init__()
        dim, eps = config.dim, config.eps
        self.eps = eps
        self.quantised = False
        self.attn1 = Attention(dim, config.num_attention_heads, eps)
        self.attn2 = Attention(dim, config.num_attention_heads, eps, config.added_kv_proj_dim)
        self.norm2 = ResidualNorm32(dim, eps=eps) if config.cross_attn_norm else None
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
        x: Hidden,
        text: torch.Tensor | KeysValues,
        image: torch.Tensor | None,
        modulation: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        batch: PackedBatch,
    ) -> Hidden:
        """``x`` [N, D]; ``text`` [M, D], or what ``attn2`` remembers of it and of ``image`` [K, D]; ``modulation`` [R,
        6, D] float32, a row per noise level."""
        row, eps, quantise = batch.noise_row, self.eps, self.quantised
        h: torch.Tensor | Normed
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table.float() + modulation).unbind(1)
        sum1, h = norm_of_sum(x.residual, x.update, x.gate, row, shift=shift1, scale=scale1, eps=eps, quantise=quantise)
        update = self.attn1(h, h, batch.cu_tokens, batch.cu_tokens, rope, exchange=batch.exchange)
        if self.norm2 is not None:
            sum2, h = self.norm2(sum1, update, gate1, row, quantise)
        else:
            sum2 = h = residual_gate(sum1, update, gate1, row)
        update = self.attn2(h, text, batch.cu_tokens, batch.cu_text, None, image, batch.cu_image)
        sum3, h = norm_of_sum(sum2, update, None, row, shift=shift2, scale=scale2, eps=eps, quantise=quantise)
        made = self.ffn(h, batch.exchange) if isinstance(self.ffn, MoEFeedForward) else self.ffn(h)
        return Hidden(sum3, made, gate2)
