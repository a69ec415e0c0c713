# ruff: noqa: N802 (the methods are named as in the proto)
"""zoetrope.video.v1.VideoService over the gateway's core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from google.longrunning import operations_pb2

from model.tasks import PICTURE_CONTAINERS, InvalidRequest, Violation
from serving.api.names import OPERATIONS
from serving.api.zoetrope.video.v1 import video_pb2
from serving.artifacts import ArtifactError
from serving.gateway import convert
from serving.gateway.callers import caller
from serving.gateway.core import Core, JobNotFound, file_of
from serving.gateway.doorkeeper import Principal
from serving.gateway.errors import ApiError, invalid_argument, stopping
from serving.gateway.intake import Order, check_batch
from serving.gateway.options import MAX_PRIORITY, check_labels
from serving.gateway.requests import (
    extension_of,
    name_batch_fields,
    name_extension_fields,
    name_fields,
    order_of,
    seconds_of,
)
from serving.jobs.job import Job, State

CHANGES = ("labels", "priority", "expire_time")
SIGNED_SECONDS = 3_600


class VideoService:
    """The servicer; every method raises what serving.gateway.errors turns into a status."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def CreateVideo(self, request: video_pb2.CreateVideoRequest, context: Any) -> operations_pb2.Operation:
        order = order_of(request, traceparent_of(context))
        try:
            job = await self._core.intake.submit(order, caller())
        except InvalidRequest as error:
            raise name_fields(error, request.WhichOneof("task")) from None
        return await operation_of(self._core, job)

    async def BatchCreateVideos(
        self, request: video_pb2.BatchCreateVideosRequest, context: Any
    ) -> video_pb2.BatchCreateVideosResponse:
        check_batch(len(request.requests))
        trace = traceparent_of(context)
        orders = [order_of(item, trace) for item in request.requests]
        try:
            jobs = await self._core.intake.submit_all(orders, caller())
        except InvalidRequest as error:
            raise name_batch_fields(error, [item.WhichOneof("task") for item in request.requests]) from None
        ahead = await self._core.watching.outlooks(jobs)
        operations = [convert.operation(job, outlook) for job, outlook in zip(jobs, ahead, strict=True)]
        return video_pb2.BatchCreateVideosResponse(operations=operations)

    async def ExtendVideo(self, request: video_pb2.ExtendVideoRequest, context: Any) -> operations_pb2.Operation:
        who = caller()
        job = await find_job(self._core, request.name, who)
        file_of(job)
        if job.spec["container"] in PICTURE_CONTAINERS:
            raise invalid_argument("name", f"{job.id} is a picture; give it as the image of an image_to_video task")
        order: Order = extension_of(request, job.id, job.spec)
        try:
            extended = await self._core.intake.submit(order, who)
        except InvalidRequest as error:
            raise name_extension_fields(error) from None
        return await operation_of(self._core, extended)

    async def UpdateVideo(self, request: video_pb2.UpdateVideoRequest, context: Any) -> operations_pb2.Operation:
        who = caller()
        job = await find_job(self._core, request.name, who)
        changes = request.changes
        wanted = list(request.update_mask.paths) or [field.name for field, _ in changes.ListFields()]
        values: dict[str, Any] = {}
        bad: list[Violation] = []
        for path in wanted:
            if path == "labels":
                found = check_labels(changes.labels)
                values["labels"] = {} if found else dict(changes.labels)
                bad += [replace(v, field=f"changes.{v.field}") for v in found]
            elif path == "priority":
                values["priority"] = changes.priority
                highest = min(MAX_PRIORITY, who.limits.max_priority)
                if not 0 <= changes.priority <= highest:
                    bad.append(Violation("changes.priority", f"{changes.priority} is not within 0 to {highest}"))
            elif path == "expire_time":
                values["expire_at"] = seconds_of(changes.expire_time)
                bad += self._expiry_problem(job, values["expire_at"])
            else:
                bad.append(Violation("update_mask", f"{path[:80]!r} is not one of {', '.join(CHANGES)}"))
        if bad:
            raise InvalidRequest(*bad)
        if values:
            changed = await asyncio.to_thread(_update(self._core, job.id, who.owner, values))
            if changed is None:
                raise JobNotFound(job.id)
            job = changed
        return await operation_of(self._core, job)

    async def ListVideoEvents(
        self, request: video_pb2.ListVideoEventsRequest, context: Any
    ) -> video_pb2.ListVideoEventsResponse:
        who = caller()
        job = await find_job(self._core, request.name, who)
        trail = partial(self._core.stores.jobs.events, job.id, who.owner)
        events = await self._core.reads.run(who.owner, trail)
        return video_pb2.ListVideoEventsResponse(
            events=[
                video_pb2.VideoEvent(
                    time=convert.timestamp(event.at),
                    from_state=event.from_state or "",
                    to_state=event.to_state,
                    actor=event.actor,
                    attempt=event.attempt,
                    note=event.note or "",
                )
                for event in events
            ]
        )

    async def ReplayWebhooks(
        self, request: video_pb2.ReplayWebhooksRequest, context: Any
    ) -> video_pb2.ReplayWebhooksResponse:
        who = caller()
        job = await find_job(self._core, request.name, who)
        count = await asyncio.to_thread(self._core.stores.outbox.replay, job.id, who.owner)
        return video_pb2.ReplayWebhooksResponse(count=count)

    async def WatchVideo(
        self, request: video_pb2.WatchVideoRequest, context: Any
    ) -> AsyncIterator[video_pb2.WatchVideoResponse]:
        job = await find_job(self._core, request.name, caller())
        shown: str | None = None
        async for sighting in self._core.follow(job, caller()):
            if sighting.job is None:
                raise unknown_operation(request.name)
            preview = None
            stored = sighting.job.preview
            if request.previews and stored is not None and stored.key != shown:
                preview = await self._preview(sighting.job)
                shown = stored.key
            yield convert.watch_event(sighting.job, sighting.outlook, preview)
            if sighting.job.state.final:
                return
        raise stopping()

    async def DownloadVideo(
        self, request: video_pb2.DownloadVideoRequest, context: Any
    ) -> AsyncIterator[video_pb2.DownloadVideoResponse]:
        job = await find_job(self._core, request.name, caller())
        if request.artifact not in video_pb2.VideoArtifact.values():
            raise invalid_argument("artifact", f"{request.artifact} is not a known artifact, give VIDEO or LATENTS")
        latents = request.artifact == video_pb2.VIDEO_ARTIFACT_LATENTS
        file = file_of(job, "latents" if latents else "video")
        total, sha256, offset = file["size_bytes"], file["sha256"], request.offset
        for field, value in (("offset", offset), ("length", request.length)):
            if value < 0:
                raise invalid_argument(field, f"{value} is negative")
        if offset > total:
            raise ApiError("OUT_OF_RANGE", "OFFSET_BEYOND_END", f"offset: {offset} is beyond the end at {total} bytes")
        if offset == total:  # a client that has it all still learns the checksum
            yield video_pb2.DownloadVideoResponse(offset=offset, total_bytes=total, sha256=sha256)
            return
        async for data in self._core.read(file["key"], offset, request.length or None):
            yield video_pb2.DownloadVideoResponse(offset=offset, data=data, total_bytes=total, sha256=sha256)
            offset += len(data)

    async def ListModels(self, request: video_pb2.ListModelsRequest, context: Any) -> video_pb2.ListModelsResponse:
        ready = bool(await asyncio.to_thread(self._core.liveness.engines))
        return video_pb2.ListModelsResponse(models=[convert.model_message(self._core.card, ready)])

    async def _preview(self, job: Job) -> video_pb2.Preview | None:
        """None where a newer one took its place meanwhile."""
        stored = job.preview
        assert stored is not None
        try:
            data = b"".join([chunk async for chunk in self._core.read(stored.key)])
        except ArtifactError:
            return None
        return video_pb2.Preview(
            data=data, mime_type=stored.mime_type, width=stored.width, height=stored.height, step=stored.step
        )

    def _expiry_problem(self, job: Job, expire_at: float) -> list[Violation]:
        if job.finished_at is None:
            return []  # the store refuses it
        longest = self._core.settings.max_retention_seconds
        if job.finished_at < expire_at <= job.finished_at + longest:
            return []
        return [Violation("changes.expire_time", f"is not within {longest:g} s from the job's end")]


async def operation_of(core: Core, job: Job) -> operations_pb2.Operation:
    """With what the row alone does not say: the place in the queue, and a signed address of the file."""
    return convert.operation(job, await core.watching.outlook(job), await signed(core, job))


async def signed(core: Core, job: Job) -> str | None:
    """Where the video can be fetched without a key, where the store signs addresses."""
    if job.state is not State.SUCCEEDED or job.result is None:
        return None
    key = job.result["video"]["key"]
    return await asyncio.to_thread(core.artifacts.sign, key, SIGNED_SECONDS)


async def find_job(core: Core, name: str, who: Principal) -> Job:
    """The job of an operation.

    Raises:
        ApiError: NOT_FOUND, also where it is another tenant's.
    """
    if not name.startswith(OPERATIONS):
        raise unknown_operation(name)
    try:
        return await core.job(name.removeprefix(OPERATIONS), who)
    except JobNotFound:
        raise unknown_operation(name) from None


def unknown_operation(name: str) -> ApiError:
    shown = name if len(name) <= 80 else name[:77] + "..."
    violation = Violation("name", f"{shown!r} is not a known operation; names look like {OPERATIONS}vid_...")
    return ApiError("NOT_FOUND", "UNKNOWN_OPERATION", f"name: {violation.description}", violations=(violation,))


def traceparent_of(context: Any) -> str | None:
    """The caller's trace (W3C Trace Context)."""
    for key, value in context.invocation_metadata() or ():
        if key.lower() == "traceparent" and isinstance(value, str) and len(value) <= 128:
            return value
    return None


def _update(core: Core, job_id: str, owner: str, values: dict[str, Any]) -> Callable[[], Job | None]:
    return lambda: core.stores.jobs.update(job_id, owner, **values)
