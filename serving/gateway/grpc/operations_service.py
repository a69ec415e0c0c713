# ruff: noqa: N802 (the methods are named as in the proto)
"""google.longrunning.Operations: every job is an operation."""

from __future__ import annotations

import time
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from zoetrope.serving.gateway.auth.callers import caller
from zoetrope.serving.gateway.core.core import Core, NotDone
from zoetrope.serving.gateway.errors.api_error import ApiError, invalid_argument
from zoetrope.serving.gateway.grpc import encode
from zoetrope.serving.gateway.grpc.jobs import find_job, operation_of
from zoetrope.serving.gateway.submit.listing import check_page_size, decode_page_token, encode_page_token, parse_filter

MAX_WAIT_SECONDS = 1e9  # a wait without an end
ANSWER_SECONDS = 0.5  # before the call's deadline, so that the answer still arrives


class OperationsService:
    """The servicer; every method raises what zoetrope.serving.gateway.core.error_mapping turns into a status."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def GetOperation(self, request: operations_pb2.GetOperationRequest, context: Any) -> operations_pb2.Operation:
        return await operation_of(self._core, await find_job(self._core, request.name, caller()))

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: Any
    ) -> operations_pb2.ListOperationsResponse:
        if request.name.strip("/") not in ("", "operations"):
            raise invalid_argument("name", f"{request.name[:80]!r} is not a known parent, give operations")
        size = check_page_size(request.page_size)
        where = parse_filter(request.filter)
        made_for = repr(where)
        before = decode_page_token(request.page_token, made_for)
        jobs = await self._core.jobs(caller(), page_size=size + 1, where=where, before=before)
        more, jobs = len(jobs) > size, jobs[:size]
        ahead = await self._core.watcher.outlooks(jobs)
        return operations_pb2.ListOperationsResponse(
            operations=[encode.operation(job, outlook) for job, outlook in zip(jobs, ahead, strict=True)],
            next_page_token=encode_page_token(jobs[-1].created_at, jobs[-1].id, made_for) if more else "",
        )

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: Any
    ) -> operations_pb2.Operation:
        seconds = MAX_WAIT_SECONDS
        if request.HasField("timeout"):
            seconds = request.timeout.seconds + request.timeout.nanos / 1e9
            if seconds < 0:
                raise invalid_argument("timeout", f"{seconds:g} s is negative")
        remaining = context.time_remaining()
        if remaining is not None:
            seconds = min(seconds, remaining - ANSWER_SECONDS)
        end = time.monotonic() + seconds
        job = await find_job(self._core, request.name, caller())
        async for sighting in self._core.follow(job, caller(), end):
            if sighting.job is None or sighting.job.state.final:
                break
        return await operation_of(self._core, await find_job(self._core, request.name, caller()))

    async def CancelOperation(self, request: operations_pb2.CancelOperationRequest, context: Any) -> empty_pb2.Empty:
        job = await find_job(self._core, request.name, caller())
        await self._core.cancel(job.id, caller())
        return empty_pb2.Empty()

    async def DeleteOperation(self, request: operations_pb2.DeleteOperationRequest, context: Any) -> empty_pb2.Empty:
        job = await find_job(self._core, request.name, caller())
        try:
            await self._core.delete(job.id, caller())
        except NotDone:
            raise ApiError(
                "FAILED_PRECONDITION", "NOT_DONE", f"{request.name} is not done; cancel it or wait before deleting it"
            ) from None
        return empty_pb2.Empty()
