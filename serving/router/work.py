"""One job's way through the stages: conditions, segments, file."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from cluster.losses import LOSSES, original
from model.chain import overlap_of
from model.errors import Picklable
from model.tasks import SegmentSpec, VideoSpec, segment_of
from serving.jobs.job import Job, Stage
from serving.jobs.media_table import MediaTable
from serving.router.pauses import pauses
from serving.stages.failures import UNAVAILABLE, StageError, presentable, reason
from serving.stages.rendered import Rendered
from serving.stages.stored import Stored, media_info

T = TypeVar("T")
TRIES = 3  # of a job within one lease, when a process that worked on it died
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0  # before a stage is asked again that lacks what it needs
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
        conditioner, decoder: handles of the deployments in `serving.stages`.
        denoise: (job, index, segment, conditions) -> reference to the latents.
        progress: (job, stage, step).
        warn: (job, warnings).
        waiting: (job, what for); "" when it goes on.
    """

    conditioner: Any
    decoder: Any
    media: MediaTable
    denoise: Callable[[Job, int, SegmentSpec, Any], Awaitable[Any]]
    progress: Callable[[Job, Stage, int], None]
    warn: Callable[[Job, tuple[str, ...]], None]
    waiting: Callable[[Job, str], None]


@dataclass
class Timings:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    async def measure(self, stage: str, work: Awaitable[Any]) -> Any:
        started = time.monotonic()
        try:
            return await work
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - started


async def make(job: Job, ways: Ways) -> Rendered:
    """All stages; from the start again when a process died on the way (the snapshots spare the steps). An exception
    that a stage raised would be raised again, so it ends the job at once.

    Raises:
        JobFailed: the job itself is at fault, or processes died TRIES times.
        StoreError: the database does not answer.
    """
    spec = VideoSpec.from_dict(job.spec)
    media = await asyncio.to_thread(find_media, job, ways.media)
    for left in reversed(range(TRIES)):
        try:
            return await _stages(job, spec, media, ways)
        except JobFailed as error:  # by an engine
            raise JobFailed(presentable(str(error), spec), error.code) from None
        except (ConditionsLost, StageError, RayError, RayServeException) as error:
            lost = original(error)
            if isinstance(lost, StageError):
                raise JobFailed(str(lost), lost.code) from None
            if not isinstance(lost, (ConditionsLost, RayServeException, *LOSSES)):
                raise JobFailed(reason(lost, spec)) from None
            log.warning("job %s: %s, %d tries left", job.id, type(lost).__name__, left)
    raise JobFailed(f"the processes that worked on it died {TRIES} times")


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


async def _stages(job: Job, spec: VideoSpec, media: dict[str, Stored], ways: Ways) -> Rendered:
    """Each segment goes on from the last frames of the one before it; the file is made of all of them."""
    timings = Timings()
    if warnings := await ways.conditioner.warnings.remote(spec):
        ways.warn(job, (*spec.warnings, *warnings))
    latents: list[Any] = []
    before: Any = None
    for index in range(len(spec.spans)):
        encode = partial(ways.conditioner.encode.remote, spec, media, index, [before])
        conditions = (await timings.measure("conditioning", insist(job, encode, ways)))[0]
        ways.progress(job, Stage.DENOISING, index * spec.steps)
        segment = segment_of(spec, segment_id_of(job, index), index)
        latents.append(await timings.measure("denoising", ways.denoise(job, index, segment, conditions)))
        overlap = overlap_of(spec, index)
        before = (await ways.decoder.tail.remote(spec, latents[-1:], overlap))[0] if overlap else None
    ways.progress(job, Stage.DECODING, spec.steps * len(spec.spans))
    prefix = f"jobs/{job.id}/{job.lease_epoch}"
    rendered: Rendered = await insist(
        job, lambda: ways.decoder.render.remote(spec, latents, prefix, media, timings.seconds), ways
    )
    return rendered


async def insist(job: Job, call: Callable[[], Awaitable[T]], ways: Ways) -> T:
    """Ask a stage again and again while what it needs is away: a full disk, a store or a hook that does not answer
    costs time, not the job, which says so meanwhile. Cancellation, the deadline and the loss of the lease end it, see
    `Hands`."""
    waits, told = pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS), ""
    while True:
        try:
            answer = await call()
            if told:
                ways.waiting(job, "")
            return answer
        except (StageError, RayError) as error:
            cause = original(error)
            if not (isinstance(cause, StageError) and cause.code == UNAVAILABLE):
                raise
            log.warning("job %s: %s; trying again", job.id, cause)
            if told != str(cause):
                told = str(cause)
                ways.waiting(job, told)
            await asyncio.sleep(next(waits))


def segment_id_of(job: Job, index: int) -> str:
    """Unique for each claim, so that an engine's stale segment is never taken for the new one."""
    return f"{lease_prefix(job)}{index}"


def lease_prefix(job: Job) -> str:
    """What the ids of all its segments under this claim begin with."""
    return f"{job.id}/{job.lease_epoch}/"
