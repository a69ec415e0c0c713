"""Fixtures that several tests of nano share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zoetrope.model.codecs.linear_autoencoder import LinearAutoencoder, LinearConfig
from zoetrope.model.families.config import MoEConfig
from zoetrope.model.families.nano import NANO_CARD, NANO_CONFIG
from zoetrope.model.nano import train
from zoetrope.model.nano.batches import SIZES
from zoetrope.model.nano.layout import SPATIAL
from zoetrope.model.nano.world import render, sample_scenes
from zoetrope.model.request.tasks import ModelCard

Z_DIM = NANO_CONFIG.in_channels
CARD = ModelCard(
    name="nano",
    directory="",
    size_multiple=SPATIAL,
    spatial=SPATIAL,
    temporal=4,
    latent_channels=Z_DIM,
    **NANO_CARD,
)


@pytest.fixture(scope="session")
def autoencoder() -> LinearAutoencoder:
    """Fitted as the trainer does, on fewer clips."""
    generator = torch.Generator().manual_seed(5)
    clips = [render(sample_scenes(16, h, w, 17, generator), h, w, 17) for (h, w), _ in SIZES]
    return LinearAutoencoder.fit(clips, LinearConfig(z_dim=Z_DIM, scale_factor_spatial=SPATIAL))


def shrink_training(patch: pytest.MonkeyPatch, out: Path, autoencoder: LinearAutoencoder) -> None:
    """Make `train.Trainer` train a toy on toy clips into ``out``."""
    config = NANO_CONFIG.model_copy(
        update={
            "num_attention_heads": 2,
            "attention_head_dim": 24,
            "ffn_dim": 64,
            "num_layers": 2,
            "moe": MoEConfig(layers=(1,), num_experts=4, top_k=2, expert_dim=32, shared_dim=32),
        }
    )
    patch.setattr(train, "NANO_CONFIG", config)
    patch.setattr(train, "SIZES", (((16, 24), 0.5), ((24, 16), 0.5)))
    patch.setattr(train, "FRAMES", ((5, 0.5), (9, 0.5)))
    patch.setattr(train, "SHORT_FRAMES", ((1, 0.5), (5, 0.5)))
    autoencoder.save(out / "vae")


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory, autoencoder: LinearAutoencoder) -> Path:
    """A directory as three steps of the trainer leave it. Not to be written to."""
    out = tmp_path_factory.mktemp("toy-nano")
    with pytest.MonkeyPatch.context() as patch:
        shrink_training(patch, out, autoencoder)
        trainer = train.NanoTrainer(train.TrainConfig(steps=3, batch_tokens=256), out, torch.device("cpu"))
        for _ in range(3):
            trainer.loss = trainer.train_step()
        trainer.save()
    return out
