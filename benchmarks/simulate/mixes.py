"""Mixes of jobs to draw traces from: shares of sizes, durations, steps and tasks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from zoetrope.benchmarks.simulate.trace import MAX_FRAMES, Kind, TraceError, read_lines
from zoetrope.model.request.sampling_rules import MAX_REQUEST_LORAS
from zoetrope.model.request.sizes import MAX_SIDE, MIN_SIDE, SIZES
from zoetrope.model.request.tasks import MAX_REFERENCES, MAX_STEPS, Quality
from zoetrope.serving.jobs.job import PRIORITIES

# Shares of the six tasks; our assumption, no service has published its own.
TASKS: dict[Kind, float] = {
    "text_to_video": 0.45,
    "image_to_video": 0.35,
    "first_last_frame": 0.05,
    "grid_to_video": 0.03,
    "reference_to_video": 0.07,
    "edit_video": 0.05,
}


PIXELS = re.compile(r"(\d{1,5})x(\d{1,5})")


@dataclass(frozen=True)
class Ingredient:
    """One kind of job in a mix.

    Attributes:
        share: of the jobs. size: a name of `SIZES`, or WIDTHxHEIGHT; some jobs are on end. seconds: of the clip.
        task, tenant, references: None: drawn. frames: of the clip, instead of ``seconds``; 0: as those say.
        deadline: seconds from the arrival. exact_size: never on end.
    """

    share: float
    size: str
    seconds: float
    steps: int
    branches: int = 2
    task: Kind | None = None
    frames: int = 0
    quality: Quality = "exact"
    references: int | None = None
    adapters: tuple[str, ...] = ()
    tenant: str | None = None
    priority: int = 0
    deadline: float | None = None
    exact_size: bool = False

    def pixels(self, ratio: str) -> tuple[int, int]:
        """Return width and height in one of the ratios of `SIZES`."""
        if self.size in SIZES:
            return SIZES[self.size][ratio]
        width, height = map(int, self.size.split("x"))
        return (width, height) if ratio != "9:16" else (height, width)


class MixLine(BaseModel):
    """An ingredient as a line of a file; the fields are those of `Ingredient` and `TraceJob`.

    Attributes:
        seconds, frames: one of the two. deadline: seconds from the arrival.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    share: float = Field(default=1.0, gt=0)
    size: str
    ratio: Literal["16:9", "drawn"] = "16:9"
    seconds: float | None = Field(default=None, gt=0)
    frames: int | None = Field(default=None, ge=1, le=MAX_FRAMES)
    steps: int = Field(ge=1, le=MAX_STEPS)
    branches: int = Field(default=2, ge=1, le=2)
    task: Kind | None = None
    quality: Quality = "exact"
    references: int | None = Field(default=None, ge=1, le=MAX_REFERENCES)
    adapters: tuple[str, ...] = Field(default=(), max_length=MAX_REQUEST_LORAS)
    tenant: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    priority: int = Field(default=0, ge=PRIORITIES[0], le=PRIORITIES[-1])
    deadline: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> MixLine:
        if (self.seconds is None) == (self.frames is None):
            raise ValueError("seconds: must be set, or frames, and not both")
        sides = PIXELS.fullmatch(self.size)
        if sides is None and self.size not in SIZES:
            raise ValueError(f"size: {self.size!r} must be WIDTHxHEIGHT, or one of {', '.join(SIZES)}")
        if sides is not None and not all(MIN_SIDE <= int(side) <= MAX_SIDE for side in sides.groups()):
            raise ValueError(f"size: {self.size!r} must have sides from {MIN_SIDE} to {MAX_SIDE}")
        return self

    def ingredient(self) -> Ingredient:
        return Ingredient(
            share=self.share,
            size=self.size,
            seconds=self.seconds or 0.0,
            steps=self.steps,
            branches=self.branches,
            task=self.task,
            frames=self.frames or 0,
            quality=self.quality,
            references=self.references,
            adapters=self.adapters,
            tenant=self.tenant,
            priority=self.priority,
            deadline=self.deadline,
            exact_size=self.ratio == "16:9",
        )


def mix_of(name: str) -> tuple[Ingredient, ...]:
    """Return a mix: one of `MIXES`, or of a file of JSON lines, each a `MixLine`.

    Raises:
        TraceError: there is no such mix and no such file, or some lines of it are wrong.
    """
    if name in MIXES:
        return MIXES[name]
    path = Path(name)
    if not path.is_file():
        raise TraceError(f"mix is {name!r}, must be one of {', '.join(MIXES)}, or a file of JSON lines")
    found = tuple(line.ingredient() for line in read_lines(path, MixLine))
    if not found:
        raise TraceError(f"{path}: has no kind of job")
    return found


MIXES: dict[str, tuple[Ingredient, ...]] = {
    # Many drafts and short clips, a tail of long and large ones.
    "mixed": (
        Ingredient(0.30, "480p", 2.0, 20),
        Ingredient(0.30, "480p", 5.0, 30),
        Ingredient(0.20, "720p", 5.0, 40),
        Ingredient(0.10, "720p", 10.0, 40),
        Ingredient(0.07, "1080p", 5.0, 50),
        Ingredient(0.03, "1080p", 10.0, 50),
    ),
    # Small work, with one job in twenty that is very large.
    "tail": (
        Ingredient(0.60, "480p", 2.0, 20),
        Ingredient(0.35, "480p", 5.0, 30),
        Ingredient(0.05, "1080p", 10.0, 50),
    ),
    # One class: what every serving benchmark starts with.
    "same": (Ingredient(1.0, "480p", 5.0, 50),),
    # A few-step distill without guidance.
    "distill": (
        Ingredient(0.40, "480p", 5.0, 4, 1),
        Ingredient(0.40, "720p", 5.0, 4, 1),
        Ingredient(0.15, "720p", 10.0, 4, 1),
        Ingredient(0.05, "1080p", 5.0, 4, 1),
    ),
    # Five kinds of small jobs for nano on a CPU, one of them ten times the work of the others.
    "nano-load": (
        Ingredient(0.35, "64x48", 0.0, 8, task="text_to_video", frames=9, exact_size=True),
        Ingredient(0.25, "96x64", 0.0, 10, task="image_to_video", frames=13, exact_size=True),
        Ingredient(0.15, "64x64", 0.0, 8, task="reference_to_video", frames=9, references=1, exact_size=True),
        Ingredient(0.15, "64x48", 0.0, 10, task="edit_video", frames=16, exact_size=True),
        Ingredient(0.10, "128x96", 0.0, 40, task="text_to_video", frames=25, exact_size=True),
    ),
    # Sizes that nano denoises at.
    "nano": (
        Ingredient(0.40, "40x24", 1.0, 10),
        Ingredient(0.30, "40x24", 2.0, 20),
        Ingredient(0.20, "32x32", 2.0, 30),
        Ingredient(0.10, "40x24", 4.0, 40),
    ),
}
