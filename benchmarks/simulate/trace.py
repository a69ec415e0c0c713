"""Traces: what was asked of a service and when, as JSON lines with one job each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from zoetrope.model.request.sampling_rules import MAX_REQUEST_LORAS
from zoetrope.model.request.schema_errors import describe
from zoetrope.model.request.sizes import MAX_SIDE, MIN_SIDE
from zoetrope.model.request.tasks import MAX_REFERENCES, MAX_STEPS, Quality
from zoetrope.serving.jobs.job import PRIORITIES

MAX_ERRORS = 10  # reported at once
MAX_FRAMES = 10_000
Kind = Literal[
    "text_to_video", "image_to_video", "first_last_frame", "grid_to_video", "reference_to_video", "edit_video"
]

M = TypeVar("M", bound=BaseModel)


class TraceError(ValueError):
    """A trace cannot be used; each line of the message names a line of the file, a field and its value."""


class TraceJob(BaseModel):
    """One job. Times are seconds from the start of the trace.

    Attributes:
        frames: of the file. branches: guidance branches of a step. references: pictures of a reference task.
        adapters: names of registered adapters, which a simulation takes no notice of.
        deadline: a job that is not done by then fails, as in a service; None: it has no deadline.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    arrival: float = Field(ge=0)
    tenant: Annotated[str, StringConstraints(max_length=256)] = ""
    task: Kind = "text_to_video"
    width: int = Field(ge=MIN_SIDE, le=MAX_SIDE)
    height: int = Field(ge=MIN_SIDE, le=MAX_SIDE)
    frames: int = Field(ge=1, le=MAX_FRAMES)
    steps: int = Field(ge=1, le=MAX_STEPS)
    branches: int = Field(default=2, ge=1, le=2)
    quality: Quality = "exact"
    references: int = Field(default=0, ge=0, le=MAX_REFERENCES)
    adapters: tuple[str, ...] = Field(default=(), max_length=MAX_REQUEST_LORAS)
    priority: int = Field(default=0, ge=PRIORITIES[0], le=PRIORITIES[-1])
    deadline: float | None = None

    @model_validator(mode="after")
    def _in_time(self) -> TraceJob:
        if self.deadline is not None and self.deadline <= self.arrival:
            raise ValueError(f"deadline: {self.deadline:g} must be after its arrival at {self.arrival:g}")
        return self

    @property
    def shape(self) -> str:
        """Name its class in reports: sizes on end count as those on their side."""
        return f"{max(self.width, self.height)}x{min(self.width, self.height)}, {self.frames} frames"


def read_trace(path: Path) -> list[TraceJob]:
    """Read a trace; jobs are returned in the order of their arrivals.

    Raises:
        TraceError: the file cannot be read, has no job, or some lines are wrong.
    """
    jobs = read_lines(path, TraceJob)
    if not jobs:
        raise TraceError(f"{path}: has no job")
    return sorted(jobs, key=lambda job: job.arrival)


def read_lines(path: Path, kind: type[M]) -> list[M]:
    """Read JSON lines as models, in the order of the file; blank lines do not count.

    Raises:
        TraceError: the file cannot be read, or some lines are wrong.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from None
    found: list[M] = []
    errors: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(kind.model_validate_json(line))
        except ValidationError as error:
            errors += [f"{path}, line {number}: {problem}" for problem in _problems(error)]
    if errors:
        more = len(errors) - MAX_ERRORS
        raise TraceError("\n".join(errors[:MAX_ERRORS] + ([f"and {more} more errors"] if more > 0 else [])))
    return found


def write_trace(path: Path, jobs: Iterable[TraceJob]) -> None:
    """Write a trace, creating its folder if necessary; fields with their defaults are left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(job.model_dump(exclude_defaults=True))}\n" for job in jobs))


def stretched(jobs: Sequence[TraceJob], factor: float, start: float = 0.0) -> list[TraceJob]:
    """Multiply all arrivals, as seconds after ``start``, by a factor; deadlines stay as far after them as they were."""
    found = []
    for job in jobs:
        arrival = max(0.0, (job.arrival - start) * factor)
        deadline = None if job.deadline is None else arrival + (job.deadline - job.arrival)
        found.append(job.model_copy(update={"arrival": arrival, "deadline": deadline}))
    return found


def _problems(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        if item["type"] == "json_invalid":
            yield f"is no JSON: {item['ctx']['error']}"
        elif item["loc"]:
            yield f"{'.'.join(map(str, item['loc']))}: {describe(item)}"
        else:
            yield describe(item)
