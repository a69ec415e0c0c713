"""What the tests of fal's API share: its client for Python, and the router's part, played by hand."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import fal_client
import httpx
import pytest

from tests.serving.gateway.harness import Service
from tests.serving.gateway.http.router_double import ending_jobs
from tests.serving.jobs.harness import claim_oldest
from zoetrope.serving.jobs.job import Job, Result, State

T2V, I2V, R2V, EDIT = (
    f"fal-ai/wan/v2.7/{name}" for name in ("text-to-video", "image-to-video", "reference-to-video", "edit-video")
)
VIDEO = bytes(range(256)) * 40
PROMPT = {"prompt": "a red circle"}
WEB = httpx.Client(timeout=60)  # to make one takes longer than to call


def move(http: str, patch: pytest.MonkeyPatch) -> None:
    """The three lines by which users move; over TLS, FAL_RUN_HOST and FAL_QUEUE_RUN_HOST do the first two."""
    patch.setattr(fal_client.client, "QUEUE_URL_FORMAT", f"{http}/")
    patch.setattr(fal_client.client, "RUN_URL_FORMAT", f"{http}/fal/run/")
    for name in ("REST_URL", "CDN_URL"):
        patch.setattr(fal_client.client, name, f"{http}/fal/rest")


def data(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode()


def claim(service: Service, job_id: str) -> Job:
    (job,) = claim_oldest(service.store, "test", 10, 60.0, 5, ("nano",))
    assert job.id == job_id
    return job


def succeed(service: Service, job: Job, data: bytes = VIDEO) -> None:
    spec, key = job.spec, f"jobs/{job.id}/{job.lease_epoch}/video.mp4"
    stored = service.artifacts.put_bytes(key, data, "video/mp4")
    result = Result(stored, None, spec["frames"], spec["width"], spec["height"], spec["fps"])
    assert service.store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=result)


def fail(service: Service, job: Job) -> None:
    message = "the picture fell off the wall"
    assert service.store.finish(job.id, job.lease_epoch, State.FAILED, error_code="INTERNAL", error_message=message)


def router(service: Service, act: Callable[[Service, Job], None] = succeed) -> AbstractContextManager[list[Job]]:
    return ending_jobs(service, act)


def post(service: Service, app: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    return WEB.post(f"{service.http}/{app}", json=body, headers=headers)


def spec_of(service: Service, app: str, **fields: Any) -> dict[str, Any]:
    """What a request became, with its warnings."""
    answer = post(service, app, PROMPT | fields)
    assert answer.status_code == 200, answer.text
    job = service.job(answer.json()["request_id"])
    service.empty_queue()
    return {**job.spec, "warnings": list(job.warnings), "media": list(job.media)}


def refused(service: Service, app: str, **fields: Any) -> dict[str, str]:
    """Fields at fault of a request, with what is wrong."""
    answer = post(service, app, PROMPT | fields)
    assert answer.status_code == 422, answer.text
    return {".".join(map(str, item["loc"])): item["msg"] for item in answer.json()["detail"]}
