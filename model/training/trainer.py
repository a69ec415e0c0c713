"""Run a training: steps, moving average, progress, resumable states, exports."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn

from zoetrope.model.training.balance import average, balance
from zoetrope.model.training.optimisers import Recipe

REPORT_EVERY = 25  # steps


class Batch(Protocol):
    @property
    def count(self) -> int:
        """The number of its clips, on this rank."""


B = TypeVar("B", bound=Batch)
B_co = TypeVar("B_co", bound=Batch, covariant=True)


class BatchSource(Protocol[B_co]):
    """A source of batches. Its state is saved with the run, so that a resumed run sees what an uninterrupted one
    would."""

    def draw(self, step: int) -> B_co:
        """Return the batch of a step, for this rank."""

    def state(self) -> dict[str, Any]:
        """Return plain values and tensors; names must differ from `Trainer`'s."""

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the result of `state`."""


class Stepper(Protocol):
    """Turns gradients into steps: in one process (`plain`) or in several (`zero`)."""

    rank: int
    ranks: int

    def step(self, batch: Any, rate: float) -> float:
        """Take one optimiser step at a share of the full learning rates; return the loss, averaged over the ranks."""

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the network's complete state dict on rank 0; all ranks must call it."""

    def save(self, out: Path, extra: dict[str, Any]) -> None:
        """Replace the saved state atomically; all ranks must call it."""

    def resume(self, out: Path) -> dict[str, Any] | None:
        """Load the saved state and return its ``extra``; None if there is none. Raises TrainingError."""


class Trainer(Generic[B]):
    """Trains ``net``, whose forward takes a batch and returns the loss.

    Attributes:
        ema: the moving average of the weights, if any.
        loss: smoothed over about fifty steps by `run`. seconds: spent in steps by `run`.
    """

    def __init__(
        self,
        net: nn.Module,
        source: BatchSource[B],
        stepper: Stepper,
        recipe: Recipe,
        out: Path,
        export: Callable[[], None],
        ema: nn.Module | None,
    ) -> None:
        """``export`` writes the result after each saved state, on all ranks; ``ema`` starts as a `twin`."""
        self.net, self.source, self.stepper, self.recipe, self.out = net, source, stepper, recipe, out
        self.ema = ema
        self._export = export
        self.step, self.clips, self.seconds, self.loss = 0, 0, 0.0, float("nan")

    def rate(self) -> float:
        """The current share of the full learning rates."""
        return self.recipe.rate(self.step)

    def train_step(self) -> float:
        """Take one optimiser step on one batch; return the loss."""
        batch = self.source.draw(self.step)
        self.net.train()
        loss = self.stepper.step(batch, self.rate())
        if self.recipe.balance_rate:
            balance(self.net, self.recipe.balance_rate)
        if self.ema is not None:
            average(self.ema, self.net, self.recipe.ema, self.step)
        self.step += 1
        self.clips += batch.count * self.stepper.ranks
        return loss

    def run(self, save_every: int) -> None:
        """Train to the last step and save; print a line of JSON from time to time."""
        while self.step < self.recipe.steps:
            started = time.monotonic()
            loss = self.train_step()
            self.seconds += time.monotonic() - started
            self.loss = loss if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * loss
            if self.stepper.rank == 0 and (self.step % REPORT_EVERY == 0 or self.step == self.recipe.steps):
                print(json.dumps(self.progress()), flush=True)
            if self.step % save_every == 0 and self.step < self.recipe.steps:
                self.save()
        self.save()

    def progress(self) -> dict[str, Any]:
        left = self.seconds / max(1, self.step) * (self.recipe.steps - self.step)
        return {
            "step": self.step,
            "of": self.recipe.steps,
            "clips": self.clips,
            "loss": round(self.loss, 4),
            "rate": round(self.rate(), 3),
            "minutes": round(self.seconds / 60, 1),
            "minutes_left": round(left / 60, 1),
        }

    def save(self) -> None:
        """Save the resumable state and export."""
        extra = {"counters": (self.step, self.clips, self.seconds, self.loss), **self.source.state()}
        if self.ema is not None:
            extra["ema"] = self.ema.state_dict()
        self.stepper.save(self.out, extra)
        self._export()

    def resume(self) -> bool:
        """Resume from the saved state; return false if there is none. Raises TrainingError if it does not fit."""
        extra = self.stepper.resume(self.out)
        if extra is None:
            return False
        if self.ema is not None:
            self.ema.load_state_dict(extra["ema"])
        self.source.restore(extra)
        self.step, self.clips, self.seconds, self.loss = extra["counters"]
        return True
