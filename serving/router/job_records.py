"""What metrics, traces and logs tell of a job that a router works on."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from opentelemetry.trace import Span, SpanKind

from zoetrope.cluster.telemetry.catalogue import start_at_zero
from zoetrope.cluster.telemetry.logs import about
from zoetrope.cluster.telemetry.metrics import JOB_SECONDS, JOBS_ENDED, JOBS_RESUMED, QUEUE_SECONDS
from zoetrope.cluster.telemetry.traces import JOB, MODEL, TASK, Attributes, failed, past_span, span, trace_id
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.router.job_database import Ending
from zoetrope.serving.stages.failures import FAILURE_CODES

NO_ERROR = "OK"


def task_of(job: Job) -> str:
    """Return the kind of its task; "" if the row does not say, which must not keep it from being made."""
    return str(job.spec.get("task", {}).get("kind", ""))


def note_models(models: Collection[str]) -> None:
    """Have the counts of the ends of these models' jobs begin at 0, so that the first failure is seen as one."""
    for state in (State.SUCCEEDED, State.CANCELLED):
        start_at_zero(JOBS_ENDED, models, [state], [NO_ERROR])
    start_at_zero(JOBS_ENDED, models, [State.FAILED], (*FAILURE_CODES, "DEADLINE_EXCEEDED"))


def note_claim(job: Job, *, first: bool) -> None:
    """Count a claim: how long the job had waited, or that it goes on after another claim."""
    if not first:
        JOBS_RESUMED.inc()
        return
    waited = max(0.0, time.time() - job.created_at)
    QUEUE_SECONDS.labels(job.model, task_of(job)).observe(waited)
    past_span("queued", job.traceparent or "", waited, attributes_of(job))


def note_end(job: Job, ending: Ending) -> None:
    """Count a job whose end is written."""
    state = str(ending.state)
    JOBS_ENDED.labels(job.model, state, ending.error_code or NO_ERROR).inc()
    JOB_SECONDS.labels(job.model, task_of(job), state).observe(max(0.0, time.time() - job.created_at))


@contextmanager
def recorded(job: Job) -> Iterator[Span]:
    """Make what happens inside the block part of the job's trace, and its lines in the log name the job."""
    parent = job.traceparent or ""
    with (
        span("job", parent, SpanKind.CONSUMER, attributes_of(job)) as made,
        about(job=job.id, trace=trace_id(parent), epoch=job.lease_epoch),
    ):
        yield made


def note_ending(made: Span, ending: Ending) -> Ending:
    """Tell a job's span how it ended; returns the ending."""
    made.set_attribute("zoetrope.state", str(ending.state))
    if ending.state is State.FAILED:
        failed(made, ending.error_code or "UNKNOWN")
    return ending


def attributes_of(job: Job) -> Attributes:
    """Return what every span of a job tells."""
    return {JOB: job.id, MODEL: job.model, TASK: task_of(job), "zoetrope.lease.epoch": job.lease_epoch}
