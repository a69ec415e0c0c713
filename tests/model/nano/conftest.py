"""Fixtures that several tests of nano share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.autoencoder import LinearAutoencoder, LinearConfig
from model.nano import train
from model.nano.layout import SPATIAL
from model.nano.world import render, sample_scenes
from model.transformer import MoEConfig, TransformerConfig
from tests.model.conftest import one_thread

Z_DIM = 24


@pytest.fixture(scope="session")
def autoencoder() -> LinearAutoencoder:
    """Fitted as the trainer does, on fewer clips."""
    generator = torch.Generator().manual_seed(5)
    clips = [render(sample_scenes(16, h, w, 17, generator), h, w, 17) for (h, w), _ in train.SIZES]
    with one_thread():
        return LinearAutoencoder.fit(clips, LinearConfig(z_dim=Z_DIM, scale_factor_spatial=SPATIAL))


def shrink_training(patch: pytest.MonkeyPatch, out: Path, autoencoder: LinearAutoencoder) -> None:
    """Make `train.Trainer` train a toy on toy clips into ``out``."""
    config = TransformerConfig(
        num_attention_heads=2,
        attention_head_dim=48,
        in_channels=Z_DIM,
        out_channels=Z_DIM,
        text_dim=128,
        ffn_dim=64,
        num_layers=2,
        rope_theta=100.0,
        moe=MoEConfig(layers=(1,), num_experts=4, top_k=2, expert_dim=32, shared_dim=32),
    )
    patch.setattr(train, "nano_transformer_config", lambda: config)
    patch.setattr(train, "SIZES", (((16, 32), 0.5), ((32, 16), 0.5)))
    patch.setattr(train, "FRAMES", ((5, 0.5), (9, 0.5)))
    autoencoder.save(out / "vae")


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory, autoencoder: LinearAutoencoder) -> Path:
    """A directory as three steps of the trainer leave it. Not to be written to."""
    out = tmp_path_factory.mktemp("toy-nano")
    with pytest.MonkeyPatch.context() as patch, one_thread():
        shrink_training(patch, out, autoencoder)
        trainer = train.Trainer(train.TrainConfig(steps=3, batch_tokens=64), out, torch.device("cpu"))
        for _ in range(3):
            trainer.loss = trainer.train_step()
        trainer.save()
    return out
