"""What a job is: its states, and the row that the store keeps of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

DAY_SECONDS = 86_400.0
PRIORITIES = range(10)
DEFAULT_PRIORITY = 0

WebhookEvent: TypeAlias = Literal["start", "output", "logs", "completed"]
DEFAULT_EVENTS: tuple[WebhookEvent, ...] = ("start", "completed")
Need: TypeAlias = Literal["lost", "cancel", "deadline"]  # why the holder of a lease has to act


class State(StrEnum):
    """Where a job is; which changes are allowed is in `serving.jobs.states`."""

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
class Webhook:
    """Where a client wants to be told; without events it gets `DEFAULT_EVENTS`."""

    url: str
    events: tuple[WebhookEvent, ...] = ()


@dataclass(frozen=True)
class Preview:
    """A picture of a clip that is being made."""

    key: str
    mime_type: str
    width: int
    height: int
    size_bytes: int
    step: int


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
    attempt: int  # claims so far, without those whose holder stopped in good order
    lease_epoch: int  # grows with every claim; a holder of an older one can change nothing
    lease_owner: str | None
    lease_until: float | None
    cancel_requested: bool
    error_code: str | None  # a google.rpc.Code name
    error_message: str | None
    result: dict[str, Any] | None  # a serving.jobs.job.Result as a dict
    eta_seconds: float | None  # written with progress while running
    warnings: tuple[str, ...] = ()  # what the client should know of how the task was understood
    key_id: str | None = None  # the API key that made it
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = DEFAULT_PRIORITY  # 0..9, higher first among the owner's jobs
    deadline_at: float | None = None  # a job that is not done by then fails with DEADLINE_EXCEEDED
    retention_seconds: float = DAY_SECONDS  # how long it is kept after its end
    expire_at: float | None = None  # finished_at + retention_seconds
    seconds: float = 0.0  # length of the clip asked for; what quotas count
    origin: dict[str, Any] = field(default_factory=dict)  # what the API face that took it wants to echo; opaque here
    webhook: Webhook | None = None
    preview: Preview | None = None
    verdicts: tuple[dict[str, Any], ...] = ()  # of moderation; opaque here
    media: tuple[str, ...] = ()  # ids of the media that it uses
    traceparent: str | None = None  # W3C trace context of the request
    notice: str = ""  # what it waits for, while something that it needs is away


@dataclass(frozen=True)
class NewJob:
    """What a job is made of; the meaning of each field is `Job`'s."""

    id: str
    owner: str
    key_id: str | None
    model: str
    spec: dict[str, Any]
    steps: int
    seconds: float
    request_id: str | None  # a repeated one (of this owner) returns the first job
    fingerprint: str  # of the request's content: the same request id with another one is a conflict
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = DEFAULT_PRIORITY
    deadline_at: float | None = None
    retention_seconds: float = DAY_SECONDS
    origin: Mapping[str, Any] = field(default_factory=dict)
    webhook: Webhook | None = None
    verdicts: Sequence[Mapping[str, Any]] = ()
    media: Sequence[str] = ()
    traceparent: str | None = None
    warnings: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.priority not in PRIORITIES:
            raise ValueError(f"priority is {self.priority}, must be from {PRIORITIES[0]} to {PRIORITIES[-1]}")


@dataclass(frozen=True)
class DeletedJob:
    """A job that is gone and whose files may not be: the keys that its row named, and when it was deleted."""

    id: str
    keys: tuple[str, ...]
    deleted_at: float


def file_keys(job: Job) -> list[str]:
    """Keys of the files that a job's row names, wherever they lie."""
    files = [job.result[which] for which in ("video", "latents")] if job.result else []
    keys = {str(file["key"]) for file in files if file}
    return sorted(keys if job.preview is None else {*keys, job.preview.key})


def result_bytes(result: Mapping[str, Any] | None) -> int:
    """The size of a result's files, as `Job.result` has it."""
    files = [result[which] for which in ("video", "latents")] if result else []
    return sum(int(file["size_bytes"]) for file in files if file)


@dataclass(frozen=True)
class Limits:
    """What may be under way before a new job is refused; None: no limit."""

    max_queued: int  # jobs of the whole database that wait
    concurrent_jobs: int | None = None  # of the job's key, that have not ended
    queued_seconds: float | None = None  # of the job's key: clip seconds of jobs that have not ended
    result_bytes: int | None = None  # of the tenant: files of results that it keeps


@dataclass(frozen=True)
class Usage:
    """What counts against limits now."""

    live_jobs: int  # of a key, that have not ended
    live_seconds: float  # of clips in those
    queued_jobs: int  # of its tenant
    queue_share: int  # how many those may be
    result_bytes: int  # that the tenant keeps


@dataclass(frozen=True)
class JobFilter:
    """Which jobs a list shows: those for which every condition holds."""

    states: tuple[State, ...] = ()  # all when empty
    labels: Mapping[str, str] = field(default_factory=dict)  # each of these, with this value
    model: str | None = None
    kind: str | None = None  # of the task, such as "text_to_video"
    created_after: float | None = None  # at or after
    created_before: float | None = None  # before


@dataclass(frozen=True)
class JobEvent:
    """One line of a job's audit trail."""

    job_id: str
    at: float
    what: str  # the name of a `serving.jobs.states.Transition`
    from_state: State | None  # None: it did not exist
    to_state: State | None  # None: it exists no more
    actor: str  # "client", "router:<lease owner>", "sweeper" or "service"
    attempt: int
    epoch: int
    note: str


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
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage


@dataclass(frozen=True)
class EngineRow:
    """An engine as the gateway sees it: the router writes one each time that an engine reports."""

    id: str
    model: str
    gang_epoch: int
    ranks: int
    seen_at: float
    state: str = "ready"  # a cluster.messages.State: only a ready engine gets work
    restarts: dict[str, int] = field(default_factory=dict)  # gangs that it lost, by what became of them
