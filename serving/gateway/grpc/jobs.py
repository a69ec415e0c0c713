"""Jobs by their names, and as operations."""

from __future__ import annotations

import asyncio

from google.longrunning import operations_pb2

from zoetrope.model.request.tasks import Violation
from zoetrope.serving.api.names import OPERATIONS, VIDEOS
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.core.core import Core, JobNotFound
from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.grpc import encode
from zoetrope.serving.jobs.job import Job, State

SIGNED_SECONDS = 3_600


async def operation_of(core: Core, job: Job) -> operations_pb2.Operation:
    """Return the job as an operation, with its place in the queue and a signed URL of its file."""
    return encode.operation(job, await core.watcher.outlook(job), await signed(core, job))


async def signed(core: Core, job: Job) -> str | None:
    """Return where the video can be fetched without a key; None if there is none, or the store signs no URLs."""
    if job.state is not State.SUCCEEDED or job.result is None:
        return None
    key = job.result["video"]["key"]
    return await asyncio.to_thread(core.artifacts.sign, key, SIGNED_SECONDS)


async def find_job(core: Core, name: str, who: Principal) -> Job:
    """Find the job of an operation.

    Raises:
        ApiError: NOT_FOUND, also where it is another tenant's.
    """
    if not name.startswith(OPERATIONS):
        raise unknown_operation(name)
    try:
        return await core.job(name.removeprefix(OPERATIONS), who)
    except JobNotFound:
        raise unknown_operation(name) from None


async def find_video_job(core: Core, name: str, who: Principal) -> Job:
    """Find the job of a video, which is named by the video or by its operation.

    Raises:
        ApiError: NOT_FOUND, see `find_job`.
    """
    if not name.startswith(VIDEOS):
        return await find_job(core, name, who)
    try:
        return await core.job(name.removeprefix(VIDEOS), who)
    except JobNotFound:
        raise _unknown(name, "video", VIDEOS) from None


def unknown_operation(name: str) -> ApiError:
    return _unknown(name, "operation", OPERATIONS)


def _unknown(name: str, what: str, prefix: str) -> ApiError:
    shown = name if len(name) <= 80 else name[:77] + "..."
    violation = Violation("name", f"{shown!r} is not a known {what}; names look like {prefix}vid_...")
    return ApiError("NOT_FOUND", f"UNKNOWN_{what.upper()}", f"name: {violation.description}", violations=(violation,))
