"""The bound of a model's backlog, in GPU-seconds of prices: refused at once, with when there is room again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.serving.jobs.harness import RESULT, claim, new_job
from zoetrope.serving.jobs.admission import gpu_share
from zoetrope.serving.jobs.errors import BacklogFull, QueueFull
from zoetrope.serving.jobs.job import Job, QueueLimits, State
from zoetrope.serving.jobs.store import JobStore

Create = Callable[..., Job]
LIMITS = QueueLimits(max_queued=100, gpu_seconds=100.0, gpus=4, retry_seconds=7.0)


def refusal(create: Create, price: float, **fields: object) -> BacklogFull:
    with pytest.raises(BacklogFull) as caught:
        create("refused", price=price, limits=LIMITS, **fields)
    return caught.value


def test_the_backlog_is_bounded_until_jobs_end(create: Create, store: JobStore) -> None:
    create("a", price=60.0, limits=LIMITS)
    create("b", price=40.0, limits=LIMITS)
    full = refusal(create, 20.0)
    assert (full.limit, full.used, full.price, full.own) == (100, 100, 20, False)
    assert full.retry_seconds == 5, "four GPUs do 20 GPU-seconds in that time"
    assert store.priced(["nano", "other"]) == {"nano": (2, 100.0)}
    create("other model", price=50.0, model="other", limits=LIMITS)
    (job,) = claim(store)
    assert refusal(create, 20.0).used == 100, "a running job counts"
    assert store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=RESULT, used=55.5)
    create("c", price=20.0, limits=LIMITS)
    assert store.get("a", "") is not None and store.get_many(["a"])["a"].used == 55.5
    store.request_cancel("b", "")
    assert store.priced(["nano"]) == {"nano": (1, 20.0)}


def test_the_first_job_is_never_too_large(create: Create) -> None:
    create("huge", price=1_000.0, limits=LIMITS)
    assert refusal(create, 1.0).used == 1_000


def test_a_tenant_gets_half_of_what_others_leave(create: Create, store: JobStore) -> None:
    ours, theirs = {"owner": "us", "key_id": "k1"}, {"owner": "them", "key_id": "k2"}
    create("a", price=50.0, limits=LIMITS, **ours)
    full = refusal(create, 10.0, **ours)
    assert (full.own, full.limit, full.used) == (True, 50, 50)
    create("b", price=20.0, limits=LIMITS, **theirs)
    assert refusal(create, 10.0, **theirs).limit == 25, "half of the 50 that we leave"
    assert store.gpu_seconds("them", ["nano"]) == {"nano": (70.0, 20.0)}
    assert gpu_share(100, 70, 20) == 25 and gpu_share(100, 170, 20) == 0


def test_without_a_price_or_a_limit_nothing_is_refused(create: Create) -> None:
    create("a", price=100.0, limits=LIMITS)
    create("free", price=0.0, limits=LIMITS)
    create("b", price=100.0, limits=QueueLimits(100))


def test_checking_a_job_stores_nothing(store: JobStore, create: Create) -> None:
    create("a", price=90.0, limits=LIMITS)
    store.check(new_job("b", price=10.0), LIMITS)
    with pytest.raises(BacklogFull):
        store.check(new_job("b", price=20.0), LIMITS)
    with pytest.raises(QueueFull) as caught:
        store.check(new_job("b"), QueueLimits(1, retry_seconds=7.0))
    assert caught.value.retry_seconds == 7
    assert store.counts()["queued"] == 1
