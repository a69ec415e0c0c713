"""The job store on each database: what its first methods promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from serving.jobs.job import EngineRow, Job, JobFilter, Stage, State
from serving.jobs.store import JobStore, QueueFull, RequestConflict, StoreError
from tests.serving.jobs.harness import RESULT, Clock, claim, ids

Create = Callable[..., Job]


# Creating


def test_a_job_is_queued_as_given(store: JobStore, create: Create) -> None:
    job = create("a", spec={"prompt": "é\n", "latent_shape": (16, 5, 8, 12)}, owner="o")
    assert job == Job(
        id="a",
        owner="o",
        state=State.QUEUED,
        stage=None,
        model="nano",
        spec={"prompt": "é\n", "latent_shape": [16, 5, 8, 12]},
        step=0,
        steps=10,
        created_at=1_001.0,
        started_at=None,
        finished_at=None,
        attempt=0,
        lease_epoch=0,
        lease_owner=None,
        lease_until=None,
        cancel_requested=False,
        error_code=None,
        error_message=None,
        result=None,
        eta_seconds=None,
        seconds=5.0,
    )
    assert store.get("a", "o") == job
    assert store.get("a", "") is None
    assert store.get("b", "o") is None


def test_a_repeated_request_returns_the_first_job(store: JobStore, create: Create) -> None:
    first = create("a", request_id="r")
    assert create("b", request_id="r") == first
    claimed = claim(store)
    assert create("c", request_id="r") == claimed[0]
    assert create("d", request_id="r", owner="other").id == "d"
    assert create("e").id == "e"
    assert ids(store.list("", page_size=10)) == ["e", "a"]


def test_a_request_id_with_another_content_is_a_conflict(store: JobStore, create: Create) -> None:
    create("a", request_id="r")
    with pytest.raises(RequestConflict, match="'r'"):
        create("b", request_id="r", fingerprint="g")
    assert store.get("b", "") is None


def test_a_deleted_job_frees_its_request_id(store: JobStore, create: Create) -> None:
    create("a", request_id="r")
    store.request_cancel("a", "")
    assert store.delete("a", "")
    assert create("b", request_id="r", fingerprint="g").id == "b"


def test_a_full_queue_refuses_new_jobs_but_replays_known_ones(store: JobStore, create: Create) -> None:
    first = create("a", request_id="r", max_queued=2)
    create("b", max_queued=2)
    with pytest.raises(QueueFull) as caught:
        create("c", max_queued=2)
    assert caught.value.limit == 2
    assert store.get("c", "") is None
    assert create("d", request_id="r", max_queued=2) == first
    claim(store)  # a running job no longer counts
    assert create("e", max_queued=2).id == "e"


def test_an_id_is_used_once(store: JobStore, create: Create) -> None:
    first = create("a")
    with pytest.raises(StoreError):
        create("a", spec={"prompt": "other"})
    assert store.get("a", "") == first


# Listing


def test_pages_are_stable_while_jobs_come_and_go(store: JobStore, create: Create) -> None:
    for number in range(7):
        create(f"j{number}")
    create("elsewhere", owner="o")
    page = store.list("", page_size=3)
    assert ids(page) == ["j6", "j5", "j4"]
    create("new")
    store.request_cancel("j4", "")
    store.delete("j4", "")  # even the job that the token names
    page = store.list("", page_size=3, before=(page[-1].created_at, page[-1].id))
    assert ids(page) == ["j3", "j2", "j1"]
    page = store.list("", page_size=3, before=(page[-1].created_at, page[-1].id))
    assert ids(page) == ["j0"]
    assert store.list("", page_size=3, before=(page[-1].created_at, page[-1].id)) == []
    assert store.list("", page_size=0) == []


def test_jobs_of_the_same_moment_are_paged_by_id(store: JobStore, create: Create, clock: Clock) -> None:
    for job_id in ("b", "d", "a", "c"):
        clock.now = 5.0
        create(job_id)
    page = store.list("", page_size=2)
    assert ids(page) == ["d", "c"]
    assert ids(store.list("", page_size=2, before=(page[-1].created_at, page[-1].id))) == ["b", "a"]
    assert ids(claim(store, 4)) == ["a", "b", "c", "d"]


def test_a_list_may_be_limited_to_states(store: JobStore, create: Create) -> None:
    for job_id in "abc":
        create(job_id)
    claim(store)
    store.request_cancel("b", "")
    assert ids(store.list("", page_size=9, where=JobFilter(states=(State.RUNNING,)))) == ["a"]
    assert ids(store.list("", page_size=9, where=JobFilter(states=(State.QUEUED, State.CANCELLED,)))) == ["c", "b"]
    assert store.list("", page_size=9, where=JobFilter(states=(State.FAILED,))) == []


def test_queue_position_counts_queued_jobs_in_front(store: JobStore, create: Create) -> None:
    jobs = [create(job_id, owner=job_id) for job_id in "abcd"]
    assert [store.queue_position(job) for job in jobs] == [0, 1, 2, 3]
    claim(store)
    store.request_cancel("b", "b")
    assert [store.queue_position(job) for job in jobs[2:]] == [0, 1]
    running = store.get("a", "a")
    assert running is not None and store.queue_position(running) == 0


# Claims and leases


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
    assert [event.what for event in store.events("a", "")][-2:] == ["claimed again", "released"]
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
    assert store.claim("r1", 9, 10, 1, ["nano"], in_hand=["a"]) == []
    assert store.heartbeat("r1", [("a", 1)], 10) == {}
    clock.now += 60
    assert store.claim("r1", 9, 10, 1, ["nano"]) == []
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
    found = store.claim("r1", 9, 10, 5, ["nano"], in_hand=["a"])
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


# Ends


def test_success_keeps_the_result(store: JobStore, create: Create, clock: Clock) -> None:
    create("a")
    claim(store)
    store.progress("a", 1, stage=Stage.DECODING, step=9, eta_seconds=1.0)
    clock.now += 5
    assert store.finish("a", 1, State.SUCCEEDED, result=RESULT)
    job = store.get("a", "")
    assert job is not None and job.result == asdict(RESULT)
    assert (job.state, job.step, job.finished_at) == (State.SUCCEEDED, 10, clock.now)
    assert (job.stage, job.lease_owner, job.lease_until, job.eta_seconds) == (None, None, None, None)
    # What is final stays as it is, for its own epoch as well.
    assert not store.finish("a", 1, State.FAILED, error_code="INTERNAL")
    assert not store.progress("a", 1, stage=Stage.DECODING, step=1, eta_seconds=None)
    assert store.heartbeat("r1", [("a", 1)], 10) == {"a": "lost"}
    assert store.request_cancel("a", "") == job
    clock.now += 100
    assert claim(store) == []
    assert store.get("a", "") == job


def test_failure_keeps_the_reason(store: JobStore, create: Create) -> None:
    create("a")
    claim(store)
    assert store.finish("a", 1, State.FAILED, error_code="RESOURCE_EXHAUSTED", error_message="out of memory")
    job = store.get("a", "")
    assert job is not None
    assert (job.error_code, job.error_message) == ("RESOURCE_EXHAUSTED", "out of memory")


@pytest.mark.parametrize(
    "arguments",
    [
        {"state": State.QUEUED},
        {"state": State.RUNNING},
        {"state": State.SUCCEEDED},
        {"state": State.SUCCEEDED, "result": RESULT, "error_code": "INTERNAL"},
        {"state": State.FAILED},
        {"state": State.FAILED, "error_code": "INTERNAL", "result": RESULT},
        {"state": State.CANCELLED, "result": RESULT},
    ],
)
def test_an_end_that_contradicts_itself_is_refused(store: JobStore, create: Create, arguments: dict[str, Any]) -> None:
    create("a")
    (job,) = claim(store)
    with pytest.raises(ValueError):
        store.finish("a", 1, **arguments)
    assert store.get("a", "") == job


def test_a_queued_job_is_cancelled_at_once(store: JobStore, create: Create, clock: Clock) -> None:
    create("a")
    assert store.request_cancel("a", "other") is None
    job = store.request_cancel("a", "")
    assert job is not None and job.state is State.CANCELLED and job.cancel_requested and job.finished_at == clock.now
    assert claim(store) == []
    assert store.request_cancel("b", "") is None


def test_a_running_job_is_cancelled_by_its_holder(store: JobStore, create: Create) -> None:
    create("a")
    claim(store)
    job = store.request_cancel("a", "")
    assert job is not None and job.state is State.RUNNING and job.cancel_requested
    assert store.finish("a", 1, State.CANCELLED)
    job = store.get("a", "")
    assert job is not None and job.state is State.CANCELLED


def test_a_cancelled_job_of_a_dead_holder_is_not_run_again(store: JobStore, create: Create, clock: Clock) -> None:
    create("a")
    claim(store, max_attempts=1)
    store.request_cancel("a", "")
    clock.now += 10
    assert claim(store, max_attempts=1) == []
    job = store.get("a", "")
    assert job is not None and job.state is State.CANCELLED and job.error_code is None


def test_only_final_jobs_are_deleted(store: JobStore, create: Create) -> None:
    create("a")
    assert not store.delete("a", "")
    claim(store)
    assert not store.delete("a", "")
    store.finish("a", 1, State.CANCELLED)
    assert not store.delete("a", "other")
    assert store.delete("a", "")
    assert not store.delete("a", "")
    assert store.get("a", "") is None


# Engines and estimates


def test_engines_are_known_while_they_are_heard_of(store: JobStore, clock: Clock) -> None:
    store.put_engine(EngineRow("b", "nano", 1, 1, clock.now))
    store.put_engine(EngineRow("a", "nano", 1, 2, clock.now - 5))
    store.put_engine(EngineRow("b", "nano", 2, 4, clock.now - 1))
    assert store.engines(5) == [
        EngineRow("a", "nano", 1, 2, clock.now - 5),
        EngineRow("b", "nano", 2, 4, clock.now - 1),
    ]
    assert [engine.id for engine in store.engines(4.9)] == ["b"]
    store.remove_engine("b")
    store.remove_engine("b")
    assert [engine.id for engine in store.engines(5)] == ["a"]


def test_recent_run_seconds_averages_the_last_undisturbed_successes(
    store: JobStore, create: Create, clock: Clock
) -> None:
    assert store.recent_run_seconds("nano") is None

    def run(job_id: str, seconds: float, state: State = State.SUCCEEDED) -> None:
        create(job_id)
        (job,) = claim(store)
        clock.now += seconds
        if state is State.SUCCEEDED:
            store.finish(job_id, job.lease_epoch, state, result=RESULT)
        else:
            store.finish(job_id, job.lease_epoch, state)

    run("old", 100)
    run("cancelled", 50, State.CANCELLED)
    run("a", 2)
    run("b", 4)
    create("lost")
    claim(store)
    clock.now += 60
    assert claim(store)[0].attempt == 2
    store.finish("lost", 2, State.SUCCEEDED, result=RESULT)
    assert store.recent_run_seconds("nano", 2) == 3
    assert store.recent_run_seconds("nano", 3) == pytest.approx(106 / 3)
    assert store.recent_run_seconds("other") is None
