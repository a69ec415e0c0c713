"""Write nano to disk in the layout of a diffusers Wan checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from transformers import UMT5EncoderModel

from zoetrope.model.families.nano import NANO_CONFIG
from zoetrope.model.nano import prompts
from zoetrope.model.network.transformer import WanTransformer

SPATIAL = 4  # pixels per latent cell


def text_encoder_config() -> dict[str, Any]:
    """Return the configuration of a UMT5 of two layers."""
    return {
        "vocab_size": len(prompts.vocabulary()),
        "d_model": NANO_CONFIG.text_dim,
        "d_kv": 32,
        "num_heads": 4,
        "d_ff": 256,
        "num_layers": 2,
        "dropout_rate": 0.0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def export(out: Path, transformer: WanTransformer, text_encoder: UMT5EncoderModel, record: dict[str, Any]) -> None:
    """Write everything but the autoencoder; weights in float16."""
    config = {
        "_class_name": "ZoetropeTransformer3DModel",
        **transformer.config.model_dump(mode="json"),
    }
    _write_weights(out / "transformer", "diffusion_pytorch_model.safetensors", config, transformer.state_dict())
    text_config = {**text_encoder.config.to_diff_dict(), "architectures": ["UMT5EncoderModel"]}
    state = {k: v for k, v in text_encoder.state_dict().items() if k != "encoder.embed_tokens.weight"}
    _write_weights(out / "text_encoder", "model.safetensors", text_config, state)
    prompts.save_tokenizer(out / "tokenizer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(out / "scheduler")
    index = {
        "_class_name": "WanPipeline",
        "transformer": ["zoetrope", "ZoetropeTransformer3DModel"],
        "vae": ["zoetrope", "LinearVideoAutoencoder"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    write_json(out / "model_index.json", index)
    write_json(out / "training.json", record)


def _write_weights(directory: Path, name: str, config: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", config)
    tensors = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in state.items()}
    partial = directory / (name + ".partial")
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(directory / name)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
