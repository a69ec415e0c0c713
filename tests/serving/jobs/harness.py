"""What the job store's tests share: jobs to create, and a clock that stands still."""

from __future__ import annotations

from typing import Any

from zoetrope.serving.jobs.job import Artifact, Job, NewJob, QueueLimits, Result
from zoetrope.serving.jobs.store import JobStore

RESULT = Result(Artifact("jobs/a/1/video.mp4", 7, "00", "video/mp4"), None, frames=9, width=96, height=64, fps=12)
LIMITS = QueueLimits(max_queued=1_000)


class Clock:
    """Stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def new_job(job_id: str, **changes: Any) -> NewJob:
    values: dict[str, Any] = {
        "id": job_id,
        "owner": "",
        "key_id": None,
        "model": "nano",
        "spec": {"prompt": "a red circle"},
        "steps": 10,
        "seconds": 5.0,
        "request_id": None,
        "fingerprint": "f",
    }
    return NewJob(**(values | changes))


def ids(jobs: list[Job]) -> list[str]:
    return [job.id for job in jobs]


def claim(store: JobStore, limit: int = 1, owner: str = "r1", max_attempts: int = 5) -> list[Job]:
    return store.claim(owner, limit, lease_seconds=10, max_attempts=max_attempts, models=["nano"])
