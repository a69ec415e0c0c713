"""Places in the queue: counted one by one while it is short, read off marks along it when it is long."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence

from zoetrope.serving.jobs.fair_shares import QueueKey, queue_key
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.jobs.store import JobStore

LONG = 500  # queued jobs from which on counting what is in front of each would take longer than all else
MARKS = 1_000  # so that a tenant's jobs are told apart by a thousandth of the queue
MARK_SECONDS = 1.0  # between two looks at the whole queue, at the least
REST = 20.0  # times as long as a look took is waited after it


class QueuePositions:
    """The queue of one gateway's database. Safe to use from several threads; its methods wait for the database."""

    def __init__(self, store: JobStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._reading = threading.Lock()
        self._next_at = float("-inf")
        self._marks: dict[str, tuple[list[QueueKey], list[int]]] = {}  # by tenant: keys in order, and the place of each

    def places(self, jobs: Sequence[Job]) -> dict[str, int]:
        """Return, by id, how many jobs are in front of each queued one; of a long queue rounded down, and as old as the
        marks."""
        queued = [job for job in jobs if job.state is State.QUEUED]
        if not queued:
            return {}
        self._look()
        if marks := self._marks:
            return {job.id: _place(job, *marks.get(job.owner, ([], []))) for job in queued}
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
            marks = self._store.marks(every) if length > LONG else {}
            self._marks = {
                owner: ([queue_key(*mark[1:]) for mark in own], [mark[0] for mark in own])
                for owner, own in marks.items()
            }
            now = self._clock()
            self._next_at = now + max(MARK_SECONDS, REST * (now - started))
        finally:
            self._reading.release()


def _place(job: Job, keys: Sequence[QueueKey], places: Sequence[int]) -> int:
    """Return the place of the last mark that is not behind the job; a new tenant has nothing in front of its first."""
    key = queue_key(job.priority, job.created_at, job.id)
    return places[max(0, bisect_right(keys, key) - 1)] if places else 0
