"""A database that is locked: engines get their plans, leases are renewed, and what is claimed meanwhile is not lost."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias

import psycopg
import pytest

from tests.serving.router.harness import House, until
from zoetrope.cluster.protocol.messages import HeldSegment, Report
from zoetrope.serving.jobs.job import State

pytestmark = pytest.mark.timeout(60)
Build: TypeAlias = Callable[..., House]


@contextmanager
def locked(house: House) -> Iterator[None]:
    """Nothing can be written: as another process of the machine does it, or a migration."""
    if house.settings.database:
        with psycopg.connect(house.settings.database) as connection:
            connection.execute("LOCK TABLE zoetrope.job, zoetrope.engine IN EXCLUSIVE MODE")
            yield
    else:
        with closing(sqlite3.connect(house.settings.directory / "jobs.db", isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield


async def test_engines_get_plans_and_leases_go_on_while_nothing_can_be_written(build: Build) -> None:
    house = build(lease_seconds=2.0, max_attempts=1)
    house.create("a", steps=9)
    async with house.router() as (_, engine):
        engine.steps = 2
        await until(lambda: house.job("a").step == 2)
        until_then = house.job("a").lease_until
        assert until_then is not None
        with locked(house):
            engine.steps = 4
            await until(lambda: engine.taken == [1, 2, 3, 4, 5, 6])
            await until(lambda: house.store._db.now() > until_then + 0.5)  # its lease ran out
            assert house.job("a").step == 2, "nothing was written"
        await until(lambda: house.job("a").step == 6)
        engine.steps = 9
        await until(lambda: house.job("a").state.final)
    assert (house.job("a").state, house.job("a").lease_epoch) == (State.SUCCEEDED, 1), "it stayed in hand"


class Stuck:
    """Somebody who froze in a transaction in which the queue was counted: whoever claims waits for him."""

    def __init__(self, url: str) -> None:
        self._holder = psycopg.connect(url)
        self._looker = psycopg.connect(url, autocommit=True)
        self._holder.execute("SELECT * FROM zoetrope.tally WHERE name = 'state queued' FOR UPDATE")

    def somebody_waits(self) -> bool:
        found = self._looker.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%tally%'"
        ).fetchone()
        return found is not None and found[0] > 0

    def let_go(self) -> None:
        self._holder.rollback()

    def close(self) -> None:
        self._holder.close()
        self._looker.close()


@pytest.fixture
def postgres_house(postgres: str, tmp_path: Path) -> Iterator[House]:
    """A SQLite file has one lock for all."""
    house = House(tmp_path, postgres)
    yield house
    house.stores.close()


async def test_a_claim_that_waits_delays_no_renewal(postgres_house: House, postgres: str) -> None:
    house = postgres_house
    house.create("a", steps=9)
    async with house.router() as (_, engine):
        engine.steps = 1
        await until(lambda: house.job("a").step == 1)
        house.create("b", steps=9)
        stuck = Stuck(postgres)
        with closing(stuck):
            await until(lambda: house.job("b").state is State.QUEUED and stuck.somebody_waits())
            for _ in range(3):
                seen = house.job("a").lease_until
                await until(lambda: house.job("a").lease_until != seen)  # noqa: B023
            plan = await engine.ask(Report("e2", 1, "nano", held=(HeldSegment("unknown", 1),)))
            assert plan.release == ("unknown",)
            assert stuck.somebody_waits(), "all that happened while the claim waited"
            stuck.let_go()
            await until(lambda: house.job("b").state is State.RUNNING)


async def test_what_is_claimed_while_the_router_stops_is_given_back(postgres_house: House, postgres: str) -> None:
    house = postgres_house
    house.create("a")
    with closing(Stuck(postgres)) as stuck:
        router = await house.open_router()
        await until(stuck.somebody_waits)
        stopping = asyncio.create_task(router.stop())
        await asyncio.sleep(0)  # it waits for the claim from here on
        stuck.let_go()
        await stopping
    job = house.job("a")
    assert (job.state, job.lease_until, job.lease_epoch, job.attempt) == (State.RUNNING, 0, 1, 0)


async def test_a_database_that_never_answers_does_not_keep_a_stop(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoetrope.serving.router.router.STOP_SECONDS", 0.3)
    house = build(lease_seconds=600.0)
    house.create("a")
    router = await house.open_router()
    await until(lambda: house.job("a").state is State.RUNNING)
    with locked(house):
        await asyncio.wait_for(router.stop(), 5)
        assert house.job("a").lease_until != 0  # it is still asked to be given back, and will be
