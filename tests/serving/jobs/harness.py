"""What the job store's tests share: jobs to create, and a clock that stands still."""

from __future__ import annotations

from collections.abc import Sequence
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
    return claim_oldest(store, owner, limit, 10, max_attempts, ["nano"])


def claim_oldest(
    store: JobStore,
    owner: str,
    limit: int,
    lease_seconds: float,
    max_attempts: int,
    models: Sequence[str],
    in_hand: Sequence[str] = (),
) -> list[Job]:
    """Claim as a router would that goes by priority and age; again if others are faster."""
    claimed = store.claim(owner, [], lease_seconds, max_attempts, in_hand)  # ends what must not be claimed again
    while not claimed:
        waiting = [job for job in store.waiting(models) if job.id not in in_hand]
        waiting.sort(key=lambda job: (-job.priority, job.created_at, job.id))
        wanted = [job.id for job in waiting][: max(0, limit)]
        if not wanted:
            break
        claimed = store.claim(owner, wanted, lease_seconds, max_attempts, in_hand)
    return claimed
