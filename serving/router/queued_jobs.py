"""The jobs that wait to be claimed, as the database has them, kept in the router's backlog."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection

from zoetrope.cluster.planning.step_costs import Load
from zoetrope.serving.jobs.job import Job, QueuedJob
from zoetrope.serving.router.backlog import Backlog
from zoetrope.serving.router.job_database import RouterDatabase
from zoetrope.serving.router.policies.work import Work

WHOLE_SECONDS = 1.0  # between two readings of the whole queue, at the least
REST = 20.0  # times as long as a reading took is waited after it
OVERLAP_SECONDS = 5.0  # by which a reading of what is new goes back: creations become visible in any order
CHUNK = 500  # jobs put in order at a time, so that engines do not wait long for their plans


class QueuedJobs:
    """What is new is read at every `refresh`; who was cancelled, claimed by others or given another priority is noticed
    now and then, and at a claim."""

    def __init__(self, database: RouterDatabase, backlog: Backlog) -> None:
        self._database = database
        self._backlog = backlog
        self._known: dict[str, QueuedJob] = {}
        self._newest = -math.inf
        self._whole_at = -math.inf
        self.lapsed = False  # whether one is running without a lease, so that perhaps it must be ended

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._known

    async def refresh(self, in_hand: Collection[str]) -> None:
        """Read what has changed.

        Args:
            in_hand: jobs that do not wait, whatever the database says: the router is working on them.

        Raises:
            StoreError: the database does not answer.
        """
        whole, started = time.monotonic() >= self._whole_at, time.monotonic()
        since = -math.inf if whole else self._newest - OVERLAP_SECONDS
        known = dict(self._known)
        news, gone = await self._database.run(lambda: self._read(since, known, whole or self.lapsed, whole))
        if whole:
            now = time.monotonic()
            self._whole_at = now + max(WHOLE_SECONDS, REST * (now - started))
        for job_id in gone:
            self.forget(job_id)
        for number, job in enumerate(news, 1):
            if job.id not in in_hand:
                self._known[job.id] = job
                self._backlog.add(work_of(job), ready=False)
            if not number % CHUNK:
                await asyncio.sleep(0)
        self._newest = max([self._newest, *(job.created_at for job in news if not job.lapsed)])
        self.lapsed = any(job.lapsed for job in self._known.values())

    def forget(self, job_id: str) -> QueuedJob | None:
        """Remove a job that waits no longer; returns it."""
        job = self._known.pop(job_id, None)
        if job is not None:
            self._backlog.remove(job_id)
        return job

    def _read(
        self, since: float, known: dict[str, QueuedJob], look: bool, whole: bool
    ) -> tuple[list[QueuedJob], list[str]]:
        """Return the jobs that are new or have changed, and, if it should ``look``, the ids of those that wait no
        longer, as far as that was read."""
        found = self._database.waiting(since)
        there = {job.id for job in found} if look else set()
        gone = [i for i, job in known.items() if i not in there and (whole or job.lapsed)] if look else []
        return [job for job in found if known.get(job.id) != job], gone


def work_of(job: QueuedJob | Job) -> Work:
    """Describe a job of which only its row is known; its load is not."""
    remaining = max(0.0, job.price - job.used)
    return Work(
        job.id, job.owner, job.model, job.priority, job.created_at, job.deadline_at, remaining, Load(0), 0, job.steps
    )
