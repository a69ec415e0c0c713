"""Checkpoints in the layout of Wan's own releases, made from networks of diffusers and transformers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from model.key_map import original_text_encoder_name, original_transformer_name
from model.nano.prompts import build_tokenizer


def save(state: dict[str, torch.Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


def write_transformer(directory: Path, network: Any, model_type: str, suffix: str = ".safetensors") -> None:
    """``network`` is a WanTransformer3DModel or WanVACETransformer3DModel."""
    c = network.config
    config = {
        "_class_name": "VaceWanModel" if model_type == "vace" else "WanModel",
        "model_type": model_type,
        "dim": c.num_attention_heads * c.attention_head_dim,
        "num_heads": c.num_attention_heads,
        "num_layers": c.num_layers,
        "in_dim": c.in_channels,
        "out_dim": c.out_channels,
        "ffn_dim": c.ffn_dim,
        "freq_dim": c.freq_dim,
        "text_dim": c.text_dim,
        "text_len": 512,
        "eps": c.eps,
    }
    if model_type == "vace":
        config |= {"vace_layers": list(c.vace_layers), "vace_in_dim": c.vace_in_channels}
    if c.image_dim is not None:
        config["image_dim"] = c.image_dim
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    state = {original_transformer_name(name): tensor for name, tensor in network.state_dict().items()}
    save(state, directory / f"diffusion_pytorch_model{suffix}")


def write_rest(root: Path, vae: Any, text_encoder: Any, suffix: str = ".pth") -> None:
    """Autoencoder, text encoder and tokenizer."""
    name = "Wan2.2_VAE" if vae.config.z_dim == 48 else "Wan2.1_VAE"
    nested = vae.config.z_dim == 48
    state = {original_autoencoder_name(key, nested): tensor for key, tensor in vae.state_dict().items()}
    save(state, root / (name + suffix))
    text = {
        original_text_encoder_name(key): tensor
        for key, tensor in text_encoder.state_dict().items()
        if key != "encoder.embed_tokens.weight"
    }
    save(text, root / ("models_t5_umt5-xxl-enc-bf16" + suffix))
    build_tokenizer().save_pretrained(root / "google" / "umt5-xxl")


def write_image_encoder(root: Path, network: Any) -> None:
    """A transformers CLIPVisionModel with Wan's fused q, k and v, beside the text tower that nobody reads."""
    state = network.state_dict()
    named = {
        "visual.cls_embedding": state["embeddings.class_embedding"][None, None],
        "visual.pos_embedding": state["embeddings.position_embedding.weight"][None],
        "visual.patch_embedding.weight": state["embeddings.patch_embedding.weight"],
        "visual.head": torch.zeros(2, 2),
        "textual.token_embedding.weight": torch.zeros(2, 2),
        "log_scale": torch.zeros(()),
    }
    for leaf in ("weight", "bias"):
        named[f"visual.pre_norm.{leaf}"] = state[f"pre_layrnorm.{leaf}"]
        named[f"visual.post_norm.{leaf}"] = state[f"post_layernorm.{leaf}"]
        for layer in range(network.config.num_hidden_layers):
            ours, theirs = f"visual.transformer.{layer}.", f"encoder.layers.{layer}."
            fused = [state[f"{theirs}self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            named[f"{ours}attn.to_qkv.{leaf}"] = torch.cat(fused)
            named[f"{ours}attn.proj.{leaf}"] = state[f"{theirs}self_attn.out_proj.{leaf}"]
            for place, name in (("norm1", "layer_norm1"), ("norm2", "layer_norm2")):
                named[f"{ours}{place}.{leaf}"] = state[f"{theirs}{name}.{leaf}"]
            for place, name in (("mlp.0", "mlp.fc1"), ("mlp.2", "mlp.fc2")):
                named[f"{ours}{place}.{leaf}"] = state[f"{theirs}{name}.{leaf}"]
    save(named, root / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")


def original_autoencoder_name(name: str, nested: bool = False) -> str:
    """From diffusers' AutoencoderKLWan with two residual blocks a level, as both public ones have.

    ``nested``: Wan2.2's, whose levels are lists; Wan2.1's numbers all layers in a row.
    """
    name = re.sub(r"^quant_conv\.", "conv1.", re.sub(r"^post_quant_conv\.", "conv2.", name))
    name = name.replace("coder.conv_in.", "coder.conv1.").replace(".norm_out.", ".head.0.")
    name = name.replace(".conv_out.", ".head.2.").replace(".mid_block.attentions.0.", ".middle.1.")
    if re.search(r"resnets|conv_shortcut|down_blocks\.\d+\.(norm|conv)", name):
        for ours, theirs in (("norm1", "0"), ("conv1", "2"), ("norm2", "3"), ("conv2", "6")):
            name = name.replace(f".{ours}.", f".residual.{theirs}.")
        name = name.replace(".conv_shortcut.", ".shortcut.")
    name = re.sub(r"\.mid_block\.resnets\.(\d)\.", lambda m: f".middle.{2 * int(m[1])}.", name)
    if nested:
        name = re.sub(r"\.down_blocks\.(\d+)\.downsampler\.", r".downsamples.\1.downsamples.2.", name)
        name = re.sub(r"\.up_blocks\.(\d+)\.upsampler\.", r".upsamples.\1.upsamples.3.", name)
        return re.sub(r"\.(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", r".\1samples.\2.\1samples.\3.", name)
    name = re.sub(r"\.up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f".upsamples.{4 * int(m[1]) + 3}.", name)
    name = re.sub(r"\.up_blocks\.(\d+)\.resnets\.(\d+)\.", lambda m: f".upsamples.{4 * int(m[1]) + int(m[2])}.", name)
    return name.replace(".down_blocks.", ".downsamples.")
