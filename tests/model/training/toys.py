"""Small networks, clips and checkpoints to train."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.fixtures.dense_networks import write_dense_ti2v
from tests.fixtures.transformer_shape import TEXT_DIM
from zoetrope.model.checkpoints.upcycle import upcycle
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.training.dataset import EMPTY_PROMPT

CONFIG = TransformerConfig(
    patch_size=(1, 2, 2),
    num_attention_heads=2,
    attention_head_dim=24,
    in_channels=4,
    out_channels=4,
    text_dim=8,
    freq_dim=16,
    ffn_dim=32,
    num_layers=2,
    moe=MoEConfig(layers=(1,), num_experts=4, top_k=2, expert_dim=16, router="grouped_top1", groups=2),
)


def network(seed: int = 0) -> WanTransformer:
    torch.manual_seed(seed)
    return WanTransformer(CONFIG)


def write_dataset(
    folder: Path,
    shapes: list[tuple[int, int, int]],
    channels: int = 48,
    text_dim: int = TEXT_DIM,
) -> Path:
    """A file for each of the shapes T, H, W, and the empty prompt."""
    generator = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True)
    for number, shape in enumerate(shapes):
        latents = torch.randn(channels, *shape, generator=generator)
        text = torch.randn(6, text_dim, generator=generator)
        save_file({"latents": latents, "text": text}, folder / f"{number}.safetensors")
    save_file({"text": torch.zeros(6, text_dim)}, folder / f"{EMPTY_PROMPT}.safetensors")
    return folder


def upcycled_checkpoint(folder: Path) -> Path:
    """A narrow TI2V-5B whose two inner layers have experts, in several files of weights."""
    write_dense_ti2v(folder / "dense")
    upcycle(folder / "dense", folder / "moe", "wan2.7-27b", max_shard_bytes=200_000)
    return folder / "moe"
