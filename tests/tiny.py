"""Small random checkpoints in the layout of the public ones, written by diffusers' and transformers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)

from benchmarks.random_checkpoint import image_processor, small_image_encoder, small_text_encoder, unipc
from model.nano.prompts import build_tokenizer

TEXT_DIM = 32
CLIP_DIM = 24
CLIP_TOKENS = 5  # of one picture: four patches and the class
TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": TEXT_DIM,
    "freq_dim": 64,
    "ffn_dim": 64,
    "num_layers": 2,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 32,
}


def tiny_wan(directory: Path, seed: int = 0) -> WanPipeline:
    """A text-to-video Wan2.1 of two layers with its whole directory; returns diffusers' own pipeline over it."""
    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(**TRANSFORMER)
    vae, encoder = tiny_vae(), small_text_encoder(TEXT_DIM)
    return _save(
        directory,
        WanPipeline(
            tokenizer=build_tokenizer(),
            text_encoder=encoder,
            vae=vae,
            scheduler=unipc(shift=3.0),
            transformer=transformer.eval(),
        ),
    )


def tiny_a14b(directory: Path, seed: int = 0) -> WanPipeline:
    """A text-to-video Wan2.2 of two noise experts."""
    torch.manual_seed(seed)
    high, low = (scattered(WanTransformer3DModel(**TRANSFORMER)) for _ in range(2))
    return _save(directory, WanPipeline(**_around(), transformer=high, transformer_2=low, boundary_ratio=0.875))


def tiny_image_to_video(
    directory: Path, *, clip: bool = False, last: bool = False, experts: bool = False, seed: int = 0
) -> WanImageToVideoPipeline:
    """A 36-channel image to video: with CLIP tokens as Wan2.1 I2V, or FLF2V with ``last``; ``experts``: two of them."""
    torch.manual_seed(seed)
    config = {**TRANSFORMER, "in_channels": 36}
    parts: dict[str, Any] = {}
    if clip:
        width = TRANSFORMER["num_attention_heads"] * TRANSFORMER["attention_head_dim"]
        config |= {"image_dim": CLIP_DIM, "added_kv_proj_dim": width}
        config |= {"pos_embed_seq_len": 2 * CLIP_TOKENS} if last else {}
        parts["image_encoder"] = small_image_encoder(CLIP_DIM, image=32, patch=16)
        parts["image_processor"] = image_processor(32)
    networks = {"transformer": scattered(WanTransformer3DModel(**config))}
    if experts:
        networks["transformer_2"] = scattered(WanTransformer3DModel(**config))
        parts["boundary_ratio"] = 0.9
    return _save(directory, WanImageToVideoPipeline(**_around(), **networks, **parts))


def tiny_first_latent(directory: Path, seed: int = 0) -> WanImageToVideoPipeline:
    """A Wan2.2-TI2V: the first latent frame is known and each token has a noise level of its own."""
    torch.manual_seed(seed)
    network = scattered(WanTransformer3DModel(**TRANSFORMER))
    return _save(directory, WanImageToVideoPipeline(**_around(), transformer=network, expand_timesteps=True))


def tiny_vace(directory: Path, seed: int = 0) -> WanVACEPipeline:
    """A VACE with a hint for two of its three layers."""
    torch.manual_seed(seed)
    config = {**TRANSFORMER, "num_layers": 3, "vace_layers": [0, 2], "vace_in_channels": 96}
    network = scattered(WanVACETransformer3DModel(**config))
    return _save(directory, WanVACEPipeline(**_around(), transformer=network))


def tiny_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()


def scattered(network: torch.nn.Module) -> Any:
    """Move the parameters that start as ones and zeros, which would hide a swapped pair, a little off them."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1 or name.endswith("pos_embed"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def _around() -> dict[str, Any]:
    """What a pipeline has beside its transformers."""
    return {
        "tokenizer": build_tokenizer(),
        "text_encoder": small_text_encoder(TEXT_DIM),
        "vae": tiny_vae(),
        "scheduler": unipc(shift=3.0),
    }


def _save(directory: Path, pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(directory)
    return pipeline
