"""Samples how unevenly a model's tokens are spread over its experts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from zoetrope.cluster.telemetry.metrics import EXPERT_IMBALANCE
from zoetrope.model.denoising.denoise import Denoiser

PAUSE_SECONDS = 10.0  # between two samples, each of which reads a few numbers for each layer from the device


class ExpertImbalance:
    """Looks at the counts that the layers keep of their newest step, those of this rank's tokens."""

    def __init__(self, denoiser: Denoiser, model: str, clock: Callable[[], float] = time.monotonic) -> None:
        networks: list[Any] = [n for n in (denoiser.transformer, denoiser.low_noise) if n is not None]
        self._layers: list[Any] = [layer for n in networks for layer in n.modules() if hasattr(layer, "last_counts")]
        self._model = model
        self._clock = clock
        self._next = 0.0

    def look(self) -> None:
        """Take a sample after a step, if one is due."""
        if not self._layers or self._clock() < self._next:
            return
        self._next = self._clock() + PAUSE_SECONDS
        ratio = imbalance([layer.last_counts for layer in self._layers if layer.last_counts is not None])
        if ratio is not None:
            EXPERT_IMBALANCE.labels(self._model).observe(ratio)


def imbalance(counts: list[torch.Tensor]) -> float | None:
    """Return the tokens of a layer's busiest expert over the mean of its experts, the mean of the layers.

    Args:
        counts: int ``[E]`` of each layer.

    Returns:
        1 for an even spread, ``E`` if one expert has everything; None without layers or tokens.
    """
    ratios = [layer.max() / layer.float().mean() for layer in counts]
    found = float(torch.stack(ratios).nanmean()) if ratios else float("nan")
    return found if found >= 1 else None
