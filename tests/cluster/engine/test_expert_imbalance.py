"""How unevenly experts are used: sampled, not at every step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from zoetrope.cluster.engine.expert_imbalance import PAUSE_SECONDS, ExpertImbalance, imbalance
from zoetrope.cluster.telemetry.catalogue import REGISTRY


@pytest.mark.parametrize(
    ("counts", "ratio"),
    [
        ([[5, 5, 5, 5]], 1.0),
        ([[20, 0, 0, 0]], 4.0),
        ([[20, 0, 0, 0], [5, 5, 5, 5]], 2.5),
        ([[0, 0], [3, 1]], 1.5),  # a layer without tokens says nothing
        ([[0, 0]], None),
        ([], None),
    ],
)
def test_the_busiest_expert_over_the_mean(counts: list[list[int]], ratio: float | None) -> None:
    assert imbalance([torch.tensor(layer, dtype=torch.int32) for layer in counts]) == ratio


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last_counts: torch.Tensor | None = None


def test_samples_keep_their_distance() -> None:
    layer, now = Layer(), [100.0]
    denoiser: Any = SimpleNamespace(transformer=torch.nn.Sequential(torch.nn.Linear(1, 1), layer), low_noise=None)
    sampled = ExpertImbalance(denoiser, "uneven", lambda: now[0])

    def seen() -> float:
        return REGISTRY.get_sample_value("zoetrope_expert_imbalance_ratio_count", {"model": "uneven"}) or 0.0

    sampled.look()  # no step yet
    assert seen() == 0
    layer.last_counts, now[0] = torch.tensor([3, 1]), now[0] + PAUSE_SECONDS
    sampled.look()
    sampled.look()
    assert seen() == 1
    now[0] += PAUSE_SECONDS
    sampled.look()
    assert seen() == 2


def test_a_model_without_experts_is_not_asked() -> None:
    denoiser: Any = SimpleNamespace(transformer=torch.nn.Linear(1, 1), low_noise=None)
    ExpertImbalance(denoiser, "dense").look()
    assert REGISTRY.get_sample_value("zoetrope_expert_imbalance_ratio_count", {"model": "dense"}) is None
