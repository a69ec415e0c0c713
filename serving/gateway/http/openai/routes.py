"""Routes of OpenAI's videos API.

Differences from the original: the extra fields of vLLM-Omni and SGLang are accepted too; DELETE also ends a video that
is not done, for the API has no other way to cancel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response

from zoetrope.model.request.schema_errors import short
from zoetrope.model.request.tasks import InvalidRequest, Violation
from zoetrope.serving.api.names import MEDIA, OPERATIONS
from zoetrope.serving.gateway.core.core import JobNotFound, file_of
from zoetrope.serving.gateway.errors.api_error import ApiError, invalid_argument
from zoetrope.serving.gateway.http.common.bodies import read_json
from zoetrope.serving.gateway.http.common.calls import CurrentCall, HttpCall
from zoetrope.serving.gateway.http.common.files import file_response, preview_response
from zoetrope.serving.gateway.http.common.forms import add_upload, is_form, read_form
from zoetrope.serving.gateway.http.common.json_objects import parse
from zoetrope.serving.gateway.http.common.routes import FILE, api_router, form_of
from zoetrope.serving.gateway.http.openai import schema
from zoetrope.serving.gateway.http.openai.api import OPENAI
from zoetrope.serving.gateway.http.openai.peer_fields import check_fixed, take_peer_fields, unfold
from zoetrope.serving.gateway.http.openai.schema import poll_after_ms, video
from zoetrope.serving.gateway.submit.media import MediaNotFound
from zoetrope.serving.gateway.submit.options import Options
from zoetrope.serving.gateway.submit.submission import Submission, UnknownModel
from zoetrope.serving.jobs.job import Job, JobFilter
from zoetrope.serving.jobs.media_table import Media

PAGE_SIZE = 20
MAX_PAGE_SIZE = 100
MAX_FORM_FILES = 5
KEPT = ("guidance", "flow_shift", "fit", "sampler", "quality", "guidance_start", "guidance_end", "loras")
NESTED = re.compile(r"(\w{1,64})\[(\w{0,64})\]")
VIDEO = "/v1/videos/{video_id}"
P = TypeVar("P", bound=schema.Prompted)
router = api_router(OPENAI.name, OPENAI.errors)


@dataclass(frozen=True)
class _Medium:
    """A picture or clip that a request names. ``name``: media/ID, or an http, https or data URL."""

    name: str
    kind: str  # "image", "clip", or of another file what it is


@dataclass(frozen=True)
class _Taken(Generic[P]):
    """A body, the files that came with it, and what the job should say of fields without effect."""

    body: P
    media: list[_Medium] = field(default_factory=list)
    warnings: tuple[str, ...] = ()


@router.post(
    "/v1/videos",
    summary="Make a video; JSON too.",
    response_model=schema.Video,
    openapi_extra=form_of(schema.CreateVideo),
)
async def create(call: CurrentCall) -> Response:
    taken = await _read(call, schema.CreateVideo, ("input_reference", "input_references"))
    body, media = taken.body, taken.media
    for name in ("input_reference", "input_references", "image_reference"):
        for i, picture in enumerate(getattr(body, name)):
            media.append(await _medium(call, picture.file_id, picture.image_url, f"{name}.{i}", "image"))
    for i, clip in enumerate(body.video_reference):
        media.append(await _medium(call, clip.file_id, clip.video_url, f"video_reference.{i}", "clip"))
    for name, kind in (("reference_url", "image"), ("video_url", "clip")):
        if (url := getattr(body, name)) is not None:
            media.append(_Medium(_address(url, name), kind))
    task: dict[str, Any] = {"kind": "text_to_video"}
    named = call.models.find(body.model)
    if [medium.kind for medium in media] == ["image"] and "image_to_video" in (named or call.models).tasks:
        task = {"kind": "image_to_video", "image": media[0].name}
    elif media:
        task = {"kind": "reference_to_video", "references": [medium.name for medium in media]}
    if body.seconds is not None and body.duration is not None:
        raise invalid_argument("duration", f"{body.duration:g} given beside seconds, which is the same")
    data = {
        "model": body.model,
        "size": _size(body),
        "ratio": body.aspect_ratio,
        "duration_seconds": body.duration if body.seconds is None else body.seconds,
        "frames": body.num_frames,
        "fps": body.fps,
        "generate_audio": (body.generate_audio or body.generate_sound) or None,
    }
    return await _submit(call, taken, task, data)


@router.post(f"{VIDEO}/remix", summary="Change a completed video.", response_model=schema.Video)
async def remix(call: CurrentCall, video_id: str, body: schema.RemixVideo) -> Response:
    return await _edit_job(call, _Taken(body), await call.core.job(video_id, call.who), "")


@router.post(
    "/v1/videos/edits",
    summary="Change a video; JSON too.",
    response_model=schema.Video,
    openapi_extra=form_of(schema.EditVideoRequest),
)
async def edit(call: CurrentCall) -> Response:
    taken = await _read(call, schema.EditVideoRequest, ("video",))
    body, media = taken.body, taken.media
    if (body.video is None) == (not media):
        raise invalid_argument("video", "is not given, or twice: give either a file or the id of a completed video")
    if body.video is not None:
        return await _edit_job(call, taken, await call.core.job(body.video.id, call.who), body.model)
    return await _submit(call, taken, {"kind": "edit_video", "video": media[0].name}, {"model": body.model})


async def _edit_job(call: HttpCall, taken: _Taken[Any], job: Job, model: str) -> Response:
    """Make a new video from a completed one, as that one was made unless the request says otherwise."""
    file_of(job)
    spec = job.spec
    data = {"model": model, "size": f"{spec['width']}x{spec['height']}", "fps": spec["fps"], "steps": spec["steps"]}
    task = {"kind": "edit_video", "video": OPERATIONS + job.id}
    kept = {field: spec.get(field) for field in KEPT}  # older specs lack some
    return await _submit(call, taken, task, {**data, **kept}, remixed_from=job.id)


async def _submit(
    call: HttpCall, taken: _Taken[Any], task: Mapping[str, Any], data: Mapping[str, Any], **origin: str
) -> Response:
    body: schema.Prompted = taken.body
    asked = {
        "seed": body.seed,
        "steps": body.num_inference_steps,
        "guidance": body.guidance_scale,
        "guidance_low": body.guidance_scale_2,
        "flow_shift": body.flow_shift,
        "sampler": body.sampler,
        "quality": body.quality,
        "guidance_start": body.guidance_start,
        "guidance_end": body.guidance_end,
        "loras": [lora.model_dump() for lora in body.loras] or None,
        "fit": body.fit,
    }
    values = {**data, **{field: value for field, value in asked.items() if value is not None}}
    values = {field: value for field, value in values.items() if value is not None}
    values["task"] = {**task, "prompt": body.prompt, "negative_prompt": body.negative_prompt}
    models = call.models
    card = models.find(values.get("model", "")) or models.of_task((task["kind"],)) or models.default
    headers = call.request.headers
    options = Options(
        origin={"api": OPENAI.name, **origin},
        expand_prompt=bool(body.enhance_prompt),
        traceparent=headers.get("traceparent", "")[:128] or None,
    )
    submission = Submission(
        values,
        options,
        headers.get("idempotency-key", ""),
        found=check_fixed(card, body.boundary_ratio, body.max_sequence_length),
        warnings=taken.warnings,
    )
    return await _video(call, await call.core.submitter.submit(submission, call.who))


@router.get("/v1/videos", summary="Videos, newest first.", response_model=schema.VideoList)
async def list_videos(
    call: CurrentCall,
    after: Annotated[str, Query(description="id of the last video of the page before")] = "",
    limit: Annotated[str, Query(description=f"1 to {MAX_PAGE_SIZE}")] = str(PAGE_SIZE),
    order: Annotated[str, Query(description="asc or desc by creation time")] = "desc",
) -> Response:
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= MAX_PAGE_SIZE):
        raise invalid_argument("limit", f"{short(limit)} must be from 1 to {MAX_PAGE_SIZE}")
    if order not in ("asc", "desc"):
        raise invalid_argument("order", f"{short(order)} is not one of asc, desc")
    last = await _job_named(call, after) if after else None
    before = None if last is None else (last.created_at, last.id)
    jobs = await call.core.jobs(
        call.who, page_size=int(limit) + 1, where=JobFilter(), before=before, oldest_first=order == "asc"
    )
    data = [video(job) for job in jobs[: int(limit)]]
    ids = [item["id"] for item in data]
    page = {"object": "list", "data": data, "has_more": len(jobs) > int(limit)}
    return JSONResponse({**page, "first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None})


async def _job_named(call: HttpCall, video_id: str) -> Job:
    try:
        return await call.core.job(video_id, call.who)
    except JobNotFound:
        raise invalid_argument("after", f"{short(video_id)} is not a known video") from None


@router.get(VIDEO, summary="A video.", response_model=schema.Video)
async def retrieve(call: CurrentCall, video_id: str) -> Response:
    return await _video(call, await call.core.job(video_id, call.who))


@router.delete(VIDEO, summary="Delete a video; one that is not done is cancelled.", response_model=schema.Deleted)
async def delete(call: CurrentCall, video_id: str) -> Response:
    job = await call.core.job(video_id, call.who)
    if not job.state.final:
        job = await call.core.cancel(job.id, call.who)
    if job.state.final:
        await call.core.delete(job.id, call.who)
    return JSONResponse(schema.Deleted(id=job.id, deleted=job.state.final).model_dump())


@router.get(f"{VIDEO}/content", summary="The file of a completed video; honours Range.", **FILE)
async def content(
    call: CurrentCall, video_id: str, variant: Annotated[str, Query(description="video or thumbnail")] = "video"
) -> Response:
    job = await call.core.job(video_id, call.who)
    if variant == "video":
        return file_response(call, job)
    if variant != "thumbnail":
        raise invalid_argument("variant", f"{short(variant)} is not made here; video and thumbnail are offered")
    picture = job.preview
    if picture is None:
        raise ApiError("NOT_FOUND", "NO_THUMBNAIL", f"variant: {job.id} has no thumbnail (yet); video is offered")
    return preview_response(call, picture, {"content-length": str(picture.size_bytes)})


# GET /v1/models is Replicate's too: see there.
@router.get("/v1/models/{model}", summary="A model that is served.", response_model=schema.OpenAIModel)
async def get_model(call: CurrentCall, model: str) -> Response:
    served = call.models.names
    if model not in served:
        raise UnknownModel(model, served)
    return JSONResponse(schema.OpenAIModel(id=model, created=0, owned_by="zoetrope").model_dump())


@router.get("/v1/model_info", summary="The first served model, as SGLang's clients ask for it.")
async def model_info(call: CurrentCall) -> schema.SglangModelInfo:
    card = call.models.default
    tasks = [schema.TASK_TYPES[task] for task in card.tasks if task in schema.TASK_TYPES]
    both = "T2V" in tasks and "I2V" in tasks
    return schema.SglangModelInfo(
        model_path=card.name, task_type="TI2V" if both else next(iter(tasks), None), supported_task_types=tasks
    )


async def _video(call: HttpCall, job: Job) -> Response:
    headers = {}
    if not job.state.final:
        ahead = await call.core.watcher.outlook(job)
        headers["openai-poll-after-ms"] = str(poll_after_ms(job, ahead.eta_seconds))
    return JSONResponse(video(job), headers=headers)


def _size(body: schema.CreateVideo) -> str | None:
    if body.width is None and body.height is None:
        return body.size or None
    if body.size or body.width is None or body.height is None:
        raise invalid_argument("size", "give either size, or both width and height")
    return f"{body.width}x{body.height}"


async def _medium(call: HttpCall, file_id: str | None, url: str | None, field: str, kind: str) -> _Medium:
    """Name a medium as submissions do.

    Args:
        kind: what an address leads to, "image" or "clip"; of a file that was uploaded it is known.
    """
    url_field = "image_url" if kind == "image" else "video_url"
    if file_id is not None and url is None:
        try:
            return _known(await call.core.client_media.get(call.who.owner, file_id))
        except MediaNotFound:
            raise MediaNotFound(field, file_id) from None
    if url is None or file_id is not None:
        raise invalid_argument(field, f"give either {url_field} or file_id")
    return _Medium(_address(url, f"{field}.{url_field}"), kind)


def _known(medium: Media) -> _Medium:
    if (medium.mime_type or "").startswith("image/"):
        return _Medium(MEDIA + medium.id, "image")  # of one that moves, its first frame
    return _Medium(MEDIA + medium.id, str((medium.info or {}).get("kind")))


def _address(url: str, field: str) -> str:
    if not url.startswith(("http://", "https://", "data:")):
        raise invalid_argument(field, f"{short(url)} must be an http, https or data URL")
    return url


async def _read(call: HttpCall, model: type[P], file_fields: Sequence[str]) -> _Taken[P]:
    """Read a JSON object or a form, whose files of those fields are kept."""
    if not is_form(call):
        taken = await take_peer_fields(await read_json(call.request), model.model_fields)
        return _Taken(parse(model, taken.values), warnings=taken.warnings)
    values: dict[str, Any] = {}
    files: list[tuple[str, UploadFile]] = []
    async with read_form(call, max_files=MAX_FORM_FILES) as form:
        for name, value in form.multi_items():
            field = name.removesuffix("[]")
            if isinstance(value, str):
                _put(values, name, await unfold(field, value) if field in schema.OBJECTS else value)
            elif field in file_fields:
                files.append((field, value))
            else:
                raise invalid_argument(short(name), f"is a file; files come as {file_fields[0]}")
        taken = await take_peer_fields(values, model.model_fields)
        body = parse(model, taken.values)
        return _Taken(body, [await _keep(call, file, field) for field, file in files], taken.warnings)


async def _keep(call: HttpCall, upload: UploadFile, field: str) -> _Medium:
    try:
        return _known(await add_upload(call, upload))
    except InvalidRequest as error:
        raise InvalidRequest(*(Violation(field, violation.description) for violation in error.violations)) from None


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    """Add a form's field; ``a[b]`` is the field b of the object a."""
    nested = NESTED.fullmatch(name)
    if nested is None:
        target, key = values, name
    else:
        target, key = values.setdefault(nested[1], {}), nested[2]
    if not isinstance(target, dict) or key in target:
        raise invalid_argument(short(name), "is given twice")
    target[key] = value
