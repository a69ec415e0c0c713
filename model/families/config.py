"""The configuration of a transformer: diffusers' config.json, plus our fields for token-routed experts. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from zoetrope.model.inspection.fields import Fields, limited

WAN_THETA = 10_000.0
TEXT_TOKENS = 512  # of a prompt, as Wan's own code pads it
CLIP_TOKENS = 257  # of a picture: 16 x 16 patches and one of the whole (ViT-H/14)
MAX_LAYERS = 1_000


@dataclass(frozen=True)
class ForwardCost:
    """FLOPs of one forward pass of one sequence: products with weights, self-attention, and the share of the text."""

    products: float
    attention: float
    text: float

    @property
    def total(self) -> float:
        return self.products + self.attention + self.text


@dataclass(frozen=True, kw_only=True)
class MoEConfig(Fields):
    """The layers that route tokens to experts, and how they route."""

    layers: tuple[int, ...]
    num_experts: int = limited(ge=1)
    top_k: int = limited(ge=1)
    expert_dim: int = limited(ge=1)
    shared_dim: int = limited(0, ge=0)
    router: Literal["sigmoid", "grouped_top1"] = "sigmoid"
    groups: int = limited(1, ge=1)  # for grouped_top1, which picks one expert of each group: equal to `top_k`
    expert_bias: bool = False

    def check(self) -> None:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k is {self.top_k}, there are only {self.num_experts} experts")
        if self.router == "grouped_top1" and (self.num_experts % self.groups or self.top_k != self.groups):
            raise ValueError(
                f"grouped_top1 needs num_experts ({self.num_experts}) to be a multiple of groups ({self.groups}) and "
                f"top_k ({self.top_k}) to equal it"
            )


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Fields):
    """The fields of diffusers' config.json that shape Wan's network, plus ``moe``.

    Another network has a subclass of this: planners and loaders read the shared fields, ask for the costs below, and
    build the class that ``network`` names.

    Attributes:
        network: ``module:class`` of the `model.network.protocol.Network` that this configuration shapes.
        in_channels: channels of the latents and of what is concatenated to them; 36 for Wan's image to video: 16 noisy,
            4 of the mask, 16 of the given frames. out_channels: channels of the latents alone.
        image_dim, added_kv_proj_dim: widths of CLIP tokens and of their keys and values; both or neither.
        pos_embed_seq_len: CLIP tokens per sequence if their positions are learned (first and last frame: 514).
        vace_layers: blocks that get a hint (VACE, 2503.07598), including block 0; empty for other families.
    """

    ignores_unknown: ClassVar[bool] = True
    network: ClassVar[str] = "zoetrope.model.network.transformer:WanTransformer"

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = limited(ge=1)
    attention_head_dim: int = limited(ge=8)
    in_channels: int = limited(ge=1)
    out_channels: int = limited(ge=1)
    text_dim: int = limited(ge=1)
    freq_dim: int = limited(256, ge=2)
    ffn_dim: int = limited(ge=1)
    num_layers: int = limited(ge=1, le=MAX_LAYERS)
    cross_attn_norm: bool = True
    qk_norm: Literal["rms_norm_across_heads"] = "rms_norm_across_heads"
    eps: float = limited(1e-6, gt=0, lt=1)  # NaN fails both
    rope_theta: float = limited(WAN_THETA, gt=1)
    image_dim: int | None = limited(None, ge=1)
    added_kv_proj_dim: int | None = limited(None, ge=1)
    pos_embed_seq_len: int | None = limited(None, ge=1)
    vace_layers: tuple[int, ...] = ()
    vace_in_channels: int = limited(96, ge=1)
    moe: MoEConfig | None = None

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def file_keys(cls) -> frozenset[str]:
        """List the keys of ``config.json`` that are read, or that may be ignored: position tables are made as long as
        needed."""
        return frozenset((*cls.model_fields(), "rope_max_seq_len", "model_type"))

    def forward_cost(self, tokens: int, text_tokens: int = TEXT_TOKENS) -> ForwardCost:
        """Count the FLOPs of one forward of one sequence of ``tokens``, with ``text_tokens`` of text.

        A multiply-add counts as two; only matrix products and attention count. What is left out (norms, RoPE,
        modulation) is below one per cent at any served size.
        """
        dim, layers = self.dim, self.num_layers
        patch = math.prod(self.patch_size)
        moe = self.moe
        routed = len(moe.layers) if moe is not None else 0
        weights = layers * 6 * dim * dim + (layers - routed) * 2 * dim * self.ffn_dim
        if moe is not None:
            hidden = moe.top_k * moe.expert_dim + moe.shared_dim
            weights += routed * (2 * dim * hidden + dim * moe.num_experts)
        weights += patch * (self.in_channels + self.out_channels) * dim
        hinted = len(self.vace_layers)
        if hinted:
            weights += hinted * (6 * dim * dim + 2 * dim * self.ffn_dim + dim * dim) + dim * dim
            weights += patch * self.vace_in_channels * dim
        blocks = layers + hinted
        text = blocks * (4.0 * tokens * text_tokens * dim + 4.0 * text_tokens * dim * dim)
        text += 2.0 * text_tokens * (self.text_dim * dim + dim * dim)
        return ForwardCost(2.0 * tokens * weights, 4.0 * tokens * tokens * dim * blocks, text)

    def remembered_values(self, text_tokens: int = TEXT_TOKENS) -> int:
        """Count the keys and values that the network keeps of a sequence's text and image tokens between steps."""
        image_tokens = 0 if self.image_dim is None else self.pos_embed_seq_len or CLIP_TOKENS
        return 2 * self.dim * (self.num_layers + len(self.vace_layers)) * (text_tokens + image_tokens)

    def expert_flops(self, tokens: int) -> float:
        """Count those FLOPs of `forward_cost` that routed experts take, without routers and shared experts."""
        moe = self.moe
        return 4.0 * tokens * len(moe.layers) * moe.top_k * self.dim * moe.expert_dim if moe is not None else 0.0

    def check(self) -> None:
        if (self.image_dim is None) != (self.added_kv_proj_dim is None):
            raise ValueError(
                f"image_dim is {self.image_dim} and added_kv_proj_dim is {self.added_kv_proj_dim}, give both or neither"
            )
        if self.added_kv_proj_dim not in (None, self.dim):
            raise ValueError(f"added_kv_proj_dim is {self.added_kv_proj_dim}, expected the network's width {self.dim}")
        if self.vace_layers and (0 not in self.vace_layers or max(self.vace_layers) >= self.num_layers):
            raise ValueError(f"vace_layers {self.vace_layers} must hold 0 and stay below num_layers {self.num_layers}")
