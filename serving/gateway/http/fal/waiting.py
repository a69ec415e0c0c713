"""Answers that wait for a job: a stream of its states, and its result. Neither holds the turn of its request."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from zoetrope.serving.config.logs import describe
from zoetrope.serving.gateway.auth.authenticator import Unauthenticated
from zoetrope.serving.gateway.core.error_mapping import as_api_error
from zoetrope.serving.gateway.errors.api_error import ApiError, stopping
from zoetrope.serving.gateway.http.common.calls import HttpCall
from zoetrope.serving.gateway.http.common.routes import AsciiResponse
from zoetrope.serving.gateway.http.fal import views
from zoetrope.serving.gateway.http.fal.api import render_error
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.job import Job

KEEP_ALIVE_SECONDS = 10.0  # of silence, after which a stream says that it is there
RUN_SECONDS = 600.0  # that a call waits for its result
# Tells clients not to submit the request once more.
NOT_AGAIN = {"x-fal-request-timeout-type": "user"}
log = logging.getLogger("zoetrope.gateway")


class EventStream(StreamingResponse):
    """Server-sent events: the status of a job whenever it changes, until the end. Each has the new lines of the logs
    alone, for clients collect them."""

    def __init__(self, call: HttpCall, job: Job, base_url: str, *, logs: bool, headers: Mapping[str, str]) -> None:
        headers = {**headers, "cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(_events(call, job, base_url, logs), headers=headers, media_type="text/event-stream")


async def _events(call: HttpCall, job: Job, base_url: str, logs: bool) -> AsyncIterator[bytes]:
    last: dict[str, Any] | None = None
    told: set[str] = set()
    try:
        while not call.core.liveness.stopping:
            async for sighting in call.core.follow(job, call.who, time.monotonic() + KEEP_ALIVE_SECONDS):
                if sighting.job is None:  # deleted
                    return
                job, ahead = sighting.job, sighting.outlook
                lines = views.log_lines(job, ahead.notice) if logs else []
                news = [line for line in lines if line["message"] not in told]
                told.update(line["message"] for line in news)
                body = views.status(job, base_url, ahead.queue_position, news)
                if news or {**body, "logs": []} != last:
                    last = {**body, "logs": []}
                    yield b"data: " + json.dumps(body).encode() + b"\n\n"
                if job.state.final:
                    return
            yield b": waiting\n\n"
    except Unauthenticated:
        return  # the key was revoked: there is no other way to say so any more
    except StoreError as error:
        log.error("a stream of job %s ends:\n%s", job.id, describe(error))


class ResultResponse(Response):
    """The result of a job, once there is one."""

    def __init__(
        self, call: HttpCall, job: Job, answer: Callable[[HttpCall, Job], Awaitable[Response]], base_url: str
    ) -> None:
        super().__init__()  # for FastAPI, which looks at it
        self._call = call
        self._job = job
        self._answer = answer
        self._base_url = base_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work, gone = asyncio.ensure_future(self._wait()), asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return  # nobody is there to answer; the job goes on
            response = work.result()
        except Exception as error:
            status, body = render_error(as_api_error(error))
            response = AsciiResponse(body, status, NOT_AGAIN)
        finally:
            work.cancel()
            gone.cancel()
        await response(scope, receive, send)

    async def _wait(self) -> Response:
        call, job = self._call, self._job
        async for sighting in call.core.follow(job, call.who, time.monotonic() + RUN_SECONDS):
            if sighting.job is None:
                raise ApiError("NOT_FOUND", "UNKNOWN_JOB", f"request {job.id} was deleted")
            job = sighting.job
        if job.state.final:
            return await self._answer(call, job)
        if call.core.liveness.stopping:
            raise stopping()
        url = views.urls(job, self._base_url)["response_url"]
        message = f"the request is not done after {RUN_SECONDS:g} s; its result will be at {url}"
        raise ApiError("DEADLINE_EXCEEDED", "STILL_RUNNING", message)


async def _disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
