"""What becomes of jobs when the router stops, loses a lease, or is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from tests.serving.jobs.harness import RESULT, ids
from tests.serving.router.harness import CARD, House, until
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.jobs.open import Stores
from zoetrope.serving.jobs.store import JobStore
from zoetrope.serving.router.backlog import Backlog
from zoetrope.serving.router.claims import ClaimedJobs
from zoetrope.serving.router.heap import Heap
from zoetrope.serving.router.job_database import Ending, RouterDatabase
from zoetrope.serving.router.policies.fifo import Fifo
from zoetrope.serving.router.queued_jobs import QueuedJobs
from zoetrope.serving.stages.failures import Remedy, StageError

pytestmark = pytest.mark.timeout(60)

Build: TypeAlias = Callable[..., House]


def is_done(house: House, job_id: str) -> Callable[[], bool]:
    return lambda: house.job(job_id).state.final


def execute(stores: Stores, sql: str) -> None:
    stores.database.write(lambda tx: tx.run(sql))


async def test_a_stop_in_good_order_counts_nothing_and_the_job_goes_on_from_its_snapshot(build: Build) -> None:
    house = build(max_attempts=1, lease_seconds=600.0)
    house.create("a", steps=6)
    async with house.router() as (_, engine):
        engine.steps = 4
        await until(lambda: house.job("a").step == 4)
    stopped = house.job("a")
    assert (stopped.state, stopped.lease_until) == (State.RUNNING, 0)
    async with house.router() as (_, engine):
        engine.steps = 9
        await until(is_done(house, "a"))
    ended = house.job("a")
    assert (ended.state, ended.attempt, ended.lease_epoch) == (State.SUCCEEDED, 1, 2)
    assert engine.taken == [5, 6]
    whats = [event.what for event in house.store.events("a", "")]
    assert whats == ["created", "claimed", "released", "claimed again", "succeeded"]


@pytest.mark.parametrize("steps", [0, 1], ids=["without progress", "a step each"])
async def test_a_long_job_ends_after_twenty_restarts(build: Build, steps: int) -> None:
    house = build(max_attempts=2, lease_seconds=600.0)
    house.create("a", steps=22)
    for restart in range(20):
        async with house.router() as (_, engine):
            engine.steps = steps
            await until(lambda: house.job("a").lease_until and house.job("a").step == steps * (restart + 1))  # noqa: B023
    async with house.router() as (_, engine):
        engine.steps = 22
        await until(is_done(house, "a"))
    assert (house.job("a").state, house.job("a").attempt) == (State.SUCCEEDED, 1)
    assert len(engine.taken) == 22 - 20 * steps


@pytest.mark.parametrize(("steps", "shown"), [(1, 1), (5, 5), (6, None)])
async def test_a_job_of_few_steps_shows_its_clip(build: Build, steps: int, shown: int | None) -> None:
    """Too few for a preview on the way; the engine's double makes none of those."""
    house = build()
    house.create("a", steps=steps)
    house.stages.showing = asyncio.Event()
    async with house.router() as (_, engine):
        engine.steps = steps
        if shown is not None:
            await until(lambda: house.files() == ["jobs/a/1/video.mp4"])
            assert not house.job("a").state.final, "it waits for its picture, for a job that is over takes none"
            house.stages.showing.set()
        await until(is_done(house, "a"))
    preview = house.job("a").preview
    assert (None if preview is None else preview.step) == shown


async def test_a_job_that_has_ended_is_written_before_the_stop(build: Build) -> None:
    house = build()
    house.create("a", steps=1)
    house.stages.rendering = asyncio.Event()
    async with house.router() as (_, engine):
        engine.steps = 1
        await until(lambda: house.job("a").stage == "decoding")
        house.stages.rendering.set()
        await until(house.files)
    assert house.job("a").state in (State.SUCCEEDED, State.RUNNING)  # the file was there, its row may not have been
    async with house.router() as (_, engine):
        await until(is_done(house, "a"))
    result = house.job("a").result
    assert result is not None and result["video"]["key"] in house.files()


async def test_a_lost_lease_ends_the_work_and_a_cancellation_the_job(build: Build) -> None:
    house = build()
    house.create("a")
    async with house.router() as (_, engine):
        await until(lambda: house.job("a").stage == "denoising")
        house.store.expire_leases()
        await until(lambda: house.job("a").lease_epoch == 3)  # it finds the job free and takes it again
        house.store.request_cancel("a", "")
        await until(is_done(house, "a"))
        assert house.job("a").state is State.CANCELLED
        house.create("b")
        engine.steps = 9
        await until(is_done(house, "b"))
    assert house.job("b").state is State.SUCCEEDED


async def test_a_job_that_somebody_else_has_keeps_its_snapshots(build: Build) -> None:
    house = build()
    house.create("a")
    books = RouterDatabase(house.settings, "r1", [CARD.name])
    cleared: asyncio.Queue[tuple[str, bool, list[str]]] = asyncio.Queue()

    async def work(job: Job) -> Ending:
        await asyncio.to_thread(house.store.expire_leases)
        return Ending(State.SUCCEEDED, RESULT)

    async def clear(job: Job, over: bool, files: list[str]) -> None:
        cleared.put_nowait((job.id, over, files))

    queue = QueuedJobs(books, Backlog(Fifo()), Heap())
    claimed = ClaimedJobs(books, queue, lambda _: [i for i in "ab" if i in queue], work, lambda _: None, clear)
    claiming = asyncio.create_task(claimed.claim())
    assert await asyncio.wait_for(cleared.get(), 30) == ("a", False, [RESULT.video.key])
    claiming.cancel()
    await books.close()


@pytest.mark.parametrize("turns", range(5))
async def test_a_renewal_that_is_cancelled_as_it_is_woken_ends(turns: int) -> None:
    """Else a router that has stopped would keep its jobs for ever."""

    class Books:
        renewed = asyncio.Event()

        async def renew(self, leases: object) -> dict[str, str]:
            self.renewed.set()
            return {}

    books: Any = Books()
    claimed = ClaimedJobs(books, QueuedJobs(books, Backlog(Fifo()), Heap()), *[Any] * 4)  # type: ignore[arg-type]
    renewing = asyncio.create_task(claimed.renew())
    await books.renewed.wait()
    for _ in range(5):
        await asyncio.sleep(0)  # it waits for its next turn
    claimed.look()
    for _ in range(turns):
        await asyncio.sleep(0)
    renewing.cancel()
    await asyncio.wait([renewing], timeout=2)
    assert renewing.cancelled()


REFUSE = {
    "sqlite": (
        "CREATE TRIGGER refuse BEFORE UPDATE ON job WHEN {} BEGIN SELECT RAISE(ABORT, 'never'); END",
        "DROP TRIGGER refuse",
    ),
    "postgres": ("ALTER TABLE job ADD CONSTRAINT refuse CHECK (NOT ({}))", "ALTER TABLE job DROP CONSTRAINT refuse"),
}


def refuse(house: House, condition: str) -> None:
    """Have the database refuse rows for good."""
    kind = "postgres" if house.settings.database else "sqlite"
    condition = condition if kind == "postgres" else condition.replace("state", "NEW.state").replace("id", "NEW.id")
    execute(house.stores, REFUSE[kind][0].format(condition))


async def test_a_success_that_the_database_refuses_is_a_failure_with_a_reason(build: Build) -> None:
    house = build()
    house.create("a", steps=1)
    house.create("b", steps=1)
    refuse(house, "state = 'succeeded' AND id = 'a'")
    async with house.router() as (_, engine):
        engine.steps = 9
        await until(is_done(house, "a"))
        await until(is_done(house, "b"))
        await until(lambda: len(house.files()) == 1)
    job = house.job("a")
    assert (job.state, job.error_code, job.error_message) == (
        State.FAILED,
        "INTERNAL",
        "how it ended cannot be stored",
    )
    assert house.job("b").state is State.SUCCEEDED


async def test_a_job_whose_every_end_is_refused_is_let_go(build: Build) -> None:
    house = build(max_running=1, lease_seconds=600.0)
    house.create("a", steps=1)
    house.create("b", steps=1)
    refuse(house, "state IN ('succeeded', 'failed') AND id = 'a'")
    async with house.router() as (_, engine):
        engine.steps = 9
        await until(is_done(house, "b"))  # there is room for one job
    assert house.job("a").state is State.RUNNING


async def test_a_job_whose_row_is_gone_is_let_go_with_its_file(build: Build) -> None:
    house = build(max_running=1)
    house.create("a", steps=1)
    house.create("b", steps=1)
    async with house.router() as (_, engine):
        house.stages.rendering = asyncio.Event()
        engine.steps = 1
        await until(lambda: house.job("a").stage == "decoding")
        execute(house.stores, "DELETE FROM job WHERE id = 'a'")
        house.stages.rendering.set()
        engine.steps = 9
        await until(is_done(house, "b"))
        await until(lambda: all(file.startswith("jobs/b/") for file in house.files()))
    assert len(house.files()) == 1


async def test_a_job_says_what_it_waits_for(build: Build) -> None:
    house = build()
    house.create("a", steps=1)
    away = True

    async def encoding() -> None:
        if away:
            raise StageError("UNAVAILABLE", "storage", Remedy.WAIT)

    house.stages.encoding = encoding
    async with house.router() as (_, engine):
        await until(lambda: house.job("a").notice == "waiting for storage")
        away = False
        await until(lambda: house.job("a").notice == "")
        engine.steps = 1
        await until(is_done(house, "a"))
    assert (house.job("a").state, house.job("a").attempt) == (State.SUCCEEDED, 1)


class Deaf(JobStore):
    """Hears an error of each claim, though what it does is stored."""

    def claim(self, *arguments: Any) -> list[Job]:
        super().claim(*arguments)
        raise StoreError("the connection is gone")


async def test_a_claim_that_was_not_heard_of_is_given_back(build: Build) -> None:
    house = build(lease_seconds=600.0)
    house.create("a")
    books = RouterDatabase(house.settings, "r1", [CARD.name])
    heard, books.jobs = books.jobs, Deaf(house.stores.database)
    for _ in range(3):
        with pytest.raises(StoreError):
            await books.claim(["a"], [])
        assert house.job("a").lease_owner == "r1"
    books.jobs = heard
    (job,) = await books.claim(["a"], [])
    assert (job.id, job.attempt, job.lease_epoch) == ("a", 1, 4)
    assert ids(await books.claim(["a"], ["a"])) == []
    await books.close()


async def test_the_first_claim_is_told_from_later_ones_also_after_a_restore(build: Build) -> None:
    """Whose epochs begin anywhere."""
    house = build(lease_seconds=600.0)
    house.create("a")
    assert house.store.after_restore() == (1, 0)
    books = RouterDatabase(house.settings, "r1", [CARD.name])
    firsts = []
    for _ in range(3):
        (job,) = await books.claim(["a"], [])
        firsts.append(books.first_claim(job))
        assert await books.release([("a", job.lease_epoch)]) == 1
    assert (firsts, job.attempt) == ([True, False, False], 1)
    await books.close()
