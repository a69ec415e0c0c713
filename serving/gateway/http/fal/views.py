"""Jobs as requests of fal's queue. Pure functions, for webhooks are rendered elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from zoetrope.serving.gateway.http.common.signing import Signer
from zoetrope.serving.gateway.http.fal import schema
from zoetrope.serving.gateway.http.replicate.views import iso_time
from zoetrope.serving.gateway.http.replicate.views import logs as log_text
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.jobs.usage import usage_of

API = "fal"
OWN = "zoetrope"  # owner of the app that is the served model
FAILED = "internal_server_error"
# google.rpc codes of failed jobs, as fal calls them, and the status of their results.
FAILURES = {
    "INVALID_ARGUMENT": ("invalid_input", 422),
    "DEADLINE_EXCEEDED": ("generation_timeout", 500),  # 504 would be asked for again
}
CANCELLED = ("client_cancelled", 499)
# Where what a request consists of stands, if not in its body.
TIMEOUT, PRIORITY, LIFECYCLE = "X-Fal-Request-Timeout", "X-Fal-Queue-Priority", "X-Fal-Object-Lifecycle-Preference"
IDEMPOTENCY_KEY, WEBHOOK, LOGS = "Idempotency-Key", "fal_webhook", "logs"
TARGET = "x-fal-target-url"
HEADERS, QUERY = (TIMEOUT, PRIORITY, LIFECYCLE, IDEMPOTENCY_KEY, TARGET), (WEBHOOK, LOGS)
PLACES = dict.fromkeys(HEADERS, "header") | dict.fromkeys(QUERY, "query")
INDEX = re.compile(r"[0-9]{1,6}")


def fields_at_fault(found: Iterable[tuple[str, str]], kind: str) -> list[dict[str, Any]]:
    """List fields with what is wrong, each with the place where it stands: the body, the query or the headers."""
    errors = []
    for field, description in found:
        place = PLACES.get(field, "body")
        path = [int(part) if INDEX.fullmatch(part) else part for part in field.split(".") if field != "body"]
        errors.append(schema.FieldError(loc=[place, *path], msg=description, type=kind).model_dump())
    return errors


def place_of(job: Job) -> str:
    """Return the first two parts of the app that a job was made by; those of the served model for other APIs' jobs."""
    app = str(job.origin.get("app") or f"{OWN}/{job.model}")
    return "/".join(app.split("/")[:2])


def urls(job: Job, base_url: str) -> dict[str, str]:
    url = f"{base_url}/{place_of(job)}/requests/{job.id}"
    return {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}


def enqueued(job: Job, base_url: str, position: int) -> dict[str, Any]:
    """Show a job that was just made."""
    ids = {"request_id": job.id, "gateway_request_id": job.id}
    return schema.Enqueued.model_validate({**ids, **urls(job, base_url), "queue_position": position}).model_dump()


def status(job: Job, base_url: str, position: int, logs: list[dict[str, Any]]) -> dict[str, Any]:
    """Show how far a job is."""
    body: dict[str, Any] = {"request_id": job.id, **urls(job, base_url)}
    if job.state.public is State.QUEUED:
        # The logs are for clients that do not look at the state first.
        return {"status": "IN_QUEUE", **body, "queue_position": position, "logs": logs}
    if not job.state.final:
        return {"status": "IN_PROGRESS", **body, "logs": logs}
    body = {"status": "COMPLETED", **body, "logs": logs, "metrics": _metrics(job)}
    if job.state is not State.SUCCEEDED:
        message, kind, _ = failure(job)
        body |= {"error": message, "error_type": kind}
    return body


def log_lines(job: Job, notice: str) -> list[dict[str, Any]]:
    """Return what there is to say of a job, its warnings marked as such."""
    at = iso_time(job.started_at or job.created_at) or ""
    return [
        schema.LogLine(message=line, level="WARN" if line in job.warnings else "INFO", timestamp=at).model_dump()
        for line in log_text(job, notice).splitlines()
    ]


def failure(job: Job) -> tuple[str, str, int]:
    """Return why a job that ended made no video: the message, fal's word for it and the status of its result."""
    if job.state is State.CANCELLED:
        return (job.error_message or "the request was cancelled", *CANCELLED)
    kind, code = FAILURES.get(job.error_code or "", (FAILED, 500))
    return job.error_message or "the request failed", kind, code


def output(job: Job, url: str) -> dict[str, Any]:
    """Show the result of a job that succeeded."""
    assert job.result is not None
    video, prompt = job.result["video"], job.spec["task"]["prompt"]
    given = job.origin.get("prompt", prompt)
    file = schema.VideoFile(
        url=url,
        content_type=video["mime_type"],
        file_name=f"{job.id}.{video['key'].rpartition('.')[2]}",
        file_size=video["size_bytes"],
        width=job.result["width"],
        height=job.result["height"],
        fps=job.result["fps"],
        duration=round(job.result["frames"] / job.result["fps"], 3),
        num_frames=job.result["frames"],
    )
    seconds = _metrics(job).get("inference_time")
    found = schema.RequestOutput(
        video=file,
        seed=job.spec["seed"],
        prompt=given,
        actual_prompt=prompt if prompt != given else None,
        timings={} if seconds is None else {"inference": seconds},
    )
    return schema.shown(found)


def failed_output(job: Job) -> tuple[int, dict[str, Any]]:
    """Return the status and body that stand for the result of a job that made no video."""
    message, kind, code = failure(job)
    detail = message if job.state is State.CANCELLED else fields_at_fault([("body", message)], kind)
    return code, {
        "detail": detail,
        "error_type": kind,
        "message": message,
        "error": {"message": message, "code": code},
    }


def webhook(job: Job, base_url: str, signer: Signer) -> dict[str, Any]:
    """Show a job that ended, as fal tells of one."""
    body: dict[str, Any] = {"request_id": job.id, "gateway_request_id": job.id}
    url = signer.video_url(job, base_url)
    if url is not None:
        return {**body, "status": "OK", "payload": output(job, url)}
    code, payload = failed_output(job)
    return {**body, "status": "ERROR", "error": f"Unexpected status code: {code}", "payload": payload}


def _metrics(job: Job) -> dict[str, float]:
    if job.finished_at is None or job.started_at is None:
        return {}
    return {"inference_time": round(max(0.0, job.finished_at - job.started_at), 3), **usage_of(job)}
