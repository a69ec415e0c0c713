"""A job: its states and stages, the row that the store keeps of it, and the values around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

DAY_SECONDS = 86_400.0
PRIORITIES = range(10)
DEFAULT_PRIORITY = 0

WebhookEvent: TypeAlias = Literal["start", "output", "logs", "completed"]
DEFAULT_EVENTS: tuple[WebhookEvent, ...] = ("start", "completed")
Need: TypeAlias = Literal["lost", "cancel", "deadline"]  # why the holder of a lease must act


class State(StrEnum):
    """A job's state; `serving.jobs.states` says which changes are allowed."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)

    @property
    def public(self) -> State:
        """The state that every API shows: a new one is shown as one that clients know."""
        return PUBLIC.get(self, self)


PUBLIC: dict[State, State] = {}  # states without a name of their own in the APIs


class Stage(StrEnum):
    """The stage of a running job."""

    CONDITIONING = "conditioning"
    DENOISING = "denoising"
    DECODING = "decoding"


@dataclass(frozen=True)
class JobWebhook:
    """Where a client wants to receive events; without ``events`` it gets `DEFAULT_EVENTS`."""

    url: str
    events: tuple[WebhookEvent, ...] = ()


@dataclass(frozen=True)
class Preview:
    """A picture of a clip in progress."""

    key: str
    mime_type: str
    width: int
    height: int
    size_bytes: int
    step: int


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What a client asked for. Times are seconds since the epoch (UTC)."""

    id: str
    owner: str  # the tenant; "" while there are no keys
    key_id: str | None = None  # the API key that made it
    model: str
    spec: dict[str, Any]  # a model.request.specs.VideoSpec as a dict
    steps: int
    seconds: float = 0.0  # length of the clip asked for; what quotas count
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = DEFAULT_PRIORITY  # 0..9, higher first among the owner's jobs
    deadline_at: float | None = None  # a job not done by then fails with DEADLINE_EXCEEDED
    retention_seconds: float = DAY_SECONDS  # how long the job is kept after its end
    origin: dict[str, Any] = field(default_factory=dict)  # what the API that received it wants to echo; opaque here
    webhook: JobWebhook | None = None
    verdicts: tuple[dict[str, Any], ...] = ()  # of moderation; opaque here
    media: tuple[str, ...] = ()  # ids of the media that the job uses
    traceparent: str | None = None  # W3C trace context of the request
    warnings: tuple[str, ...] = ()  # what the client should know about how the task was understood
    price: float = 0.0  # GPU-seconds that it is expected to take; 0: not known
    weights: str = ""  # `model.catalog.weights_identity.weights_of` when it was asked for; "": not known


@dataclass(frozen=True, kw_only=True)
class NewJob(JobRequest):
    """A job to queue."""

    request_id: str | None  # repeated by the same owner, it returns the first job
    fingerprint: str  # of the request's content: the same request id with another fingerprint is a conflict

    def __post_init__(self) -> None:
        if self.priority not in PRIORITIES:
            raise ValueError(f"priority is {self.priority}, must be from {PRIORITIES[0]} to {PRIORITIES[-1]}")


@dataclass(frozen=True, kw_only=True)
class Job(JobRequest):
    """A row of the table ``job``, whose columns are these fields: a new one needs a migration (`jobs.db.migrations`)
    and no more."""

    state: State
    stage: Stage | None = None
    step: int = 0
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    expire_at: float | None = None  # finished_at + retention_seconds
    attempt: int = 0  # claims so far, not counting those whose holder stopped in good order
    lease_epoch: int = 0  # grows with every claim; a holder of an older one can change nothing
    lease_owner: str | None = None
    lease_until: float | None = None
    cancel_requested: bool = False
    error_code: str | None = None  # a google.rpc.Code name
    error_message: str | None = None
    result: dict[str, Any] | None = None  # a serving.jobs.job.Result as a dict
    eta_seconds: float | None = None  # written with progress while running
    preview: Preview | None = None
    notice: str = ""  # what it is waiting for, while something that it needs is unavailable
    used: float = 0.0  # GPU-seconds so far, in all attempts

    @property
    def asked_model(self) -> str:
        """The model's name as the client wrote it, or its own."""
        return str(self.origin.get("model") or self.model)


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """What routers know of each job that waits to be claimed; the fields are those of `Job`. ``lapsed``: it is running,
    but its lease ran out."""

    id: str
    owner: str
    model: str
    priority: int
    created_at: float
    deadline_at: float | None
    price: float
    used: float
    steps: int
    lapsed: bool


@dataclass(frozen=True)
class DeletedJob:
    """A deleted job whose files may still exist."""

    id: str
    keys: tuple[str, ...]  # of the files that its row named
    deleted_at: float


def file_keys(job: Job) -> list[str]:
    """Return the keys of the files that a job's row names."""
    files = [job.result[which] for which in ("video", "latents")] if job.result else []
    keys = {str(file["key"]) for file in files if file}
    return sorted(keys if job.preview is None else {*keys, job.preview.key})


def result_bytes(result: Mapping[str, Any] | None) -> int:
    """Return the size in bytes of the files of a `Job.result`."""
    files = [result[which] for which in ("video", "latents")] if result else []
    return sum(int(file["size_bytes"]) for file in files if file)


@dataclass(frozen=True)
class QueueLimits:
    """The limits above which a new job is refused; None: no limit."""

    max_queued: int  # queued jobs in the whole database
    concurrent_jobs: int | None = None  # unfinished jobs of the key
    queued_seconds: float | None = None  # clip seconds in unfinished jobs of the key
    result_bytes: int | None = None  # files of results that the tenant keeps
    gpu_seconds: float | None = None  # prices of the unfinished jobs of a model
    gpus: int = 0  # that work on them, from which it follows when there is room again; 0: not known
    retry_seconds: float | None = None  # until a job ends, on average; None: not known


@dataclass(frozen=True)
class TenantUsage:
    """What counts against the limits now."""

    live_jobs: int  # unfinished jobs of a key
    live_seconds: float  # clip seconds in those
    queued_jobs: int  # of the key's tenant
    queue_share: int  # how many queued jobs the tenant may have
    result_bytes: int  # that the tenant keeps


@dataclass(frozen=True)
class JobFilter:
    """Which jobs a list contains: those that meet every condition."""

    states: tuple[State, ...] = ()  # all when empty
    labels: Mapping[str, str] = field(default_factory=dict)  # every one of these labels, with this value
    model: str | None = None
    kind: str | None = None  # of the task, such as "text_to_video"
    created_after: float | None = None  # at or after
    created_before: float | None = None  # before


@dataclass(frozen=True)
class JobEvent:
    """One line of a job's audit log."""

    job_id: str
    at: float
    what: str  # the name of a `serving.jobs.states.Transition`
    from_state: State | None  # None: the job did not exist
    to_state: State | None  # None: the job was deleted
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
    """The result of a finished job."""

    video: Artifact
    latents: Artifact | None
    frames: int
    width: int
    height: int
    fps: int
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage


@dataclass(frozen=True)
class UnfinishedWork:
    """The unfinished work of a model: how many jobs still need an engine, and the GPU-seconds that they are expected
    to take yet."""

    jobs: int = 0
    gpu_seconds: float = 0.0

    def __add__(self, other: UnfinishedWork) -> UnfinishedWork:
        return UnfinishedWork(self.jobs + other.jobs, self.gpu_seconds + other.gpu_seconds)


@dataclass(frozen=True)
class EngineRow:
    """An engine as the gateway sees it; the router writes this row whenever an engine reports."""

    id: str
    model: str
    gang_epoch: int
    ranks: int
    seen_at: float
    state: str = "ready"  # a cluster.protocol.messages.State: only a ready engine gets work
    restarts: dict[str, int] = field(default_factory=dict)  # gangs that it lost, by cause
    jobs: tuple[str, ...] = ()  # that it denoises
    costs: dict[str, Any] = field(default_factory=dict)  # the fitted cost of its steps
    step: dict[str, Any] = field(default_factory=dict)  # what its newest plan does

    @property
    def working(self) -> bool:
        """Whether it takes work, if only once it has loaded the work's model."""
        return self.state in ("ready", "loading")
