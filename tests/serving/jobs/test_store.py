"""The job store on each database: what its first methods promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from tests.serving.jobs.harness import RESULT, Clock, claim, ids
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.errors import QueueFull, RequestConflict
from zoetrope.serving.jobs.job import EngineRow, Job, JobFilter, Stage, State, UnfinishedWork
from zoetrope.serving.jobs.store import JobStore

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


def test_a_request_id_of_other_weights_is_a_conflict(store: JobStore, create: Create) -> None:
    """What is not known, to an older release or a gateway without the files, is no other weights."""
    first = create("a", request_id="r", weights="nano@1")
    assert first.weights == "nano@1"
    assert create("b", request_id="r", weights="nano@1") == create("b", request_id="r") == first
    with pytest.raises(RequestConflict, match="'r' was used before when nano had other weights"):
        create("b", request_id="r", weights="nano@2")
    older = create("c", request_id="s")
    assert create("d", request_id="s", weights="nano@2") == older


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
    assert ids(
        store.list(
            "",
            page_size=9,
            where=JobFilter(
                states=(
                    State.QUEUED,
                    State.CANCELLED,
                )
            ),
        )
    ) == ["c", "b"]
    assert store.list("", page_size=9, where=JobFilter(states=(State.FAILED,))) == []


def test_queue_position_counts_queued_jobs_in_front(store: JobStore, create: Create) -> None:
    jobs = [create(job_id, owner=job_id) for job_id in "abcd"]
    assert [store.queue_position(job) for job in jobs] == [0, 1, 2, 3]
    claim(store)
    store.request_cancel("b", "b")
    assert [store.queue_position(job) for job in jobs[2:]] == [0, 1]
    running = store.get("a", "a")
    assert running is not None and store.queue_position(running) == 0


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
    busy = EngineRow("b", "nano", 2, 4, clock.now - 1, jobs=("vid_1", "vid_2"))
    store.put_engine(busy)
    assert store.engines(5) == [EngineRow("a", "nano", 1, 2, clock.now - 5), busy]
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


# Work


def test_unfinished_work_is_what_jobs_are_expected_to_take_yet(store: JobStore, create: Create) -> None:
    assert store.unfinished_work() == {}
    create("a", price=10.0)
    create("b", price=4.0)
    create("c", model="other", price=1.0)
    assert store.unfinished_work() == {"nano": UnfinishedWork(2, 14.0), "other": UnfinishedWork(1, 1.0)}
    (first,) = claim(store)
    store.progress(first.id, first.lease_epoch, stage=Stage.DECODING, step=10, eta_seconds=None)
    assert store.unfinished_work()["nano"] == UnfinishedWork(1, 4.0), "a job that is decoded needs no engine"
    store.finish(first.id, first.lease_epoch, State.SUCCEEDED, result=RESULT)
    store.request_cancel("c", "")
    assert store.unfinished_work() == {"nano": UnfinishedWork(1, 4.0)}
