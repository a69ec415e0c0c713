"""What waits together is committed together, and yet each as if it were alone."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.serving.jobs.harness import LIMITS, Clock, claim, ids, new_job
from zoetrope.serving.jobs.db.database import Database, Tx
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.errors import QueueFull
from zoetrope.serving.jobs.job import Job, NewJob, QueueLimits, State
from zoetrope.serving.jobs.open import Stores, open_stores

SECRETS = "SELECT owner FROM webhook_secret ORDER BY owner"


@contextmanager
def held(database: Database) -> Iterator[None]:
    """Keeps the writer busy, so that what is submitted meanwhile becomes one batch."""
    begun, go = threading.Event(), threading.Event()

    def wait(tx: Tx) -> None:
        begun.set()
        go.wait(30)

    blocker = database.submit(wait)
    assert begun.wait(30)
    try:
        yield
    finally:
        go.set()
        blocker.result(30)


async def create_together(stores: Stores, jobs: list[NewJob], limits: QueueLimits) -> list[Job | BaseException]:
    """Creates jobs in one batch."""
    with held(stores.database):
        tasks = [asyncio.create_task(stores.jobs.acreate(job, limits)) for job in jobs]
        await asyncio.sleep(0)  # all of them have been submitted
    return await asyncio.gather(*tasks, return_exceptions=True)


def put(owner: str, tx: Tx) -> int:
    return tx.run("INSERT INTO webhook_secret (owner, secret) VALUES (?, 's')", (owner,))


def owners(stores: Stores) -> list[str]:
    return [row["owner"] for row in stores.database.read(SECRETS)]


def test_bad_bodies_spoil_nothing_of_the_others(database: str, stores: Stores) -> None:
    other = open_stores(database)
    runs = 0

    def refuses(tx: Tx) -> None:
        raise KeyError("nothing was changed")

    def regrets(tx: Tx) -> None:
        put("regretted", tx)
        tx.later("INSERT INTO webhook_secret (owner, secret) VALUES (?, 's')", ("regretted later",))
        tx.count("queued", 1, 1.0)
        raise ValueError("after a change")

    def is_refused(tx: Tx) -> None:
        put("refused", tx)
        put("a", tx)  # is there already

    def looks(tx: Tx) -> tuple[list[str], list[str]]:
        nonlocal runs
        runs += 1
        return [row["owner"] for row in tx.all(SECRETS)], owners(other)

    with held(stores.database):
        first = stores.database.submit(lambda tx: put("a", tx))
        bad: list[Future[None]] = [stores.database.submit(body) for body in (refuses, regrets, is_refused)]
        second = stores.database.submit(lambda tx: put("b", tx))
        look = stores.database.submit(looks)
    assert (first.result(30), second.result(30)) == (1, 1)
    for future, error in zip(bad, (KeyError, ValueError, StoreError), strict=True):
        with pytest.raises(error):
            future.result(30)
    # One transaction: the last body saw what the first ones did, and nobody else did.
    assert look.result(30) == (["a", "b"], [])
    assert owners(other) == ["a", "b"]
    assert stores.database.write(lambda tx: tx.tally("queued")) == (0, 0)
    assert runs <= 2  # at most again, with savepoints
    other.close()


def test_limits_hold_within_a_batch(stores: Stores) -> None:
    jobs = [new_job(f"j{n}", request_id=f"r{n % 5}") for n in range(10)]
    answers = asyncio.run(create_together(stores, jobs, QueueLimits(3)))
    assert [isinstance(answer, QueueFull) for answer in answers] == [False] * 3 + [True] * 2 + [False] * 3 + [True] * 2
    assert answers[:3] == answers[5:8]  # replays, which are never refused
    assert sorted(ids(stores.jobs.list("", page_size=9))) == ["j0", "j1", "j2"]


async def test_a_caller_that_gave_up_waiting_leaves_no_job(stores: Stores) -> None:
    with held(stores.database):
        call = asyncio.create_task(stores.jobs.acreate(new_job("a"), LIMITS))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert stores.jobs.create(new_job("b"), LIMITS).id == "b"
    assert stores.jobs.get("a", "") is None


def test_closing_finishes_what_waits(database: str, stores: Stores) -> None:
    with held(stores.database):
        waiting = [stores.database.submit(partial(put, f"o{n}")) for n in range(3)]
        closing = threading.Thread(target=stores.close)
        closing.start()
    closing.join(30)
    assert [future.result(0) for future in waiting] == [1, 1, 1]
    again = open_stores(database)
    assert owners(again) == ["o0", "o1", "o2"]
    again.close()


def whole(stores: Stores, acknowledged: list[str]) -> None:
    """Every job is there with its line and its place in the tally, or is not there at all."""
    stored = ids(stores.jobs.list("", page_size=100_000))
    assert set(acknowledged) == set(stored)
    lines = stores.database.read("SELECT job_id FROM job_event WHERE what = 'created'")
    assert sorted(row["job_id"] for row in lines) == sorted(stored)
    assert stores.jobs.counts()["queued"] == len(stored)


def fill(stores: Stores) -> list[str]:
    """Creates jobs in groups until the database is full; those that were accepted."""
    acknowledged: list[str] = []
    for group in range(1_000):
        jobs = [new_job(f"{group}-{n}", spec={"prompt": "x" * 20_000}) for n in range(4)]
        failed = 0
        for job, answer in zip(jobs, asyncio.run(create_together(stores, jobs, LIMITS)), strict=True):
            if isinstance(answer, Job):
                acknowledged.append(job.id)
            else:
                assert isinstance(answer, StoreError) and "\n" not in str(answer) and "full" in str(answer)
                failed += 1
        if failed:
            return acknowledged
    raise AssertionError("it never became full")


def test_a_full_database_is_an_error_and_leaves_nothing_half(tmp_path: Path) -> None:
    stores = open_stores(f"sqlite://{tmp_path}/jobs.db")
    stores.database.write(lambda tx: tx.all("PRAGMA max_page_count = 200"))
    acknowledged = fill(stores)
    assert len(acknowledged) > 10
    whole(stores, acknowledged)
    stores.database.write(lambda tx: tx.all("PRAGMA max_page_count = 100000"))
    acknowledged.append(stores.jobs.create(new_job("later"), LIMITS).id)  # it goes on when there is room again
    whole(stores, acknowledged)
    stores.close()


@pytest.mark.integration
def test_a_full_disk_is_an_error_and_leaves_nothing_half(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True) if os.geteuid() == 0 else None
    if mounted is None or mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {'not root' if mounted is None else mounted.stderr.strip()}")
    try:
        stores = open_stores(f"sqlite://{place}/jobs.db")
        (place / "ballast").write_bytes(b"x" * 300_000)
        acknowledged = fill(stores)
        assert len(acknowledged) > 4
        whole(stores, acknowledged)
        with pytest.raises(StoreError, match="full"):
            stores.jobs.create(new_job("too much", spec={"prompt": "x" * 500_000}), LIMITS)
        (place / "ballast").unlink()
        acknowledged.append(stores.jobs.create(new_job("later"), LIMITS).id)
        whole(stores, acknowledged)
        stores.close()
        stores = open_stores(f"sqlite://{place}/jobs.db")
        whole(stores, acknowledged)
        stores.close()
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_failed_end_leaves_the_job_with_its_holder(stores: Stores, clock: Clock) -> None:
    """The state, its line and its message change together or not at all."""
    stores.jobs.create(new_job("a"), LIMITS)
    (job,) = claim(stores.jobs)
    stores.database.write(lambda tx: tx.run("ALTER TABLE job_event RENAME TO hidden"))
    with pytest.raises(StoreError, match="job_event"):
        stores.jobs.finish("a", 1, State.CANCELLED)
    assert stores.jobs.get("a", "") == job
    stores.database.write(lambda tx: tx.run("ALTER TABLE hidden RENAME TO job_event"))
    assert stores.jobs.finish("a", 1, State.CANCELLED)
    assert [event.what for event in stores.jobs.events("a", "")] == ["created", "claimed", "cancelled"]
