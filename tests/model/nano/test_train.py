"""The trainer: a short run works, goes on after a break as if there had been none, and leaves a loadable checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.autoencoder import LinearAutoencoder
from model.checkpoints import load_autoencoder, load_text_encoder, load_transformer
from model.nano import train
from model.nano.train import TrainConfig, Trainer
from model.presets import NANO_CARD, find_model
from model.sequences import Sequence, Stream, unpack_targets
from tests.model.nano.conftest import Z_DIM, shrink_training

CPU = torch.device("cpu")
CONFIG = TrainConfig(steps=4, batch_tokens=64, warmup=2)


def run(out: Path, parts: tuple[int, ...]) -> Trainer:
    """Train in parts, each by a new trainer that resumes from the file that the one before it wrote."""
    trainer = Trainer(CONFIG, out, CPU)
    for number, steps in enumerate(parts):
        if number:
            torch.manual_seed(number)  # another process starts with another global generator
            trainer = Trainer(CONFIG, out, CPU)
            assert trainer.resume()
        for _ in range(steps):
            trainer.loss = trainer.train_step()
        trainer.save()
    return trainer


def test_a_resumed_run_ends_as_an_uninterrupted_one(
    tmp_path: Path, autoencoder: LinearAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "parts"):
        shrink_training(monkeypatch, tmp_path / name, autoencoder)
    whole, parts = run(tmp_path / "whole", (4,)), run(tmp_path / "parts", (1, 2, 1))
    assert (whole.step, whole.clips) == (parts.step, parts.clips)
    assert whole.step == 4
    assert whole.loss == parts.loss
    for ours, theirs in ((whole.net, parts.net), (whole.ema, parts.ema)):
        state, other = ours.state_dict(), theirs.state_dict()
        assert all(torch.equal(state[name], other[name]) for name in state)
    moments, others = whole.optimizer.state_dict()["state"], parts.optimizer.state_dict()["state"]
    assert all(torch.equal(moments[key]["exp_avg_sq"], others[key]["exp_avg_sq"]) for key in moments)
    assert whole.rng.random() == parts.rng.random()


def test_a_run_leaves_a_checkpoint_that_loads(toy_run: Path) -> None:
    card = find_model(str(toy_run))
    assert card.latent_channels == Z_DIM
    transformer = load_transformer(card, CPU)
    assert len(transformer.moe_layers()) == 1
    stored = torch.load(toy_run / "state.pt", weights_only=False)["ema"]
    for name, tensor in transformer.state_dict().items():
        assert torch.equal(tensor, stored[f"transformer.{name}"].half().float()), name
    assert load_text_encoder(card, CPU).encode(["a red circle"]).shape[2] == 128
    assert load_autoencoder(card, CPU).z_dim == Z_DIM
    weights = load_file(toy_run / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


def test_the_record_tells_how_the_weights_were_made(toy_run: Path) -> None:
    record = json.loads((toy_run / "training.json").read_text())
    assert record["step"] == 3
    assert record["clips"] in range(3 * 2, 3 * 4 + 1)  # a batch is 4 clips of 5 frames or 2 of 9
    assert record["config"]["seed"] == TrainConfig().seed
    assert math.isfinite(record["loss"])
    assert record["command"].startswith("python -m model.nano.train")
    assert {"device", "torch", "seconds", "parameters", "autoencoder"} <= set(record)


def test_the_rate_warms_up_stays_and_falls(
    tmp_path: Path, autoencoder: LinearAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_training(monkeypatch, tmp_path, autoencoder)
    trainer = Trainer(TrainConfig(steps=1000, warmup=100, decay=0.3, lr=1e-3), tmp_path, CPU)

    def rate(step: int) -> float:
        trainer.step = step
        return trainer.rate()

    assert rate(0) == pytest.approx(1e-5)
    assert rate(99) == rate(500) == rate(700) == 1e-3
    assert rate(850) == pytest.approx(5e-4)
    assert rate(999) == pytest.approx(2e-5)


def test_without_a_saved_state_there_is_nothing_to_resume(
    tmp_path: Path, autoencoder: LinearAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_training(monkeypatch, tmp_path, autoencoder)
    assert not Trainer(CONFIG, tmp_path, CPU).resume()


def test_the_committed_recipe_covers_the_sizes_that_are_served() -> None:
    sizes = {(width, height) for (height, width), _ in train.SIZES}
    assert sizes == set(NANO_CARD["native_sizes"])
    assert max(frames for frames, _ in train.FRAMES) == NANO_CARD["max_frames"]


def test_a_fresh_network_gives_back_a_noisy_token_and_looks_at_its_neighbours() -> None:
    torch.manual_seed(0)
    transformer = train.Nano().transformer
    latents = torch.randn(transformer.config.in_channels, 3, 8, 14)
    batch = transformer.pack([Sequence((Stream(latents, torch.full((3,), 900.0)),), torch.randn(8, 128))])
    with torch.no_grad():
        (output,) = unpack_targets(transformer(batch), batch, transformer.config.patch_size)
    assert float(torch.cosine_similarity(output.flatten(), latents.flatten(), dim=0)) > 0.9
    assert float(output.std()) == pytest.approx(1.0, abs=0.2)
    heads = transformer.layers()[0].attn1.to_q.bias.unflatten(0, (transformer.config.num_attention_heads, -1))
    assert [bool(head.any()) for head in heads] == [True, True, False, False]
