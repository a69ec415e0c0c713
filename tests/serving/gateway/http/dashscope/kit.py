"""What the tests of the DashScope API share: calls of its SDK, and the router's part, played by hand."""

from __future__ import annotations

import base64
from http import HTTPStatus
from typing import Any

import dashscope
import pytest
from dashscope.aigc.video_synthesis import VideoSynthesis

from tests.serving.gateway.harness import Service
from tests.serving.jobs.harness import claim_oldest
from zoetrope.serving.jobs.job import Job, Result, State

VIDEO = bytes(range(256)) * 40


def use_sdk(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set it as DASHSCOPE_HTTP_BASE_URL and DASHSCOPE_API_KEY do when it is imported."""
    monkeypatch.setattr(dashscope, "base_http_api_url", f"{service.http}/api/v1")
    monkeypatch.setattr(dashscope, "api_key", "none")


def data(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode()


def created(**fields: Any) -> Any:
    answer = VideoSynthesis.async_call(**{"model": "wan2.7-t2v", "prompt": "a red circle", **fields})
    assert answer.status_code == HTTPStatus.OK, answer
    assert answer.output.task_status == "PENDING" and answer.request_id
    return answer


def refused(status: int = 400, **fields: Any) -> Any:
    answer = VideoSynthesis.async_call(**{"model": "wan2.7-t2v", "prompt": "a red circle", **fields})
    assert answer.status_code == status, answer
    assert answer.request_id
    return answer


def job_of(service: Service, answer: Any) -> Job:
    return service.job(answer.output.task_id)


def kinds(service: Service, media: list[str]) -> list[str]:
    rows = [service.stores.media.get(medium, "") for medium in media]
    return [str(row.info["kind"]) for row in rows if row is not None and row.info is not None]


def claim(service: Service) -> Job:
    (job,) = claim_oldest(service.store, "test", 10, 60.0, 5, ("nano",))
    return job


def succeed(service: Service, job: Job) -> None:
    spec, key = job.spec, f"jobs/{job.id}/{job.lease_epoch}/video.mp4"
    stored = service.artifacts.put_bytes(key, VIDEO, "video/mp4")
    result = Result(stored, None, spec["frames"], spec["width"], spec["height"], spec["fps"])
    assert service.store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=result)
