"""Derive the names and shapes of networks' tensors from their configurations. Needs no torch.

Folders are checked with them before torch is loaded; a test compares each with the real network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoetrope.model.families.config import MAX_LAYERS, TransformerConfig

Shapes = dict[str, tuple[int, ...]]


def transformer_shapes(config: TransformerConfig) -> Shapes:
    """Return those of a `model.network.transformer.WanTransformer`, buffers included."""
    dim, patch = config.dim, config.patch_size
    volume = patch[0] * patch[1] * patch[2]
    shapes: Shapes = {
        **_conv("patch_embedding", config.in_channels, dim, patch),
        **_linears("condition_embedder.time_embedder", config.freq_dim, dim),
        **_linear("condition_embedder.time_proj", dim, 6 * dim),
        **_linears("condition_embedder.text_embedder", config.text_dim, dim),
        **_linear("proj_out", dim, config.out_channels * volume),
        "scale_shift_table": (1, 2, dim),
    }
    if config.image_dim is not None:
        shapes |= _image_embedder(config.image_dim, dim, config.pos_embed_seq_len)
    for layer in range(config.num_layers):
        shapes |= _block(f"blocks.{layer}.", config, layer)
    if config.vace_layers:
        shapes |= _conv("vace_patch_embedding", config.vace_in_channels, dim, patch)
    for number in range(len(config.vace_layers)):
        prefix = f"vace_blocks.{number}."
        shapes |= _block(prefix, config, None) | _linear(f"{prefix}proj_out", dim, dim)
        shapes |= _linear(f"{prefix}proj_in", dim, dim) if number == 0 else {}
    return shapes


def text_encoder_shapes(config: dict[str, Any]) -> Shapes:
    """Return those of transformers' UMT5EncoderModel, without ``encoder.embed_tokens``, which is ``shared``.

    Args:
        config: fields of UMT5Config.

    Raises:
        KeyError, TypeError: a width is missing or not a number.
        ValueError: there are too many layers.
    """
    width, hidden, heads, layers = config["d_model"], config["d_ff"], config["num_heads"], config["num_layers"]
    if not 1 <= layers <= MAX_LAYERS:
        raise ValueError(f"num_layers is {layers}, must be from 1 to {MAX_LAYERS}")
    inner = heads * config["d_kv"]
    shapes: Shapes = {"shared.weight": (config["vocab_size"], width), "encoder.final_layer_norm.weight": (width,)}
    for layer in range(layers):
        attention, dense = (f"encoder.block.{layer}.layer.{i}." for i in (0, 1))
        shapes |= {f"{attention}SelfAttention.{part}.weight": (inner, width) for part in "qkv"}
        shapes |= {
            f"{attention}SelfAttention.o.weight": (width, inner),
            f"{attention}SelfAttention.relative_attention_bias.weight": (
                config.get("relative_attention_num_buckets", 32),
                heads,
            ),
            f"{attention}layer_norm.weight": (width,),
            f"{dense}DenseReluDense.wi_0.weight": (hidden, width),
            f"{dense}DenseReluDense.wi_1.weight": (hidden, width),
            f"{dense}DenseReluDense.wo.weight": (width, hidden),
            f"{dense}layer_norm.weight": (width,),
        }
    return shapes


def _block(prefix: str, config: TransformerConfig, layer: int | None) -> Shapes:
    dim, moe = config.dim, config.moe
    shapes: Shapes = {f"{prefix}scale_shift_table": (1, 6, dim)}
    for name in ("attn1.", "attn2."):
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            shapes |= _linear(f"{prefix}{name}{part}", dim, dim)
        shapes |= {f"{prefix}{name}norm_{part}.weight": (dim,) for part in "qk"}
    if config.added_kv_proj_dim is not None:
        for part in ("add_k_proj", "add_v_proj"):
            shapes |= _linear(f"{prefix}attn2.{part}", config.added_kv_proj_dim, dim)
        shapes[f"{prefix}attn2.norm_added_k.weight"] = (dim,)
    if config.cross_attn_norm:
        shapes |= _norm(f"{prefix}norm2", dim)
    if moe is None or layer not in moe.layers:
        return shapes | dict(_dense(f"{prefix}ffn.", dim, config.ffn_dim))
    shapes |= {
        f"{prefix}ffn.gate.weight": (moe.num_experts, dim),
        f"{prefix}ffn.correction": (moe.num_experts,),
        f"{prefix}ffn.w1": (moe.num_experts, dim, moe.expert_dim),
        f"{prefix}ffn.w2": (moe.num_experts, moe.expert_dim, dim),
    }
    if moe.expert_bias:
        shapes |= {f"{prefix}ffn.b1": (moe.num_experts, moe.expert_dim), f"{prefix}ffn.b2": (dim,)}
    if moe.shared_dim:
        shapes |= dict(_dense(f"{prefix}ffn.shared.", dim, moe.shared_dim))
    return shapes


def _dense(prefix: str, dim: int, hidden: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _linear(f"{prefix}net.0.proj", dim, hidden).items()
    yield from _linear(f"{prefix}net.2", hidden, dim).items()


def _image_embedder(width: int, dim: int, positions: int | None) -> Shapes:
    prefix = "condition_embedder.image_embedder."
    shapes = {
        **_norm(f"{prefix}norm1", width),
        **_linear(f"{prefix}ff.net.0.proj", width, width),
        **_linear(f"{prefix}ff.net.2", width, dim),
        **_norm(f"{prefix}norm2", dim),
    }
    return shapes if positions is None else {**shapes, f"{prefix}pos_embed": (1, positions, width)}


def _linear(name: str, given: int, made: int) -> Shapes:
    return {f"{name}.weight": (made, given), f"{name}.bias": (made,)}


def _linears(name: str, given: int, dim: int) -> Shapes:
    return _linear(f"{name}.linear_1", given, dim) | _linear(f"{name}.linear_2", dim, dim)


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _conv(name: str, given: int, made: int, patch: tuple[int, int, int]) -> Shapes:
    return {f"{name}.weight": (made, given, *patch), f"{name}.bias": (made,)}
