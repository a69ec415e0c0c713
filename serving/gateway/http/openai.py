"""The OpenAI videos API over our jobs: the ``openai`` SDK works with ``OPENAI_BASE_URL=http://HOST:PORT/v1``.

What differs from the original: the extra fields that vLLM-Omni and SGLang take are taken too; DELETE also ends a video
that is not done, for the API has no other way to cancel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response

from model.tasks import InvalidRequest, Violation, short
from serving.api.names import MEDIA, OPERATIONS
from serving.gateway.core import JobNotFound, file_of
from serving.gateway.errors import ApiError, invalid_argument
from serving.gateway.http import openai_models as schema
from serving.gateway.http.base import (
    Call,
    Endpoint,
    FileResponse,
    file_response,
    parse,
    read_json,
    read_model,
    with_fields,
)
from serving.gateway.http.forms import add_upload, is_form, read_form
from serving.gateway.http.openai_models import poll_after_ms, video
from serving.gateway.intake import Order, UnknownModel
from serving.gateway.options import Options
from serving.jobs.job import Job, JobFilter

__all__ = ["ENDPOINTS", "render_error", "video"]

PAGE_SIZE = 20
MAX_PAGE_SIZE = 100
MAX_FORM_FILES = 5
NESTED = re.compile(r"(\w{1,64})\[(\w{0,64})\]")
# Our names of what the SDK's users call otherwise.
FIELDS = {
    "name": "video_id",
    "duration_seconds": "seconds",
    "frames": "num_frames",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "guidance_low": "guidance_scale_2",
    "image": "input_reference",
    "references": "input_reference",
    "request_id": "Idempotency-Key",
}
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {"UNKNOWN_MODEL": "model_not_found", "KEY_NEEDED": "invalid_api_key", "UNKNOWN_JOB": "video_not_found"}


async def create(call: Call) -> Response:
    """POST /v1/videos"""
    body, media = await _read(call, schema.CreateVideo, "input_reference")
    kinds = [kind for _, kind in media]
    sources = [source for source, _ in media]
    for i, reference in enumerate(body.input_reference):
        sources.append(_source(reference, f"input_reference.{i}"))
        kinds.append("image")
    if body.reference_url is not None:
        sources.append(_address(body.reference_url, "reference_url"))
        kinds.append("image")
    task: dict[str, Any] = {"kind": "text_to_video"}
    if len(sources) == 1 and kinds == ["image"] and "image_to_video" in call.core.card.tasks:
        task = {"kind": "image_to_video", "image": sources[0]}
    elif sources:
        task = {"kind": "reference_to_video", "references": sources}
    data = {"model": body.model, "size": _size(body), "duration_seconds": body.seconds, "frames": body.num_frames}
    return await _submit(call, body, task, {**data, "fps": body.fps})


async def remix(call: Call) -> Response:
    """POST /v1/videos/{video_id}/remix"""
    body = await read_model(call.request, schema.RemixVideo)
    job = await call.core.job(call.path["video_id"], call.who)
    return await _edit_job(call, body, job, "")


async def edit(call: Call) -> Response:
    """POST /v1/videos/edits"""
    body, media = await _read(call, schema.EditVideo, "video")
    if (body.video is None) == (not media):
        raise invalid_argument("video", "is not given, or twice: give either a file or the id of a completed video")
    if body.video is not None:
        return await _edit_job(call, body, await call.core.job(body.video.id, call.who), body.model)
    return await _submit(call, body, {"kind": "edit_video", "video": media[0][0]}, {"model": body.model})


async def _edit_job(call: Call, body: schema.Prompted, job: Job, model: str) -> Response:
    """A new video after a completed one: as that one was made, where the request does not say otherwise."""
    file_of(job)
    spec = job.spec
    data = {"model": model, "size": f"{spec['width']}x{spec['height']}", "fps": spec["fps"], "steps": spec["steps"]}
    task = {"kind": "edit_video", "video": OPERATIONS + job.id}
    kept = {field: spec.get(field) for field in ("guidance", "flow_shift", "fit")}  # older specs lack some
    return await _submit(call, body, task, {**data, **kept}, remixed_from=job.id)


async def _submit(
    call: Call, body: schema.Prompted, task: Mapping[str, Any], data: Mapping[str, Any], **origin: str
) -> Response:
    asked = {
        "seed": body.seed,
        "steps": body.num_inference_steps,
        "guidance": body.guidance_scale,
        "guidance_low": body.guidance_scale_2,
        "flow_shift": body.flow_shift,
        "fit": body.fit,
    }
    values = {**data, **{field: value for field, value in asked.items() if value is not None}}
    values = {field: value for field, value in values.items() if value is not None}
    values["task"] = {**task, "prompt": body.prompt, "negative_prompt": body.negative_prompt}
    headers = call.request.headers
    options = Options(origin={"api": "openai", **origin}, traceparent=headers.get("traceparent", "")[:128] or None)
    return _video(await call.core.intake.submit(Order(values, options, headers.get("idempotency-key", "")), call.who))


async def retrieve(call: Call) -> Response:
    """GET /v1/videos/{video_id}"""
    return _video(await call.core.job(call.path["video_id"], call.who))


async def list_videos(call: Call) -> Response:
    """GET /v1/videos"""
    query = call.request.query_params
    limit, order = query.get("limit", str(PAGE_SIZE)), query.get("order", "desc")
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= MAX_PAGE_SIZE):
        raise invalid_argument("limit", f"{short(limit)} is not within 1 to {MAX_PAGE_SIZE}")
    if order not in ("asc", "desc"):
        raise invalid_argument("order", f"{short(order)} is not one of asc, desc")
    after = await _job_named(call, query["after"]) if query.get("after") else None
    before = None if after is None else (after.created_at, after.id)
    jobs = await call.core.jobs(
        call.who, page_size=int(limit) + 1, where=JobFilter(), before=before, oldest_first=order == "asc"
    )
    data = [video(job) for job in jobs[: int(limit)]]
    ids = [item["id"] for item in data]
    page = {"object": "list", "data": data, "has_more": len(jobs) > int(limit)}
    return JSONResponse({**page, "first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None})


async def _job_named(call: Call, video_id: str) -> Job:
    try:
        return await call.core.job(video_id, call.who)
    except JobNotFound:
        raise invalid_argument("after", f"{short(video_id)} is not a known video") from None


async def delete(call: Call) -> Response:
    """DELETE /v1/videos/{video_id}"""
    job = await call.core.job(call.path["video_id"], call.who)
    if not job.state.final:
        job = await call.core.cancel(job.id, call.who)
    if job.state.final:
        await call.core.delete(job.id, call.who)
    return JSONResponse(schema.Deleted(id=job.id, deleted=job.state.final).model_dump())


async def content(call: Call) -> Response:
    """GET /v1/videos/{video_id}/content"""
    job = await call.core.job(call.path["video_id"], call.who)
    variant = call.request.query_params.get("variant", "video")
    if variant == "video":
        return file_response(call, job)
    if variant != "thumbnail":
        raise invalid_argument("variant", f"{short(variant)} is not offered; video and thumbnail are")
    picture = job.preview
    if picture is None:
        raise ApiError("NOT_FOUND", "NO_THUMBNAIL", f"variant: {job.id} has no thumbnail (yet); video is offered")
    headers = {"content-length": str(picture.size_bytes), "x-content-type-options": "nosniff"}
    return FileResponse(call.core.read(picture.key), headers=headers, media_type=picture.mime_type)


async def model(call: Call) -> Response:
    """GET /v1/models/{model}"""
    if call.path["model"] != call.core.card.name:
        raise UnknownModel(call.path["model"], [call.core.card.name])
    return JSONResponse(_model(call))


def _model(call: Call) -> dict[str, Any]:
    return {"id": call.core.card.name, "object": "model", "created": 0, "owned_by": "zoetrope"}


def _video(job: Job) -> Response:
    headers = {} if job.state.final else {"openai-poll-after-ms": str(poll_after_ms(job))}
    return JSONResponse(video(job), headers=headers)


def _size(body: schema.CreateVideo) -> str | None:
    if body.width is None and body.height is None:
        return body.size
    if body.size is not None or body.width is None or body.height is None:
        raise invalid_argument("size", "give either size, or both width and height")
    return f"{body.width}x{body.height}"


def _source(reference: schema.Reference, field: str) -> str:
    """As the intake names media."""
    if (reference.image_url is None) == (reference.file_id is None):
        raise invalid_argument(field, "give either image_url or file_id")
    if reference.image_url is not None:
        return _address(reference.image_url, f"{field}.image_url")
    return f"{MEDIA}{reference.file_id}"


def _address(url: str, field: str) -> str:
    if not url.startswith(("http://", "https://", "data:")):
        raise invalid_argument(field, f"{short(url)} is no http, https or data address")
    return url


async def _read(call: Call, form_of: type[BaseModel], file_field: str) -> tuple[Any, list[tuple[str, str]]]:
    """A JSON object or a form: the body, and the files of that field as (medium, its kind), which are kept."""
    if not is_form(call):
        return parse(form_of, await read_json(call.request)), []
    values: dict[str, Any] = {}
    files: list[UploadFile] = []
    async with read_form(call, max_files=MAX_FORM_FILES) as form:
        for name, value in form.multi_items():
            if isinstance(value, str):
                _put(values, name, value)
            elif name.removesuffix("[]") == file_field:
                files.append(value)
            else:
                raise invalid_argument(short(name), f"is a file; files come as {file_field}")
        body = parse(form_of, values)
        return body, [await _keep(call, file, file_field) for file in files]


async def _keep(call: Call, upload: UploadFile, field: str) -> tuple[str, str]:
    try:
        medium = await add_upload(call, upload)
    except InvalidRequest as error:
        raise InvalidRequest(*(Violation(field, violation.description) for violation in error.violations)) from None
    if (medium.mime_type or "").startswith("image/"):
        return MEDIA + medium.id, "image"  # of one that moves, its first frame
    return MEDIA + medium.id, str((medium.info or {}).get("kind"))


def _put(values: dict[str, Any], name: str, value: str) -> None:
    """A form's field; ``a[b]`` is the field b of the object a."""
    nested = NESTED.fullmatch(name)
    if nested is None:
        target, key = values, name
    else:
        target, key = values.setdefault(nested[1], {}), nested[2]
    if not isinstance(target, dict) or key in target:
        raise invalid_argument(short(name), "is given twice")
    target[key] = value


def render_error(error: ApiError) -> Response:
    """``{"error": {"message", "type", "param", "code"}}``"""
    found = with_fields(error, _field)
    status = found.http_status
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    body = {
        "message": found.message,
        "type": kind,
        "param": found.violations[0].field if found.violations else None,
        "code": CODES.get(found.reason, found.reason.lower()),
    }
    return JSONResponse({"error": body}, status_code=status)


def _field(name: str) -> str:
    head, dot, rest = name.partition(".")
    if head == "references":
        return "input_reference"
    return FIELDS.get(head, head) + dot + rest


PAGING = (
    ("after", "id of the last video of the page before"),
    ("limit", f"1 to {MAX_PAGE_SIZE}"),
    ("order", "asc or desc by creation time"),
)
VIDEO = "/v1/videos/{video_id}"
FORM = "multipart/form-data"
ENDPOINTS = (
    Endpoint("POST", "/v1/videos", create, "Make a video; JSON too.", schema.CreateVideo, FORM, schema.Video),
    Endpoint("GET", "/v1/videos", list_videos, "Videos, newest first.", answer=schema.VideoList, query=PAGING),
    Endpoint("POST", "/v1/videos/edits", edit, "Change a video; JSON too.", schema.EditVideo, FORM, schema.Video),
    Endpoint("GET", VIDEO, retrieve, "A video.", answer=schema.Video),
    Endpoint("DELETE", VIDEO, delete, "Delete a video; one that is not done is cancelled.", answer=schema.Deleted),
    Endpoint(
        "GET",
        f"{VIDEO}/content",
        content,
        "The file of a completed video; honours Range.",
        answer_type="*/*",
        query=(("variant", "video or thumbnail"),),
    ),
    Endpoint("POST", f"{VIDEO}/remix", remix, "Change a completed video.", schema.RemixVideo, answer=schema.Video),
    # GET /v1/models is also Replicate's: see there.
    Endpoint("GET", "/v1/models/{model}", model, "A model that is served.", answer=schema.Model),
)
