"""One job's way through the stages: conditions, segments, file."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayError, RayTaskError

from model.chain import overlap_of
from model.tasks import SegmentSpec, VideoSpec, segment_of
from serving.artifacts import ArtifactUnavailable
from serving.jobs.job import Job, Stage
from serving.jobs.media_table import MediaTable
from serving.media import MediaError
from serving.moderation import CheckUnavailable
from serving.stages.conditioner import BadMedia
from serving.stages.decoder import OutputRefused, Rendered
from serving.stages.stored import Stored, media_info

TRIES = 3  # of a job within one lease, when a process that worked on it died
PAUSE_SECONDS = 2.0  # before a file is rendered again that could not be stored or checked
log = logging.getLogger("zoetrope.router")


class JobFailed(Exception):
    """The job ends with this message and google.rpc code."""

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        super().__init__(message)
        self.code = code


class ConditionsLost(Exception):
    """What a segment is made from is gone, because a process that it passed through died."""


class LeaseLost(Exception):
    """The job ended or belongs to somebody else now; nothing more may be written about it."""


@dataclass
class Ways:
    """What a job needs on its way.

    Attributes:
        conditioner, decoder: handles of the deployments in `serving.stages`.
        denoise: (job, index, segment, conditions) -> reference to the latents.
        progress: (job, stage, step); raises LeaseLost.
        warn: (job, warnings).
    """

    conditioner: Any
    decoder: Any
    media: MediaTable
    denoise: Callable[[Job, int, SegmentSpec, Any], Awaitable[Any]]
    progress: Callable[[Job, Stage, int], None]
    warn: Callable[[Job, tuple[str, ...]], None]


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
    """All stages; from the start again when a process died on the way (the snapshots spare the steps).

    Raises:
        JobFailed: the job itself is at fault, or processes died TRIES times.
        LeaseLost.
    """
    spec = VideoSpec.from_dict(job.spec)
    media = await asyncio.to_thread(find_media, job, ways.media)
    for left in reversed(range(TRIES)):
        try:
            return await _stages(job, spec, media, ways)
        except (BadMedia, MediaError) as error:
            raise JobFailed(str(error), "INVALID_ARGUMENT") from None
        except OutputRefused as error:
            raise JobFailed(f"the video was refused: {error.args[0]}", "PERMISSION_DENIED") from None
        except (ConditionsLost, RayError) as error:
            if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
                raise  # a mistake of ours in a stage; it would happen again
            log.warning("job %s: %s, %d tries left", job.id, type(error).__name__, left)
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
        encoding = ways.conditioner.encode.remote(spec, media, index, [before])
        conditions = (await timings.measure("conditioning", encoding))[0]
        ways.progress(job, Stage.DENOISING, index * spec.steps)
        segment = segment_of(spec, segment_id_of(job, index), index)
        latents.append(await timings.measure("denoising", ways.denoise(job, index, segment, conditions)))
        overlap = overlap_of(spec, index)
        before = (await ways.decoder.tail.remote(spec, latents[-1:], overlap))[0] if overlap else None
    ways.progress(job, Stage.DECODING, spec.steps * len(spec.spans))
    return await _render(job, spec, latents, media, timings.seconds, ways)


async def _render(
    job: Job, spec: VideoSpec, latents: list[Any], media: dict[str, Stored], seconds: dict[str, float], ways: Ways
) -> Rendered:
    """Again and again while the file cannot be stored or checked: a full disk or a store that is away costs time, not
    the job. Cancellation, the deadline and the loss of the lease end it, see `Router`."""
    prefix = f"jobs/{job.id}/{job.lease_epoch}"
    while True:
        try:
            rendered: Rendered = await ways.decoder.render.remote(spec, latents, prefix, media, seconds)
            return rendered
        except (ArtifactUnavailable, CheckUnavailable) as error:
            log.warning("job %s: %s; trying again", job.id, error.args[0] if error.args else type(error).__name__)
            await asyncio.sleep(PAUSE_SECONDS)


def segment_id_of(job: Job, index: int) -> str:
    """Unique for each claim, so that an engine's stale segment is never taken for the new one."""
    return f"{lease_prefix(job)}{index}"


def lease_prefix(job: Job) -> str:
    """What the ids of all its segments under this claim begin with."""
    return f"{job.id}/{job.lease_epoch}/"


