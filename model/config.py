"""What shapes a transformer: the fields of diffusers' config.json, and our own for token-routed experts. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

WAN_THETA = 10_000.0
MAX_LAYERS = 1_000


class MoEConfig(BaseModel):
    """Which layers route their tokens to experts, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: tuple[int, ...]
    num_experts: int = Field(ge=1)
    top_k: int = Field(ge=1)
    expert_dim: int = Field(ge=1)
    shared_dim: int = Field(default=0, ge=0)
    router: Literal["sigmoid", "grouped_top1"] = "sigmoid"
    groups: int = Field(default=1, ge=1)  # of grouped_top1: one expert of each is chosen, so `top_k` is the same number
    expert_bias: bool = False

    @model_validator(mode="after")
    def _choosable(self) -> MoEConfig:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k is {self.top_k}, there are only {self.num_experts} experts")
        if self.router == "grouped_top1" and (self.num_experts % self.groups or self.top_k != self.groups):
            raise ValueError(
                f"grouped_top1 needs num_experts ({self.num_experts}) to be a multiple of groups ({self.groups}) and "
                f"top_k ({self.top_k}) to equal it"
            )
        return self


class TransformerConfig(BaseModel):
    """The fields of diffusers' config.json that shape the network, plus ``moe``.

    Attributes:
        in_channels: of the latents and whatever is laid beside them; 36 for Wan's image to video: 16 noisy, 4 of mask,
            16 of the frames given. out_channels: of the latents alone.
        image_dim, added_kv_proj_dim: widths of CLIP's tokens and of their keys and values; both or neither.
        pos_embed_seq_len: CLIP tokens of one sequence where their positions are learned (first and last frame: 514).
        vace_layers: blocks that get a hint (VACE, 2503.07598), the first one among them; empty for other families.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = Field(ge=1)
    attention_head_dim: int = Field(ge=8)
    in_channels: int = Field(ge=1)
    out_channels: int = Field(ge=1)
    text_dim: int = Field(ge=1)
    freq_dim: int = Field(default=256, ge=2)
    ffn_dim: int = Field(ge=1)
    num_layers: int = Field(ge=1, le=MAX_LAYERS)
    cross_attn_norm: bool = True
    qk_norm: Literal["rms_norm_across_heads"] = "rms_norm_across_heads"
    eps: float = Field(default=1e-6, gt=0, lt=1)  # NaN is neither
    rope_theta: float = Field(default=WAN_THETA, gt=1, allow_inf_nan=False)
    image_dim: int | None = Field(default=None, ge=1)
    added_kv_proj_dim: int | None = Field(default=None, ge=1)
    pos_embed_seq_len: int | None = Field(default=None, ge=1)
    vace_layers: tuple[int, ...] = ()
    vace_in_channels: int = Field(default=96, ge=1)
    moe: MoEConfig | None = None

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @model_validator(mode="after")
    def _agree(self) -> TransformerConfig:
        if (self.image_dim is None) != (self.added_kv_proj_dim is None):
            raise ValueError(
                f"image_dim is {self.image_dim} and added_kv_proj_dim is {self.added_kv_proj_dim}, give both or neither"
            )
        if self.added_kv_proj_dim not in (None, self.dim):
            raise ValueError(f"added_kv_proj_dim is {self.added_kv_proj_dim}, expected the network's width {self.dim}")
        if self.vace_layers and (0 not in self.vace_layers or max(self.vace_layers) >= self.num_layers):
            raise ValueError(f"vace_layers {self.vace_layers} must hold 0 and stay below num_layers {self.num_layers}")
        return self
