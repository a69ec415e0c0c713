"""Takes a job through the stages: conditions, segments, file."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from zoetrope.cluster.telemetry.traces import JOB, SEGMENT, span, traceparent
from zoetrope.model.denoising.chaining import overlap_of
from zoetrope.model.request.specs import SegmentSpec, VideoSpec, segment_of
from zoetrope.model.runtime.byte_cache import CacheFigures
from zoetrope.model.runtime.errors import Picklable
from zoetrope.serving.jobs.adapter_table import AdapterTable, id_of
from zoetrope.serving.jobs.job import Job, Stage
from zoetrope.serving.jobs.media_table import MediaTable
from zoetrope.serving.media.task_inputs import media_info
from zoetrope.serving.router.backoff import backoff
from zoetrope.serving.router.latents import LatentShelf
from zoetrope.serving.router.metering import Meter
from zoetrope.serving.stages.encoded import Encoded
from zoetrope.serving.stages.failures import LOST, Remedy, StageError, classify
from zoetrope.serving.stages.isolation import IsolatedStage
from zoetrope.serving.stages.media_files import StoredMedia
from zoetrope.serving.stages.messages import presentable
from zoetrope.serving.stages.rendered import Rendered

T = TypeVar("T")
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0  # before a retry
log = logging.getLogger("zoetrope.router")


class JobFailed(Picklable):
    """The job ends with this message and google.rpc code."""

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        super().__init__(message)
        self.code = code


class ConditionsLost(Exception):
    """A segment's conditions are gone, because a process on their way died."""


@dataclass
class Stages:
    """What a job needs from the router.

    Attributes:
        conditioner, decoder: the deployments in `serving.stages`.
        denoise: (job, index, segment, conditions) -> reference to the latents.
        progress: (job, stage, step).
        warn: (job, warnings).
        waiting: (job, what for); "" when it continues.
        latents: where finished latents wait for the decoder.
        cached: (process of a conditioner, what its caches have saved).
        adapters: the registered ones. slots: of an engine, for them. meter: learns what stages take.
    """

    conditioner: IsolatedStage
    decoder: IsolatedStage
    media: MediaTable
    denoise: Callable[[Job, int, SegmentSpec, Any], Awaitable[Any]]
    progress: Callable[[Job, Stage, int], None]
    warn: Callable[[Job, tuple[str, ...]], None]
    waiting: Callable[[Job, str], None]
    latents: LatentShelf
    cached: Callable[[str, dict[str, CacheFigures]], None]
    adapters: AdapterTable | None = None
    slots: int = 0
    meter: Meter | None = None


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


async def make(job: Job, stages: Stages) -> Rendered:
    """Make a job.

    What fails because something is unavailable or a process died is retried: a full disk, an unreachable store or a
    killed process costs time, not the job. Cancellation, the deadline and the loss of the lease end it meanwhile, see
    `ClaimedJobs`. A failure that is the job's own fault ends it at once.

    Raises:
        JobFailed: the job is at fault; the message is fit for the client.
    """
    work = _Work(job, VideoSpec.from_dict(job.spec), stages)
    try:
        return await work.insist(work.through_the_stages)
    finally:
        stages.conditioner.forget(job.id)
        stages.decoder.forget(job.id)
        await stages.latents.release(job.id)


@dataclass
class _Work:
    """A job in progress; ``prefixes``: under which a decoder was asked to store its files."""

    job: Job
    spec: VideoSpec
    stages: Stages
    prefixes: list[str] = field(default_factory=list)

    async def insist(self, call: Callable[[], Awaitable[T]], until: tuple[Remedy, ...] = ()) -> T:
        """Retry a call with growing pauses while something that it needs is unavailable.

        Args:
            until: remedies that also end it, with a StageError.
        """
        waits, waited = backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS), False
        while True:
            try:
                result = await call()
                break
            except JobFailed:
                raise
            except Exception as error:
                failure = error if isinstance(error, StageError) else classify(error, self.spec)
            if failure.remedy is Remedy.END:
                raise JobFailed(str(failure), failure.code)
            if failure.remedy in until:
                raise failure
            log.warning("job %s: waiting for %s", self.job.id, failure)
            self.stages.waiting(self.job, f"waiting for {failure}")
            waited = True
            await asyncio.sleep(next(waits))
        if waited:
            self.stages.waiting(self.job, "")
        return result

    async def through_the_stages(self) -> Rendered:
        """Make the segments, each continuing the last frames of the one before, and the file of all of them."""
        job, spec, stages = self.job, self.spec, self.stages
        media = await self.insist(lambda: asyncio.to_thread(find_media, job, stages.media))
        if spec.adapters:
            await self.insist(lambda: asyncio.to_thread(check_adapters, spec, stages.adapters, stages.slots))
        await stages.latents.release(job.id)  # of an earlier attempt
        timings = Timings()
        if warnings := await self._ask(stages.conditioner, lambda stage: stage.warnings.remote(spec)):
            stages.warn(job, tuple(dict.fromkeys((*job.warnings, *warnings))))  # an attempt before may have added them
        latents: list[Any] = []
        before: Any = None
        conditioning = 0.0
        for index in range(len(spec.spans)):

            def encode(stage: Any, index: int = index, before: Any = before) -> Any:
                return timings.measure("conditioning", stage.encode.remote(spec, media, index, [before], traceparent()))

            encoded: Encoded = await self._ask(stages.conditioner, encode)
            stages.cached(encoded.process, encoded.caches)
            conditioning += encoded.seconds
            stages.progress(job, Stage.DENOISING, index * spec.steps)
            segment = segment_of(spec, segment_id_of(job, index), index)
            made = self._denoise(index, segment, encoded.conditions.pop())  # kept by whoever denoises, and no longer
            found = await timings.measure("denoising", made)

            def keep(index: int = index, segment_id: str = segment.id, found: Any = found) -> Awaitable[Any]:
                return stages.latents.keep(job, index, segment_id, found)

            latents.append(await self.insist(keep, until=(Remedy.REMAKE,)))
            del found, keep
            if overlap := overlap_of(spec, index):
                last = latents[-1:]
                before = (await self._ask(stages.decoder, lambda stage: stage.tail.remote(spec, last, overlap)))[0]  # noqa: B023
        stages.progress(job, Stage.DECODING, spec.steps * len(spec.spans))

        def render(stage: Any) -> Any:
            """Render under a prefix of its own: how far an earlier, unanswered call came is unknown."""
            earlier = tuple(self.prefixes)
            self.prefixes.append(f"jobs/{job.id}/{job.lease_epoch}" + (f".{len(earlier)}" if earlier else ""))
            place = self.prefixes[-1]
            return stage.render.remote(spec, latents, place, media, timings.seconds, earlier, traceparent())

        if stages.meter is not None:
            stages.meter.stage("conditioning", job.id, spec, conditioning)
        rendered: Rendered = await self._ask(stages.decoder, render)
        if stages.meter is not None:
            stages.meter.stage("decoding", job.id, spec, rendered.result.timings.get("decoding", 0.0))
        return rendered

    async def _ask(self, isolated_stage: IsolatedStage, call: Callable[[Any], Awaitable[Any]]) -> Any:
        return await self.insist(lambda: isolated_stage.ask(self.job.id, self.spec, call), until=(Remedy.REMAKE,))

    async def _denoise(self, index: int, segment: SegmentSpec, conditions: Any) -> Any:
        try:
            with span("denoising", attributes={JOB: self.job.id, SEGMENT: index, "zoetrope.steps": segment.steps}):
                return await self.stages.denoise(self.job, index, segment, conditions)
        except ConditionsLost:
            raise StageError("UNAVAILABLE", LOST, Remedy.REMAKE) from None
        except JobFailed as error:
            raise JobFailed(presentable(str(error), self.spec), error.code) from None


def find_media(job: Job, table: MediaTable) -> dict[str, StoredMedia]:
    """Find where the job's media are stored, by id.

    Raises:
        JobFailed: one is gone, although the sweeper keeps what jobs need.
        StoreError: the database does not answer.
    """
    found: dict[str, StoredMedia] = {}
    for media_id in job.media:
        media = table.get(media_id, job.owner)
        if media is None or media.key is None:
            raise JobFailed(f"its file {media_id} is gone", "FAILED_PRECONDITION")
        info = media.info or {}
        seen = media_info(info) if info.get("kind") in ("image", "clip") else None
        found[media_id] = StoredMedia(media.key, seen, media.sha256)
    return found


def check_adapters(spec: VideoSpec, table: AdapterTable | None, slots: int) -> None:
    """Check that the job's adapters are still registered; engines see to it that their files are there.

    Raises:
        JobFailed: one is gone, or no engine has a slot.
        StoreError: the database does not answer.
    """
    there = set() if table is None else table.there([id_of(adapter.key) for adapter in spec.adapters])
    for adapter in spec.adapters:
        if id_of(adapter.key) not in there:
            raise JobFailed(f"its adapter {adapter.name} was removed", "FAILED_PRECONDITION")
    if not slots:
        raise JobFailed("the service has no adapter slots any more", "FAILED_PRECONDITION")


def segment_id_of(job: Job, index: int) -> str:
    """Return an id that is unique for each claim, so that an engine's stale segment is never mistaken for the new
    one."""
    return f"{lease_prefix(job)}{index}"


def lease_prefix(job: Job) -> str:
    """Return the prefix of the ids of all its segments under this claim."""
    return f"{job.id}/{job.lease_epoch}/"
