"""DashScope's video synthesis over our jobs: the ``dashscope`` SDK works with
``DASHSCOPE_HTTP_BASE_URL=http://HOST:PORT/api/v1``.

What differs from the original: running tasks can be cancelled too; a task that is not known is a 404 whose
``task_status`` is UNKNOWN; times are UTC; lists reach back over the newest 1,000 tasks.
"""

from __future__ import annotations

import time
from calendar import timegm

from starlette.responses import JSONResponse, Response

from model.tasks import short
from serving.gateway.core import JobNotFound
from serving.gateway.errors import ApiError, as_api_error, invalid_argument
from serving.gateway.http import dashscope_models as schema
from serving.gateway.http import signing
from serving.gateway.http.base import Call, Endpoint, base_url, read_model, with_fields
from serving.gateway.http.dashscope_input import PARAMETERS, translate
from serving.gateway.http.dashscope_models import STATUS, listed, model_name, request_id, task
from serving.gateway.http.dashscope_uploads import policy, upload
from serving.gateway.intake import Order
from serving.gateway.options import Options
from serving.jobs.job import Job, JobFilter

__all__ = ["ENDPOINTS", "render_error", "task"]

MAX_LISTED = 1_000
MAX_PAGE_SIZE = 100
CODES = {
    "UNKNOWN_MODEL": "ModelNotFound",
    "UNKNOWN_JOB": "TaskNotFound",
    "UNKNOWN_MEDIA": "InvalidURL",
    "KEY_NEEDED": "InvalidApiKey",
    "RATE_EXCEEDED": "Throttling.RateQuota",
    "QUEUE_FULL": "Throttling",
    "QUOTA_EXCEEDED": "Throttling.AllocationQuota",
    "PROMPT_REFUSED": "DataInspectionFailed",
    "NOT_ASYNC": "AccessDenied",
    "TASK_ENDED": "UnsupportedOperation",
}
CODES_BY_STATUS = {
    401: "InvalidApiKey",
    403: "AccessDenied",
    404: "ResourceNotFound",
    409: "Conflict",
    429: "Throttling",
}


async def synthesize(call: Call) -> Response:
    """POST /api/v1/services/aigc/video-generation/video-synthesis"""
    headers = call.request.headers
    if headers.get("x-dashscope-async", "").lower() != "enable":
        raise ApiError("PERMISSION_DENIED", "NOT_ASYNC", "X-DashScope-Async: has to be enable; only tasks are offered")
    body: schema.Synthesis = await read_model(call.request, schema.Synthesis)
    translated = translate(body, call.core.card)
    # A wish: most requests carry it, for it is the original's default.
    expand = bool(body.parameters.prompt_extend and call.core.settings.prompt_expansion_url)
    origin = {"api": "dashscope", "model": body.model}
    if expand and body.input.prompt is not None:
        origin["prompt"] = body.input.prompt[:5_000]
    options = Options(expand_prompt=expand, origin=origin, traceparent=headers.get("traceparent", "")[:128] or None)
    order = Order(translated.data, options, headers.get("idempotency-key", ""))
    try:
        job = await call.core.intake.submit(order, call.who)
    except Exception as error:
        raise with_fields(as_api_error(error), lambda name: _name(name, translated.names)) from error
    output = {"task_id": job.id, "task_status": STATUS[job.state]}
    return JSONResponse({"request_id": request_id(), "output": output})


async def fetch(call: Call) -> Response:
    """GET /api/v1/tasks/{task_id}"""
    try:
        job = await call.core.job(call.path["task_id"], call.who)
    except JobNotFound as error:
        found = render_error(as_api_error(error), {"task_id": call.path["task_id"], "task_status": "UNKNOWN"})
        return found
    return JSONResponse(task(job, await signing.video_address(call.core, job, base_url(call))))


async def cancel(call: Call) -> Response:
    """POST /api/v1/tasks/{task_id}/cancel"""
    job = await call.core.job(call.path["task_id"], call.who)
    if job.state.final:
        raise ApiError("FAILED_PRECONDITION", "TASK_ENDED", f"task_id: {job.id} is {STATUS[job.state]} already")
    await call.core.cancel(job.id, call.who)
    return JSONResponse({"request_id": request_id()})


async def list_tasks(call: Call) -> Response:
    """GET /api/v1/tasks"""
    query = call.request.query_params
    page_no = _number(query.get("page_no", "1"), "page_no", MAX_LISTED)
    page_size = _number(query.get("page_size", "10"), "page_size", MAX_PAGE_SIZE)
    status, wanted_model, key_id = query.get("status"), query.get("model_name"), query.get("api_key_id")
    if status is not None and status not in (*STATUS.values(), "UNKNOWN"):
        raise invalid_argument("status", f"{short(status)} is not one of {', '.join(STATUS.values())}, UNKNOWN")
    where = JobFilter(
        states=tuple(state for state, name in STATUS.items() if name == status),
        created_after=_time(query.get("start_time"), "start_time"),
        created_before=_time(query.get("end_time"), "end_time"),
    )
    jobs: list[Job] = []
    if status != "UNKNOWN":
        jobs = await call.core.jobs(call.who, page_size=MAX_LISTED, where=where)
    jobs = [job for job in jobs if wanted_model in (None, job.model, model_name(job)) and key_id in (None, job.key_id)]
    page = {
        "request_id": request_id(),
        "data": [listed(job) for job in jobs[(page_no - 1) * page_size : page_no * page_size]],
        "page_no": page_no,
        "page_size": page_size,
        "total": len(jobs),
        "total_page": -(-len(jobs) // page_size),
    }
    return JSONResponse(page)


def render_error(error: ApiError, output: dict[str, str] | None = None) -> Response:
    """``{"code", "message", "request_id"}``"""
    found = with_fields(error, lambda name: _name(name, PARAMETERS))
    status = found.http_status
    fallback = CODES_BY_STATUS.get(status, "InvalidParameter" if status < 500 else "InternalError")
    if status == 503:
        fallback = "ServiceUnavailable"
    body = {"request_id": request_id(), "code": CODES.get(found.reason, fallback), "message": found.message}
    return JSONResponse(body if output is None else {**body, "output": output}, status_code=status)


def _name(field: str, names: dict[str, str]) -> str:
    """As the request has it."""
    return names.get(field, names.get(field.partition(".")[0], field))


def _number(text: str, field: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= most):
        raise invalid_argument(field, f"{short(text)} is not within 1 to {most}")
    return int(text)


def _time(text: str | None, field: str) -> float | None:
    """Of the SDK's form, 20261122060400; UTC."""
    if text is None:
        return None
    try:
        return float(timegm(time.strptime(text, "%Y%m%d%H%M%S")))
    except (ValueError, OverflowError):
        raise invalid_argument(field, f"{short(text)} is no time such as 20261122060400") from None


SYNTHESIS = "/api/v1/services/aigc/{0}/video-synthesis"
TASK = "/api/v1/tasks/{task_id}"
FILTERS = (
    ("page_no", f"from 1; the newest {MAX_LISTED} tasks are listed"),
    ("page_size", f"1 to {MAX_PAGE_SIZE}"),
    ("status", ", ".join(STATUS.values())),
    ("model_name", "as the task was asked for"),
    ("api_key_id", "of the key that made it"),
    ("start_time", "created at or after, YYYYMMDDhhmmss, UTC"),
    ("end_time", "created before"),
)
ENDPOINTS = (
    *(
        Endpoint("POST", path, synthesize, "Make a video.", schema.Synthesis, answer=schema.Task)
        for path in (SYNTHESIS.format("video-generation"), SYNTHESIS.format("image2video"))
    ),
    Endpoint("GET", "/api/v1/tasks", list_tasks, "Tasks, newest first.", answer=schema.Tasks, query=FILTERS),
    Endpoint("GET", TASK, fetch, "A task.", answer=schema.Task),
    Endpoint("POST", f"{TASK}/cancel", cancel, "Cancel a task that is not done.", answer=schema.Canceled),
    Endpoint(
        "GET", "/api/v1/uploads", policy, "What it takes to upload a local file.", query=(("action", "getPolicy"),)
    ),
    Endpoint(
        "POST",
        "/api/v1/uploads/{policy}",
        upload,
        "Upload a file under a policy (multipart: key, file).",
        body_type="multipart/form-data",
        query=(("expires", "as the policy has it"), ("signature", "as the policy has it")),
        open=True,
    ),
    *signing.ENDPOINTS,
)
