"""Follows many jobs with one query: watchers of the same gateway share what is read from the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from zoetrope.serving.config.logs import describe
from zoetrope.serving.gateway.auth.callers import caller
from zoetrope.serving.gateway.watch.batched_reads import BatchedReads
from zoetrope.serving.gateway.watch.forecasts import Forecasts
from zoetrope.serving.gateway.watch.liveness import ENGINE_SECONDS
from zoetrope.serving.gateway.watch.outlook import Outlook, foreseen, moved
from zoetrope.serving.gateway.watch.queue_position import QueuePositions
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.job import Job, Stage, State
from zoetrope.serving.jobs.store import JobStore

POLL_SECONDS = 0.05  # between two looks at the jobs that somebody follows, at the least
REST = 4.0  # times as long as a look took is waited after it, so that thousands of watchers leave time for others
POSITION_SECONDS = 1.0  # between two looks at their places in the queue
SERVED_SECONDS = 1.0  # between two looks at the engines
EVENT_SECONDS = 0.2  # between two events of one follower
SPREAD_SECONDS = 0.0005  # between two events of one caller: thousands at once would keep all others waiting
log = logging.getLogger("zoetrope.gateway")


@dataclass(frozen=True)
class Sighting:
    """A job as it was read; None: it is gone. ``at``: when, on the monotonic clock."""

    job: Job | None
    outlook: Outlook
    at: float = field(default=0.0, compare=False)


@dataclass
class _Followed:
    followers: int = 0
    seen: Sighting | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Watcher:
    """One per gateway. `run` reads, `follow` waits."""

    def __init__(self, store: JobStore, forecasts: Forecasts) -> None:
        self._store = store
        self.forecasts = forecasts
        self._queue_positions = QueuePositions(store)
        self._places: BatchedReads[Job, int] = BatchedReads(self._read_places)
        self._followed: dict[str, _Followed] = {}
        self._wanted = asyncio.Event()
        self._positions: dict[str, int] = {}
        self._positions_at = float("-inf")
        self._means: dict[str, tuple[float, float | None]] = {}
        self._served: tuple[float, frozenset[str]] | None = None
        self._told_at: dict[str, float] = {}  # when a caller's last event is or will be sent

    async def run(self) -> None:
        """Read what is followed, until cancelled."""
        while True:
            await self._wanted.wait()
            started = time.monotonic()
            try:
                await self._look()
            except StoreError as error:
                log.error("the jobs that are followed cannot be read:\n%s", describe(error))
            if not self._followed:
                self._wanted.clear()
            await asyncio.sleep(max(POLL_SECONDS, REST * (time.monotonic() - started)))

    async def follow(self, job_id: str) -> AsyncIterator[Sighting]:
        """Yield a sighting at once and whenever something changed, at most five a second; the last one is of a job that
        is done or gone. Belongs to no tenant: the caller has checked that it may see the job."""
        entry = self._followed.setdefault(job_id, _Followed())
        entry.followers += 1
        last: Sighting | None = None
        name = caller().name
        self._wanted.set()
        try:
            while True:
                event = entry.changed
                if entry.seen is not None and entry.seen != last:
                    if (delay := self._spread(name)) > 0:
                        await asyncio.sleep(delay)
                    last = entry.seen
                    yield last
                    if last.job is None or last.job.state.final:
                        return
                    await asyncio.sleep(EVENT_SECONDS)
                else:
                    await event.wait()
        finally:
            entry.followers -= 1
            if not entry.followers and self._followed.get(job_id) is entry:
                del self._followed[job_id]

    def _spread(self, name: str) -> float:
        """Return the seconds until the caller with this name may be sent an event."""
        now = time.monotonic()
        at = self._told_at[name] = max(now, self._told_at.get(name, 0.0) + SPREAD_SECONDS)
        return at - now

    async def outlook(self, job: Job) -> Outlook:
        """Return the outlook of one job, read now."""
        return (await self.outlooks([job]))[0]

    async def outlooks(self, jobs: list[Job]) -> list[Outlook]:
        """Return the outlooks of a page of jobs, with one query for all places that no router foresees."""
        queued = await self._unforeseen(jobs)
        places = await asyncio.gather(*(self._places.get(job) for job in queued))
        positions = {job.id: place for job, place in zip(queued, places, strict=True)}
        return [await self._outlook_at(job, positions.get(job.id, 0)) for job in jobs]

    async def notice(self, job: Job) -> str:
        """Tell why a job makes no progress now: its router says so, or no engine serves its model; "" if neither."""
        if job.notice or not (job.state is State.QUEUED or job.stage is Stage.DENOISING):
            return job.notice
        return "" if job.model in await self._models() else f"no engine serves {job.model} now"

    async def _look(self) -> None:
        now = time.monotonic()
        self._told_at = {name: at for name, at in self._told_at.items() if at > now}
        ids = list(self._followed)
        jobs = await asyncio.to_thread(self._store.get_many, ids)
        queued = await self._unforeseen(list(jobs.values()))
        if queued and time.monotonic() - self._positions_at >= POSITION_SECONDS:
            self._positions = await asyncio.to_thread(self._queue_positions.places, queued)
            self._positions_at = time.monotonic()
        elif new := [job for job in queued if job.id not in self._positions]:
            self._positions |= await asyncio.to_thread(self._queue_positions.places, new)
        for job_id in ids:
            entry = self._followed.get(job_id)
            if entry is None:
                continue
            job = jobs.get(job_id)
            ahead = Outlook(0, None)
            if job is not None:
                ahead = await self._outlook_at(job, self._positions.get(job_id, 0))
            sighting = Sighting(job, ahead, time.monotonic())
            if _is_news(sighting, entry.seen):
                entry.seen = sighting
                changed, entry.changed = entry.changed, asyncio.Event()
                changed.set()

    async def _unforeseen(self, jobs: list[Job]) -> list[Job]:
        """Return the queued ones of which no router's forecast says anything."""
        queued = [job for job in jobs if job.state is State.QUEUED]
        return [job for job in queued if await self.forecasts.job(job.model, job.id) is None]

    async def _outlook_at(self, job: Job, position: int) -> Outlook:
        """Return what its router predicts, or what is known without; ``position``: in the database's queue."""
        notice = await self.notice(job)
        if job.state.final:
            return Outlook(0, None, notice, why=notice)
        if (forecast := await self.forecasts.job(job.model, job.id)) is not None:
            return foreseen(job, forecast, notice)
        if job.state is not State.QUEUED:
            return Outlook(0, job.eta_seconds, notice, why=notice)
        if (found := await self.forecasts.of(job.model)) is not None:  # made since that was written
            eta, low, high = found.eta_of_new(job.price, position)
            return Outlook(position, eta, notice, low, high, notice)
        each = await self._mean(job.model)
        return Outlook(position, None if each is None else each * (position + 1), notice, why=notice)

    def _read_places(self, jobs: Sequence[Job]) -> list[int]:
        places = self._queue_positions.places(jobs)
        return [places.get(job.id, 0) for job in jobs]

    async def _mean(self, model: str) -> float | None:
        """Return how long a job of the model takes, looked up now and then."""
        at, mean = self._means.get(model, (float("-inf"), None))
        if time.monotonic() - at >= POSITION_SECONDS:
            self._means[model] = (time.monotonic(), mean)  # others take the old one meanwhile
            with contextlib.suppress(StoreError):
                mean = await asyncio.to_thread(self._store.recent_run_seconds, model)
                self._means[model] = (time.monotonic(), mean)
        return mean

    async def _models(self) -> frozenset[str]:
        """Return the models that an engine serves, looked up now and then."""
        at, models = self._served or (float("-inf"), frozenset())
        if time.monotonic() - at >= SERVED_SECONDS:
            if self._served is not None:
                self._served = (time.monotonic(), models)  # others take the old ones meanwhile
            rows = await asyncio.to_thread(self._store.engines, ENGINE_SECONDS)
            models = frozenset(row.model for row in rows if row.state == "ready")
            self._served = (time.monotonic(), models)
        return models


def _is_news(sighting: Sighting, last: Sighting | None) -> bool:
    """Tell whether a sighting is worth an event: something changed, or the job will be done sooner or later than it was
    last told."""
    if last is None or _facts(sighting) != _facts(last):
        return True
    return moved(last.outlook, sighting.outlook, sighting.at - last.at)


def _facts(sighting: Sighting) -> object:
    if sighting.job is None:
        return None
    job, ahead = sighting.job, sighting.outlook
    preview = None if job.preview is None else job.preview.key
    asked = (job.cancel_requested, preview, job.warnings)
    return (job.state, job.stage, job.attempt, job.step, ahead.queue_position, ahead.why, asked)
