"""What all faces of the gateway work with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from model.errors import Picklable
from model.tasks import ModelCard
from serving.artifacts import ArtifactError, ArtifactStore
from serving.gateway.callers import caller, set_caller
from serving.gateway.doorkeeper import Doorkeeper, Principal
from serving.gateway.intake import Intake
from serving.gateway.liveness import Liveness
from serving.gateway.media_desk import MediaDesk
from serving.gateway.metrics import metrics_of
from serving.gateway.reads import Reads
from serving.gateway.standing import Standing
from serving.gateway.together import Together
from serving.gateway.turns import Turns
from serving.gateway.watching import Sighting, Watching
from serving.job_files import STRAY_SECONDS, delete_files
from serving.jobs.errors import StoreError
from serving.jobs.job import Job, JobFilter, State, file_keys
from serving.jobs.media_table import Media
from serving.jobs.open import Stores
from serving.settings import Settings

CHUNK_BYTES = 256 << 10
TURN_SECONDS = 30.0  # that a call waits for its turn


class JobNotFound(Exception):
    """There is no such job, or it is another tenant's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class NotDone(Exception):
    """What was asked for takes a job that is done."""


class NoFile(Picklable):
    """The job has no such file: the message says why."""

    def __init__(self, message: str, reason: str, state: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.state = state


@dataclass(frozen=True)
class Core:
    """Jobs, media and files, for a caller that the doorkeeper has admitted. Every method may raise StoreError or
    ArtifactError."""

    settings: Settings
    card: ModelCard
    stores: Stores
    artifacts: ArtifactStore
    intake: Intake
    desk: MediaDesk
    doorkeeper: Doorkeeper
    liveness: Liveness
    watching: Watching
    standing: Standing

    async def admit(self, secret: str | None, address: str) -> Principal:
        """
        Args:
            address: of the caller's machine.

        Raises:
            Unauthenticated, TooManyRequests.
        """
        if self.doorkeeper.remembers(secret):
            who = self.doorkeeper.admit(secret)
        else:
            # Looked up as its own call, or its machine's, so that made-up keys are in nobody else's way.
            set_caller(Principal(key_id=self.doorkeeper.knew(secret), address=address))
            who = await asyncio.to_thread(self.doorkeeper.admit, secret)
        if who.key_id is None:
            who = replace(who, address=address)
        set_caller(who)
        return who

    async def job(self, job_id: str, who: Principal) -> Job:
        """
        Raises:
            JobNotFound.
        """
        job = await self._jobs.get(job_id)
        if job is None or job.owner != who.owner:
            raise JobNotFound(job_id)
        return job

    async def jobs(
        self,
        who: Principal,
        *,
        page_size: int,
        where: JobFilter,
        before: tuple[float, str] | None = None,
        oldest_first: bool = False,
    ) -> list[Job]:
        """A page of the caller's jobs, see `JobStore.list`.

        Raises:
            TooManyReads.
        """
        jobs = partial(self.stores.jobs.list, who.owner, page_size=page_size, where=where)
        return await self.reads.run(who.owner, partial(jobs, before=before, oldest_first=oldest_first))

    async def media(self, who: Principal, *, page_size: int, before: tuple[float, str] | None) -> list[Media]:
        """A page of the caller's media, newest first.

        Raises:
            TooManyReads.
        """
        return await self.reads.run(who.owner, partial(self.stores.media.list, who.owner, page_size, before))

    async def follow(self, job: Job, who: Principal, end: float | None = None) -> AsyncIterator[Sighting]:
        """Sightings of a job until it is done or gone, the gateway is about to stop, or ``end`` on the monotonic clock.

        Raises:
            Unauthenticated: the caller's key was revoked meanwhile.
        """
        with self.standing.stay(who) as stay:
            sightings = self.liveness.until_stopping(self.watching.follow(job.id), end, stay.over)
            async for sighting in sightings:
                stay.check()
                yield sighting
            stay.check()

    async def cancel(self, job_id: str, who: Principal) -> Job:
        """The job as it is now; one that is done stays as it is.

        Raises:
            JobNotFound.
        """
        job = await asyncio.to_thread(self.stores.jobs.request_cancel, job_id, who.owner)
        if job is None:
            raise JobNotFound(job_id)
        return job

    async def delete(self, job_id: str, who: Principal) -> None:
        """Delete a job that is done, and its files.

        Raises:
            JobNotFound, NotDone.
        """
        job = await self.job(job_id, who)
        if not job.state.final:
            raise NotDone(f"{job_id} is not done; cancel it or wait before deleting it")
        # The row goes first, for nobody may be told of files that are going; the sweeper sees to it that they all do.
        gone = await asyncio.to_thread(self.stores.jobs.delete, job_id, who.owner)
        if gone is not None:
            with suppress(ArtifactError, StoreError):  # the sweeper goes over it all the same
                await asyncio.to_thread(delete_files, self.artifacts, gone.id, file_keys(gone))
                await asyncio.to_thread(self.stores.jobs.files_deleted, gone.id, STRAY_SECONDS)

    @cached_property
    def reads(self) -> Reads:
        """For all that may take long."""
        return Reads()

    @cached_property
    def _files(self) -> Turns:
        """That are read at a time, some of them by clients that take their time."""
        return Turns(own=4, most=32, common=64)

    @cached_property
    def answers(self) -> Turns:
        """At what takes no longer than the database does: so much of it stands in the event loop before all else."""
        return Turns(own=4, most=16, common=64)

    @cached_property
    def _jobs(self) -> Together[str, Job | None]:
        return Together(self._read_jobs)

    @cached_property
    def metrics(self) -> Together[None, bytes]:
        """The text for Prometheus, written once for all who ask at the same time."""
        return Together(lambda asked: [metrics_of(self.stores.jobs, self.liveness)] * len(asked))

    def _read_jobs(self, job_ids: Sequence[str]) -> list[Job | None]:
        found = self.stores.jobs.get_many(job_ids)
        return [found.get(job_id) for job_id in job_ids]

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        """A stored file, or a range of it, in chunks of at most 256 KiB.

        Raises:
            ArtifactMissing: it is gone.
            NoTurn: the caller reads too many others.
            Unauthenticated: the caller's key was revoked meanwhile.
        """
        who = caller()
        async with self._files.turn(who.name, TURN_SECONDS):
            with self.standing.stay(who) as stay:
                async for data in self._read(key, offset, length):
                    stay.check()
                    yield data

    async def _read(self, key: str, offset: int, length: int | None) -> AsyncIterator[bytes]:
        chunks = await asyncio.to_thread(self.artifacts.read, key, offset, CHUNK_BYTES)
        left = length
        while left is None or left > 0:
            data = await asyncio.to_thread(next, chunks, None)
            if data is None:
                return
            if left is not None:
                data = data[:left]
                left -= len(data)
            yield data


def file_of(job: Job, which: str = "video") -> dict[str, Any]:
    """A serving.jobs.job.Artifact as a dict: the ``video`` or the ``latents``.

    Raises:
        NoFile: the job made none, or none yet.
    """
    if job.state is not State.SUCCEEDED or job.result is None:
        later = "" if job.state.final else ", wait until it has succeeded"
        state = job.stage or job.state  # as the API names it: a running job is at one of its stages
        raise NoFile(f"{job.id} has no file: its state is {state.upper()}{later}", "NOT_SUCCEEDED", state)
    if job.result[which] is None:
        raise NoFile(
            f"{job.id} kept no {which}: its request did not set keep_{which}", f"{which.upper()}_NOT_KEPT", job.state
        )
    return dict(job.result[which])
