"""What a webhook says: the job as the face that it came through shows it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from serving.api.names import OPERATIONS
from serving.jobs.job import Job, State
from serving.jobs.outbox import Delivery


def body_of(delivery: Delivery, job: Job | None, base_url: str) -> str:
    """JSON. A job that came through Replicate's face is told of as a prediction, others as an event of ours."""
    if job is not None and job.origin.get("api") == "replicate":
        from serving.gateway.http.replicate import prediction

        return json.dumps(prediction(job, base_url))
    return json.dumps(event_of(delivery, job))


def event_of(delivery: Delivery, job: Job | None) -> dict[str, Any]:
    """In the form that Standard Webhooks recommends: type, timestamp, data."""
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
