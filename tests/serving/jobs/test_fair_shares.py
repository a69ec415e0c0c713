"""Shares of tenants on each database: who is claimed when, who may queue how much, and what results they keep."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.serving.jobs.harness import RESULT, Clock, claim, ids, new_job
from tests.serving.jobs.plans import check, plan, statements
from zoetrope.serving.jobs.admission import queue_share
from zoetrope.serving.jobs.db.database import Tx
from zoetrope.serving.jobs.errors import QueueFull, QuotaExceeded
from zoetrope.serving.jobs.fair_shares import PLACES
from zoetrope.serving.jobs.job import Artifact, Job, QueueLimits, Result, State
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


def test_tenants_are_claimed_in_turn_whatever_their_priorities(store: JobStore) -> None:
    queue_up(store, "a", 50, priority=9)
    queue_up(store, "b", 3)
    queue_up(store, "c", 1)
    assert ids(claim(store, 8)) == ["a00000", "b00000", "c00000", "a00001", "b00001", "a00002", "b00002", "a00003"]


def test_a_tenants_own_jobs_go_by_priority_and_age(store: JobStore, create: Create) -> None:
    for name, owner, priority in (("a1", "a", 0), ("a2", "a", 7), ("b1", "b", 0), ("a3", "a", 7), ("b2", "b", 3)):
        create(name, owner=owner, priority=priority)
    assert ids(claim(store, 9)) == ["a2", "b2", "a3", "b1", "a1"]


def test_turns_go_on_from_claim_to_claim(store: JobStore) -> None:
    for owner in "abc":
        queue_up(store, owner, 3)
    order = []
    for _ in range(9):
        (job,) = claim(store)
        order.append(job.owner)
        store.finish(job.id, 1, State.SUCCEEDED, result=RESULT)
    assert "".join(order) == "abcabcabc"


def test_who_has_less_running_comes_first(store: JobStore) -> None:
    queue_up(store, "a", 9)
    assert ids(claim(store, 4)) == ["a00000", "a00001", "a00002", "a00003"]
    queue_up(store, "b", 9)
    assert ids(claim(store, 4)) == ["b00000", "b00001", "b00002", "b00003"]
    assert [job.owner for job in claim(store, 4)] == ["a", "b", "a", "b"]


def test_leases_that_ran_out_are_no_load(store: JobStore, clock: Clock) -> None:
    queue_up(store, "a", 2)
    queue_up(store, "b", 1)
    claim(store, 1)
    clock.now += 10
    assert ids(claim(store, 9)) == ["b00000", "a00000", "a00001"], "a had its turn"


def test_places_are_the_order_of_claims(store: JobStore, clock: Clock) -> None:
    rng = random.Random(7)
    for number in range(60):
        clock.now += rng.randrange(2)
        store.create(new_job(f"j{number:02}", owner=rng.choice("aaaaabbc"), priority=rng.randrange(10)), MANY)
    claim(store, 3)
    names = [f"j{number:02}" for number in range(60)]
    places = store.positions(names)
    assert sorted(places.values()) == list(range(57))
    assert ids(claim(store, 57)) == sorted(places, key=lambda name: places[name])


def test_a_claim_looks_at_little_of_a_long_queue(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "INSERT INTO job (id, owner, state, model, spec, steps, created_at, fingerprint, priority)"
    sql += " VALUES (?, 'a', 'queued', 'nano', '{}', 1, ?, '', 9)"

    def fill(tx: Tx) -> None:
        for number in range(20_000):
            tx.later(sql, (f"a{number:05}", float(number)))

    stores.database.write(fill)
    queue_up(stores.jobs, "b", 2)
    postgres = bool(stores.database.dialect.skip_locked)
    if postgres:
        stores.database.write(lambda tx: tx.run("ANALYZE job"))
    with statements(stores, monkeypatch) as asked:
        assert [job.owner for job in claim(stores.jobs, 4)] == ["a", "b", "a", "b"]
    asked = [(sql, values) for sql, values in asked if "FROM job" in sql]
    assert len(asked) == 6, "who waits, who runs, and four jobs"
    if not postgres:  # which may as well go through the table when all of it waits
        asked.append((PLACES, ()))
    for sql, values in asked:
        check(plan(stores, sql, values), "job", sorts="GROUP BY" in sql)  # what runs is little


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
    claim(store, 4)
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
