"""The job store on each database: labels, priorities, deadlines, limits, retention, previews and the audit trail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from tests.serving.jobs.harness import LIMITS, RESULT, Clock, claim, claim_oldest, ids, new_job
from zoetrope.serving.jobs.db.errors import StoreError, StoreRefused
from zoetrope.serving.jobs.errors import NotAllowed, QueueFull, QuotaExceeded, RequestConflict
from zoetrope.serving.jobs.job import (
    DeletedJob,
    Job,
    JobFilter,
    JobWebhook,
    NewJob,
    Preview,
    QueueLimits,
    State,
    file_keys,
)
from zoetrope.serving.jobs.open import Stores
from zoetrope.serving.jobs.store import JobStore

Create = Callable[..., Job]
PREVIEW = Preview("jobs/a/1/preview-3.webp", "image/webp", 96, 64, 1_234, step=3)


def run(store: JobStore, job_id: str, **end: Any) -> None:
    """From queued to an end."""
    (job,) = claim(store)
    assert job.id == job_id
    end = end or {"state": State.SUCCEEDED, "result": RESULT}
    assert store.finish(job_id, job.lease_epoch, **end)


# What a job is made of


def test_every_field_is_kept(store: JobStore) -> None:
    new = NewJob(
        id="a",
        owner="tenant",
        key_id="key_1",
        model="nano",
        spec={"task": {"kind": "text_to_video", "prompt": "é\n"}, "frames": 9},
        steps=10,
        seconds=0.75,
        request_id="r",
        fingerprint="f",
        labels={"team": "añil", "a.b": 'with "quotes"'},
        priority=7,
        deadline_at=2_000.5,
        retention_seconds=60,
        origin={"api": "replicate", "input": {"seed": 3}},
        webhook=JobWebhook("https://example.com/hook?x=1", ("output", "completed")),
        verdicts=({"check": "words", "allowed": True},),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        weights="nano@0af7651916cd43dd+lora:00:1.0@any",
    )
    job = store.create(new, LIMITS)
    for field in fields(NewJob):
        if field.name not in ("request_id", "fingerprint"):
            assert getattr(job, field.name) == getattr(new, field.name), field.name
    assert (job.state, job.expire_at, job.preview, job.warnings) == (State.QUEUED, None, None, ())
    assert store.get("a", "tenant") == job
    assert store.get_many(["a", "b"]) == {"a": job}
    assert store.list("tenant", page_size=1) == [job]
    (running,) = claim(store)
    assert running == replace(
        job,
        state=State.RUNNING,
        stage=running.stage,
        started_at=running.started_at,
        attempt=1,
        lease_epoch=1,
        lease_owner="r1",
        lease_until=running.lease_until,
    )


@pytest.mark.parametrize("priority", [-1, 10])
def test_a_priority_out_of_range_is_refused(priority: int) -> None:
    with pytest.raises(ValueError, match=f"priority is {priority}, must be from 0 to 9"):
        new_job("a", priority=priority)


def test_what_is_no_json_is_refused_before_anything_is_stored(store: JobStore) -> None:
    with pytest.raises(TypeError):
        store.create(new_job("a", spec={"prompt": object()}), LIMITS)
    with pytest.raises(StoreRefused):
        store.create(new_job("a", steps="many"), LIMITS)
    assert store.get("a", "") is None and store.events("a", "") == []
    assert store.create(new_job("a"), LIMITS).id == "a"


HOSTILE = ["a \0 byte", "half \ud800 a character", "'; DROP TABLE job; --", "%s ? %", "x" * 9_999]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(store: JobStore, text: str) -> None:
    job = store.create(new_job("a", request_id=text, labels={text: text}, spec={"prompt": text}), LIMITS)
    assert job.spec == {"prompt": text} and job.labels == {text: text}
    assert store.create(new_job("b", request_id=text), LIMITS) == job
    assert store.get(text, "") is None and store.get("a", text) is None
    assert store.list(text, page_size=5) == []
    assert store.list("", page_size=5, where=JobFilter(labels={"x": text}, model=text, kind=text)) == []
    assert store.list("", page_size=5, before=(1e9, text)) == [job]
    assert store.get_many([text]) == {} and store.positions([text]) == {}
    assert store.request_cancel(text, "") is None and store.delete(text, "") is None
    (running,) = claim(store, owner=text)
    assert store.finish("a", 1, State.FAILED, error_code="INTERNAL", error_message=text)
    assert store.get("a", "") is not None and running.attempt == 1


# Lists


def test_lists_are_narrowed_by_any_field(store: JobStore, create: Create) -> None:
    create("a", labels={"team": "red", "run": "1"}, spec={"task": {"kind": "edit_video"}})
    create("b", labels={"team": "red"}, model="large")
    create("c", labels={"team": "blue"}, spec={"task": {"kind": "text_to_video"}})
    jobs = store.list("", page_size=9)

    def found(**where: Any) -> list[str]:
        return ids(store.list("", page_size=9, where=JobFilter(**where)))

    assert found() == ["c", "b", "a"]
    assert found(labels={"team": "red"}) == ["b", "a"]
    assert found(labels={"team": "red", "run": "1"}) == ["a"]
    assert found(labels={"team": "re"}) == found(labels={"tea": "red"}) == found(labels={"$.team": "red"}) == []
    assert found(model="large") == ["b"]
    assert found(kind="edit_video") == ["a"]
    assert found(created_after=jobs[1].created_at) == ["c", "b"]
    assert found(created_before=jobs[1].created_at) == ["a"]
    assert found(states=(State.QUEUED,), labels={"team": "red"}, model="nano", created_after=0) == ["a"]
    assert ids(store.list("", page_size=1, where=JobFilter(labels={"team": "red"}), before=(1e9, ""))) == ["b"]
    before = (jobs[1].created_at, "b")
    assert ids(store.list("", page_size=9, where=JobFilter(labels={"team": "red"}), before=before)) == ["a"]
    assert store.list("other", page_size=9, where=JobFilter(labels={"team": "red"})) == []


def test_lists_follow_changes_of_labels(store: JobStore, create: Create) -> None:
    create("a", labels={"team": "red"})
    create("b", labels={"team": "red", "run": "1"})

    def red() -> list[str]:
        return ids(store.list("", page_size=9, where=JobFilter(labels={"team": "red"})))

    assert store.update("a", "", labels={"team": "blue", "run": "2"}) is not None
    assert red() == ["b"]
    assert ids(store.list("", page_size=9, where=JobFilter(labels={"run": "2", "team": "blue"}))) == ["a"]
    assert store.update("a", "", labels={"team": "red"}) is not None
    assert red() == ["b", "a"]
    store.request_cancel("b", "")
    assert store.delete("b", "") is not None
    assert red() == ["a"]


def test_labels_beyond_what_an_index_holds_are_told_apart(store: JobStore, create: Create) -> None:
    long = "x" * 5_000
    create("a", labels={"k": long + "a"})
    create("b", labels={"k": long + "b"})
    assert ids(store.list("", page_size=9, where=JobFilter(labels={"k": long + "b"}))) == ["b"]


def test_many_jobs_are_read_at_once(store: JobStore) -> None:
    names = [f"j{number:04}" for number in range(5_000)]
    for start in range(0, 1_000, 250):
        store.create_batch([new_job(name) for name in names[start : start + 250]], LIMITS)
    found = store.get_many(names)
    assert sorted(found) == names[:1_000]
    assert store.positions(names) == {name: place for place, name in enumerate(names[:1_000])}
    assert not store.get_many([]) and not store.positions([])


# Order


def test_a_higher_priority_comes_first(store: JobStore, create: Create) -> None:
    create("low")
    jobs = [create("b", priority=4), create("a", priority=4), create("high", priority=9)]
    assert [store.queue_position(job) for job in jobs] == [1, 2, 0]
    assert store.positions(["low", "high", "gone"]) == {"low": 3, "high": 0}
    assert ids(claim(store, 9)) == ["high", "b", "a", "low"]


def test_a_router_is_given_jobs_of_its_models(store: JobStore, create: Create) -> None:
    create("a", model="large")
    create("b", model="small")
    create("c")
    assert ids(claim_oldest(store, "r", 9, 10, 5, ["small", "large"])) == ["a", "b"]
    assert claim_oldest(store, "r", 9, 10, 5, []) == []
    assert ids(claim_oldest(store, "r", 9, 10, 5, ["nano"])) == ["c"]


# Deadlines


def test_a_queued_job_past_its_deadline_fails(store: JobStore, create: Create, clock: Clock) -> None:
    create("a", deadline_at=1_010.0, request_id="r")
    create("b", deadline_at=1_010.5)
    clock.now = 1_010.0
    assert ids(claim(store, 9)) == ["b"]  # never handed out, swept or not
    assert store.fail_overdue() == 1
    assert store.fail_overdue() == 0
    job = store.get("a", "")
    assert job is not None and job.state is State.FAILED and job.error_code == "DEADLINE_EXCEEDED"
    assert job.finished_at == 1_010.0 and "deadline" in (job.error_message or "")
    assert store.create(new_job("c", request_id="r"), LIMITS) == job


def test_a_running_job_past_its_deadline_is_ended_by_its_holder(store: JobStore, create: Create, clock: Clock) -> None:
    create("a", deadline_at=1_010.0)
    claim(store)
    assert store.heartbeat("r1", [("a", 1)], 60) == {}
    clock.now = 1_010.0
    assert store.fail_overdue() == 0
    assert store.heartbeat("r1", [("a", 1)], 60) == {"a": "deadline"}
    store.request_cancel("a", "")
    assert store.heartbeat("r1", [("a", 1)], 60) == {"a": "cancel"}
    assert store.finish("a", 1, State.FAILED, error_code="DEADLINE_EXCEEDED")
    assert store.events("a", "")[-1].what == "deadline"


@pytest.mark.parametrize("by", ["sweeper", "router:r2"])
def test_an_orphan_past_its_deadline_is_not_run_again(store: JobStore, create: Create, clock: Clock, by: str) -> None:
    create("a", deadline_at=1_005.0)
    claim(store)
    clock.now += 10
    if by == "sweeper":
        assert store.fail_overdue() == 1
    else:
        assert claim(store, owner="r2") == []
    job = store.get("a", "")
    assert job is not None and (job.state, job.error_code) == (State.FAILED, "DEADLINE_EXCEEDED")
    assert store.events("a", "")[-1].actor == by


# Limits


def test_a_key_may_have_so_many_jobs_under_way(store: JobStore, create: Create) -> None:
    limits = QueueLimits(100, concurrent_jobs=2)
    create("a", key_id="k", limits=limits, request_id="r")
    create("b", key_id="k", limits=limits)
    with pytest.raises(QuotaExceeded) as caught:
        create("c", key_id="k", limits=limits)
    assert (caught.value.quota, caught.value.limit, caught.value.used) == ("concurrent_jobs", 2, 2)
    assert create("c", key_id="k", limits=limits, request_id="r").id == "a"  # known: not refused
    with pytest.raises(RequestConflict):
        create("c", key_id="k", limits=limits, request_id="r", fingerprint="g")
    create("d", key_id="other", limits=limits)
    create("e", limits=limits)  # without a key
    run(store, "a")  # running jobs count, final ones do not
    create("f", key_id="k", limits=limits)
    with pytest.raises(QuotaExceeded):
        create("g", key_id="k", limits=limits)


def test_a_key_may_have_so_many_seconds_under_way(store: JobStore, create: Create) -> None:
    limits = QueueLimits(100, queued_seconds=0.3)
    for job_id in "abc":
        create(job_id, key_id="k", seconds=0.1, limits=limits)  # three times 0.1 is exactly 0.3 here
    with pytest.raises(QuotaExceeded) as caught:
        create("d", key_id="k", seconds=0.1, limits=limits)
    assert (caught.value.quota, caught.value.limit, caught.value.used) == ("queued_seconds", 0.3, 0.3)
    store.request_cancel("b", "")
    create("d", key_id="k", seconds=0.1, limits=limits)


def test_a_batch_is_stored_whole_or_not_at_all(store: JobStore, clock: Clock) -> None:
    known = store.create(new_job("a", request_id="r"), LIMITS)
    jobs = store.create_batch([new_job("b"), new_job("c", request_id="r"), new_job("d")], LIMITS)
    assert ids(jobs) == ["b", "a", "d"] and jobs[1] == known
    with pytest.raises(QueueFull):
        store.create_batch([new_job("e"), new_job("f")], QueueLimits(max_queued=4))
    with pytest.raises(StoreError):
        store.create_batch([new_job("e"), new_job("a")], LIMITS)
    with pytest.raises(RequestConflict):
        store.create_batch([new_job("e"), new_job("f", request_id="r", fingerprint="g")], LIMITS)
    with pytest.raises(RequestConflict):  # with itself
        store.create_batch([new_job("e", request_id="s"), new_job("f", request_id="s", fingerprint="g")], LIMITS)
    assert sorted(store.get_many(list("abcdef"))) == ["a", "b", "d"]
    assert store.events("e", "") == []
    assert store.create_batch([], LIMITS) == []
    assert ids(store.create_batch([new_job("e")], QueueLimits(max_queued=4))) == ["e"]


async def test_jobs_are_created_without_a_thread_for_each(store: JobStore) -> None:
    jobs = await asyncio.gather(*(store.acreate(new_job(f"j{n}"), QueueLimits(40)) for n in range(40)))
    assert ids(jobs) == [f"j{n}" for n in range(40)]
    with pytest.raises(QueueFull):
        await store.acreate(new_job("more"), QueueLimits(40))


def test_what_a_review_of_the_output_said_joins_the_verdicts(store: JobStore, create: Create) -> None:
    create("a", verdicts=({"check": "words"},))
    claim(store)
    assert not store.finish("a", 0, State.SUCCEEDED, result=RESULT, verdict={"check": "late"})
    assert store.finish("a", 1, State.SUCCEEDED, result=RESULT, verdict={"check": "hook"})
    job = store.get("a", "")
    assert job is not None and job.verdicts == ({"check": "words"}, {"check": "hook"})


# Retention


def test_an_expiry_has_a_limit_from_the_jobs_end(store: JobStore, create: Create, clock: Clock) -> None:
    """Whoever sets it may have seen the job before its end."""
    create("a")
    run(store, "a")
    job = store.get("a", "")
    assert job is not None and job.finished_at is not None
    with pytest.raises(NotAllowed, match="expire_time"):
        store.update("a", "", expire_at=job.finished_at + 100.5, max_retention_seconds=100)
    assert store.get("a", "") == job
    changed = store.update("a", "", expire_at=job.finished_at + 100, max_retention_seconds=100)
    assert changed is not None and changed.expire_at == job.finished_at + 100


def test_a_job_expires_after_its_own_time(store: JobStore, create: Create, clock: Clock) -> None:
    create("a", retention_seconds=100, request_id="r")
    create("b", retention_seconds=200)
    run(store, "a")
    store.request_cancel("b", "")
    ended = clock.now
    job = store.get("a", "")
    assert job is not None and job.expire_at == ended + 100
    clock.now = ended + 99.5
    assert store.delete_expired(9) == 0
    assert store.deleted(9) == []
    clock.now = ended + 200
    assert store.delete_expired(1) == 1
    assert store.get("a", "") is None
    assert store.get("b", "") is not None
    assert store.update("a", "", expire_at=clock.now + 9) is None, "nobody is promised files that are going"
    (gone,) = store.deleted(9)
    assert gone == DeletedJob("a", tuple(file_keys(job)), clock.now)
    assert store.delete_expired(9) == 1
    assert [job.id for job in store.deleted(9)] == ["a", "b"]
    store.files_deleted("a", 60.0)
    assert [job.id for job in store.deleted(9)] == ["b"]
    clock.now += 60
    assert [job.id for job in store.deleted(9)] == ["b", "a"], "once more, for what was written late"
    store.files_deleted("a", 60.0)
    store.files_deleted("b", 60.0)
    assert store.deleted(9) == []
    assert store.create(new_job("c", request_id="r"), LIMITS).id == "c"


def test_a_deleted_job_is_given_back_for_its_files_to_be_deleted(store: JobStore, create: Create) -> None:
    create("a")
    run(store, "a")
    job = store.get("a", "")
    assert job is not None and job.result is not None
    assert store.delete("a", "") == job


# Previews


def test_a_preview_replaces_the_one_before(store: JobStore, create: Create, clock: Clock) -> None:
    create("a")
    assert store.put_preview("a", 0, PREVIEW) == (False, None)
    claim(store)
    assert store.put_preview("a", 1, PREVIEW) == (True, None)
    newer = replace(PREVIEW, key="jobs/a/1/preview-6.webp", step=6)
    assert store.put_preview("a", 1, newer) == (True, PREVIEW)
    assert store.put_preview("a", 2, PREVIEW) == (False, None)
    clock.now += 10
    (again,) = claim(store, owner="r2")
    assert again.preview == newer
    assert store.put_preview("a", 1, PREVIEW) == (False, None)
    assert store.finish("a", 2, State.SUCCEEDED, result=RESULT)
    assert store.put_preview("a", 2, PREVIEW) == (False, None)
    job = store.get("a", "")
    assert job is not None and job.preview == newer


# The trail


def test_every_change_leaves_a_line(store: JobStore, create: Create, clock: Clock) -> None:
    create("a")
    created = clock.now
    claim(store)
    clock.now += 10
    claim(store, owner="r2")
    store.request_cancel("a", "")
    store.request_cancel("a", "")  # once more changes nothing
    store.finish("a", 2, State.CANCELLED)
    store.delete("a", "")
    assert store.events("a", "other") == []
    told = [
        (e.what, e.from_state, e.to_state, e.actor, e.attempt, e.epoch, e.at - created) for e in store.events("a", "")
    ]
    assert told == [
        ("created", None, State.QUEUED, "client", 0, 0, 0),
        ("claimed", State.QUEUED, State.RUNNING, "router:r1", 1, 1, 0),
        ("claimed again", State.RUNNING, State.RUNNING, "router:r2", 2, 2, 10),
        ("cancel requested", State.RUNNING, State.RUNNING, "client", 2, 2, 10),
        ("cancelled", State.RUNNING, State.CANCELLED, "router:r2", 2, 2, 10),
        ("deleted", State.CANCELLED, None, "client", 2, 2, 10),
    ]


def test_trails_of_deleted_jobs_are_kept_for_a_week(store: JobStore, create: Create, clock: Clock) -> None:
    for job_id in "ab":
        create(job_id)
        store.request_cancel(job_id, "")
    store.delete("a", "")
    clock.now += 7 * 86_400 - 1
    assert store.forget_events() == 0
    clock.now += 1
    assert store.forget_events() == 3
    assert store.events("a", "") == [] and len(store.events("b", "")) == 2  # it still exists


def test_counts_are_by_state(stores: Stores, create: Create) -> None:
    for job_id in "abcd":
        create(job_id)
    run(stores.jobs, "a")
    run(stores.jobs, "b", state=State.FAILED, error_code="INTERNAL")
    claim(stores.jobs)
    assert stores.jobs.counts() == {"queued": 1, "running": 1, "succeeded": 1, "failed": 1, "cancelled": 0}
