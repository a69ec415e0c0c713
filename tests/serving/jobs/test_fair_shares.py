"""Shares of tenants on each database: who is claimed when, who may queue how much, and what results they keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.serving.jobs.harness import Clock, claim, ids, new_job
from tests.serving.jobs.plans import check, plan
from zoetrope.serving.jobs.admission import queue_share
from zoetrope.serving.jobs.db.database import Tx
from zoetrope.serving.jobs.errors import QueueFull, QuotaExceeded
from zoetrope.serving.jobs.job import Artifact, Job, QueueLimits, Result, State
from zoetrope.serving.jobs.leases import NEXT_QUEUED, PAGE
from zoetrope.serving.jobs.open import Stores
from zoetrope.serving.jobs.store import JobStore

Create = Callable[..., Job]
MANY = QueueLimits(1_000_000)


def queue_up(store: JobStore, owner: str, count: int, **changes: Any) -> list[str]:
    """Names of new jobs in the order in which they are made."""
    names = [f"{owner}{number:05}" for number in range(count)]
    for start in range(0, count, 250):
        store.create_batch([new_job(name, owner=owner, **changes) for name in names[start : start + 250]], MANY)
    return names


# Claims


def test_what_waits_is_the_queue_and_what_nobody_holds(store: JobStore, clock: Clock) -> None:
    queue_up(store, "a", 3, price=7.5)
    clock.now += 5
    queue_up(store, "b", 2, priority=9, deadline_at=clock.now + 50)
    queue_up(store, "c", 1, model="other")
    claimed = ids(store.claim("r", ["a00001", "a00000"], 10, 5))
    assert claimed == ["a00001", "a00000"], "in the order in which they were wanted"
    assert [job.id for job in store.waiting(["nano"])] == ["a00002", "b00000", "b00001"]
    assert [job.id for job in store.waiting(["nano", "other"], clock.now)] == ["b00000", "b00001", "c00000"]
    assert not list(store.waiting([]))
    clock.now += 10
    found = list(store.waiting(["nano"]))
    assert [(job.id, job.lapsed) for job in found[3:]] == [("a00000", True), ("a00001", True)]
    one, two = found[0], found[1]
    assert (one.owner, one.priority, one.created_at, one.deadline_at, one.price) == ("a", 0, 1_000.0, None, 7.5)
    assert (two.priority, two.deadline_at, two.used, two.steps) == (9, 1_055.0, 0.0, 10)
    clock.now += 45
    assert [job.id for job in store.waiting(["nano"], 1_001.0)] == ["a00000", "a00001"], "b's are too late"


def test_only_what_still_waits_is_claimed(store: JobStore, clock: Clock) -> None:
    queue_up(store, "a", 4)
    store.request_cancel("a00001", "a")
    assert ids(store.claim("one", ["a00000"], 10, 5)) == ["a00000"]
    assert ids(store.claim("two", ["a00000", "a00001", "a00002", "gone"], 10, 5)) == ["a00002"]
    clock.now += 10
    assert ids(store.claim("two", ["a00000", "a00002", "a00003"], 10, 5, in_hand=["a00002"])) == ["a00000", "a00003"]


def test_places_take_the_tenants_in_turn(store: JobStore, clock: Clock) -> None:
    queue_up(store, "a", 5)
    clock.now += 1
    queue_up(store, "b", 2)
    store.claim("r", ["a00000"], 10, 5)
    names = ["a00001", "a00002", "a00003", "a00004", "b00000", "b00001"]
    places = store.positions(names)
    assert sorted(places, key=lambda name: places[name]) == ["b00000", "a00001", "b00001", "a00002", "a00003", "a00004"]
    assert sorted(places.values()) == list(range(6))


def test_a_router_reads_little_of_a_long_queue(stores: Stores) -> None:
    sql = "INSERT INTO job (id, owner, state, model, spec, steps, created_at, fingerprint, priority)"
    sql += " VALUES (?, 'a', 'queued', 'nano', '{}', 1, ?, '', 9)"

    def fill(tx: Tx) -> None:
        for number in range(20_000):
            tx.later(sql, (f"a{number:05}", float(number)))

    stores.database.write(fill)
    if stores.database.dialect.skip_locked:
        stores.database.write(lambda tx: tx.run("ANALYZE job"))
    check(plan(stores, NEXT_QUEUED, ("nano", 19_990.0, "", 0.0)), "job")
    found = stores.jobs.waiting(["nano"], 19_990.0)
    assert [job.id for job in found] == [f"a{number}" for number in range(19_990, 20_000)]


def test_a_long_queue_is_read_whole_in_pages(store: JobStore, clock: Clock) -> None:
    """Also where many were created at the same time."""
    names = queue_up(store, "a", PAGE + 300)
    clock.now += 1
    names += queue_up(store, "b", PAGE - 300)  # the second page is full, too
    assert [job.id for job in store.waiting(["nano"])] == names


# Places in the queue


def test_a_share_is_half_of_what_others_leave() -> None:
    assert [queue_share(10, own, own) for own in range(11)] == [5] * 11
    assert queue_share(10, 5, 0) == 3 and queue_share(10, 8, 3) == 3 and queue_share(10, 10, 0) == 0
    assert [queue_share(most, 0, 0) for most in (1, 2, 3)] == [1, 1, 2]


def test_a_tenant_leaves_room_for_others(store: JobStore) -> None:
    limits = QueueLimits(max_queued=12)

    def fill(owner: str) -> int:
        for number in range(99):
            try:
                store.create(new_job(f"{owner}{number}", owner=owner, key_id=f"key {owner}", priority=9), limits)
            except QuotaExceeded as error:
                assert (error.quota, error.limit, error.used) == ("queued_jobs", number, number)
                return number
            except QueueFull:
                return number
        raise AssertionError("without end")

    assert [fill(owner) for owner in "abcd"] == [6, 3, 2, 1]
    assert store.usage("b", "key b", 12).queued_jobs == 3
    assert ids(store.claim("r", ["b0"], 10, 5)) == ["b0"]
    assert store.usage("b", "key b", 12).queued_jobs == 2
    assert store.create(new_job("e", owner="e", key_id="key e"), limits).state is State.QUEUED


def test_other_keys_of_a_tenant_are_no_way_around(store: JobStore) -> None:
    limits = QueueLimits(max_queued=4)
    batch = [new_job(f"a{number}", owner="a", key_id=f"key {number}") for number in range(3)]
    with pytest.raises(QuotaExceeded):
        store.create_batch(batch, limits)
    assert store.list("a", page_size=9) == []
    assert len(store.create_batch(batch[:2], limits)) == 2


def test_who_needs_no_key_has_the_whole_queue(store: JobStore) -> None:
    limits = QueueLimits(max_queued=4)
    assert len(store.create_batch([new_job(f"a{number}") for number in range(4)], limits)) == 4
    assert store.usage("", None, 4).queue_share == 4


# Results


def result(size: int, latents: int | None = None) -> Result:
    files = [None if each is None else Artifact("k", each, "00", "video/mp4") for each in (size, latents)]
    assert files[0] is not None
    return Result(files[0], files[1], frames=9, width=96, height=64, fps=12)


def test_results_count_until_they_are_deleted(store: JobStore, create: Create, clock: Clock) -> None:
    limits = QueueLimits(1_000, result_bytes=100)
    for name, made in (("a", result(60)), ("b", result(30, 9))):
        create(name, limits=limits, owner="o")
        claim(store)
        for _ in range(2):  # the holder did not hear of the first
            assert store.finish(name, 1, State.SUCCEEDED, result=made)
    assert store.usage("o", None, 9).result_bytes == 99
    create("c", limits=limits, owner="o", retention_seconds=10.0)
    claim(store)
    assert store.finish("c", 1, State.SUCCEEDED, result=result(5_000_000_000))
    with pytest.raises(QuotaExceeded) as caught:
        create("d", limits=limits, owner="o")
    assert (caught.value.quota, caught.value.limit, caught.value.used) == ("result_bytes", 100, 5_000_000_099)
    assert create("d", limits=limits, owner="p").id == "d"
    clock.now += 11
    assert store.delete_expired(9) == 1
    assert create("e", limits=limits, owner="o").id == "e"
    assert store.delete("a", "o") is not None and store.delete("a", "o") is None
    assert store.usage("o", None, 9).result_bytes == 39
