"""The jobs that wait to be claimed, as the database has them, kept in the router's backlog."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Mapping

from zoetrope.cluster.planning.step_costs import Load
from zoetrope.serving.jobs.job import Job, QueuedJob
from zoetrope.serving.router.backlog import Backlog
from zoetrope.serving.router.heap import Heap
from zoetrope.serving.router.job_database import RouterDatabase
from zoetrope.serving.router.policies.work import Work

WHOLE_SECONDS = 1.0  # between two readings of the whole queue, at the least
REST = 20.0  # times as long as a reading took is waited after it
OVERLAP_SECONDS = 5.0  # by which a reading of what is new goes back: creations become visible in any order
CHUNK = 500  # jobs put in order at a time, so that engines do not wait long for their plans
UNKNOWN = Load(0)


class QueuedJobs:
    """What is new is read at every `refresh`; who was cancelled, claimed by others or given another priority is noticed
    now and then, and at a claim."""

    def __init__(self, database: RouterDatabase, backlog: Backlog, heap: Heap) -> None:
        """``heap``: learns of the jobs that are kept."""
        self._database = database
        self._backlog = backlog
        self._heap = heap
        self._known: dict[str, QueuedJob] = {}
        self._newest = -math.inf
        self._whole_at = -math.inf
        self._lapsed: set[str] = set()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._known

    @property
    def lapsed(self) -> bool:
        """Whether one is running without a lease, so that perhaps it must be ended."""
        return bool(self._lapsed)

    async def refresh(self, in_hand: Collection[str]) -> None:
        """Read what has changed.

        Args:
            in_hand: jobs that do not wait, whatever the database says: the router is working on them.

        Raises:
            StoreError: the database does not answer.
        """
        whole, started = time.monotonic() >= self._whole_at, time.monotonic()
        since = -math.inf if whole else self._newest - OVERLAP_SECONDS
        look = whole or self.lapsed
        known = dict(self._known) if look else self._known
        news, gone = await self._database.run(lambda: self._read(since, known, look, whole))
        if whole:
            now = time.monotonic()
            self._whole_at = now + max(WHOLE_SECONDS, REST * (now - started))
        for job_id in gone:
            self.forget(job_id)
        for number, job in enumerate(news, 1):
            if job.id not in in_hand:
                self._keep(job)
            if not number % CHUNK:
                await asyncio.sleep(0)
        self._newest = max([self._newest, *(job.created_at for job in news if not job.lapsed)])

    def forget(self, job_id: str) -> QueuedJob | None:
        """Remove a job that waits no longer; returns it."""
        job = self._known.pop(job_id, None)
        self._lapsed.discard(job_id)
        if job is not None:
            self._backlog.remove(job_id)
        return job

    def _keep(self, job: QueuedJob) -> None:
        self._known[job.id] = job
        (self._lapsed.add if job.lapsed else self._lapsed.discard)(job.id)
        self._backlog.add(work_of(job), ready=False)
        self._heap.put()

    def _read(
        self, since: float, known: Mapping[str, QueuedJob], look: bool, whole: bool
    ) -> tuple[list[QueuedJob], list[str]]:
        """Return the jobs that are new or have changed, and, if it should ``look``, the ids of those that wait no
        longer, as far as that was read."""
        news, there = list[QueuedJob](), set[str]()
        for job in self._database.waiting(since):
            if look:
                there.add(job.id)
            if known.get(job.id) != job:
                news.append(job)
                self._heap.put()
        gone = [i for i, job in known.items() if i not in there and (whole or job.lapsed)] if look else []
        return news, gone


def work_of(job: QueuedJob | Job) -> Work:
    """Describe a job of which only its row is known; its load is not."""
    remaining = max(0.0, job.price - job.used)
    return Work(
        job.id, job.owner, job.model, job.priority, job.created_at, job.deadline_at, remaining, UNKNOWN, 0, job.steps
    )
