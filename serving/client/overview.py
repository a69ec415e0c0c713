"""What engines run and what waits for them, as the client returns it. Decoded from the messages of engines.proto."""

from __future__ import annotations

from dataclasses import dataclass

from zoetrope.serving.api.zoetrope.video.v1 import engines_pb2
from zoetrope.serving.client.responses import decode


@dataclass(frozen=True)
class SegmentInfo:
    """A segment of one of the caller's jobs on an engine; see EngineSegment in the proto."""

    operation: str  # operations/...
    segment: int
    step: int
    steps: int
    tokens: int
    advances: bool


@dataclass(frozen=True)
class EngineInfo:
    """An engine; see Engine in the proto. Seconds that are not known are None."""

    name: str
    model: str
    ranks: int
    state: str
    gangs_lost: dict[str, int]
    segments: tuple[SegmentInfo, ...]
    other_segments: int  # of other tenants
    step_tokens: int
    predicted_step_seconds: float | None  # of the step in progress
    step_seconds: float | None  # that the step before took
    predicted_last_step_seconds: float | None  # what had been predicted for it
    seen_time: float


@dataclass(frozen=True)
class QueueInfo:
    """A tenant's unfinished jobs of a model; of all other tenants together where ``others`` is true."""

    model: str
    tenant: str
    others: bool
    queued_jobs: int
    running_jobs: int
    gpu_seconds: float  # that these jobs still cost


@dataclass(frozen=True)
class WaitingInfo:
    """One of the caller's jobs that has not begun, with why; seconds are until it is done."""

    operation: str
    model: str
    queue_position: int
    eta_seconds: float
    eta_low_seconds: float
    eta_high_seconds: float
    notice: str


@dataclass(frozen=True)
class ServiceOverview:
    """The engines, the queue by model and tenant, and the first of the caller's jobs that wait."""

    engines: tuple[EngineInfo, ...]
    queues: tuple[QueueInfo, ...]
    waiting: tuple[WaitingInfo, ...]


def engine_info(engine: engines_pb2.Engine) -> EngineInfo:
    """Decode an engine."""
    return decode(EngineInfo, engine, segments=tuple(decode(SegmentInfo, item) for item in engine.segments))


def service_overview(engines: list[EngineInfo], last: engines_pb2.ListEnginesResponse) -> ServiceOverview:
    """Make an overview of all pages' engines and the last page."""
    return ServiceOverview(
        tuple(engines),
        tuple(decode(QueueInfo, queue) for queue in last.queues),
        tuple(decode(WaitingInfo, job) for job in last.waiting),
    )
