"""Small random checkpoints in the layout of the public ones, written by diffusers' and transformers' own classes."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from model.nano.prompts import build_tokenizer, vocabulary

TEXT_DIM = 32


def tiny_wan(directory: Path, seed: int = 0) -> WanPipeline:
    """A text-to-video Wan2.1 of two layers with its whole directory; returns diffusers' own pipeline over it."""
    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=64,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(vocabulary()),
            d_model=TEXT_DIM,
            d_kv=16,
            num_heads=2,
            d_ff=32,
            num_layers=2,
            dropout_rate=0.0,
        )
    )
    pipeline = WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=encoder.eval(),
        vae=vae.eval(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=transformer.eval(),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(directory)
    return pipeline
