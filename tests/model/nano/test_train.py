"""The trainer: a short run works, goes on after a break as if there had been none, and leaves a loadable checkpoint."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.model.nano.conftest import Z_DIM, shrink_training
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_autoencoder, load_text_encoder, load_transformer
from zoetrope.model.codecs.linear_autoencoder import LinearAutoencoder
from zoetrope.model.families.nano import NANO_CARD
from zoetrope.model.nano import batches, train
from zoetrope.model.nano.batches import BatchKind
from zoetrope.model.nano.train import NanoTrainer, TrainConfig
from zoetrope.model.network.experts import MoEFeedForward
from zoetrope.model.network.sequences import Sequence, Stream, unpack_targets
from zoetrope.model.training.optimisers import split_parameters

CPU = torch.device("cpu")
CONFIG = TrainConfig(steps=4, batch_tokens=256, warmup=2)


def run(out: Path, parts: tuple[int, ...]) -> NanoTrainer:
    """Train in parts, each by a new trainer that resumes from the file that the one before it wrote."""
    trainer = NanoTrainer(CONFIG, out, CPU)
    for number, steps in enumerate(parts):
        if number:
            torch.manual_seed(number)  # another process starts with another global generator
            trainer = NanoTrainer(CONFIG, out, CPU)
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
    for ours, other_net in ((whole.net, parts.net), (whole.ema, parts.ema)):
        state, other = ours.state_dict(), other_net.state_dict()
        assert all(torch.equal(state[name], other[name]) for name in state)
    for name, mine, theirs in zip(("momentum", "exp_avg_sq"), whole.optimizers, parts.optimizers, strict=True):
        moments, others = mine.state_dict()["state"], theirs.state_dict()["state"]
        assert moments
        assert all(torch.equal(moments[key][name], others[key][name]) for key in moments)
    assert whole.rng.random() == parts.rng.random()


def test_a_run_leaves_a_checkpoint_that_loads(toy_run: Path) -> None:
    card = find_model(str(toy_run))
    assert card.latent_channels == Z_DIM
    transformer = load_transformer(card, CPU)
    assert sum(isinstance(block.ffn, MoEFeedForward) for block in transformer.layers()) == 1
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
    assert 3 <= record["clips"] <= 3 * 10  # of 256 tokens; a clip has 24 for each of its latent frames
    assert record["config"]["seed"] == TrainConfig().seed
    assert math.isfinite(record["loss"])
    assert record["command"].startswith("python -m zoetrope.model.nano.train")
    assert {"device", "torch", "seconds", "parameters", "autoencoder"} <= set(record)


def test_the_rate_warms_up_stays_and_falls(
    tmp_path: Path, autoencoder: LinearAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_training(monkeypatch, tmp_path, autoencoder)
    trainer = NanoTrainer(TrainConfig(steps=1000, warmup=100, decay=0.3, batch_tokens=256), tmp_path, CPU)

    def rate(step: int) -> float:
        trainer.step = step
        return trainer.rate()

    assert rate(0) == pytest.approx(0.01)
    assert rate(99) == rate(500) == rate(700) == 1
    assert rate(850) == pytest.approx(0.5)
    assert rate(999) == pytest.approx(0.02)
    trainer.step = 850
    trainer.train_step()
    heights = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert heights == pytest.approx([0.5 * trainer.config.muon_lr, 0.5 * trainer.config.lr])


def test_every_parameter_has_one_optimiser_and_the_matrices_have_muon(
    tmp_path: Path, autoencoder: LinearAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_training(monkeypatch, tmp_path, autoencoder)
    trainer = NanoTrainer(CONFIG, tmp_path, CPU)
    matrices, rest = split_parameters(trainer.net)
    assert {id(p) for p in matrices} | {id(p) for p in rest} == {id(p) for p in trainer.net.parameters()}
    assert len(matrices) + len(rest) == len(list(trainer.net.parameters()))
    names = {id(p): name for name, p in trainer.net.named_parameters()}
    assert all(p.ndim >= 2 and names[id(p)].startswith("transformer.blocks.") for p in matrices)
    assert any(p.ndim == 3 for p in matrices), "stacks of experts"
    assert {"transformer.patch_embedding.weight", "transformer.blocks.1.ffn.gate.weight"} <= {
        names[id(p)] for p in rest
    }
    held = [[id(p) for group in o.param_groups for p in group["params"]] for o in trainer.optimizers]
    assert held == [[id(p) for p in matrices], [id(p) for p in rest]]


def test_a_run_starts_with_short_clips(
    tmp_path: Path, autoencoder: LinearAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_training(monkeypatch, tmp_path, autoencoder)
    seen: list[tuple[tuple[int, float], ...]] = []

    def choose(rng: random.Random, sizes: Any, lengths: tuple[tuple[int, float], ...]) -> BatchKind:
        seen.append(lengths)
        return batches.choose(rng, sizes, lengths)

    monkeypatch.setattr(train, "choose", choose)
    trainer = NanoTrainer(TrainConfig(steps=4, batch_tokens=128, short=0.5), tmp_path, CPU)
    for _ in range(4):
        assert math.isfinite(trainer.train_step())
    assert seen == [((1, 0.5), (5, 0.5))] * 2 + [((5, 0.5), (9, 0.5))] * 2


def test_training_lowers_the_loss(
    tmp_path: Path, autoencoder: LinearAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one batch, which every step sees again with the same noise."""
    shrink_training(monkeypatch, tmp_path, autoencoder)
    trainer = NanoTrainer(TrainConfig(steps=100, batch_tokens=256, warmup=1, lr=3e-3), tmp_path, CPU)
    generator, rng = trainer.generator.get_state(), trainer.rng.getstate()
    losses = []
    for _ in range(15):
        trainer.generator.set_state(generator)
        trainer.rng.setstate(rng)
        losses.append(trainer.train_step())
    assert losses[-1] < 0.8 * losses[0]


def test_without_a_saved_state_there_is_nothing_to_resume(
    tmp_path: Path, autoencoder: LinearAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_training(monkeypatch, tmp_path, autoencoder)
    assert not NanoTrainer(CONFIG, tmp_path, CPU).resume()


def test_the_committed_recipe_covers_the_sizes_that_are_served() -> None:
    sizes = {(width, height) for (height, width), _ in batches.SIZES}
    assert sizes == set(NANO_CARD["native_sizes"])
    longest = NANO_CARD["segment_frames"]
    assert max(frames for frames, _ in batches.FRAMES) == longest
    assert max(frames for frames, _ in train.SHORT_FRAMES) <= longest
    assert 1 + (NANO_CARD["overlap_frames"] - 1) // 4 == batches.OVERLAP


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
