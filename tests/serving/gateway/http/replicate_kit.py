"""The router's part, played by hand, for tests of the Replicate face."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from replicate.exceptions import ReplicateError

from serving.jobs.job import Job, Result, State
from tests.serving.gateway.harness import Service

T2V, I2V, R2V, EDIT = (f"wan-video/wan-2.7-{name}" for name in ("t2v", "i2v", "r2v", "videoedit"))
VIDEO = bytes(range(256)) * 10_001  # more than two chunks, and no multiple of 3
PROMPT = {"prompt": "a red circle"}


def claim(service: Service, job_id: str) -> Job:
    (job,) = service.store.claim("test", 10, 60.0, 5, ("nano",))
    assert job.id == job_id
    return job


def succeed(service: Service, job: Job, data: bytes = VIDEO) -> None:
    spec, key = job.spec, f"jobs/{job.id}/{job.lease_epoch}/video.mp4"
    stored = service.artifacts.put_bytes(key, data, "video/mp4")
    result = Result(stored, None, spec["frames"], spec["width"], spec["height"], spec["fps"], {"denoise": 1.5})
    assert service.store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=result)


def fail(service: Service, job: Job) -> None:
    end(service, job, "INTERNAL", "the picture fell off the wall")


def end(service: Service, job: Job, code: str, message: str) -> None:
    assert service.store.finish(job.id, job.lease_epoch, State.FAILED, error_code=code, error_message=message)


@contextmanager
def router(service: Service, act: Callable[[Service, Job], None] = succeed) -> Iterator[list[Job]]:
    """Takes up every job that comes and ends it."""
    done = threading.Event()
    seen: list[Job] = []

    def run() -> None:
        while not done.wait(0.01):
            for job in service.store.claim("test", 10, 60.0, 5, ("nano",)):
                seen.append(job)
                act(service, job)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run)
        try:
            yield seen
        finally:
            done.set()
            future.result(timeout=10)


def refused(call: Callable[[], object], status: int) -> str:
    with pytest.raises(ReplicateError) as caught:
        call()
    assert caught.value.status == status
    assert caught.value.title
    return str(caught.value.detail)
