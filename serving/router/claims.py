"""The jobs that a router has claimed: it keeps their leases and writes how they end."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from zoetrope.cluster.telemetry.metrics import LEASES_LOST
from zoetrope.serving.jobs.db.errors import StoreError, StoreRefused
from zoetrope.serving.jobs.job import Job, Need, State
from zoetrope.serving.router.backoff import backoff
from zoetrope.serving.router.job_database import Ending, RouterDatabase
from zoetrope.serving.router.job_records import note_claim, note_end
from zoetrope.serving.router.queued_jobs import QueuedJobs

POLL_SECONDS = 0.1  # how often new jobs and cancellations are looked for
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 1.0  # before a database that did not answer is asked again
GRACE_SECONDS = 2.0  # after that, before a claim: others first renew their leases that ran out meanwhile
log = logging.getLogger("zoetrope.router")

UNSTORABLE = Ending(State.FAILED, error_code="INTERNAL", error_message="how it ended cannot be stored")
TOO_LATE = Ending(State.FAILED, error_code="DEADLINE_EXCEEDED", error_message="it was not done by its deadline")


@dataclass(eq=False)
class ClaimedJob:
    """A job whose lease is ours. ``ending``: only its end is left to be written."""

    job: Job
    task: asyncio.Task[None] | None = None
    ending: bool = False


class ClaimedJobs:
    """Claims jobs and renews their leases; the loops `claim` and `renew` must be run. A lease that runs out while the
    database is unavailable is renewed once it is back, unless somebody else has claimed the job, as the renewal
    says."""

    def __init__(
        self,
        database: RouterDatabase,
        queue: QueuedJobs,
        choose: Callable[[list[Job]], list[str]],
        work: Callable[[Job], Awaitable[Ending]],
        drop: Callable[[Job], None],
        clear: Callable[[Job, bool, list[str]], Awaitable[None]],
    ) -> None:
        """
        Args:
            queue: the jobs that wait.
            choose: returns which of them to claim now, in addition to those claimed.
            work: makes a job, and returns how it ended; cancelled when that no longer matters.
            drop: called immediately in that case.
            clear: deletes these files and, if the job is over and not somebody else's, what else is left of it.
        """
        self._database = database
        self._queue = queue
        self._choose = choose
        self._work = work
        self._drop = drop
        self._clear = clear
        self._claimed: dict[str, ClaimedJob] = {}
        self._away_at = -math.inf  # when the database did not answer, last
        self._stopping = False
        self._claiming = asyncio.Lock()
        self._soon = asyncio.Event()

    def job(self, job_id: str) -> Job | None:
        """Return a job, if it is claimed."""
        claimed_job = self._claimed.get(job_id)
        return None if claimed_job is None else claimed_job.job

    def jobs(self) -> list[Job]:
        """Return the jobs that are claimed, and not over."""
        return [claimed_job.job for claimed_job in self._claimed.values() if not claimed_job.ending]

    def look(self) -> None:
        """Renew leases now, because a step has ended: a job that must end should not take many more."""
        self._soon.set()

    async def claim(self) -> None:
        """Claim what is chosen, repeatedly."""
        waits = backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            pause = POLL_SECONDS
            if time.monotonic() > self._away_at + GRACE_SECONDS:
                try:
                    await self._claim()
                    waits = backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
                except StoreError as error:
                    log.warning("no jobs can be claimed: %s", error)
                    self._away_at, pause = time.monotonic(), next(waits)
            await asyncio.sleep(pause)

    async def renew(self) -> None:
        """Renew all leases in one write, repeatedly; stop work on jobs that were lost or must end."""
        waits = backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            claimed = dict(self._claimed)
            try:
                needs = await self._database.renew(_leases(claimed))
            except StoreError as error:
                log.warning("leases cannot be renewed: %s", error)
                self._away_at = time.monotonic()
                await asyncio.sleep(next(waits))
                continue
            waits = backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
            for job_id, need in needs.items():
                if (
                    self._claimed.get(job_id) is claimed[job_id] and not claimed[job_id].ending
                ):  # else it has ended meanwhile
                    self._stop_work(claimed[job_id], need)
            with suppress(TimeoutError):  # not wait_for, which ignores a cancellation at the moment of the event
                async with asyncio.timeout(POLL_SECONDS):
                    await self._soon.wait()
            self._soon.clear()

    async def release_all(self, seconds: float) -> None:
        """Claim no more jobs, stop work on those claimed and release their leases, so that others can resume them at
        once. The ends of finished jobs are written first. This takes at most three times ``seconds``; leases that
        cannot be released by then run out."""
        self._stopping = True
        try:
            async with asyncio.timeout(seconds), self._claiming:
                pass  # a claim in progress has been answered
        except TimeoutError:
            log.warning("a claim was not answered")
        for claimed_job in self._claimed.values():
            if not claimed_job.ending and claimed_job.task is not None:
                claimed_job.task.cancel()
        if tasks := [claimed_job.task for claimed_job in self._claimed.values() if claimed_job.task is not None]:
            await asyncio.wait(tasks, timeout=seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._database.release(_leases(self._claimed))
        except (StoreError, TimeoutError) as error:
            log.warning("leases cannot be released: %s", error or "no answer")

    async def _claim(self) -> None:
        async with self._claiming:
            if self._stopping:
                return
            await self._queue.refresh(self._claimed)
            wanted = self._choose([claimed_job.job for claimed_job in self._claimed.values()])
            if not wanted and not self._queue.lapsed:
                return
            jobs = await self._database.claim(wanted, tuple(self._claimed))
            for job_id in wanted:
                self._queue.forget(job_id)
            for job in jobs:
                note_claim(job, first=self._database.first_claim(job))
                claimed_job = self._claimed[job.id] = ClaimedJob(job)
                if not self._stopping:  # else its lease is released with the others
                    claimed_job.task = asyncio.create_task(self._make(claimed_job))

    def _stop_work(self, claimed_job: ClaimedJob, need: Need) -> None:
        self._drop(claimed_job.job)  # now, not when the task gets to it: a plan might be made in between
        if claimed_job.task is not None:
            claimed_job.task.cancel()
        if need == "lost":
            LEASES_LOST.inc()
            log.info("job %s: lease lost", claimed_job.job.id)
            del self._claimed[claimed_job.job.id]
        else:
            claimed_job.ending = True
            ending = TOO_LATE if need == "deadline" else Ending(State.CANCELLED)
            claimed_job.task = asyncio.create_task(self._end(claimed_job, ending))

    async def _make(self, claimed_job: ClaimedJob) -> None:
        ending = await self._work(claimed_job.job)
        if claimed_job.task is asyncio.current_task():  # it was not replaced meanwhile
            claimed_job.ending = True
            await self._end(claimed_job, ending)

    async def _end(self, claimed_job: ClaimedJob, ending: Ending) -> None:
        """Write how a job ended, and forget it. If that cannot be written at all, the job is left to whoever claims it
        next; after too many attempts it is given up."""
        try:
            held, useless = await self._write(claimed_job.job, ending)
        except Exception:
            log.exception("job %s: how it ended cannot be written", claimed_job.job.id)
            return
        finally:
            if self._claimed.get(claimed_job.job.id) is claimed_job:
                del self._claimed[claimed_job.job.id]
        await self._clear(claimed_job.job, held, useless)

    async def _write(self, job: Job, ending: Ending) -> tuple[bool, list[str]]:
        """Write how a job ended, as soon as the database answers.

        Returns:
            Whether it ended so, because it may be somebody else's by now; and files that nobody will ever need.

        Raises:
            StoreRefused: not even that it failed can be written.
        """
        waits = backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        useless: list[str] = []
        while True:
            try:
                held = await self._database.end(job, ending)
                if held:
                    note_end(job, ending)
                return held, useless if held else useless + ending.files
            except StoreRefused as error:
                if ending is UNSTORABLE:
                    raise
                log.error("job %s: the database refuses its end as %s: %s", job.id, ending.state, error)
                useless, ending = ending.files, UNSTORABLE
            except StoreError as error:
                log.warning("job %s: cannot be ended yet: %s", job.id, error)
                await asyncio.sleep(next(waits))


def _leases(claimed: dict[str, ClaimedJob]) -> list[tuple[str, int]]:
    return [(claimed_job.job.id, claimed_job.job.lease_epoch) for claimed_job in claimed.values()]
