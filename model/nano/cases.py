"""Held-out cases of all six tasks: the request, its media, and what the clip must show.

A case is what a client could send: media are uint8 pictures and clips, as in files, of the clip's own size, so that
nothing is scaled. Everything follows from one seed, which training must not have used.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from zoetrope.model.media.inputs import Clip, Inputs, Picture
from zoetrope.model.nano.prompts import words_of
from zoetrope.model.nano.samples import EDITS, Samples, TaskKind, draw
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import (
    EditVideo,
    FirstLastFrame,
    GridToVideo,
    ImageToVideo,
    MediaInfo,
    ModelCard,
    ReferenceToVideo,
    Task,
    TextToVideo,
    VideoRequest,
)

Frames = npt.NDArray[np.uint8]
NO_OPTIONS: Mapping[str, Any] = {}

# What a case of a task is in particular, in turn. With five native sizes every group meets every size.
GROUPS: dict[TaskKind, tuple[str, ...]] = {
    "text_to_video": ("words",),
    "image_to_video": ("picture",),
    "first_last_frame": ("pictures",),
    "grid_to_video": ("panels", "sheet"),  # nine pictures, or one that shows them
    "reference_to_video": ("both", "one", "both", "one_of_two"),  # objects meant; the last has a picture too many
    "edit_video": EDITS,
}


@dataclass(frozen=True, eq=False)
class NanoCase:
    """A request with its media, and the expected result.

    Attributes:
        wanted: the words of each shape that the clip must show, see `model.nano.prompts.words_of`.
        ideal: ``[F, H, W, 3]`` uint8, the generator's own clip, as long as the autoencoder makes it.
    """

    kind: TaskKind
    group: str
    spec: VideoSpec
    inputs: Inputs
    wanted: tuple[dict[str, str], ...]
    ideal: Frames


def held_out(
    kind: TaskKind,
    card: ModelCard,
    count: int,
    seed: int,
    steps: int | None = None,
    guidance: float | None = None,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> list[NanoCase]:
    """Draw cases of the model's default length at all native sizes in turn; ``seed`` also determines the noise seeds.

    Args:
        options: further fields of the requests.

    Raises:
        InvalidRequest: the model does not serve the task, or the steps, the guidance or an option break a limit.
    """
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    frames = -(-(card.default_frames - 1) // card.temporal) * card.temporal + 1
    cases = []
    for i in range(count):
        width, height = card.native_sizes[i % len(card.native_sizes)]
        group = GROUPS[kind][i % len(GROUPS[kind])]
        samples = draw_one(kind, group, height, width, frames, generator, rng)
        inputs = inputs_of(samples, card.fps, composite=group == "sheet")
        task, media = task_of(kind, samples.prompts[0], inputs)
        request = VideoRequest(
            task=task,
            size=f"{width}x{height}",
            frames=card.default_frames,
            steps=steps,
            guidance=guidance,
            **options,
            seed=rng.randrange(2**31),
        )
        spec = resolve(request, card, random_seed=0, media=media)
        shown = [samples.scenes] if samples.second is None else [samples.scenes, samples.second]
        wanted = tuple(words_of(scenes, 0) for scenes in shown)
        cases.append(NanoCase(kind, group, spec, inputs, wanted, pixels_of(samples.clips[0])))
    return cases


def draw_one(
    kind: TaskKind, group: str, height: int, width: int, frames: int, generator: torch.Generator, rng: random.Random
) -> Samples:
    """Draw one sample of a group."""
    edit = next((name for name in EDITS if name == group), None)
    while True:
        samples = draw(kind, 1, height, width, frames, generator, rng, edit=edit, references=1 if group == "one" else 2)
        if (samples.second is not None) == (group == "both"):
            return samples  # with two pictures either both objects or one of them is meant


def inputs_of(samples: Samples, fps: int, *, composite: bool) -> Inputs:
    """Return the media of a batch of one; a grid is nine pictures or one sheet."""

    def picture(image: torch.Tensor) -> Picture:  # [3, H, W]
        return Picture(pixels_of(image[:, None])[0])

    first, last, grid = (None if x is None else x[0] for x in (samples.first_frame, samples.last_frame, samples.grid))
    panels: tuple[Picture, ...] = ()
    if grid is not None:
        parts = [part for row in grid.chunk(3, dim=1) for part in row.chunk(3, dim=2)]
        panels = (picture(grid),) if composite else tuple(picture(part) for part in parts)
    references = samples.references[0] if samples.references is not None else ()
    return Inputs(
        first=None if first is None else picture(first),
        last=None if last is None else picture(last),
        panels=panels,
        references=tuple(picture(image) for image in references),
        video=None if samples.source is None else Clip(pixels_of(samples.source[0]), fps),
    )


def task_of(kind: TaskKind, prompt: str, inputs: Inputs) -> tuple[Task, dict[str, MediaInfo]]:
    """Return the task as a client words it, and what is known of its media, by field; the media's names are
    arbitrary."""
    named: dict[str, Picture | Clip | None] = {
        "first": inputs.first,
        "last": inputs.last,
        "video": inputs.video,
        **{f"panels.{i}": panel for i, panel in enumerate(inputs.panels)},
        **{f"references.{i}": reference for i, reference in enumerate(inputs.references)},
    }
    media = {field: _info(medium) for field, medium in named.items() if medium is not None}
    references = tuple(field for field in media if field.startswith("references."))
    if kind == "text_to_video":
        return TextToVideo(prompt=prompt), {}
    if kind == "image_to_video":
        return ImageToVideo(prompt=prompt, image="first"), {"image": media["first"]}
    if kind == "first_last_frame":
        ends = {"first_frame": media["first"], "last_frame": media["last"]}
        return FirstLastFrame(prompt=prompt, first_frame="first", last_frame="last"), ends
    if kind == "grid_to_video":
        return GridToVideo(prompt=prompt, panels=tuple(media)), media
    if kind == "reference_to_video":
        return ReferenceToVideo(prompt=prompt, references=references), media
    return EditVideo(prompt=prompt, video="video", references=references), media


def _info(medium: Picture | Clip) -> MediaInfo:
    if isinstance(medium, Picture):
        return MediaInfo("image", medium.pixels.shape[1], medium.pixels.shape[0])
    frames, height, width = medium.frames.shape[:3]
    return MediaInfo("clip", width, height, frames, medium.fps)


def pixels_of(clip: torch.Tensor) -> Frames:
    """Convert ``[3, F, H, W]`` in -1..1 to ``[F, H, W, 3]`` uint8."""
    frames: Frames = ((clip.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).contiguous().numpy()
    return frames
