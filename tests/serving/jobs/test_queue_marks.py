"""Places in the queue: exact while it is short, off by a mark's distance at most when it is long."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.serving.jobs.harness import Clock, claim_oldest, new_job
from zoetrope.serving.gateway.watch import queue_position
from zoetrope.serving.gateway.watch.queue_position import QueuePositions
from zoetrope.serving.jobs.job import Job, QueueLimits
from zoetrope.serving.jobs.store import JobStore, Marks

Create = Callable[..., Job]


def queue_up(store: JobStore, clock: Clock, count: int) -> list[Job]:
    """In the order of the queue: three priorities, several jobs of the same moment."""
    made: list[Job] = []
    for start in range(0, count, 10):
        clock.now += 1
        some = [new_job(f"job-{number:05d}", priority=number % 3) for number in range(start, min(count, start + 10))]
        made += store.create_batch(some, QueueLimits(count))
    return sorted(made, key=lambda job: (-job.priority, job.created_at, job.id))


def test_marks_are_every_so_manieth_job(store: JobStore, clock: Clock) -> None:
    jobs = queue_up(store, clock, 53)
    keys = [(job.priority, job.created_at, job.id) for job in jobs]
    marks = [(place, *key) for place, key in enumerate(keys)]
    assert store.marks(1) == {"": marks}
    assert store.marks(10) == {"": marks[::10]}
    assert store.marks(100) == {"": marks[:1]}
    running = claim_oldest(store, "router", 3, 60.0, 5, (jobs[0].model,))
    assert [job.id for job in running] == [job.id for job in jobs[:3]]
    assert store.marks(10) == {"": [(place, *key) for place, key in list(enumerate(keys[3:]))[::10]]}


def test_a_short_queue_is_counted(store: JobStore, clock: Clock) -> None:
    jobs = queue_up(store, clock, 30)
    places = QueuePositions(store)
    assert places.places(jobs) == {job.id: number for number, job in enumerate(jobs)}
    assert places.places(jobs[7:8]) == {jobs[7].id: 7}
    (first,) = claim_oldest(store, "router", 1, 60.0, 5, (jobs[0].model,))
    assert places.places([first]) == {} and places.places(jobs[1:2]) == {jobs[1].id: 0}  # at once


def test_places_in_a_long_queue_are_read_off_marks(
    store: JobStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_position, "LONG", 99)
    monkeypatch.setattr(queue_position, "MARKS", 20)
    jobs = queue_up(store, clock, 200)
    reads = 0
    marks = store.marks

    def counted(every: int) -> Marks:
        nonlocal reads
        reads += 1
        assert every == 10
        return marks(every)

    monkeypatch.setattr(store, "marks", counted)
    queue = QueuePositions(store)
    for number, job in enumerate(jobs):
        assert queue.places([job]) == {job.id: number - number % 10}
    assert queue.places(jobs) == {job.id: number - number % 10 for number, job in enumerate(jobs)}
    assert reads == 1
    late = store.create(new_job("late", priority=0), QueueLimits(1_000))
    urgent = store.create(new_job("urgent", priority=9), QueueLimits(1_000))
    assert queue.places([late, urgent]) == {"late": 190, "urgent": 0}


def test_a_long_queue_of_one_tenant_is_not_in_front_of_another(
    store: JobStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_position, "LONG", 99)
    monkeypatch.setattr(queue_position, "MARKS", 20)
    queue_up(store, clock, 200)
    others = [store.create(new_job(f"b{number:02}", owner="b"), QueueLimits(1_000)) for number in range(11)]
    queue = QueuePositions(store)
    assert queue.places(others[:1] + others[10:]) == {"b00": 1, "b10": 21}
    (late,) = store.create_batch([new_job("c", owner="c")], QueueLimits(1_000))
    assert queue.places([late]) == {"c": 0}


def test_the_marks_are_set_anew_when_they_are_old(
    store: JobStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_position, "LONG", 99)
    monkeypatch.setattr(queue_position, "MARKS", 20)
    now = 0.0
    jobs = queue_up(store, clock, 200)
    queue = QueuePositions(store, lambda: now)
    assert queue.places(jobs[150:151]) == {jobs[150].id: 150}
    claim_oldest(store, "router", 100, 60.0, 5, (jobs[0].model,))
    assert queue.places(jobs[150:151]) == {jobs[150].id: 150}
    now += queue_position.MARK_SECONDS
    assert queue.places(jobs[150:151]) == {jobs[150].id: 50}
    claim_oldest(store, "router", 10, 60.0, 5, (jobs[0].model,))
    now += queue_position.MARK_SECONDS
    assert queue.places(jobs[155:156]) == {jobs[155].id: 45}  # short again: counted
