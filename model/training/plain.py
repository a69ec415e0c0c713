"""Take optimiser steps and save states in one process, with torch alone."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoetrope.model.training.errors import TrainingError

STATE_NAME = "state.pt"


class PlainStepper:
    """See `model.training.trainer.Stepper`."""

    rank = 0
    ranks = 1

    def __init__(self, net: nn.Module, optimisers: Sequence[torch.optim.Optimizer], clip: float) -> None:
        self.net = net
        self.optimisers = list(optimisers)
        self._clip = clip
        self._heights = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.optimisers]

    def step(self, batch: Any, rate: float) -> float:
        loss: torch.Tensor = self.net(batch)
        self.net.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self._clip)
        for optimiser, heights in zip(self.optimisers, self._heights, strict=True):
            for group, height in zip(optimiser.param_groups, heights, strict=True):
                group["lr"] = height * rate
            optimiser.step()
        return float(loss.detach())

    def weights(self) -> dict[str, torch.Tensor]:
        return self.net.state_dict()

    def save(self, out: Path, extra: dict[str, Any]) -> None:
        state = {
            "net": self.net.state_dict(),
            "optimizers": [optimiser.state_dict() for optimiser in self.optimisers],
            **extra,
        }
        partial = out / (STATE_NAME + ".partial")
        torch.save(state, partial)
        partial.replace(out / STATE_NAME)

    def resume(self, out: Path) -> dict[str, Any] | None:
        path = out / STATE_NAME
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            self.net.load_state_dict(state.pop("net"))
            for optimiser, saved in zip(self.optimisers, state.pop("optimizers"), strict=True):
                optimiser.load_state_dict(saved)
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(f"{path}: this run cannot resume from it: {reason}") from None
        return state
