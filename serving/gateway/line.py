"""Places in the queue: counted one by one while it is short, read off marks along it when it is long."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence

from serving.jobs.job import Job, State
from serving.jobs.store import JobStore

LONG = 2_000  # queued jobs from which on counting what is in front of each would take longer than all else
MARKS = 1_000  # so that a place is off by a thousandth of the queue at most
MARK_SECONDS = 1.0  # between two looks at the whole queue, at the least
REST = 20.0  # times as long as a look took is waited after it


class Line:
    """The queue of one gateway's database. Safe to use from several threads; its methods wait for the database."""

    def __init__(self, store: JobStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._reading = threading.Lock()
        self._next_at = float("-inf")
        self._marks: tuple[int, list[tuple[int, float, str]]] = (1, [])

    def places(self, jobs: Sequence[Job]) -> dict[str, int]:
        """By id, how many jobs are in front of those of these that are queued. Of a long queue the places are rounded
        down, and as old as the marks."""
        queued = [job for job in jobs if job.state is State.QUEUED]
        if not queued:
            return {}
        self._look()
        every, marks = self._marks
        if marks:
            return {job.id: max(0, bisect_right(marks, _key(job)) - 1) * every for job in queued}
        if len(queued) == 1:
            return {queued[0].id: self._store.queue_position(queued[0])}
        return self._store.positions([job.id for job in queued])

    def _look(self) -> None:
        """Set the marks anew where that is due; one thread does, others take the old ones meanwhile."""
        if self._clock() < self._next_at or not self._reading.acquire(blocking=False):
            return
        try:
            started = self._clock()
            length = self._store.counts()[State.QUEUED]
            every = max(1, length // MARKS)
            marks = self._store.marks(every) if length > LONG else []
            self._marks = every, [(-priority, created_at, job_id) for priority, created_at, job_id in marks]
            now = self._clock()
            self._next_at = now + max(MARK_SECONDS, REST * (now - started))
        finally:
            self._reading.release()


def _key(job: Job) -> tuple[int, float, str]:
    """Orders jobs as the queue does."""
    return -job.priority, job.created_at, job.id
