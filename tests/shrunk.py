"""Presets of the family with narrow networks of two or three layers, the rest as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from model.family import Preset

CLIP_TOKENS = 5  # of one picture: 2 x 2 patches and the class


def shrunk(preset: Preset) -> Preset:
    """Experts keep their router, in the middle one of three layers; VACE keeps two layers of hints."""
    config, more = preset.config, dict[str, Any]()
    if config.moe is not None:
        groups = 2
        more["moe"] = config.moe.model_copy(
            update={"layers": (1,), "num_experts": 4, "top_k": groups, "groups": groups, "expert_dim": 32}
        )
    if config.image_dim is not None:
        more |= {"image_dim": 24, "added_kv_proj_dim": 48}
    if config.pos_embed_seq_len is not None:
        more["pos_embed_seq_len"] = 2 * CLIP_TOKENS
    if config.vace_layers:
        more["vace_layers"] = (0, 2)
    narrow = {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "text_dim": 32,
        "freq_dim": 64,
        "ffn_dim": 64,
        "num_layers": 3,
    }
    return replace(preset, config=config.model_copy(update=narrow | more))
