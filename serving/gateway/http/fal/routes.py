"""Routes of fal's queue: submit, status, stream, result, cancel; and the call that waits for the result.

The apps of three owners stand at the root, where the hosts of fal have them: ``fal-ai`` and ``wan``, whose Wan apps are
served, and ``zoetrope``, whose only app is the served model. No other API has paths that begin so.

Deliberate differences from the original:
* An input is checked before it is queued: what is wrong with it is answered to the submit, not to the result.
* Running requests can be cancelled too.
* Jobs of other APIs are requests here as well, under the name of any app.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Query
from starlette.responses import Response

from zoetrope.model.request.schema_errors import short
from zoetrope.serving.gateway.core.error_mapping import as_api_error
from zoetrope.serving.gateway.errors.api_error import ApiError, invalid_argument, with_fields
from zoetrope.serving.gateway.http.common import signed_urls
from zoetrope.serving.gateway.http.common.calls import CurrentCall, HttpCall
from zoetrope.serving.gateway.http.common.routes import AsciiResponse, api_router
from zoetrope.serving.gateway.http.fal import schema, views
from zoetrope.serving.gateway.http.fal.api import FAL
from zoetrope.serving.gateway.http.fal.headers import Wishes, read_wishes
from zoetrope.serving.gateway.http.fal.inputs import OWNERS, translate
from zoetrope.serving.gateway.http.fal.proxy import queue_url
from zoetrope.serving.gateway.http.fal.storage import localised
from zoetrope.serving.gateway.http.fal.waiting import EventStream, ResultResponse
from zoetrope.serving.gateway.submit.options import Options
from zoetrope.serving.gateway.submit.submission import Submission
from zoetrope.serving.jobs.job import Job, JobWebhook, State

OPTION_NAMES = {
    "webhook.url": views.WEBHOOK,
    "retention": views.LIFECYCLE,
    "request_id": views.IDEMPOTENCY_KEY,
}
REQUEST_ID = "x-fal-request-id"
IN_PROGRESS = "Request is still in progress"  # as clients look for it
EVENTS: dict[str, Any] = {"response_class": Response, "responses": {200: {"content": {"text/event-stream": {}}}}}
router = api_router(FAL.name, FAL.errors)
ROUTERS = (router,)
Asked: TypeAlias = Annotated[Wishes, Depends(read_wishes)]
Logs: TypeAlias = Annotated[str, Query(alias=views.LOGS, description="1: with logs")]


async def submit(call: CurrentCall, app: str, body: schema.AppInput, asked: Asked) -> Response:
    owner = call.request.url.path.split("/")[1]
    job = await _submit(call, f"{owner}/{app}", body, asked)
    outlook = await call.core.watcher.outlook(job)
    return _answer(views.enqueued(job, queue_url(call), outlook.queue_position), job)


async def status(call: CurrentCall, alias: str, request_id: str, logs: Logs = "0") -> Response:
    wanted = _flag(logs)
    job = await call.core.job(request_id, call.who)
    outlook = await call.core.watcher.outlook(job)
    lines = views.log_lines(job, outlook.notice) if wanted else []
    body = views.status(job, queue_url(call), outlook.queue_position, lines)
    return _answer(body, job, 200 if job.state.final else 202)


async def stream_status(call: CurrentCall, alias: str, request_id: str, logs: Logs = "0") -> Response:
    wanted = _flag(logs)
    job = await call.core.job(request_id, call.who)
    return EventStream(call, job, queue_url(call), logs=wanted, headers={REQUEST_ID: job.id})


async def result(call: CurrentCall, alias: str, request_id: str) -> Response:
    job = await call.core.job(request_id, call.who)
    if not job.state.final:
        raise ApiError("FAILED_PRECONDITION", "IN_PROGRESS", IN_PROGRESS)
    return await _result(call, job)


async def cancel(call: CurrentCall, alias: str, request_id: str) -> Response:
    job = await call.core.job(request_id, call.who)
    if job.state.final:
        return _answer(schema.CancelAnswer(status="ALREADY_COMPLETED").model_dump(), job, 400)
    await call.core.cancel(job.id, call.who)
    return _answer(schema.CancelAnswer(status="CANCELLATION_REQUESTED").model_dump(), job, 202)


for _owner in OWNERS:
    _request = f"/{_owner}/{{alias}}/requests/{{request_id}}"
    router.get(f"{_request}/status", summary="How far a request is.", response_model=schema.QueueStatus)(status)
    router.get(f"{_request}/status/stream", summary="The same as a stream, until the end.", **EVENTS)(stream_status)
    router.get(_request, summary="The result of a request.", response_model=schema.RequestOutput)(result)
    router.put(f"{_request}/cancel", summary="Cancel a request.", status_code=202, response_model=schema.CancelAnswer)(
        cancel
    )
    router.post(f"/{_owner}/{{app:path}}", summary="Queue a request.", response_model=schema.Enqueued)(submit)


@router.post("/fal/run/{app:path}", summary="Make a video and wait for it.", response_model=schema.RequestOutput)
async def run(call: CurrentCall, app: str, body: schema.AppInput, asked: Asked) -> Response:
    job = await _submit(call, app, body, asked)
    return ResultResponse(call, job, _result, queue_url(call))


async def _submit(call: HttpCall, app: str, body: schema.AppInput, asked: Wishes) -> Job:
    """Store a request.

    Raises:
        ApiError: with fields as the client wrote them.
    """
    core, given = call.core, dict(body.model_extra or {})
    found = translate(app, given, call.models, bool(core.settings.prompt_expansion_url))
    origin = {"api": FAL.name, "app": app}
    if found.expand:
        origin["prompt"] = found.data["task"]["prompt"][:5_000]
    options = Options(
        webhook=None if asked.webhook is None else JobWebhook(asked.webhook, ("completed",)),
        retention_seconds=asked.retention_seconds,
        expand_prompt=found.expand,
        origin=origin,
        traceparent=asked.traceparent,
    )
    data, warnings = localised(call, found.data), (*found.warnings, *asked.warnings)
    try:
        return await core.submitter.submit(
            Submission(data, options, asked.idempotency_key, warnings=warnings), call.who
        )
    except Exception as error:
        raise with_fields(
            as_api_error(error), lambda name: OPTION_NAMES.get(name) or found.client_name(name)
        ) from error


async def _result(call: HttpCall, job: Job) -> Response:
    """Answer with what became of a job that has ended."""
    if job.state is not State.SUCCEEDED:
        code, body = views.failed_output(job)
        return _answer(body, job, code)
    url = await signed_urls.video_url(call.core, job, call.base_url)
    assert url is not None, "it succeeded"
    return _answer(views.output(job, url), job)


def _answer(body: dict[str, Any], job: Job, code: int = 200) -> Response:
    return AsciiResponse(body, code, {REQUEST_ID: job.id})


def _flag(text: str) -> bool:
    """Read ``logs``, which fal's clients write as 1 or true."""
    if text.lower() not in ("0", "1", "true", "false"):
        raise invalid_argument(views.LOGS, f"{short(text)} is not one of 0, 1, true, false")
    return text.lower() in ("1", "true")
