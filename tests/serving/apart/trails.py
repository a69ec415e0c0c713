"""What becomes of jobs while something happens to the service: how far they were in each attempt, and their events."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.job import Job
from zoetrope.serving.jobs.store import JobStore

LOOK_SECONDS = 0.05


@dataclass
class Trail:
    """``steps``: those seen of a job, in order, by the epoch of its lease; without 0, where every attempt starts."""

    steps: dict[int, list[int]] = field(default_factory=dict)

    def note(self, job: Job) -> None:
        seen = self.steps.setdefault(job.lease_epoch, [])
        if job.step and (not seen or seen[-1] != job.step):
            seen.append(job.step)

    def redone(self) -> int:
        """Return how many steps a later attempt took again, at most; one whose steps had all been taken shows the last
        as its first, and counts as one."""
        return max((before[-1] - after[0] + 1 for before, after in pairwise(self._attempts())), default=0)

    @property
    def from_the_start(self) -> bool:
        """Whether a later attempt began with the first step."""
        return any(taken[0] == 1 for taken in self._attempts()[1:])

    def _attempts(self) -> list[list[int]]:
        """Return the steps of each attempt that took some."""
        return [taken for _, taken in sorted(self.steps.items()) if taken]


@contextmanager
def watching(store: JobStore, ids: Sequence[str]) -> Iterator[dict[str, Trail]]:
    """Follow jobs in a thread, for the length of a block."""
    trails = {job_id: Trail() for job_id in ids}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            try:
                found = store.get_many(list(ids))
            except StoreError:
                continue
            for job_id, job in found.items():
                trails[job_id].note(job)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield trails
    finally:
        over.set()
        thread.join()


def waits(store: JobStore, job: Job) -> list[float]:
    """Return the seconds from each release of its lease to the next claim."""
    found, released = [], None
    for event in store.events(job.id, job.owner):
        if event.what == "released":
            released = event.at
        elif event.what == "claimed again" and released is not None:
            found.append(event.at - released)
            released = None
    return found


def notes(store: JobStore, job: Job) -> list[str]:
    """Return why it was claimed again, each time."""
    return [event.note for event in store.events(job.id, job.owner) if event.what == "claimed again"]
