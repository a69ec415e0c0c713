"""The job database as the router uses it: in threads, so that a database that does not answer delays no engine."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.job import Job, Need, Preview, QueuedJob, Result, State
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.router.backoff import backoff

T = TypeVar("T")
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0  # before a database that did not answer is opened again
log = logging.getLogger("zoetrope.router")
SPARE_THREADS = 8  # in addition to one for each job, whose end may be waiting to be written


@dataclass(frozen=True)
class Ending:
    """How a job ends: the arguments of `JobStore.finish`."""

    state: State
    result: Result | None = None
    error_code: str | None = None
    error_message: str | None = None
    verdict: dict[str, str] | None = None
    used: float | None = None

    @property
    def files(self) -> list[str]:
        """Return the keys of the files that were stored for it."""
        found = (self.result.video, self.result.latents) if self.result is not None else ()
        return [file.key for file in found if file is not None]


class RouterDatabase:
    """The job database without blocking the event loop. Every method may raise StoreError.

    Leases are renewed over a connection of their own, because one connection executes in order, and a claim or an end
    may wait there, for a lock of a frozen process, longer than a lease lasts.
    """

    def __init__(self, settings: Settings, me: str, models: Sequence[str]) -> None:
        """
        Args:
            me: the owner of the leases. models: jobs of these models are claimed.

        Raises:
            StoreError: the database cannot be opened.
        """
        self._settings = settings
        self._me = me
        self._models = tuple(models)
        self._stores = open_stores(settings.database_url, migrate=settings.may_migrate)
        try:
            self._renewals = open_stores(settings.database_url, migrate=settings.may_migrate)
        except StoreError:
            self._stores.close()
            raise
        self.media = self._stores.media
        self.adapters = self._stores.adapters
        self.jobs = self._stores.jobs
        self.forecasts = self._stores.forecasts
        self._threads = ThreadPoolExecutor(settings.max_running + SPARE_THREADS, thread_name_prefix="books")
        self._renewing = ThreadPoolExecutor(1, thread_name_prefix="renewals")
        self._unheard = False  # a claim was not answered

    def waiting(self, since: float) -> Iterator[QueuedJob]:
        """See `JobStore.waiting`; going through it blocks, so it is for `run`."""
        return self.jobs.waiting(self._models, since)

    async def claim(self, wanted: Sequence[str], in_hand: Sequence[str]) -> list[Job]:
        """Claim those of the ``wanted`` jobs that still wait. If the answer of an earlier claim was lost, its jobs are
        released first; ``in_hand`` are those that the router knows of."""

        def claim() -> list[Job]:
            jobs, settings = self.jobs, self._settings
            if self._unheard:
                jobs.release_unheard(self._me, in_hand)
            self._unheard = True
            found = jobs.claim(self._me, wanted, settings.lease_seconds, settings.max_attempts, in_hand)
            self._unheard = False
            return found

        return await self.run(claim)

    def first_claim(self, job: Job) -> bool:
        """Return whether the claim that a job has just been returned from was its first: it was started by it. Its
        epoch does not tell, because those of a restored backup begin anywhere."""
        return job.started_at is not None and job.lease_until == job.started_at + self._settings.lease_seconds

    async def renew(self, leases: Sequence[tuple[str, int]]) -> dict[str, Need]:
        """See `JobStore.heartbeat`."""
        renew, seconds = self._renewals.jobs.heartbeat, self._settings.lease_seconds
        return await _in(self._renewing, lambda: renew(self._me, leases, seconds))

    async def release(self, leases: Sequence[tuple[str, int]]) -> int:
        """See `JobStore.release`."""
        return await self.run(lambda: self.jobs.release(self._me, leases))

    async def end(self, job: Job, ending: Ending) -> bool:
        """See `JobStore.finish`."""
        fields: dict[str, Any] = {name: value for name, value in vars(ending).items() if name != "state"}
        return await self.run(lambda: self.jobs.finish(job.id, job.lease_epoch, ending.state, **fields))

    async def put_preview(self, job: Job, preview: Preview) -> tuple[bool, Preview | None]:
        """See `JobStore.put_preview`."""
        return await self.run(lambda: self.jobs.put_preview(job.id, job.lease_epoch, preview))

    async def run(self, call: Callable[[], T]) -> T:
        """Run any call of `jobs`."""
        return await _in(self._threads, call)

    async def close(self) -> None:
        """Close once the calls in progress have ended; later calls raise StoreError."""
        await asyncio.to_thread(self._stores.close)
        await asyncio.to_thread(self._renewals.close)
        for threads in (self._threads, self._renewing):
            threads.shutdown(wait=False)


async def _in(threads: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, call)


async def open_database(settings: Settings, models: Sequence[str]) -> RouterDatabase:
    """Open the database for a new router as soon as it answers."""
    waits = backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
    while True:
        try:
            return await asyncio.to_thread(RouterDatabase, settings, f"router-{uuid.uuid4().hex[:12]}", models)
        except StoreError as error:
            log.warning("%s", error)
            await asyncio.sleep(next(waits))
