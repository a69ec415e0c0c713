"""What a job is: its states, and the row that the store keeps of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """Transitions: queued -> running -> succeeded | failed | cancelled; queued -> cancelled; running -> queued when a
    lease runs out, which the next claim does in one go."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Stage(StrEnum):
    """What a running job is at."""

    CONDITIONING = "conditioning"
    DENOISING = "denoising"
    DECODING = "decoding"


@dataclass(frozen=True)
class Job:
    """One row. Times are seconds since the epoch (UTC)."""

    id: str
    owner: str  # the tenant; "" while there are no keys
    state: State
    stage: Stage | None
    model: str
    spec: dict[str, Any]  # a model.tasks.VideoSpec as a dict
    step: int
    steps: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    attempt: int  # claims so far
    lease_epoch: int  # grows with every claim; a holder of an older one can change nothing
    lease_owner: str | None
    lease_until: float | None
    cancel_requested: bool
    error_code: str | None  # a google.rpc.Code name
    error_message: str | None
    result: dict[str, Any] | None  # a serving.jobs.job.Result as a dict
    eta_seconds: float | None  # written with progress while running
    warnings: tuple[str, ...] = ()  # what the client should know of how the task was understood


@dataclass(frozen=True)
class Artifact:
    """A stored file."""

    key: str
    size_bytes: int
    sha256: str
    mime_type: str


@dataclass(frozen=True)
class Result:
    """What a finished job made."""

    video: Artifact
    latents: Artifact | None
    frames: int
    width: int
    height: int
    fps: int


@dataclass(frozen=True)
class EngineRow:
    """An engine as the gateway sees it: the router writes one each time that an engine reports."""

    id: str
    model: str
    gang_epoch: int
    ranks: int
    seen_at: float
