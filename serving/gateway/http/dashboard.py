"""The dashboard: one page, and the few endpoints that it reads."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from model.tasks import Fit, Seed
from serving.gateway.errors import ApiError
from serving.gateway.http.base import Call, Endpoint, FileResponse, file_response, read_model
from serving.gateway.intake import Order
from serving.gateway.options import Options
from serving.gateway.watching import Outlook
from serving.jobs.job import Job, JobFilter, State

RECENT = 30  # jobs that the page shows
PAGE = files("serving.gateway.http").joinpath("static/dashboard.html").read_text(encoding="utf-8")


def _hash_of(tag: str) -> str:
    """Of the page's own script or style, the only ones that the browser may run (Content Security Policy)."""
    found = re.search(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    assert found is not None, f"the page has no <{tag}>"
    return "'sha256-" + base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode() + "'"


HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; script-src {_hash_of('script')}; style-src {_hash_of('style')}; connect-src 'self';"
        " img-src 'self' blob: data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class NewVideo(BaseModel):
    """What the page's form asks for."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    negative_prompt: str | None = None
    size: str | None = None
    ratio: str | None = None
    fit: Fit | None = None
    duration_seconds: float | None = None
    steps: int | None = None
    seed: Seed | None = None
    image: str | None = Field(default=None, description="a picture to start with, as a data: address")


async def page(call: Call) -> Response:
    return HTMLResponse(PAGE, headers=HEADERS)


async def home(call: Call) -> Response:
    return RedirectResponse("/dashboard", 307)


async def state(call: Call) -> Response:
    """All that the page shows, in one answer."""
    core = call.core
    jobs = await core.jobs(call.who, page_size=RECENT, where=JobFilter())
    ahead = await core.watching.outlooks(jobs)
    engines = await asyncio.to_thread(core.liveness.engines)
    counts = await asyncio.to_thread(core.stores.jobs.counts)
    return JSONResponse(
        {
            "model": core.card.name,
            "tasks": core.card.tasks,
            "default_size": core.card.default_size,
            "tenant": call.who.owner,
            "queued": counts.get("queued", 0),
            "running": counts.get("running", 0),
            "engines": [
                {"id": engine.id, "ranks": engine.ranks, "gang_epoch": engine.gang_epoch} for engine in engines
            ],
            "jobs": [job_view(job, outlook) for job, outlook in zip(jobs, ahead, strict=True)],
        },
        headers={"cache-control": "no-store"},
    )


def job_view(job: Job, ahead: Outlook) -> dict[str, Any]:
    task = job.spec["task"]
    return {
        "id": job.id,
        "state": str(job.state),
        "stage": None if job.stage is None else str(job.stage),
        "task": task["kind"],
        "prompt": task["prompt"],
        "size": f"{job.spec['width']}x{job.spec['height']}",
        "step": job.step,
        "steps": job.steps,
        "queue_position": ahead.queue_position,
        "eta_seconds": ahead.eta_seconds,
        "notice": ahead.notice,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "expire_at": job.expire_at,
        "cancel_requested": job.cancel_requested,
        "error": job.error_message,
        "warnings": job.warnings,
        "preview": None if job.preview is None else job.preview.step,
        "video": job.state is State.SUCCEEDED,
    }


async def create(call: Call) -> Response:
    wanted: NewVideo = await read_model(call.request, NewVideo)
    task: dict[str, Any] = {
        "kind": "text_to_video",
        "prompt": wanted.prompt,
        "negative_prompt": wanted.negative_prompt,
    }
    if wanted.image is not None:
        task |= {"kind": "image_to_video", "image": wanted.image}
    fields = wanted.model_dump(exclude={"prompt", "negative_prompt", "image"}, exclude_none=True)
    order = Order({"task": task, **fields}, Options(origin={"api": "dashboard"}))
    job = await call.core.intake.submit(order, call.who)
    return JSONResponse(job_view(job, await call.core.watching.outlook(job)), status_code=201)


async def cancel(call: Call) -> Response:
    job = await call.core.cancel(call.path["job_id"], call.who)
    return JSONResponse(job_view(job, Outlook(0, None)))


async def delete(call: Call) -> Response:
    await call.core.delete(call.path["job_id"], call.who)
    return Response(status_code=204)


async def preview(call: Call) -> Response:
    job = await call.core.job(call.path["job_id"], call.who)
    if job.preview is None:
        raise ApiError("NOT_FOUND", "NO_PREVIEW", f"{job.id} has no preview yet")
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return FileResponse(call.core.read(job.preview.key), headers=headers, media_type=job.preview.mime_type)


async def video(call: Call) -> Response:
    return file_response(call, await call.core.job(call.path["job_id"], call.who))


def render_error(error: ApiError) -> Response:
    fields = {violation.field: violation.description for violation in error.violations}
    body = {"error": error.message, "reason": error.reason, "fields": fields}
    return JSONResponse(body, status_code=error.http_status)


ENDPOINTS = (
    Endpoint("GET", "/", home, "Leads to the dashboard.", status=307, answer_type="text/html", open=True),
    Endpoint("GET", "/dashboard", page, "The dashboard.", answer_type="text/html", open=True),
    Endpoint("GET", "/dashboard/state", state, "What the dashboard shows."),
    Endpoint("POST", "/dashboard/jobs", create, "Create a video.", body=NewVideo, status=201),
    Endpoint("POST", "/dashboard/jobs/{job_id}/cancel", cancel, "Cancel a job."),
    Endpoint("DELETE", "/dashboard/jobs/{job_id}", delete, "Delete a job that is done.", status=204),
    Endpoint("GET", "/dashboard/jobs/{job_id}/preview", preview, "A clip in the making.", answer_type="image/webp"),
    Endpoint("GET", "/dashboard/jobs/{job_id}/video", video, "A finished video or picture.", answer_type="*/*"),
)
