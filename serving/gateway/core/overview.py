"""What the engines run and what waits for them, as far as a caller may see it: of other tenants' jobs, sums alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.core.core import Core
from zoetrope.serving.gateway.watch.outlook import Outlook, waits
from zoetrope.serving.jobs.forecast_table import ModelForecast, TenantQueue
from zoetrope.serving.jobs.job import EngineRow, Job, JobFilter, State

FIRST = 10  # of the caller's waiting jobs that are shown


@dataclass(frozen=True)
class SegmentSeen:
    """A segment of a job of the caller's; see EngineSegment in the proto."""

    job: Job
    index: int
    step: int
    steps: int
    tokens: int
    advances: bool


@dataclass(frozen=True)
class EngineSeen:
    """An engine with what it holds. ``others``: segments of other tenants."""

    row: EngineRow
    segments: tuple[SegmentSeen, ...]
    others: int


@dataclass(frozen=True)
class QueueSeen:
    """A tenant's unfinished jobs of a model; of all other tenants' where ``others`` is true."""

    model: str
    tenant: str
    others: bool
    queue: TenantQueue


@dataclass(frozen=True)
class Overview:
    """``waiting``: the first of the caller's jobs that have not begun, with why."""

    engines: tuple[EngineSeen, ...]
    queues: tuple[QueueSeen, ...]
    waiting: tuple[tuple[Job, Outlook], ...]


async def overview(core: Core, who: Principal) -> Overview:
    """Look at the engines and the queue.

    Raises:
        TooManyReads, StoreError.
    """
    rows = await core.liveness.seen()
    ids = sorted({str(segment[0]) for row in rows for segment in row.step.get("segments", ())})
    jobs = await asyncio.to_thread(core.stores.jobs.get_many, ids) if ids else {}
    engines = tuple(_engine(row, jobs, who) for row in rows)
    models = sorted({*(row.model for row in rows), *(card.name for card in core.models)})
    forecasts = [found for model in models if (found := await core.watcher.forecasts.of(model)) is not None]
    return Overview(engines, tuple(_queues(forecasts, who)), await _waiting(core, who))


def _engine(row: EngineRow, jobs: Mapping[str, Job], who: Principal) -> EngineSeen:
    mine, others = [], 0
    for job_id, index, step, steps, tokens, advances in row.step.get("segments", ()):
        job = jobs.get(job_id)
        if job is not None and job.owner == who.owner:
            mine.append(SegmentSeen(job, index, step, steps, tokens, bool(advances)))
        else:
            others += 1
    return EngineSeen(row, tuple(mine), others)


def _queues(forecasts: Iterable[ModelForecast], who: Principal) -> Iterable[QueueSeen]:
    for found in forecasts:
        rest = [queue for tenant, queue in found.tenants.items() if tenant != who.owner]
        if (own := found.tenants.get(who.owner)) is not None:
            yield QueueSeen(found.model, who.owner, False, own)
        if rest:
            sums = (sum(q.queued for q in rest), sum(q.running for q in rest), sum(q.gpu_seconds for q in rest))
            yield QueueSeen(found.model, "", True, TenantQueue(*sums))


async def _waiting(core: Core, who: Principal) -> tuple[tuple[Job, Outlook], ...]:
    """Return the first of the caller's jobs that wait, in the order in which they will begin."""
    found: dict[str, Job] = {}
    for state in (State.RUNNING, State.QUEUED):
        page = partial(core.jobs, who, page_size=5 * FIRST, where=JobFilter(states=(state,)), oldest_first=True)
        found |= {job.id: job for job in await page() if waits(job)}
    jobs = list(found.values())
    ahead = await core.watcher.outlooks(jobs)
    waiting = [(job, outlook) for job, outlook in zip(jobs, ahead, strict=True) if outlook.why]
    return tuple(sorted(waiting, key=lambda pair: (pair[0].state is State.QUEUED, pair[1].queue_position))[:FIRST])


def step_figures(row: EngineRow) -> dict[str, Any]:
    """Return the figures of an engine's steps: ``tokens`` of the one in progress and its ``predicted`` seconds, the
    ``seconds`` of the one before and those that were ``expected``; None for what is not known."""
    return {name: row.step.get(name) for name in ("tokens", "predicted", "seconds", "expected")}
