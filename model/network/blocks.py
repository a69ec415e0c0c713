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
from zoetrope.model.network.adapted import Adapted, BlockSlots, plus
from zoetrope.model.network.exchange import ALONE, Exchange
from zoetrope.model.network.experts import DenseFeedForward, MoEFeedForward
from zoetrope.model.network.initial import normal
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

    def remember(self, text: torch.Tensor, image: torch.Tensor | None, adapted: Adapted | None = None) -> KeysValues:
        """Compute what `forward` needs of ``text`` [M, D] and of image tokens [K, D]."""
        return self._keys_values(text, image, adapted)

    def _keys_values(self, text: torch.Tensor, image: torch.Tensor | None, adapted: Adapted | None) -> KeysValues:
        more = None if adapted is None else adapted.text("attn2.text", text)
        k = plus(self.to_k(text), more, "attn2.to_k")
        k = qk_norm_rope(k, self.norm_k.weight, None, None, self.heads, self.eps)
        v = plus(self.to_v(text), more, "attn2.to_v").unflatten(-1, (self.heads, -1))
        return KeysValues(k, v) if image is None else KeysValues(k, v, *self._of_image(image, adapted))

    def _of_image(self, image: torch.Tensor, adapted: Adapted | None) -> tuple[torch.Tensor, torch.Tensor]:
        more = None if adapted is None else adapted.image("attn2.image", image)
        k = plus(self.add_k_proj(image), more, "attn2.add_k_proj")
        k = qk_norm_rope(k, self.norm_added_k.weight, None, None, self.heads, self.eps)
        return k, plus(self.add_v_proj(image), more, "attn2.add_v_proj").unflatten(-1, (self.heads, -1))

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
        adapted: Adapted | None = None,
    ) -> torch.Tensor:
        """Attend from ``x`` [N, D] to ``context`` [M, D], rotated if ``rope`` is given -> ``[N, D]``.

        ``image`` [K, D] are the image tokens of all sequences, ``cu_image`` their lengths. With ``exchange`` the
        context is the tokens themselves, including those of other ranks: this is a block's ``attn1``, else its
        ``attn2``, whose context may be what `remember` gave. ``adapted``: what adapters add to both.
        """
        cos, sin = rope if rope is not None else (None, None)
        exact = x.exact if isinstance(x, Normed) else x
        name = "attn2" if exchange is None else "attn1"
        more = None if adapted is None else adapted.tokens(f"{name}.in", exact)
        if exchange is ALONE and attends_in_8bit(exact, self.norm_q.weight, exact.shape[-1] // self.heads):
            q, k = plus(self.to_q(x), more, "attn1.to_q"), plus(self.to_k(context), more, "attn1.to_k")
            v = plus(self.to_v(context), more, "attn1.to_v").unflatten(-1, (self.heads, -1))
            weights = self.norm_q.weight, self.norm_k.weight
            attended = attention_of_projections(q, k, v, *weights, cos, sin, self.eps, cu_q, cu_k)
            return self._out(attended.flatten(1), name, adapted)
        # Each is shared as soon as it is made: computing the next one hides the transfer.
        share = _stay if exchange is None else exchange.share
        q = plus(self.to_q(x), more, f"{name}.to_q")
        q = share(qk_norm_rope(q, self.norm_q.weight, cos, sin, self.heads, self.eps))
        of_image: list[torch.Tensor | None] = [None, None]
        if exchange is not None:
            k = plus(self.to_k(context), more, "attn1.to_k")
            k = share(qk_norm_rope(k, self.norm_k.weight, cos, sin, self.heads, self.eps))
            v = share(plus(self.to_v(context), more, "attn1.to_v").unflatten(-1, (self.heads, -1)))
            attended = exchange.attend(q, k, v, cu_q).flatten(1)
        else:
            if not isinstance(context, KeysValues):
                assert isinstance(context, torch.Tensor)
                context = self._keys_values(context, image, adapted)
            k, v, *of_image = context
            attended = varlen_attention(q, k, v, cu_q, cu_k).flatten(1)
        image_k, image_v = of_image
        if image_k is not None and image_v is not None and cu_image is not None:
            attended = attended + varlen_attention(q, image_k, image_v, cu_q, cu_image).flatten(1)
        return self._out(attended, name, adapted)

    def _out(self, attended: torch.Tensor, name: str, adapted: Adapted | None) -> torch.Tensor:
        out: torch.Tensor = self.to_out[0](attended)
        more = None if adapted is None else adapted.tokens(f"{name}.out", attended)
        return plus(out, more, f"{name}.to_out.0")


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
        self.slots: BlockSlots | None = None  # of adapters, once one was loaded (`model.adapters.slots`)
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
        self.scale_shift_table = nn.Parameter(normal(1, 6, dim, std=dim**-0.5))

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
        row, eps, quantise, adapted = batch.noise_row, self.eps, self.quantised, self.adapted(batch)
        h: torch.Tensor | Normed
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table.float() + modulation).unbind(1)
        sum1, h = norm_of_sum(x.residual, x.update, x.gate, row, shift=shift1, scale=scale1, eps=eps, quantise=quantise)
        update = self.attn1(h, h, batch.cu_tokens, batch.cu_tokens, rope, exchange=batch.exchange, adapted=adapted)
        if self.norm2 is not None:
            sum2, h = self.norm2(sum1, update, gate1, row, quantise)
        else:
            sum2 = h = residual_gate(sum1, update, gate1, row)
        update = self.attn2(h, text, batch.cu_tokens, batch.cu_text, None, image, batch.cu_image, adapted=adapted)
        sum3, h = norm_of_sum(sum2, update, None, row, shift=shift2, scale=scale2, eps=eps, quantise=quantise)
        made = self.ffn(h, batch.exchange) if isinstance(self.ffn, MoEFeedForward) else self.ffn(h, adapted)
        return Hidden(sum3, made, gate2)

    def adapted(self, batch: PackedBatch) -> Adapted | None:
        """Return what the adapters of a batch add in this block; None if it has none."""
        if batch.adapters is None:
            return None
        assert self.slots is not None, "a sequence has an adapter that was not loaded into this network"
        return Adapted(self.slots, batch.adapters)
