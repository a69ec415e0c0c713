"""Routes of DashScope's video synthesis.

Differences from the original: running tasks can be cancelled too; an unknown task is a 404 whose ``task_status`` is
UNKNOWN; times are UTC; lists reach back over the newest 1,000 tasks.
"""

from __future__ import annotations

import time
from calendar import timegm
from typing import Annotated, Any

from fastapi import Query
from starlette.responses import JSONResponse, Response

from zoetrope.model.request.schema_errors import short
from zoetrope.serving.gateway.core.core import JobNotFound
from zoetrope.serving.gateway.core.error_mapping import as_api_error
from zoetrope.serving.gateway.errors.api_error import ApiError, invalid_argument, with_fields
from zoetrope.serving.gateway.http.common import signed_urls
from zoetrope.serving.gateway.http.common.calls import CurrentCall
from zoetrope.serving.gateway.http.common.files import file_response
from zoetrope.serving.gateway.http.common.routes import FILE, api_router
from zoetrope.serving.gateway.http.dashscope import schema, uploads
from zoetrope.serving.gateway.http.dashscope.api import DASHSCOPE, field_name, render_error
from zoetrope.serving.gateway.http.dashscope.inputs import translate
from zoetrope.serving.gateway.http.dashscope.schema import STATUS, listed, request_id, task
from zoetrope.serving.gateway.http.dashscope.unused import unused_fields
from zoetrope.serving.gateway.submit.options import Options
from zoetrope.serving.gateway.submit.submission import Submission
from zoetrope.serving.jobs.job import Job, JobFilter

MAX_LISTED = 1_000
MAX_PAGE_SIZE = 100
SYNTHESIS = "/api/v1/services/aigc/{}/video-synthesis"
TASK = "/api/v1/tasks/{task_id}"
router = api_router(DASHSCOPE.name, DASHSCOPE.errors)
open_router = api_router(DASHSCOPE.name, DASHSCOPE.errors, needs_key=False)
ROUTERS = (router, open_router)


@router.post(SYNTHESIS.format("image2video"), summary="Make a video.", response_model=schema.Task)
@router.post(SYNTHESIS.format("video-generation"), summary="Make a video.", response_model=schema.Task)
async def synthesize(call: CurrentCall, body: schema.Synthesis) -> Response:
    headers = call.request.headers
    if headers.get("x-dashscope-async", "").lower() != "enable":
        raise ApiError("PERMISSION_DENIED", "NOT_ASYNC", "X-DashScope-Async: must be enable; only tasks are served")
    expands = bool(call.core.settings.prompt_expansion_url)
    translated = translate(body, call.models)
    # Not an order: most requests carry it, for it is the original's default.
    expand = expands and bool(body.parameters.prompt_extend)
    origin = {"api": DASHSCOPE.name, "model": body.model}
    if expand and body.input.prompt is not None:
        origin["prompt"] = body.input.prompt[:5_000]
    options = Options(expand_prompt=expand, origin=origin, traceparent=headers.get("traceparent", "")[:128] or None)
    warnings = unused_fields(body, translated.card, expands=expands)
    submission = Submission(translated.data, options, headers.get("idempotency-key", ""), warnings=warnings)
    try:
        job = await call.core.submitter.submit(submission, call.who)
    except Exception as error:
        raise with_fields(as_api_error(error), lambda name: field_name(name, translated.names)) from error
    output: dict[str, Any] = {"task_id": job.id, "task_status": STATUS[job.state.public]}
    if job.warnings:
        output["warnings"] = list(job.warnings)
    return JSONResponse({"request_id": request_id(), "output": output})


@router.get("/api/v1/tasks", summary="Tasks, newest first.", response_model=schema.Tasks)
async def list_tasks(
    call: CurrentCall,
    page_no: Annotated[str, Query(description=f"from 1; the newest {MAX_LISTED} tasks are listed")] = "1",
    page_size: Annotated[str, Query(description=f"1 to {MAX_PAGE_SIZE}")] = "10",
    status: Annotated[str | None, Query(description=", ".join(STATUS.values()))] = None,
    model_name: Annotated[str | None, Query(description="as the task was asked for")] = None,
    api_key_id: Annotated[str | None, Query(description="of the key that made it")] = None,
    start_time: Annotated[str | None, Query(description="created at or after, YYYYMMDDhhmmss, UTC")] = None,
    end_time: Annotated[str | None, Query(description="created before")] = None,
) -> Response:
    page, size = _number(page_no, "page_no", MAX_LISTED), _number(page_size, "page_size", MAX_PAGE_SIZE)
    if status is not None and status not in (*STATUS.values(), "UNKNOWN"):
        raise invalid_argument("status", f"{short(status)} is not one of {', '.join(STATUS.values())}, UNKNOWN")
    where = JobFilter(
        states=tuple(state for state, name in STATUS.items() if name == status),
        created_after=_time(start_time, "start_time"),
        created_before=_time(end_time, "end_time"),
    )
    jobs: list[Job] = []
    if status != "UNKNOWN":
        jobs = await call.core.jobs(call.who, page_size=MAX_LISTED, where=where)
    if model_name is not None:
        jobs = [job for job in jobs if model_name in (job.model, job.asked_model)]
    if api_key_id is not None:
        jobs = [job for job in jobs if job.key_id == api_key_id]
    return JSONResponse(
        {
            "request_id": request_id(),
            "data": [listed(job) for job in jobs[(page - 1) * size : page * size]],
            "page_no": page,
            "page_size": size,
            "total": len(jobs),
            "total_page": -(-len(jobs) // size),
        }
    )


@router.get(TASK, summary="A task.", response_model=schema.Task)
async def fetch(call: CurrentCall, task_id: str) -> Response:
    try:
        job = await call.core.job(task_id, call.who)
    except JobNotFound as error:
        status, body = render_error(as_api_error(error))
        return JSONResponse({**body, "output": {"task_id": task_id, "task_status": "UNKNOWN"}}, status)
    return JSONResponse(task(job, await signed_urls.video_url(call.core, job, call.base_url)))


@router.post(f"{TASK}/cancel", summary="Cancel a task that is not done.", response_model=schema.Canceled)
async def cancel(call: CurrentCall, task_id: str) -> Response:
    job = await call.core.job(task_id, call.who)
    if job.state.final:
        raise ApiError("FAILED_PRECONDITION", "TASK_ENDED", f"task_id: {job.id} is {STATUS[job.state.public]} already")
    await call.core.cancel(job.id, call.who)
    return JSONResponse({"request_id": request_id()})


@router.get("/api/v1/uploads", summary="What it takes to upload a local file.")
async def upload_policy(
    call: CurrentCall, action: Annotated[str | None, Query(description="getPolicy")] = None
) -> Response:
    if action != "getPolicy":
        raise invalid_argument("action", f"{short(action)} is not getPolicy")
    return JSONResponse({"request_id": request_id(), "data": await uploads.policy(call)})


@open_router.post(
    "/api/v1/uploads/{policy}",
    summary="Upload a file under a policy (multipart: key, file).",
    response_class=Response,
)
async def upload(
    call: CurrentCall,
    policy: str,
    expires: Annotated[str, Query(description="as the policy has it")] = "",
    signature: Annotated[str, Query(description="as the policy has it")] = "",
) -> Response:
    await uploads.receive(call, policy, expires, signature)
    return Response(status_code=200)


@open_router.get("/files/{job_id}", summary="A finished video or picture by its signed URL; honours Range.", **FILE)
async def signed_video(
    call: CurrentCall,
    job_id: str,
    expires: Annotated[str, Query(description="seconds since the epoch")] = "",
    signature: Annotated[str, Query(description="as this service gave it")] = "",
) -> Response:
    return file_response(call, await signed_urls.signed_job(call.core, job_id, expires, signature))


def _number(text: str, field: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= most):
        raise invalid_argument(field, f"{short(text)} must be from 1 to {most}")
    return int(text)


def _time(text: str | None, field: str) -> float | None:
    """Parse a time in the SDK's form, 20261122060400; UTC."""
    if text is None:
        return None
    try:
        return float(timegm(time.strptime(text, "%Y%m%d%H%M%S")))
    except (ValueError, OverflowError):
        raise invalid_argument(field, f"{short(text)} is not a time such as 20261122060400") from None
