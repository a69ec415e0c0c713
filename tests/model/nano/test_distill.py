"""The distiller: a student takes its own steps, learns the teacher's mean velocity, and leaves a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.model.nano.conftest import shrink_training
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.catalog.profiles import BUILT_IN
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.codecs.linear_autoencoder import LinearAutoencoder
from zoetrope.model.nano.distill import PROFILE, DistillConfig, DistillTrainer, velocities

CONFIG = DistillConfig(steps=6, draws=2, batch_tokens=96, warmup=1)
SIGMAS = BUILT_IN[PROFILE].sigmas


@pytest.fixture
def trainer(
    toy_run: Path, tmp_path: Path, autoencoder: LinearAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> DistillTrainer:
    shrink_training(monkeypatch, tmp_path / "out", autoencoder)
    return DistillTrainer(CONFIG, tmp_path / "out", find_model(str(toy_run)))


def test_a_batch_is_taken_from_noise_to_its_clips_step_by_step(trainer: DistillTrainer) -> None:
    source = trainer.source
    batch = source.draw(0)
    counted, x = [batch.count], [state.clone() for state in batch.states]
    for now, after in zip(SIGMAS, (*SIGMAS[1:], 0.0), strict=True):
        assert source.draw(0) is batch
        texts = [given.positive for given in batch.conditions]
        with torch.no_grad():
            made = velocities(trainer.net.transformer, batch.conditions, x, now, texts)
        x = [one + (after - now) * v for one, v in zip(x, made, strict=True)]
        trainer.net(batch)
        counted.append(batch.count)
        for mine, theirs in zip(x, batch.states, strict=True):
            torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-5)
    assert counted == [0, len(x), 0, 0, 0], "each clip counts once"
    assert source.draw(0) is not batch


def test_the_goal_is_the_guided_velocity_at_the_middle(trainer: DistillTrainer) -> None:
    teacher, batch = trainer.teacher, trainer.source.draw(0)
    texts = [given.positive for given in batch.conditions]
    blank = [teacher.text.encode([""])[0]] * len(texts)

    def guided(states: list[torch.Tensor], level: float) -> list[torch.Tensor]:
        positive, negative = (
            velocities(teacher.transformer, batch.conditions, states, level, given) for given in (texts, blank)
        )
        return [n + 3.0 * (p - n) for p, n in zip(positive, negative, strict=True)]

    with torch.no_grad():
        middle = [x - 0.1 * v for x, v in zip(batch.states, guided(batch.states, 1.0), strict=True)]
        expected = guided(middle, 0.9)
    for goal, one in zip(teacher.mean_velocity(batch, 1.0, 0.8), expected, strict=True):
        torch.testing.assert_close(goal, one, rtol=0, atol=1e-4)


def test_a_run_changes_the_student_alone_and_leaves_a_model(trainer: DistillTrainer, toy_run: Path) -> None:
    teacher = {name: tensor.clone() for name, tensor in trainer.teacher.transformer.state_dict().items()}
    for _ in range(3):
        trainer.loss = trainer.train_step()
    trainer.save()
    assert all(torch.equal(tensor, teacher[name]) for name, tensor in trainer.teacher.transformer.state_dict().items())
    card = find_model(str(trainer.out))
    saved = load_transformer(card, torch.device("cpu"))
    ema = trainer.ema.transformer.state_dict()
    assert any(not torch.equal(tensor, teacher[name]) for name, tensor in saved.state_dict().items())
    assert all(torch.equal(tensor, ema[name].half().float()) for name, tensor in saved.state_dict().items())
    record = json.loads((trainer.out / "training.json").read_text())
    assert record["profile"] == PROFILE and record["step"] == 3 and record["clips"] > 0
    again = DistillTrainer(CONFIG, trainer.out, find_model(str(toy_run)))
    assert again.resume() and again.step == 3
    mine, theirs = again.net.state_dict(), trainer.net.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
