# ruff: noqa: N802 (the methods are named as in the proto)
"""google.longrunning.Operations: every job is an operation."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import time
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from serving.artifacts import ArtifactStore
from serving.gateway import convert
from serving.gateway.errors import ApiError, invalid_argument
from serving.gateway.liveness import Liveness
from serving.gateway.video_service import OWNER, POLL_SECONDS
from serving.jobs.job import Job, State
from serving.jobs.store import JobStore

PAGE_SIZE = 50
MAX_PAGE_SIZE = 200
MAX_WAIT_SECONDS = 1e9  # a wait without an end
ANSWER_SECONDS = 0.5  # before the call's deadline, so that the answer still arrives
FILTERS: dict[str, tuple[State, ...]] = {
    "": (),
    "done=true": tuple(state for state in State if state.final),
    "done=false": tuple(state for state in State if not state.final),
} | {f"state={state}": (state,) for state in State}


class OperationsService:
    """The servicer; every method raises what serving.gateway.errors turns into a status."""

    def __init__(self, store: JobStore, artifacts: ArtifactStore, liveness: Liveness) -> None:
        self._store = store
        self._artifacts = artifacts
        self._liveness = liveness

    async def GetOperation(self, request: operations_pb2.GetOperationRequest, context: Any) -> operations_pb2.Operation:
        return self._operation(convert.find_job(self._store, request.name, OWNER))

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: Any
    ) -> operations_pb2.ListOperationsResponse:
        if request.name.strip("/") not in ("", "operations"):
            raise invalid_argument("name", f"{request.name[:80]!r} is not a known parent, give operations")
        if request.page_size < 0:
            raise invalid_argument("page_size", f"{request.page_size} is negative")
        wanted = request.filter.replace(" ", "").lower()
        if wanted not in FILTERS:
            known = ", ".join(key for key in FILTERS if key)
            raise invalid_argument("filter", f"{request.filter[:80]!r} is not one of {known}")
        size = min(request.page_size or PAGE_SIZE, MAX_PAGE_SIZE)
        before = decode_page_token(request.page_token, wanted) if request.page_token else None
        jobs = self._store.list(OWNER, page_size=size + 1, states=FILTERS[wanted], before=before)
        more = len(jobs) > size
        return operations_pb2.ListOperationsResponse(
            operations=[self._operation(job) for job in jobs[:size]],
            next_page_token=encode_page_token(jobs[size - 1], wanted) if more else "",
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
        while True:
            job = convert.find_job(self._store, request.name, OWNER)
            left = end - time.monotonic()
            if job.state.final or left <= 0 or await self._liveness.stopping_within(min(left, POLL_SECONDS)):
                return self._operation(job)

    async def CancelOperation(self, request: operations_pb2.CancelOperationRequest, context: Any) -> empty_pb2.Empty:
        job = convert.find_job(self._store, request.name, OWNER)
        await asyncio.to_thread(self._store.request_cancel, job.id, OWNER)
        return empty_pb2.Empty()

    async def DeleteOperation(self, request: operations_pb2.DeleteOperationRequest, context: Any) -> empty_pb2.Empty:
        job = convert.find_job(self._store, request.name, OWNER)
        if not job.state.final:
            raise ApiError(
                "FAILED_PRECONDITION", "NOT_DONE", f"{request.name} is not done; cancel it or wait before deleting it"
            )
        files = [job.result[which] for which in ("video", "latents")] if job.result else []
        # The row goes last: a delete that was interrupted can be repeated.
        await asyncio.to_thread(self._artifacts.delete, [file["key"] for file in files if file])
        await asyncio.to_thread(self._store.delete, job.id, OWNER)
        return empty_pb2.Empty()

    def _operation(self, job: Job) -> operations_pb2.Operation:
        return convert.operation(job, convert.outlook(self._store, job))


def encode_page_token(last: Job, wanted: str) -> str:
    """The token of the page after `last`; good for the same filter only."""
    return base64.urlsafe_b64encode(json.dumps([last.created_at, last.id, wanted]).encode()).decode()


def decode_page_token(token: str, wanted: str) -> tuple[float, str]:
    """created_at and id of the last job of the page before.

    Raises:
        ApiError: INVALID_ARGUMENT.
    """
    try:
        match json.loads(base64.b64decode(token, altchars=b"-_", validate=True)):
            case [float(created_at), str(job_id), str(made_for)] if made_for == wanted and math.isfinite(created_at):
                return created_at, job_id
    except ValueError:  # of base64, UTF-8 and JSON alike
        pass
    raise invalid_argument("page_token", "is not one that this method gave for this filter")
