"""Distil nano into few steps of one branch: ``python -m zoetrope.model.nano.distill --out runs/nano-4step``; run it
again to resume.

The student takes the steps of a profile (`model.catalog.profiles`) from noise, without guidance. At each of them the
teacher goes on from where the student has come, with guidance and to second order, down to the student's next noise
level, and the student learns the mean velocity of that stretch. So it sees in training the very states that it meets in
service, and guidance is part of its weights. The student starts as a copy of the teacher; everything but its
transformer stays the teacher's.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoetrope.model.catalog.presets import find_model
from zoetrope.model.catalog.profiles import BUILT_IN
from zoetrope.model.checkpoints.load import load_autoencoder, load_text_encoder, load_transformer
from zoetrope.model.codecs.linear_autoencoder import LinearAutoencoder
from zoetrope.model.codecs.text import TextEncoder
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.nano.batches import conditions_of
from zoetrope.model.nano.layout import export
from zoetrope.model.nano.train import NanoBatch, NanoSource, TrainConfig, device_name
from zoetrope.model.network.sequences import unpack_targets
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.request.tasks import ModelCard
from zoetrope.model.training import trainer as training
from zoetrope.model.training.balance import twin
from zoetrope.model.training.optimisers import Recipe, build_optimisers
from zoetrope.model.training.plain import PlainStepper

PROFILE = "nano-4"


@dataclass
class DistillConfig:
    """The whole recipe.

    Attributes:
        steps: of the optimiser; as many as the profile has steps use the same clips.
        draws: batches of one task each that share a forward pass. batch_tokens: of each of them, at most.
    """

    steps: int = 1600
    draws: int = 3
    batch_tokens: int = 720  # four clips of 9 frames
    guidance: float = 3.0
    lr: float = 2.5e-4
    muon_lr: float = 1e-3
    warmup: int = 20
    decay: float = 0.7
    weight_decay: float = 0.0
    ema: float = 0.98
    seed: int = 20261130


@dataclass
class StageBatch:
    """Clips of several tasks on their way from noise to a clip.

    Attributes:
        parts: the clips, a task in each. conditions: of every clip.
        states: ``[C, T, H, W]`` of every clip, where the student is before its step number ``stage``.
    """

    parts: tuple[NanoBatch, ...]
    conditions: list[Conditions]
    states: list[torch.Tensor]
    stage: int = 0

    @property
    def count(self) -> int:
        return len(self.states) if self.stage == 0 else 0  # the trainer counts clips, each of them once


@dataclass(frozen=True, eq=False)
class Teacher:
    """The model to distil, with what conditions both."""

    transformer: WanTransformer
    text: TextEncoder
    autoencoder: LinearAutoencoder
    guidance: float

    @torch.no_grad()
    def begin(self, parts: tuple[NanoBatch, ...]) -> StageBatch:
        """Return clips before the first step."""
        conditions: list[Conditions] = []
        for part in parts:
            texts = self.text.encode(part.texts)
            conditions += conditions_of(part.samples, part.clean, texts, self.autoencoder.encode_batch, part.overlap)
        return StageBatch(parts, conditions, [noise for part in parts for noise in part.noise])

    @torch.no_grad()
    def mean_velocity(self, batch: StageBatch, now: float, after: float) -> list[torch.Tensor]:
        """Return the velocity ``[C, T, H, W]`` that takes each clip from one noise level to a lower one: the guided one
        at the middle, which is right to second order."""
        half = (after - now) / 2
        first = self._guided(batch, batch.states, now)
        middle = [x + half * v for x, v in zip(batch.states, first, strict=True)]
        return self._guided(batch, middle, now + half)

    def _guided(self, batch: StageBatch, states: list[torch.Tensor], level: float) -> list[torch.Tensor]:
        blank = self.text.encode([""])[0]  # nano's negative prompt
        texts = [given.positive for given in batch.conditions] + [blank] * len(states)
        every = velocities(self.transformer, batch.conditions * 2, states * 2, level, texts)
        positive, negative = every[: len(states)], every[len(states) :]
        return [n + self.guidance * (p - n) for p, n in zip(positive, negative, strict=True)]


def velocities(
    transformer: WanTransformer,
    conditions: Sequence[Conditions],
    states: Sequence[torch.Tensor],
    level: float,
    texts: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """Return the velocity ``[C, T, H, W]`` of each clip, all in one forward pass."""
    sequences = [
        given.sequence(x, 1000 * level, text) for given, x, text in zip(conditions, states, texts, strict=True)
    ]
    batch = transformer.pack(sequences)
    outputs = unpack_targets(transformer(batch).float(), batch, transformer.config.patch_size)
    # With an ending the target is longer than the clip.
    return [output[:, : x.shape[1]] for output, x in zip(outputs, states, strict=True)]


class Student(nn.Module):
    """The network that is trained, and its loss."""

    def __init__(self, transformer: WanTransformer, sigmas: Sequence[float]) -> None:
        super().__init__()
        self.transformer = transformer.requires_grad_(True)
        self._levels = tuple(pairwise((*sigmas, 0.0)))
        self._teacher: Teacher | None = None

    def attach(self, teacher: Teacher) -> Student:
        """Set the teacher, which is no part of the module."""
        self._teacher = teacher
        return self

    def forward(self, batch: StageBatch) -> torch.Tensor:
        """Take the next step of the profile, which advances the batch; return the mean squared error of the velocities
        but for known frames.

        Raises:
            ValueError: before `attach`.
        """
        if self._teacher is None:
            raise ValueError("the student learns from a teacher, see Student.attach")
        now, after = self._levels[batch.stage]
        goals = self._teacher.mean_velocity(batch, now, after)
        texts = [given.positive for given in batch.conditions]
        predicted = velocities(self.transformer, batch.conditions, batch.states, now, texts)
        errors = []
        for given, goal, velocity in zip(batch.conditions, goals, predicted, strict=True):
            error = (velocity - goal).square()
            if given.known_frames is not None:
                error = error[:, ~given.known_frames]
            errors.append(error.flatten())
        batch.states = [x + (after - now) * v.detach() for x, v in zip(batch.states, predicted, strict=True)]
        batch.stage += 1
        every = torch.cat(errors)
        return every.mean() if every.numel() else every.sum()


class StageSource:
    """Clips of several tasks at a time, drawn as nano's own training draws them; each batch is given once for each step
    of the profile."""

    def __init__(self, config: DistillConfig, teacher: Teacher, stages: int) -> None:
        plain = TrainConfig(batch_tokens=config.batch_tokens, short=0.0, text_drop=0.0, seed=config.seed)
        self._clips = NanoSource(plain, teacher.autoencoder)
        self._draws, self._teacher, self._stages = config.draws, teacher, stages
        self._batch: StageBatch | None = None

    def draw(self, step: int) -> StageBatch:
        if self._batch is None or self._batch.stage == self._stages:
            self._batch = self._teacher.begin(tuple(self._clips.draw(step) for _ in range(self._draws)))
        return self._batch

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs; a batch that is under way is given up."""
        return self._clips.state()

    def restore(self, state: dict[str, Any]) -> None:
        self._clips.restore(state)


class DistillTrainer(training.Trainer[StageBatch]):
    """A run into ``out``, in one process."""

    net: Student
    ema: Student

    def __init__(self, config: DistillConfig, out: Path, card: ModelCard) -> None:
        """Load the teacher ``card`` twice: as the teacher, and as what the student starts from."""
        self.config = config
        device = torch.device("cpu")
        torch.manual_seed(config.seed)
        autoencoder, text = load_autoencoder(card, device), load_text_encoder(card, device)
        teacher, transformer = load_transformer(card, device), load_transformer(card, device)
        assert isinstance(autoencoder, LinearAutoencoder)
        assert isinstance(teacher, WanTransformer)
        assert isinstance(transformer, WanTransformer)
        sigmas = BUILT_IN[PROFILE].sigmas
        net = Student(transformer, sigmas)
        recipe = Recipe(config.steps, config.warmup, config.decay, config.ema, balance_rate=0.0)
        optimisers = build_optimisers(net, "muon", config.lr, config.muon_lr, config.weight_decay)
        stepper = PlainStepper(net, optimisers, recipe.clip)
        tutor = Teacher(teacher, text, autoencoder, config.guidance)
        source = StageSource(config, tutor, len(sigmas))
        super().__init__(net, source, stepper, recipe, out, self._write, twin(net))
        net.attach(tutor)
        self._teacher = tutor
        if not (out / "vae").exists():
            shutil.copytree(Path(card.directory) / "vae", out / "vae")

    def _write(self) -> None:
        export(self.out, self.ema.transformer, self._teacher.text.encoder, self.record())

    def compile(self) -> None:
        """Compile the blocks of teacher and student."""
        for transformer in (self.net.transformer, self._teacher.transformer):
            for block in transformer.layers():
                block.compile(dynamic=True)

    def record(self) -> dict[str, Any]:
        """Return what a reader needs to repeat this run."""
        return {
            "command": "python -m zoetrope.model.nano.distill " + " ".join(sys.argv[1:]),
            "config": asdict(self.config),
            "profile": PROFILE,
            "step": self.step,
            "clips": self.clips,
            "seconds": round(self.seconds),
            "loss": round(self.loss, 4),
            "device": device_name(torch.device("cpu")),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/nano-4step"))
    parser.add_argument("--teacher", default="nano", help="the model to distil")
    parser.add_argument("--compile", action="store_true", help="compile the blocks (needs a C++ compiler)")
    parser.add_argument("--save-every", type=int, default=50, help="steps between saves")
    for name, value in asdict(DistillConfig()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    args = vars(parser.parse_args())
    out, teacher, compiled, every = (args.pop(name) for name in ("out", "teacher", "compile", "save_every"))
    out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("medium")  # products in bfloat16, sums in float32, where the CPU can
    trainer = DistillTrainer(DistillConfig(**args), out, find_model(teacher))
    if compiled:
        trainer.compile()
    if trainer.resume():
        print(f"resumed at step {trainer.step}", flush=True)
    trainer.run(every)


if __name__ == "__main__":
    main()
