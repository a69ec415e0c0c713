"""Render the bodies of webhooks: the job in the form of the API through which it came."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from zoetrope.serving.api.names import OPERATIONS
from zoetrope.serving.gateway.http.common.signing import Signer
from zoetrope.serving.gateway.http.compatibility_apis import COMPATIBILITY_APIS
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.jobs.outbox import Delivery

RENDERERS = {api.name: api.webhook_body for api in COMPATIBILITY_APIS if api.webhook_body is not None}


def body_of(delivery: Delivery, job: Job | None, base_url: str, signer: Signer) -> str:
    """Return JSON: a job as the API that it came through shows it in webhooks, or else an event of Zoetrope's own."""
    if job is not None and (render := RENDERERS.get(job.origin.get("api", ""))) is not None:
        return json.dumps(render(job, base_url, signer))
    return json.dumps(event_of(delivery, job))


def event_of(delivery: Delivery, job: Job | None) -> dict[str, Any]:
    """Return an event in the form that Standard Webhooks recommends: type, timestamp, data."""
    data: dict[str, Any] = {"id": delivery.job_id, "name": OPERATIONS + delivery.job_id}
    if job is not None:
        data = {
            "id": job.id,
            "name": OPERATIONS + job.id,
            "state": str(job.state),
            "task": job.spec["task"]["kind"],
            "model": job.model,
            "labels": job.labels,
            "step": job.step,
            "steps": job.steps,
        }
        if job.state is State.FAILED:
            data["error"] = {"code": job.error_code, "message": job.error_message}
        if job.result is not None:
            video = job.result["video"]
            data["video"] = {key: video[key] for key in ("size_bytes", "sha256", "mime_type")}
    at = datetime.fromtimestamp(delivery.created_at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"type": f"video.{delivery.event}", "timestamp": at, "data": data}
