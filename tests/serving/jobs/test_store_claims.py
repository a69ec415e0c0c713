"""Claims and leases of the job store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.serving.jobs.harness import RESULT, Clock, claim, claim_oldest, ids
from zoetrope.serving.jobs.job import EngineRow, Job, Stage, State
from zoetrope.serving.jobs.store import JobStore

Create = Callable[..., Job]


def test_a_claim_takes_the_oldest_and_starts_an_attempt(store: JobStore, create: Create, clock: Clock) -> None:
    for job_id in "cab":
        create(job_id)
    clock.now = 2_000.0
    first, second = claim(store, 2)
    assert (first.id, second.id) == ("c", "a")
    assert first.state is State.RUNNING and first.stage is Stage.CONDITIONING
    assert (first.attempt, first.lease_epoch, first.lease_owner, first.lease_until) == (1, 1, "r1", 2_010.0)
    assert (first.started_at, first.step) == (2_000.0, 0)
    assert store.get("c", "") == first
    assert ids(claim(store, 9)) == ["b"]
    assert claim(store, 9) == []
    assert claim(store, -1) == []


def test_a_lease_that_ran_out_is_claimed_again_with_the_next_epoch(
    store: JobStore, create: Create, clock: Clock
) -> None:
    create("a")
    (old,) = claim(store, owner="r1")
    assert store.progress("a", 1, stage=Stage.DENOISING, step=4, eta_seconds=3.0)
    clock.now += 9.999
    assert claim(store, owner="r2") == []
    clock.now += 0.001
    (new,) = claim(store, owner="r2")
    assert (new.attempt, new.lease_epoch, new.lease_owner) == (2, 2, "r2")
    assert (new.step, new.stage, new.eta_seconds) == (0, Stage.CONDITIONING, None)
    assert new.started_at == old.started_at


def test_a_stale_epoch_changes_nothing(store: JobStore, create: Create, clock: Clock) -> None:
    create("a")
    claim(store, owner="r1")
    clock.now += 10
    (new,) = claim(store, owner="r2")
    for epoch in (0, 1, 3):
        assert store.heartbeat("r2", [("a", epoch)], 99) == {"a": "lost"}
        assert not store.progress("a", epoch, stage=Stage.DECODING, step=9, eta_seconds=1.0)
        assert not store.finish("a", epoch, State.SUCCEEDED, result=RESULT)
        assert not store.finish("a", epoch, State.FAILED, error_code="INTERNAL", error_message="x")
    assert store.heartbeat("r1", [("a", 2)], 99) == {"a": "lost"}
    assert store.get("a", "") == new


def test_a_late_holder_goes_on_while_nobody_else_claimed(store: JobStore, create: Create, clock: Clock) -> None:
    create("a")
    claim(store)
    clock.now += 60
    assert store.heartbeat("r1", [("a", 1)], 10) == {}
    assert claim(store, owner="r2") == []
    clock.now += 60
    assert store.finish("a", 1, State.SUCCEEDED, result=RESULT)


def test_heartbeats_prolong_leases_and_carry_cancellations(store: JobStore, create: Create, clock: Clock) -> None:
    for job_id in "abc":
        create(job_id)
    claim(store, 2, owner="r1")
    claim(store, 1, owner="r2")
    clock.now += 8
    store.request_cancel("b", "")
    needs = {"b": "cancel", "c": "lost", "gone": "lost"}
    assert store.heartbeat("r1", [("a", 1), ("b", 1), ("c", 1), ("gone", 1)], 10) == needs
    assert store.heartbeat("r1", [], 10) == {}
    clock.now += 8
    assert ids(claim(store, 9, owner="r3")) == ["c"]


def test_progress_never_goes_back_within_an_attempt(store: JobStore, create: Create) -> None:
    create("a")
    claim(store)
    for step, shown in ((3, 3), (1, 3), (4, 4)):
        assert store.progress("a", 1, stage=Stage.DENOISING, step=step, eta_seconds=None)
        job = store.get("a", "")
        assert job is not None and (job.step, job.stage) == (shown, Stage.DENOISING)


def test_attempts_run_out(store: JobStore, create: Create, clock: Clock) -> None:
    create("a")
    create("b")
    for _ in range(2):
        assert ids(claim(store, max_attempts=2)) == ["a"]
        clock.now += 10
    assert ids(claim(store, max_attempts=2)) == ["b"]
    job = store.get("a", "")
    assert job is not None and job.state is State.FAILED and job.finished_at == clock.now
    assert job.error_code == "UNAVAILABLE"
    assert job.error_message == "given up after 2 attempts in a row without progress"
    assert not store.progress("a", 2, stage=Stage.DENOISING, step=1, eta_seconds=None)


def test_attempts_that_get_further_do_not_count(store: JobStore, create: Create, clock: Clock) -> None:
    create("a")
    for attempt in range(1, 13):
        (job,) = claim(store, max_attempts=2)
        assert job.attempt == attempt
        assert store.progress("a", job.lease_epoch, stage=Stage.DENOISING, step=attempt // 2, eta_seconds=None)
        clock.now += 10
    for _ in range(2):  # no further than before: the last one got to step 6
        (job,) = claim(store, max_attempts=2)
        assert store.progress("a", job.lease_epoch, stage=Stage.DENOISING, step=6, eta_seconds=None)
        clock.now += 10
    assert claim(store, max_attempts=2) == []
    given_up = store.get("a", "")
    assert given_up is not None and given_up.state is State.FAILED


def test_leases_that_are_given_back_count_for_nothing(store: JobStore, create: Create) -> None:
    create("a")
    for _ in range(5):
        (job,) = claim(store, max_attempts=1)
        assert job.attempt == 1
        assert store.release("r2", [("a", job.lease_epoch)]) == 0  # another's
        assert store.release("r1", [("a", job.lease_epoch - 1), ("b", 1)]) == 0  # an older one, and none
        assert store.release("r1", [("a", job.lease_epoch)]) == 1
        assert store.release("r1", [("a", job.lease_epoch)]) == 0
        assert store.heartbeat("r1", [("a", job.lease_epoch)], 10) == {"a": "lost"}  # on its way at that moment
    again, released = store.events("a", "")[-2:]
    assert (again.what, again.note) == ("claimed again", "its lease had been given back")
    assert released.what == "released"
    assert store.counts()["running"] == 1


def test_a_claim_whose_answer_was_lost_counts_for_nothing(store: JobStore, create: Create, clock: Clock) -> None:
    for job_id in "abc":
        create(job_id)
    claim(store)
    claim(store, owner="r2")
    claim(store)  # not heard of
    clock.now += 1
    assert claim(store) == []
    assert store.release_unheard("r1", ["a"]) == 1
    (job,) = claim(store)
    assert (job.id, job.attempt) == ("c", 1)


def test_an_own_job_is_not_given_up_while_it_is_in_hand(store: JobStore, create: Create, clock: Clock) -> None:
    create("a")
    claim(store, max_attempts=1)
    clock.now += 60  # the router was stopped
    assert claim_oldest(store, "r1", 9, 10, 1, ["nano"], in_hand=["a"]) == []
    assert store.heartbeat("r1", [("a", 1)], 10) == {}
    clock.now += 60
    assert claim_oldest(store, "r1", 9, 10, 1, ["nano"]) == []
    assert store.heartbeat("r1", [("a", 1)], 10) == {"a": "lost"}


def test_a_notice_stands_until_the_job_goes_on(store: JobStore, create: Create, clock: Clock) -> None:
    create("a")

    def notice() -> str:
        job = store.get("a", "")
        assert job is not None
        return job.notice

    claim(store)
    store.put_notice("a", 0, "an older lease's")
    assert notice() == ""
    for ending in (
        lambda: store.put_notice("a", 1, ""),
        lambda: store.release("r1", [("a", 1)]),
        lambda: store.finish("a", 2, State.CANCELLED),
    ):
        (epoch,) = [job.lease_epoch for job in (store.get("a", ""),) if job is not None]
        store.put_notice("a", epoch, "the store is away")
        assert notice() == "the store is away"
        ending()
        assert notice() == ""
        claim(store)


def test_what_is_in_hand_is_not_claimed_again(store: JobStore, create: Create, clock: Clock) -> None:
    create("a")
    create("b")
    claim(store)
    clock.now += 60  # the router was stopped
    found = claim_oldest(store, "r1", 9, 10, 5, ["nano"], in_hand=["a"])
    assert ids(found) == ["b"]
    assert store.heartbeat("r1", [("a", 1)], 10) == {}


def test_an_end_that_was_not_heard_of_can_be_said_again(store: JobStore, create: Create, clock: Clock) -> None:
    for job_id in "abc":
        create(job_id)
    claim(store, 3)
    for job_id, state, fields in (
        ("a", State.SUCCEEDED, {"result": RESULT}),
        ("b", State.FAILED, {"error_code": "INTERNAL"}),
        ("c", State.CANCELLED, {}),
    ):
        assert store.finish(job_id, 1, state, **fields)
        events = store.events(job_id, "")
        assert store.finish(job_id, 1, state, **fields)
        assert store.events(job_id, "") == events
    assert not store.finish("a", 1, State.CANCELLED)
    assert not store.finish("a", 0, State.SUCCEEDED, result=RESULT)
    other = replace(RESULT, video=replace(RESULT.video, key="jobs/a/2/video.mp4"))
    assert not store.finish("a", 1, State.SUCCEEDED, result=other)


def test_the_service_start_voids_leases_and_forgets_engines(store: JobStore, create: Create) -> None:
    for job_id in "abc":
        create(job_id)
    claim(store, 2)
    store.finish("b", 1, State.CANCELLED)
    store.put_engine(EngineRow("e", "nano", 1, 1, 1_000.0))
    assert store.expire_leases() == 1
    assert store.engines(1e9) == []
    # A survivor can neither prolong its lease nor end the job.
    assert store.heartbeat("r1", [("a", 1)], 10) == {"a": "lost"}
    assert not store.finish("a", 1, State.SUCCEEDED, result=RESULT)
    again = claim(store, 9, owner="r2")
    assert ids(again) == ["a", "c"]
    assert again[0].attempt == 2 and again[0].lease_epoch > 1
