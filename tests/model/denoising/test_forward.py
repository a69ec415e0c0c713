"""A step in several passes: as few as its tokens allow, and the velocities in the order of the sequences."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from zoetrope.model.denoising.forward import ForwardRun, InParts
from zoetrope.model.network.sequences import Sequence, Stream, count_tokens

PATCH = (1, 2, 2)


def sequence(frames: int) -> Sequence:
    """Of four tokens a frame."""
    latents = torch.full((4, frames, 4, 4), float(frames))
    return Sequence((Stream(latents, torch.zeros(frames)),), torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("most", "parts"),
    [(1000, [[1, 2, 3, 1]]), (16, [[1, 2], [3, 1]]), (12, [[1, 2], [3], [1]]), (1, [[1], [2], [3], [1]])],
)
def test_sequences_are_divided_in_their_order(most: int, parts: list[list[int]]) -> None:
    seen: list[list[int]] = []

    def runner(network: Any, sequences: list[Sequence]) -> ForwardRun:
        seen.append([s.target.latents.shape[1] for s in sequences])
        return ForwardRun([s.target.latents for s in sequences], sum(count_tokens(s, PATCH) for s in sequences))

    network: Any = SimpleNamespace(config=SimpleNamespace(patch_size=PATCH))
    run = InParts(runner, most)(network, [sequence(frames) for frames in (1, 2, 3, 1)])
    assert seen == parts
    assert [int(v.flatten()[0]) for v in run.velocities] == [1, 2, 3, 1] and run.tokens == 28


def test_a_step_without_sequences_is_a_pass_all_the_same() -> None:
    calls: list[int] = []

    def runner(network: Any, sequences: list[Sequence]) -> ForwardRun:
        calls.append(len(sequences))
        return ForwardRun([], 0)

    assert InParts(runner, 5)(SimpleNamespace(), []) == ForwardRun([], 0)
    assert calls == [0], "in a gang every rank takes part"
