"""Record a trace from a service's job database. No prompt, file or label leaves it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from zoetrope.benchmarks.simulate.trace import TraceError, TraceJob
from zoetrope.cluster.planning.step_costs import StepCosts
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.steps import branch_count
from zoetrope.model.request.tasks import ReferenceToVideo
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.db.records import from_row
from zoetrope.serving.jobs.job import Job
from zoetrope.serving.jobs.open import SQLITE, Stores, open_stores


def recorded_jobs(database: str) -> list[Job]:
    """Return all jobs of a database, oldest first.

    Args:
        database: a URL as of `serving.jobs.open.open_stores`, or the path of a SQLite file.

    Raises:
        TraceError: it cannot be read, or has no job.
    """
    with _opened(database) as stores:
        rows = stores.database.read("SELECT * FROM job ORDER BY created_at, id", ())
        jobs = [from_row(Job, row) for row in rows]
    if not jobs:
        raise TraceError(f"record is {database!r}: it has no job")
    return jobs


def trace_of(jobs: Iterable[Job]) -> list[TraceJob]:
    """Return a trace of these jobs, oldest first; it starts with the first of them."""
    listed = list(jobs)
    start = min(job.created_at for job in listed)
    return [_trace_job(job, start) for job in listed]


def _trace_job(job: Job, start: float) -> TraceJob:
    spec = VideoSpec.from_dict(job.spec)
    task = spec.task
    return TraceJob(
        arrival=round(job.created_at - start, 3),
        tenant=job.owner,
        task=task.kind,
        width=spec.width,
        height=spec.height,
        frames=spec.frames,
        steps=spec.steps,
        branches=branch_count(spec),
        quality=spec.quality,
        references=len(task.references) if isinstance(task, ReferenceToVideo) else 0,
        adapters=tuple(lora.name for lora in spec.loras),
        priority=job.priority,
        deadline=None if job.deadline_at is None else round(job.deadline_at - start, 3),
    )


def engine_costs(database: str) -> StepCosts:
    """Return the costs of a step that the service has fitted for its engine, the one that was seen last.

    Raises:
        TraceError: the database cannot be read, or no engine has taken a step.
    """
    with _opened(database) as stores:
        rows = sorted(stores.jobs.engines(math.inf), key=lambda row: row.seen_at)
    if not rows or not rows[-1].costs:
        raise TraceError("record: no engine of this service has taken a step yet")
    return StepCosts.from_dict(rows[-1].costs)


@contextmanager
def _opened(database: str) -> Iterator[Stores]:
    if "://" not in database:
        database = f"{SQLITE}{Path(database).resolve()}"
    if database.startswith(SQLITE) and not Path(database.removeprefix("sqlite://")).is_file():
        raise TraceError(f"record is {database!r}: there is no such file")
    try:
        with closing(open_stores(database)) as stores:
            yield stores
    except StoreError as error:
        raise TraceError(f"record: {error}") from None
