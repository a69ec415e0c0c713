# ruff: noqa: N802 (the methods are named as in the proto)
"""zoetrope.video.v1.VideoService over the gateway's core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from zoetrope.model.request.tasks import PICTURE_CONTAINERS, InvalidRequest, Violation
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2
from zoetrope.serving.gateway.auth.callers import caller
from zoetrope.serving.gateway.core.core import Core, JobNotFound, file_of
from zoetrope.serving.gateway.errors.api_error import ApiError, invalid_argument, stopping
from zoetrope.serving.gateway.grpc import encode
from zoetrope.serving.gateway.grpc.auth_interceptor import traceparent_of
from zoetrope.serving.gateway.grpc.decode import (
    extension_of,
    name_batch_fields,
    name_extension_fields,
    name_fields,
    order_of,
    seconds_of,
)
from zoetrope.serving.gateway.grpc.encode_validated import encode_validated
from zoetrope.serving.gateway.grpc.jobs import find_video_job, operation_of, signed, unknown_operation
from zoetrope.serving.gateway.submit.listing import page_of
from zoetrope.serving.gateway.submit.options import MAX_PRIORITY, check_labels
from zoetrope.serving.gateway.submit.submission import Submission, check_batch
from zoetrope.serving.jobs.job import Job
from zoetrope.serving.storage.store import ArtifactError

CHANGES = ("labels", "priority", "expire_time")


class VideoService:
    """The servicer; every method raises what zoetrope.serving.gateway.core.error_mapping turns into a status."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def CreateVideo(self, request: video_pb2.CreateVideoRequest, context: Any) -> operations_pb2.Operation:
        order = order_of(request, traceparent_of(context) or None)
        try:
            job = await self._core.submitter.submit(order, caller())
        except InvalidRequest as error:
            raise name_fields(error, request.WhichOneof("task")) from None
        return await operation_of(self._core, job)

    async def BatchCreateVideos(
        self, request: video_pb2.BatchCreateVideosRequest, context: Any
    ) -> video_pb2.BatchCreateVideosResponse:
        check_batch(len(request.requests))
        trace = traceparent_of(context) or None
        orders = [order_of(item, trace) for item in request.requests]
        try:
            jobs = await self._core.submitter.submit_all(orders, caller())
        except InvalidRequest as error:
            raise name_batch_fields(error, [item.WhichOneof("task") for item in request.requests]) from None
        ahead = await self._core.watcher.outlooks(jobs)
        operations = [encode.operation(job, outlook) for job, outlook in zip(jobs, ahead, strict=True)]
        return video_pb2.BatchCreateVideosResponse(operations=operations)

    async def ValidateVideo(
        self, request: video_pb2.ValidateVideoRequest, context: Any
    ) -> video_pb2.ValidateVideoResponse:
        order = order_of(request.request, traceparent_of(context) or None)
        try:
            found = await self._core.submitter.validate(order, caller())
        except InvalidRequest as error:
            raise name_fields(error, request.request.WhichOneof("task")) from None
        return encode_validated(found, self._core.settings.gpu_hour_price)

    async def GetVideo(self, request: video_pb2.GetVideoRequest, context: Any) -> video_pb2.Video:
        job = await find_video_job(self._core, request.name, caller())
        file_of(job)
        video = encode.video_of(job)
        assert video is not None, "a job with a file has succeeded"
        video.uri = await signed(self._core, job) or ""
        return video

    async def ExtendVideo(self, request: video_pb2.ExtendVideoRequest, context: Any) -> operations_pb2.Operation:
        who = caller()
        job = await find_video_job(self._core, request.name, who)
        file_of(job)
        if job.spec["container"] in PICTURE_CONTAINERS:
            raise invalid_argument("name", f"{job.id} is a picture; give it as the image of an image_to_video task")
        order: Submission = extension_of(request, job.id, job.spec)
        try:
            extended = await self._core.submitter.submit(order, who)
        except InvalidRequest as error:
            raise name_extension_fields(error) from None
        return await operation_of(self._core, extended)

    async def UpdateVideo(self, request: video_pb2.UpdateVideoRequest, context: Any) -> operations_pb2.Operation:
        who = caller()
        job = await find_video_job(self._core, request.name, who)
        changes = request.changes
        wanted = _paths(request.update_mask, changes, job)
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
                    bad.append(Violation("changes.priority", f"{changes.priority} must be from 0 to {highest}"))
            elif path == "expire_time":
                values["expire_at"] = seconds_of(changes.expire_time, "changes.expire_time", bad)
                bad += self._expiry_problem(job, values["expire_at"])
            else:
                known = f"{', '.join(CHANGES)}, or * alone for all of them"
                bad.append(Violation("update_mask", f"{path[:80]!r} is not one of {known}"))
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
        job = await find_video_job(self._core, request.name, who)
        trail = partial(self._core.stores.jobs.events, job.id, who.owner)
        events = await self._core.reads.run(who.owner, trail)
        page, following = page_of(events, request.page_size, request.page_token, f"events {job.id}")
        return video_pb2.ListVideoEventsResponse(
            next_page_token=following,
            events=[
                video_pb2.VideoEvent(
                    time=encode.timestamp(event.at),
                    from_state=event.from_state or "",
                    to_state=event.to_state,
                    actor=event.actor,
                    attempt=event.attempt,
                    note=event.note or "",
                )
                for event in page
            ],
        )

    async def ReplayWebhooks(
        self, request: video_pb2.ReplayWebhooksRequest, context: Any
    ) -> video_pb2.ReplayWebhooksResponse:
        who = caller()
        job = await find_video_job(self._core, request.name, who)
        count = await asyncio.to_thread(self._core.stores.outbox.replay, job.id, who.owner)
        return video_pb2.ReplayWebhooksResponse(count=count)

    async def WatchVideo(
        self, request: video_pb2.WatchVideoRequest, context: Any
    ) -> AsyncIterator[video_pb2.WatchVideoResponse]:
        job = await find_video_job(self._core, request.name, caller())
        shown: str | None = None
        async for sighting in self._core.follow(job, caller()):
            if sighting.job is None:
                raise unknown_operation(request.name)
            preview = None
            stored = sighting.job.preview
            if request.previews and stored is not None and stored.key != shown:
                preview = await self._preview(sighting.job)
                shown = stored.key
            yield encode.watch_event(sighting.job, sighting.outlook, preview)
            if sighting.job.state.final:
                return
        raise stopping()

    async def DownloadVideo(
        self, request: video_pb2.DownloadVideoRequest, context: Any
    ) -> AsyncIterator[video_pb2.DownloadVideoResponse]:
        job = await find_video_job(self._core, request.name, caller())
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
        who, core = caller(), self._core
        models = []
        for card in core.models:
            granted = await core.reads.run(who.owner, partial(core.stores.adapters.granted, card.name, who.owner))
            names = [adapter.name for adapter in granted]
            models.append(encode.model_message(card, ready, core.models.names_of(card)[1:], names))
        page, following = page_of(models, request.page_size, request.page_token, "models")
        return video_pb2.ListModelsResponse(models=page, next_page_token=following)

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
        return [Violation("changes.expire_time", f"must be within {longest:g} s of the job's end")]


def _paths(mask: FieldMask, changes: video_pb2.VideoChanges, job: Job) -> list[str]:
    """Return the fields to update. Of a full replacement these are the ones whose values differ from the job's: the
    others may be of a kind that cannot be changed any more.
    """
    if list(mask.paths) != ["*"]:
        return list(mask.paths) or [field.name for field, _ in changes.ListFields()]
    expires = None if job.expire_at is None else encode.timestamp(job.expire_at)
    given = changes.expire_time if changes.HasField("expire_time") else None
    differs = {
        "labels": dict(changes.labels) != dict(job.labels),
        "priority": changes.priority != job.priority,
        "expire_time": given != expires,
    }
    return [path for path in CHANGES if differs[path]]


def _update(core: Core, job_id: str, owner: str, values: dict[str, Any]) -> Callable[[], Job | None]:
    longest = core.settings.max_retention_seconds  # once more: the job may have ended since it was looked at
    return lambda: core.stores.jobs.update(job_id, owner, **values, max_retention_seconds=longest)
