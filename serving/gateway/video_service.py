# ruff: noqa: N802 (the methods are named as in the proto)
"""zoetrope.video.v1.VideoService over the job store and the artifact store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.longrunning import operations_pb2

from serving.api.zoetrope.video.v1 import video_pb2
from serving.artifacts import ArtifactMissing, ArtifactStore
from serving.gateway import convert
from serving.gateway.errors import ApiError, invalid_argument
from serving.gateway.intake import Intake
from serving.gateway.liveness import Liveness
from serving.jobs.job import Job, State

OWNER = ""  # one tenant until there are keys
CHUNK_BYTES = 1 << 20
POLL_SECONDS = 0.05
EVENT_SECONDS = 0.2  # between two events of one stream


class VideoService:
    """The servicer; every method raises what serving.gateway.errors turns into a status."""

    def __init__(self, intake: Intake, artifacts: ArtifactStore, liveness: Liveness) -> None:
        self._intake = intake
        self._store = intake.store
        self._artifacts = artifacts
        self._liveness = liveness

    async def CreateVideo(self, request: video_pb2.CreateVideoRequest, context: Any) -> operations_pb2.Operation:
        data, found = convert.request_data(request)
        job = await asyncio.to_thread(
            self._intake.submit, data, owner=OWNER, request_id=request.request_id, found=found
        )
        return convert.operation(job, convert.outlook(self._store, job))

    async def WatchVideo(
        self, request: video_pb2.WatchVideoRequest, context: Any
    ) -> AsyncIterator[video_pb2.WatchVideoResponse]:
        seen: tuple[Any, ...] | None = None
        while True:
            job = convert.find_job(self._store, request.name, OWNER)
            ahead = convert.outlook(self._store, job)
            news = (job.state, job.stage, job.attempt, job.step, ahead.queue_position, job.cancel_requested)
            if news != seen:
                yield convert.watch_event(job, ahead)
            if job.state.final:
                return
            if await self._liveness.stopping_within(EVENT_SECONDS if news != seen else POLL_SECONDS):
                raise ApiError("UNAVAILABLE", "STOPPING", "the gateway is stopping; call again")
            seen = news

    async def DownloadVideo(
        self, request: video_pb2.DownloadVideoRequest, context: Any
    ) -> AsyncIterator[video_pb2.DownloadVideoResponse]:
        job = convert.find_job(self._store, request.name, OWNER)
        artifact = artifact_of(job, request.artifact)
        total, sha256 = artifact["size_bytes"], artifact["sha256"]
        offset = request.offset
        if offset < 0:
            raise invalid_argument("offset", f"{offset} is negative")
        if offset > total:
            raise ApiError("OUT_OF_RANGE", "OFFSET_BEYOND_END", f"offset: {offset} is beyond the end at {total} bytes")
        if offset == total:  # a client that has it all still learns the checksum
            yield video_pb2.DownloadVideoResponse(offset=offset, total_bytes=total, sha256=sha256)
            return
        try:
            chunks = self._artifacts.read(artifact["key"], offset, CHUNK_BYTES)
            while (data := await asyncio.to_thread(next, chunks, None)) is not None:
                yield video_pb2.DownloadVideoResponse(offset=offset, data=data, total_bytes=total, sha256=sha256)
                offset += len(data)
        except ArtifactMissing:
            raise ApiError("NOT_FOUND", "FILE_GONE", f"name: the file of {request.name} was deleted") from None

    async def ListModels(self, request: video_pb2.ListModelsRequest, context: Any) -> video_pb2.ListModelsResponse:
        ready = bool(self._liveness.engines())
        return video_pb2.ListModelsResponse(models=[convert.model_message(self._intake.card, ready)])


def artifact_of(job: Job, which: int) -> dict[str, Any]:
    """A serving.jobs.job.Artifact as a dict.

    Raises:
        ApiError: the job made none, or none yet.
    """
    if which not in video_pb2.VideoArtifact.values():
        raise invalid_argument("artifact", f"{which} is not a known artifact, give VIDEO or LATENTS")
    name = convert.operation_name(job)
    if job.state is not State.SUCCEEDED or job.result is None:
        state = video_pb2.VideoState.Name(convert.video_state(job)).removeprefix("VIDEO_STATE_")
        raise ApiError(
            "FAILED_PRECONDITION",
            "NOT_SUCCEEDED",
            f"{name} has no file: its state is {state}" + ("" if job.state.final else ", wait until it has SUCCEEDED"),
            metadata={"state": state},
        )
    if which != video_pb2.VIDEO_ARTIFACT_LATENTS:
        return dict(job.result["video"])
    if job.result["latents"] is None:
        raise ApiError(
            "FAILED_PRECONDITION", "LATENTS_NOT_KEPT", f"{name} kept no latents: its request did not set keep_latents"
        )
    return dict(job.result["latents"])
