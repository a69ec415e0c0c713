"""One job's way through the stages: conditions, segments, file."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from model.chain import overlap_of
from model.errors import Picklable
from model.tasks import SegmentSpec, VideoSpec, segment_of
from serving.jobs.job import Job, Stage
from serving.jobs.media_table import MediaTable
from serving.router.pauses import pauses
from serving.stages.failures import LOST, Remedy, StageError, told
from serving.stages.rendered import Rendered
from serving.stages.stored import Stored, media_info
from serving.stages.ward import Ward
from serving.stages.wording import presentable

T = TypeVar("T")
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0  # before what failed for want of something is tried again
log = logging.getLogger("zoetrope.router")


class JobFailed(Picklable):
    """The job ends with this message and google.rpc code."""

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        super().__init__(message)
        self.code = code


class ConditionsLost(Exception):
    """What a segment is made from is gone, because a process that it passed through died."""


@dataclass
class Ways:
    """What a job needs on its way.

    Attributes:
        conditioner, decoder: the deployments in `serving.stages`.
        denoise: (job, index, segment, conditions) -> reference to the latents.
        progress: (job, stage, step).
        warn: (job, warnings).
        waiting: (job, what for); "" when it goes on.
    """

    conditioner: Ward
    decoder: Ward
    media: MediaTable
    denoise: Callable[[Job, int, SegmentSpec, Any], Awaitable[Any]]
    progress: Callable[[Job, Stage, int], None]
    warn: Callable[[Job, tuple[str, ...]], None]
    waiting: Callable[[Job, str], None]


@dataclass
class Timings:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    async def measure(self, stage: str, work: Awaitable[T]) -> T:
        started = time.monotonic()
        try:
            return await work
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - started


async def make(job: Job, ways: Ways) -> Rendered:
    """All stages.

    What fails for want of something, or because a process died, waits and goes on: a full disk, a store that is away
    or a killed process costs time, not the job. Cancellation, the deadline and the loss of the lease end it meanwhile,
    see `Hands`. What the job itself is at fault for ends it at once.

    Raises:
        JobFailed: the job is at fault; the message is fit for the client.
    """
    work = _Work(job, VideoSpec.from_dict(job.spec), ways)
    try:
        return await work.insist(work.through_the_stages)
    finally:
        ways.conditioner.forget(job.id)
        ways.decoder.forget(job.id)


@dataclass
class _Work:
    """A job that is being made; ``prefixes``: under which a decoder was asked to store its files."""

    job: Job
    spec: VideoSpec
    ways: Ways
    prefixes: list[str] = field(default_factory=list)

    async def insist(self, call: Callable[[], Awaitable[T]], until: tuple[Remedy, ...] = ()) -> T:
        """Call again and again, ever later, while it fails for want of something.

        Args:
            until: what else ends it, as a StageError.
        """
        waits, waited = pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS), False
        while True:
            try:
                result = await call()
                break
            except JobFailed:
                raise
            except Exception as error:
                failure = error if isinstance(error, StageError) else told(error, self.spec)
            if failure.remedy is Remedy.END:
                raise JobFailed(str(failure), failure.code)
            if failure.remedy in until:
                raise failure
            log.warning("job %s: waiting for %s", self.job.id, failure)
            self.ways.waiting(self.job, f"waiting for {failure}")
            waited = True
            await asyncio.sleep(next(waits))
        if waited:
            self.ways.waiting(self.job, "")
        return result

    async def through_the_stages(self) -> Rendered:
        """Each segment goes on from the last frames of the one before it; the file is made of all of them."""
        job, spec, ways = self.job, self.spec, self.ways
        media = await self.insist(lambda: asyncio.to_thread(find_media, job, ways.media))
        timings = Timings()
        if warnings := await self._ask(ways.conditioner, lambda stage: stage.warnings.remote(spec)):
            ways.warn(job, (*spec.warnings, *warnings))
        latents: list[Any] = []
        before: Any = None
        for index in range(len(spec.spans)):

            def encode(stage: Any, index: int = index, before: Any = before) -> Any:
                return timings.measure("conditioning", stage.encode.remote(spec, media, index, [before]))

            conditions = (await self._ask(ways.conditioner, encode))[0]
            ways.progress(job, Stage.DENOISING, index * spec.steps)
            segment = segment_of(spec, segment_id_of(job, index), index)
            latents.append(await timings.measure("denoising", self._denoise(index, segment, conditions)))
            if overlap := overlap_of(spec, index):
                last = latents[-1:]
                before = (await self._ask(ways.decoder, lambda stage: stage.tail.remote(spec, last, overlap)))[0]  # noqa: B023
        ways.progress(job, Stage.DECODING, spec.steps * len(spec.spans))

        def render(stage: Any) -> Any:
            """Under a prefix of its own: nobody knows how far an earlier call came that was not heard of again."""
            earlier = tuple(self.prefixes)
            self.prefixes.append(f"jobs/{job.id}/{job.lease_epoch}" + (f".{len(earlier)}" if earlier else ""))
            return stage.render.remote(spec, latents, self.prefixes[-1], media, timings.seconds, earlier)

        rendered: Rendered = await self._ask(ways.decoder, render)
        return rendered

    async def _ask(self, ward: Ward, call: Callable[[Any], Awaitable[Any]]) -> Any:
        return await self.insist(lambda: ward.ask(self.job.id, self.spec, call), until=(Remedy.REMAKE,))

    async def _denoise(self, index: int, segment: SegmentSpec, conditions: Any) -> Any:
        try:
            return await self.ways.denoise(self.job, index, segment, conditions)
        except ConditionsLost:
            raise StageError("UNAVAILABLE", LOST, Remedy.REMAKE) from None
        except JobFailed as error:
            raise JobFailed(presentable(str(error), self.spec), error.code) from None


def find_media(job: Job, table: MediaTable) -> dict[str, Stored]:
    """Where the job's media lie, by id.

    Raises:
        JobFailed: one is gone, which the sweeper would not have done.
        StoreError.
    """
    found: dict[str, Stored] = {}
    for media_id in job.media:
        media = table.get(media_id, job.owner)
        if media is None or media.key is None:
            raise JobFailed(f"its file {media_id} is gone", "FAILED_PRECONDITION")
        info = media.info or {}
        found[media_id] = Stored(media.key, media_info(info) if info.get("kind") in ("image", "clip") else None)
    return found


def segment_id_of(job: Job, index: int) -> str:
    """Unique for each claim, so that an engine's stale segment is never taken for the new one."""
    return f"{lease_prefix(job)}{index}"


def lease_prefix(job: Job) -> str:
    """What the ids of all its segments under this claim begin with."""
    return f"{job.id}/{job.lease_epoch}/"
