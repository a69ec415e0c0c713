"""Narrow dense networks with a whole directory around them, to be made into ones with experts."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from tests.tiny import tiny_wan


def dense(layers: int, channels: int = 16, ffn_dim: int = 96) -> WanTransformer3DModel:
    torch.manual_seed(0)
    network = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=channels,
        out_channels=channels,
        text_dim=32,
        freq_dim=32,
        ffn_dim=ffn_dim,
        num_layers=layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    for parameter in network.parameters():  # biases and norms that are not zeros and ones
        torch.nn.init.normal_(parameter, std=0.15)
    return network.eval()


def source_directory(root: Path, layers: int = 4, ffn_dim: int = 96) -> Path:
    """A narrow TI2V-5B with its whole directory."""
    tiny_wan(root)
    dense(layers, channels=48, ffn_dim=ffn_dim).save_pretrained(root / "transformer")
    vae = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=48,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
    )
    vae.save_pretrained(root / "vae")
    index = root / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"expand_timesteps": True}))
    return root
