"""Draw batches for the trainer: a task, a size, and samples as latents and conditions of segments.

All rows of a batch have one task, size and length, so that they form one dense attention.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from zoetrope.model.conditioning.pixels import GRID_SCALE, shrink_sheet
from zoetrope.model.denoising.conditions import Conditions, Source
from zoetrope.model.nano.samples import EditKind, Samples, TaskKind, draw

T = TypeVar("T")
Encode = Callable[[torch.Tensor], torch.Tensor]  # clips [B, 3, F, H, W] -> latents [B, C, T, H, W]

# Shares of the batches. Tasks from words alone or from a reference are learned last, so they are the most frequent.
TASK_SHARES: dict[TaskKind, float] = {
    "text_to_video": 0.22,
    "image_to_video": 0.04,
    "first_last_frame": 0.06,
    "grid_to_video": 0.10,
    "reference_to_video": 0.42,
    "edit_video": 0.16,
}
EDIT_SHARES: dict[EditKind, float] = {"edit_color": 0.15, "edit_background": 0.15, "edit_object": 0.7}
# (height, width) and share
SIZES = (((24, 40), 0.4), ((40, 24), 0.15), ((32, 32), 0.15), ((24, 32), 0.15), ((32, 24), 0.15))
FRAMES = ((1, 0.03), (5, 0.07), (9, 0.45), (17, 0.45))
OVERLAP_SHARE = 0.3  # of the clips with known frames: those that continue an earlier segment
OVERLAP = 2  # latent frames known in that case


@dataclass(frozen=True)
class BatchKind:
    """What all rows of a batch have in common."""

    task: TaskKind
    height: int
    width: int
    frames: int
    edit: EditKind
    references: int


def pick(rng: random.Random, choices: Mapping[T, float]) -> T:
    """Draw one of the keys by weight."""
    return rng.choices(list(choices), list(choices.values()))[0]


def choose(
    rng: random.Random, sizes: tuple[tuple[tuple[int, int], float], ...], lengths: tuple[tuple[int, float], ...]
) -> BatchKind:
    """Draw what the next batch is."""

    task = pick(rng, TASK_SHARES)
    height, width = pick(rng, dict(sizes))
    frames = pick(rng, dict(lengths))
    if task in ("first_last_frame", "grid_to_video", "edit_video"):
        frames = max(frames, 9)  # in shorter ones there is too little in between
    elif task == "image_to_video":
        frames = max(frames, 5)  # with one frame nothing would be left to generate
    edit: EditKind = pick(rng, EDIT_SHARES)
    return BatchKind(task, height, width, frames, edit, rng.choice((1, 2)))


def cells(kind: BatchKind, spatial: int, temporal: int) -> int:
    """Count the latent cells of one row: the target's and its sources'."""
    frame = (kind.height // spatial) * (kind.width // spatial)
    length = 1 + (kind.frames - 1) // temporal
    still = (min(kind.height, kind.width) // spatial) ** 2
    extra = {
        "first_last_frame": frame,
        "grid_to_video": GRID_SCALE**2 * frame,
        "reference_to_video": kind.references * still,
        "edit_video": length * frame + (still if kind.edit == "edit_object" else 0),
    }
    return length * frame + extra.get(kind.task, 0)


def sample(kind: BatchKind, count: int, generator: torch.Generator, rng: random.Random) -> Samples:
    return draw(
        kind.task,
        count,
        kind.height,
        kind.width,
        kind.frames,
        generator,
        rng,
        edit=kind.edit,
        references=2 if kind.references == 2 else 1,
    )


def conditions_of(
    samples: Samples, clean: torch.Tensor, texts: torch.Tensor, encode: Encode, overlap: int = 0
) -> list[Conditions]:
    """Return the conditions of each row, as the service's conditioner makes them from files.

    Args:
        clean: latents of the targets. texts: ``[B, L, text_dim]``. overlap: latent frames known from a segment before.
    """
    count, length = clean.shape[0], clean.shape[2]
    known = max(overlap, 1 if samples.first_frame is not None else 0)
    mask = torch.arange(length) < known
    ending = encode(samples.last_frame[:, :, None]) if samples.last_frame is not None else None
    sources: list[torch.Tensor] = []
    if samples.source is not None:
        sources.append(encode(samples.source))
    if samples.grid is not None:
        sources.append(encode(shrink_sheet(samples.grid)[:, :, None]))
    if samples.references is not None:
        sources += [encode(samples.references[:, r, :, None]) for r in range(samples.references.shape[1])]
    return [
        Conditions(
            positive=texts[i],
            sources=tuple(Source(s[i], number + 1) for number, s in enumerate(sources)),
            known=clean[i] if known else None,
            known_frames=mask if known else None,
            ending=ending[i] if ending is not None else None,
        )
        for i in range(count)
    ]
