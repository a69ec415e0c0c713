"""A long queue makes no collection of garbage long, and is freed all the same."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from zoetrope.serving.jobs.job import QueuedJob
from zoetrope.serving.router.backlog import Backlog
from zoetrope.serving.router.heap import SETTLED, Heap
from zoetrope.serving.router.policies.choose import policy_of
from zoetrope.serving.router.queued_jobs import QueuedJobs

JOBS = 12 * SETTLED
ROUGHLY = 3 * SETTLED  # objects: jobs that do not count as long-lived yet, and what else there is


class Books:
    """A database in which so many jobs wait."""

    def __init__(self) -> None:
        self.jobs = JOBS

    def waiting(self, since: float) -> Iterator[QueuedJob]:
        for number in range(self.jobs):
            yield QueuedJob(f"j{number}", f"t{number % 9}", "nano", 0, float(number), None, 5.0, 0.0, 9, False)

    async def run(self, call: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(call)


@pytest.fixture
def heap() -> Iterator[Heap]:
    yield Heap()
    gc.unfreeze()


def looked_at() -> int:
    """Count the objects that the next whole collection goes through."""
    return len(gc.get_objects())


async def test_collections_do_not_go_through_what_waits(heap: Heap) -> None:
    books: Any = Books()
    queue = QueuedJobs(books, Backlog(policy_of("fair")), heap)
    heap.tidy(always=True)
    before, exempt = looked_at(), gc.get_freeze_count()
    await queue.refresh([])
    assert len(queue) == JOBS
    assert looked_at() < before + ROUGHLY
    assert gc.get_freeze_count() > exempt + 3 * JOBS - ROUGHLY, "a row, its work and its place in the queue"

    books.jobs = 0
    queue._whole_at = 0.0  # it is time to read the whole queue again
    await queue.refresh([])
    assert not len(queue)
    assert gc.get_freeze_count() < exempt + ROUGHLY, "what waits no longer is freed at once"


def test_what_refers_to_itself_is_found_when_there_is_time(heap: Heap) -> None:
    heap.tidy(always=True)
    circles: list[Any] = [[] for _ in range(SETTLED)]
    for circle in circles:
        circle.append(circle)
    heap.put(SETTLED)
    del circle, circles
    exempt = gc.get_freeze_count()
    gc.collect()
    assert gc.get_freeze_count() == exempt
    heap.tidy()
    assert gc.get_freeze_count() < exempt - SETTLED // 2
    heap.put(SETTLED - 1)
    heap.tidy()
    assert gc.get_freeze_count() < exempt, "nothing was exempted since, so nothing is looked at"
