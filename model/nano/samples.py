"""Training and evaluation data for all six tasks: target clips, prompts and the raw pixels of the conditions.

How the conditions enter the network is not decided here. Everything is float32 in -1..1, channels first, and follows
from the two generators alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from zoetrope.model.nano.prompts import TASK_TEMPLATES, describe, words_of
from zoetrope.model.nano.world import (
    BACKGROUND_NAMES,
    COLORS,
    SHAPES,
    Scenes,
    paint,
    render,
    sample_pairs,
    sample_scenes,
)

TaskKind = Literal[
    "text_to_video", "image_to_video", "first_last_frame", "grid_to_video", "reference_to_video", "edit_video"
]
EditKind = Literal["edit_color", "edit_background", "edit_object"]
TASKS: tuple[TaskKind, ...] = get_args(TaskKind)
EDITS: tuple[EditKind, ...] = get_args(EditKind)
PANELS = 9  # of a grid, three rows of three
FULL_PROMPT_SHARE = 0.5  # of the rows whose frames already show the movement
PAIR_SHARE = 0.7  # of the batches with two references, the rest mean one of them


@dataclass(frozen=True)
class Samples:
    """A batch of one task. Conditions that the task does not have are None."""

    kind: TaskKind
    clips: torch.Tensor  # [B, 3, F, H, W], the target
    scenes: Scenes  # of `clips`, for the oracle
    prompts: list[str]
    second: Scenes | None = None  # the other shape, where the clip shows two
    first_frame: torch.Tensor | None = None  # [B, 3, H, W]
    last_frame: torch.Tensor | None = None  # [B, 3, H, W]
    grid: torch.Tensor | None = None  # [B, 3, 3 * H, 3 * W], panels row by row
    references: torch.Tensor | None = None  # [B, R, 3, S, S] with S the shorter side; "image 1" of a prompt is index 0
    source: torch.Tensor | None = None  # [B, 3, F, H, W], the clip to edit


def draw(
    kind: TaskKind,
    count: int,
    height: int,
    width: int,
    frames: int,
    generator: torch.Generator,
    rng: random.Random,
    *,
    edit: EditKind | None = None,
    references: Literal[1, 2] | None = None,
) -> Samples:
    """Draw a batch.

    Args:
        generator: draws the scenes. rng: draws the wording, and `edit` and `references` if they are None.
        edit: the edit that all rows of an ``edit_video`` batch request.
        references: images per row of a ``reference_to_video`` batch; a prompt uses one or both.
    """
    scenes = sample_scenes(count, height, width, frames, generator)
    if kind == "edit_video":
        chosen = edit if edit is not None else rng.choice(EDITS)
        return _edit(scenes, height, width, frames, generator, rng, chosen)
    if kind == "reference_to_video":
        number = references if references is not None else rng.choice((1, 2))
        return _reference(scenes, height, width, frames, generator, rng, number)
    clips = render(scenes, height, width, frames)
    if kind == "text_to_video":
        return Samples(kind, clips, scenes, describe(scenes, rng))
    full = describe(scenes, rng)
    short = describe(scenes, rng, TASK_TEMPLATES[kind])
    prompts = [f if rng.random() < FULL_PROMPT_SHARE else s for f, s in zip(full, short, strict=True)]
    if kind == "image_to_video":
        return Samples(kind, clips, scenes, prompts, first_frame=clips[:, :, 0])
    if kind == "first_last_frame":
        return Samples(kind, clips, scenes, prompts, first_frame=clips[:, :, 0], last_frame=clips[:, :, -1])
    return Samples(kind, clips, scenes, prompts, grid=sheet_of(clips))


def sheet_of(clips: torch.Tensor) -> torch.Tensor:
    """Compose nine evenly spaced frames of ``[B, 3, F, H, W]``, including the first and last, to ``[B, 3, 3H, 3W]``."""
    b, c, frames, height, width = clips.shape
    index = torch.linspace(0, frames - 1, PANELS).round().long()
    panels = clips[:, :, index].reshape(b, c, 3, 3, height, width)
    return panels.permute(0, 1, 2, 4, 3, 5).reshape(b, c, 3 * height, 3 * width)


def reference_images(color: torch.Tensor, shape: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """Draw objects ``[B]``, each centred on grey, ``[B, 3, side, side]``, at a scale unrelated to the clip's."""
    count = len(color)
    centre = torch.full((count,), side / 2)
    scenes = Scenes(
        color=color,
        shape=shape,
        direction=torch.zeros_like(color),
        background=torch.full_like(color, BACKGROUND_NAMES.index("gray")),
        radius=(0.2 + 0.2 * torch.rand(count, generator=generator)) * side,
        x=centre,
        y=centre,
        travel=torch.zeros(count),
    )
    return render(scenes, side, side, 1)[:, :, 0]


def _reference(
    scenes: Scenes, height: int, width: int, frames: int, generator: torch.Generator, rng: random.Random, number: int
) -> Samples:
    """Draw a sample with reference images. With two images a prompt means one, or both: then the clip shows both, the
    first on top or to the left."""
    side = min(height, width)
    if number == 2 and rng.random() < PAIR_SHARE:
        first, second = sample_pairs(len(scenes), height, width, frames, generator)
        images = [reference_images(s.color, s.shape, side, generator) for s in (first, second)]
        clips = paint(render(first, height, width, frames), second)
        prompts = describe(first, rng, TASK_TEMPLATES["reference_pair"])
        return Samples("reference_to_video", clips, first, prompts, second=second, references=torch.stack(images, 1))
    count = len(scenes)
    colors = torch.randint(len(COLORS), (count, number), generator=generator)
    shapes = torch.randint(len(SHAPES), (count, number), generator=generator)
    meant = torch.randint(number, (count,), generator=generator)
    rows = torch.arange(count)
    scenes = scenes.with_(color=colors[rows, meant], shape=shapes[rows, meant])
    prompts = [
        rng.choice(TASK_TEMPLATES["reference_to_video"]).format(**words_of(scenes, i), image=int(meant[i]) + 1)
        for i in range(count)
    ]
    images = [reference_images(colors[:, r], shapes[:, r], side, generator) for r in range(number)]
    clips = render(scenes, height, width, frames)
    return Samples("reference_to_video", clips, scenes, prompts, references=torch.stack(images, dim=1))


def _edit(
    source: Scenes,
    height: int,
    width: int,
    frames: int,
    generator: torch.Generator,
    rng: random.Random,
    edit: EditKind,
) -> Samples:
    """Draw a clip, an instruction, and the same motion with one thing changed."""
    references = None
    if edit == "edit_color":
        target = source.with_(color=_another(source.color, len(COLORS), generator))
    elif edit == "edit_background":
        target = source.with_(background=_another(source.background, len(BACKGROUND_NAMES), generator))
    else:
        color = torch.randint(len(COLORS), (len(source),), generator=generator)
        target = source.with_(color=color, shape=_another(source.shape, len(SHAPES), generator))
        references = reference_images(target.color, target.shape, min(height, width), generator)[:, None]
    prompts = [
        rng.choice(TASK_TEMPLATES[edit]).format(
            **words_of(target, i), source_shape=SHAPES[int(source.shape[i])], image=1
        )
        for i in range(len(source))
    ]
    clips = render(target, height, width, frames)
    before = render(source, height, width, frames)
    return Samples("edit_video", clips, target, prompts, references=references, source=before)


def _another(value: torch.Tensor, number: int, generator: torch.Generator) -> torch.Tensor:
    """Draw for each entry another one of the ``number`` choices."""
    return (value + torch.randint(1, number, value.shape, generator=generator)) % number
