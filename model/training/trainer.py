"""A run of training: steps, moving average, progress, saved states to go on from, exports."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn

from model.training.balance import average, balance
from model.training.optimisers import Recipe

REPORT_EVERY = 25  # steps


class Batch(Protocol):
    @property
    def count(self) -> int:
        """Clips in it, on this rank."""


B = TypeVar("B", bound=Batch)
B_co = TypeVar("B_co", bound=Batch, covariant=True)


class BatchSource(Protocol[B_co]):
    """Where batches come from. Its state is part of a run's, so that a resumed run sees what an unbroken one does."""

    def draw(self, step: int) -> B_co:
        """The batch of a step, for this rank."""

    def state(self) -> dict[str, Any]:
        """Plain values and tensors under names of its own, beside `Trainer`'s."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""


class Stepper(Protocol):
    """How gradients become steps: in one process (`plain`) or over many (`zero`)."""

    rank: int
    ranks: int

    def step(self, batch: Any, rate: float) -> float:
        """One step of the optimisers at a share of their learning rates' height; the loss, the mean over the ranks."""

    def weights(self) -> dict[str, torch.Tensor]:
        """The network's state dict, whole; all ranks call it and rank 0 gets it."""

    def save(self, out: Path, extra: dict[str, Any]) -> None:
        """Replace the saved state, at once; all ranks call it."""

    def resume(self, out: Path) -> dict[str, Any] | None:
        """Load the saved state and give what was ``extra``; None: there is none. Raises TrainingError."""


class Trainer(Generic[B]):
    """Trains ``net``, whose forward takes a batch and returns the loss.

    Attributes:
        ema: the moving average of the weights, None where there is none.
        loss: smoothed over some fifty steps by `run`. seconds: spent in steps, by `run`.
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
        """``export`` writes what a run is for, after each saved state, on all ranks; ``ema`` starts as a `twin`."""
        self.net, self.source, self.stepper, self.recipe, self.out = net, source, stepper, recipe, out
        self.ema = ema
        self._export = export
        self.step, self.clips, self.seconds, self.loss = 0, 0, 0.0, float("nan")

    def rate(self) -> float:
        """Of the learning rates' full height."""
        return self.recipe.rate(self.step)

    def train_step(self) -> float:
        """One optimiser step on one batch; returns the loss."""
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
        """Train to the last step, with a line of JSON on standard output now and then, and save."""
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
        """The resumable state and the export."""
        extra = {"counters": (self.step, self.clips, self.seconds, self.loss), **self.source.state()}
        if self.ema is not None:
            extra["ema"] = self.ema.state_dict()
        self.stepper.save(self.out, extra)
        self._export()

    def resume(self) -> bool:
        """Go on from the saved state; false when there is none. Raises TrainingError when it does not fit."""
        extra = self.stepper.resume(self.out)
        if extra is None:
            return False
        if self.ema is not None:
            self.ema.load_state_dict(extra["ema"])
        self.source.restore(extra)
        self.step, self.clips, self.seconds, self.loss = extra["counters"]
        return True
