"""What all APIs of the gateway work with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from zoetrope.model.runtime.errors import Picklable
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.auth.authenticator import Authenticator, Principal, TooManyRequests, Unauthenticated
from zoetrope.serving.gateway.auth.callers import caller, set_caller
from zoetrope.serving.gateway.core.metrics import metrics_registry
from zoetrope.serving.gateway.limits.pace import Pace
from zoetrope.serving.gateway.limits.slow_reads import SlowReads
from zoetrope.serving.gateway.limits.unfinished import CallerLimits
from zoetrope.serving.gateway.submit.media import ClientMedia
from zoetrope.serving.gateway.submit.submission import Submitter
from zoetrope.serving.gateway.watch.batched_reads import BatchedReads
from zoetrope.serving.gateway.watch.liveness import Liveness
from zoetrope.serving.gateway.watch.revocation import RevocationWatch
from zoetrope.serving.gateway.watch.watcher import Sighting, Watcher
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.job import Job, JobFilter, State, file_keys
from zoetrope.serving.jobs.media_table import Media
from zoetrope.serving.jobs.open import Stores
from zoetrope.serving.router.scaling import scales
from zoetrope.serving.storage.job_files import STRAY_SECONDS, delete_files
from zoetrope.serving.storage.store import ArtifactError, ArtifactStore

CHUNK_BYTES = 256 << 10


class JobNotFound(Exception):
    """There is no such job, or it is another tenant's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class NotDone(Exception):
    """The job is not done yet, as the request needs it to be."""


class NoFile(Picklable):
    """The job has no such file: the message says why."""

    def __init__(self, message: str, reason: str, state: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.state = state


@dataclass(frozen=True)
class Core:
    """Jobs, media and files, for a caller that was authenticated. Every method may raise StoreError or
    ArtifactError."""

    settings: Settings
    models: ServedModels
    stores: Stores
    artifacts: ArtifactStore
    submitter: Submitter
    client_media: ClientMedia
    authenticator: Authenticator
    liveness: Liveness
    watcher: Watcher
    revocations: RevocationWatch

    async def authenticate(self, secret: str | None, address: str) -> Principal:
        """Identify the caller, once nobody else is kept waiting by it.

        Args:
            address: of the caller's machine.

        Raises:
            Unauthenticated, TooManyRequests.
        """
        try:
            who = await self._authenticate(secret, address)
        except (Unauthenticated, TooManyRequests):
            await self.pace.wait(f"refused {address}", known=False)
            raise
        self.pace.welcome(address)
        await self.pace.wait(who.name)
        return who

    async def _authenticate(self, secret: str | None, address: str) -> Principal:
        if self.authenticator.remembers(secret):
            who = self.authenticator.authenticate(secret)
        else:
            # Looked up as its own call, or its machine's, so that made-up keys are in nobody else's way.
            set_caller(Principal(key_id=self.authenticator.knew(secret), address=address))
            who = await asyncio.to_thread(self.authenticator.authenticate, secret)
        if who.key_id is None:
            who = replace(who, address=address)
        set_caller(who)
        return who

    async def job(self, job_id: str, who: Principal) -> Job:
        """Return a job of the caller's tenant.

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
        """Return a page of the caller's jobs, see `JobStore.list`.

        Raises:
            TooManyReads.
        """
        jobs = partial(self.stores.jobs.list, who.owner, page_size=page_size, where=where)
        return await self.reads.run(who.owner, partial(jobs, before=before, oldest_first=oldest_first))

    async def media(self, who: Principal, *, page_size: int, before: tuple[float, str] | None) -> list[Media]:
        """Return a page of the caller's media, newest first.

        Raises:
            TooManyReads.
        """
        return await self.reads.run(who.owner, partial(self.stores.media.list, who.owner, page_size, before))

    async def follow(self, job: Job, who: Principal, end: float | None = None) -> AsyncIterator[Sighting]:
        """Yield sightings of a job until it is done or gone, the gateway stops, or ``end`` on the monotonic clock.

        Raises:
            Unauthenticated: the caller's key was revoked meanwhile.
        """
        with self.revocations.stay(who) as stay:
            sightings = self.liveness.until_stopping(self.watcher.follow(job.id), end, stay.over)
            async for sighting in sightings:
                stay.check()
                yield sighting
            stay.check()

    async def cancel(self, job_id: str, who: Principal) -> Job:
        """Cancel a job and return it as it is now; one that is done stays as it is.

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
    def reads(self) -> SlowReads:
        """Runs reads that may take long."""
        return SlowReads()

    @cached_property
    def pace(self) -> Pace:
        """Slows down callers that keep others waiting."""
        return Pace()

    @cached_property
    def _files(self) -> CallerLimits:
        """Bounds the files that are read at a time, some of them by slow clients."""
        return CallerLimits(own=4, most=32, common=64)

    @cached_property
    def answers(self) -> CallerLimits:
        """Bounds the calls that take no longer than the database does: all of them queue in the event loop."""
        return CallerLimits(own=4, most=16, common=24)  # a page of a list may take 6 MB, and its reader long

    @cached_property
    def _jobs(self) -> BatchedReads[str, Job | None]:
        return BatchedReads(self._read_jobs)

    @cached_property
    def registry(self) -> CollectorRegistry:
        """The metrics, which read the database."""
        return metrics_registry(self.stores.jobs, self.liveness, self.stores.forecasts, scales(self.settings))

    @cached_property
    def metrics(self) -> BatchedReads[None, bytes]:
        """Writes the text for Prometheus, once for all who ask at the same time."""
        return BatchedReads(lambda asked: [generate_latest(self.registry)] * len(asked))

    def _read_jobs(self, job_ids: Sequence[str]) -> list[Job | None]:
        found = self.stores.jobs.get_many(job_ids)
        return [found.get(job_id) for job_id in job_ids]

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        """Yield a stored file, or a range of it, in chunks of at most 256 KiB.

        Raises:
            ArtifactMissing: it is gone.
            LimitReached: the caller reads too many others.
            Unauthenticated: the caller's key was revoked meanwhile.
        """
        who = caller()
        async with self._files.turn(who.name):
            with self.revocations.stay(who) as stay:
                async for data in self._read(key, offset, length):
                    await self.pace.wait(who.name)
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
    """Return a zoetrope.serving.jobs.job.Artifact as a dict: the ``video`` or the ``latents``.

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
