"""The dashboard's routes."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import Query
from starlette.datastructures import UploadFile
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from zoetrope.model.request.tasks import InvalidRequest, VideoRequest, Violation
from zoetrope.serving.gateway.core.error_mapping import as_api_error
from zoetrope.serving.gateway.core.overview import overview
from zoetrope.serving.gateway.errors.api_error import ApiError, invalid_argument, with_fields
from zoetrope.serving.gateway.http.common.calls import CurrentCall, HttpCall
from zoetrope.serving.gateway.http.common.compatibility import ErrorFormat
from zoetrope.serving.gateway.http.common.files import file_response, media_response, preview_response
from zoetrope.serving.gateway.http.common.forms import add_upload, read_form
from zoetrope.serving.gateway.http.common.routes import FILE, AsciiResponse, api_router, form_of
from zoetrope.serving.gateway.http.common.signed_urls import signer
from zoetrope.serving.gateway.http.common.signing import Signer
from zoetrope.serving.gateway.http.dashboard import schema
from zoetrope.serving.gateway.http.dashboard.listing import PAGE_SIZE, page_of_jobs
from zoetrope.serving.gateway.http.dashboard.page import HEADERS, PAGE
from zoetrope.serving.gateway.http.dashboard.views import (
    engine_view,
    file_view,
    job_details,
    job_view,
    model_form,
    queue_view,
)
from zoetrope.serving.gateway.submit.options import Options
from zoetrope.serving.gateway.submit.submission import Submission, UnknownModel
from zoetrope.serving.gateway.watch.outlook import Outlook
from zoetrope.serving.jobs.job import EngineRow, Job

NO_STORE = {"cache-control": "no-store"}
OF_A_VIDEO = set(VideoRequest.model_fields) - {"task"}  # the other fields of a form are its task's
LINK_HOURS = 24


def render_error(error: ApiError) -> tuple[int, dict[str, Any]]:
    """Return the status, and the message with the fields at fault."""
    fields = {violation.field: violation.description for violation in error.violations}
    return error.http_status, {"error": error.message, "reason": error.reason, "fields": fields}


ERRORS = ErrorFormat(render_error, schema.DashboardError)
JOB = "/dashboard/jobs/{job_id}"
pages = api_router("dashboard", ERRORS, needs_key=False)
router = api_router("dashboard", ERRORS)
ROUTERS = (pages, router)


@pages.get("/dashboard", summary="The dashboard.", response_class=HTMLResponse)
async def page() -> Response:
    return HTMLResponse(PAGE, headers=HEADERS)


@pages.get("/", summary="Leads to the dashboard.", status_code=307, response_class=HTMLResponse)
async def home() -> Response:
    return RedirectResponse("/dashboard", 307)


@router.get("/dashboard/model", summary="What the form offers for a served model.", response_model=schema.ModelForm)
async def model(
    call: CurrentCall, name: Annotated[str, Query(description="of the model; the first one by default")] = ""
) -> Response:
    card = call.models.find(name) if name else call.models.default
    if card is None:
        raise UnknownModel(name, call.models.names)
    return JSONResponse(model_form(card, call.core.settings).model_dump(), headers=NO_STORE)


@router.get("/dashboard/state", summary="What the dashboard shows.", response_model=schema.DashboardState)
async def state(
    call: CurrentCall,
    filter: Annotated[str, Query(description="as of ListOperations: state=failed AND task=edit_video")] = "",
    search: Annotated[str, Query(description="words of the prompt as they stand there, or of the id")] = "",
    page_size: Annotated[int, Query(description=f"0: {PAGE_SIZE}")] = 0,
    page_token: Annotated[str, Query(description="next_page_token of the page before")] = "",
) -> Response:
    core = call.core
    found = await page_of_jobs(call, filter=filter, search=search, size=page_size, token=page_token)
    ahead = await core.watcher.outlooks(list(found.jobs))
    counts = await asyncio.to_thread(core.stores.jobs.counts)
    sign = await signer(core)
    links = [_download(sign, job) for job in found.jobs]
    return AsciiResponse(
        {
            "models": [card.name for card in call.models],
            "tasks": call.models.tasks,
            "default_size": call.models.default.default_size,
            "tenant": call.who.owner,
            "queued": counts.get("queued", 0),
            "running": counts.get("running", 0),
            "engines": await _engines(call),
            "jobs": [job_view(*item) for item in zip(found.jobs, ahead, links, strict=True)],
            "next_page_token": found.next_token,
            "searched_to": found.searched_to,
        },
        headers=NO_STORE,
    )


async def _engines(call: HttpCall) -> list[dict[str, Any]]:
    engines: list[EngineRow] = await call.core.liveness.seen()
    ids = sorted({job_id for engine in engines for job_id in engine.jobs})
    jobs = await asyncio.to_thread(call.core.stores.jobs.get_many, ids) if ids else {}
    return [engine_view(engine, jobs, call.who).model_dump() for engine in engines]


@router.get("/dashboard/queue", summary="What waits for the engines.", response_model=schema.DashboardQueue)
async def queue(call: CurrentCall) -> Response:
    return AsciiResponse(queue_view(await overview(call.core, call.who)).model_dump(), headers=NO_STORE)


@router.post("/dashboard/jobs", summary="Create a video.", status_code=201, response_model=schema.JobView)
async def create(call: CurrentCall, body: schema.NewVideo) -> Response:
    given = body.model_dump(exclude_none=True)
    kind = given.pop("task", "text_to_video" if body.image is None else "image_to_video")
    fields = {name: given.pop(name) for name in OF_A_VIDEO & given.keys()}
    task = {"kind": kind, "prompt": "", **given}
    submission = Submission({"task": task, **fields}, Options(origin={"api": "dashboard"}))
    try:
        job = await call.core.submitter.submit(submission, call.who)
    except InvalidRequest as error:  # the task's fields stand beside the others here
        found = (Violation(v.field.removeprefix("task."), v.description) for v in error.violations)
        raise InvalidRequest(*found) from None
    return AsciiResponse(job_view(job, await call.core.watcher.outlook(job)), 201)


@router.get(JOB, summary="A job, and the request that makes the same again.", response_model=schema.JobDetails)
async def details(call: CurrentCall, job_id: str) -> Response:
    job = await call.core.job(job_id, call.who)
    ahead = await call.core.watcher.outlook(job)
    download = _download(await signer(call.core), job)
    card = call.core.models.find(job.model) or call.core.models.default
    return AsciiResponse(job_details(job, ahead, card, download), headers=NO_STORE)


def _download(signed_by: Signer, job: Job) -> str | None:
    """Return where the page's link leads: the same for an hour, so that a card that is read again has not changed."""
    if job.result is None:
        return None
    return signed_by.video_path(job.id, (int(time.time()) // 3_600 + LINK_HOURS) * 3_600)


@router.post(f"{JOB}/cancel", summary="Cancel a job.", response_model=schema.JobView)
async def cancel(call: CurrentCall, job_id: str) -> Response:
    job = await call.core.cancel(job_id, call.who)
    return AsciiResponse(job_view(job, Outlook(0, None)))


@router.delete(JOB, summary="Delete a job that is done.", status_code=204)
async def delete(call: CurrentCall, job_id: str) -> Response:
    await call.core.delete(job_id, call.who)
    return Response(status_code=204)


@router.get(f"{JOB}/preview", summary="A clip in the making, as WebP.", **FILE)
async def preview(call: CurrentCall, job_id: str) -> Response:
    job = await call.core.job(job_id, call.who)
    if job.preview is None:
        raise ApiError("NOT_FOUND", "NO_PREVIEW", f"{job.id} has no preview yet")
    return preview_response(call, job.preview, NO_STORE)


@router.get(f"{JOB}/video", summary="A finished video or picture.", **FILE)
async def video(call: CurrentCall, job_id: str) -> Response:
    return file_response(call, await call.core.job(job_id, call.who))


@router.post(
    "/dashboard/files",
    summary="Upload a picture, a clip or a sound to use as an input.",
    status_code=201,
    response_model=schema.FileView,
    openapi_extra=form_of(schema.DashboardUpload),
)
async def upload(call: CurrentCall) -> Response:
    async with read_form(call, max_files=1) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise invalid_argument("file", "is missing, or not a file")
        try:
            media = await add_upload(call, file)
        except Exception as error:
            raise with_fields(as_api_error(error), lambda name: "file") from None
    return AsciiResponse(file_view(media), 201)


@router.get("/dashboard/files/{file_id}", summary="What an upload is.", response_model=schema.FileView)
async def file_details(call: CurrentCall, file_id: str) -> Response:
    return AsciiResponse(file_view(await call.core.client_media.ready(call.who.owner, file_id)))


@router.get("/dashboard/files/{file_id}/content", summary="An upload; honours Range.", **FILE)
async def file_content(call: CurrentCall, file_id: str) -> Response:
    return media_response(call, await call.core.client_media.ready(call.who.owner, file_id))
