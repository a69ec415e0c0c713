"""What a router makes known of its jobs and engines, from the queue to the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from tests.serving.router.harness import House, until
from zoetrope.serving.jobs.forecast_table import ModelForecast
from zoetrope.serving.router import router

pytestmark = pytest.mark.timeout(60)
Build: TypeAlias = Callable[..., House]


def newest(house: House) -> ModelForecast | None:
    found = house.stores.forecasts.fresh(60.0).get("nano")
    return None if found is None else found[0]


def told(house: House, *job_ids: str) -> ModelForecast | None:
    """The newest forecast, once it has exactly these jobs."""
    found = newest(house)
    return found if found is not None and set(found.jobs) == set(job_ids) else None


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is a double that says nothing while it waits for its next step."""
    monkeypatch.setattr(router, "ENGINE_TIMEOUT_SECONDS", 600.0)


async def test_every_job_is_foreseen_from_the_queue_on(build: Build) -> None:
    house = build(max_running=1, policy="fifo")
    for name, owner in (("a", ""), ("b", "acme"), ("c", "")):
        house.create(name, steps=4, owner=owner)
    async with house.router() as (_, engine):
        found: Any = await until(lambda: (f := told(house, "a", "b", "c")) and f.jobs["a"].start == 0 and f)
        jobs = found.jobs
        assert 0 < jobs["a"].eta < jobs["b"].eta < jobs["c"].eta
        assert [jobs[name].place for name in "abc"] == [0, 0, 1]
        assert all(0 < job.low <= job.eta <= job.high for job in jobs.values())
        assert (found.gpus, found.engines) == (1, 1)
        assert {name: (q.queued, q.running) for name, q in found.tenants.items()} == {"": (1, 1), "acme": (1, 0)}
        engine.steps = 99
        await until(lambda: told(house))
        found = await until(newest_with_errors(house))
    errors = found.accuracy["errors"]
    assert errors["queued"]["buckets"][-1][1] >= 2
    (row,) = house.store.engines(60.0)
    assert row.step["segments"] == []


def newest_with_errors(house: House) -> Callable[[], ModelForecast | None]:
    def look() -> ModelForecast | None:
        found = newest(house)
        counted = found is not None and found.accuracy["errors"].get("queued", {"buckets": [[0, 0]]})["buckets"][-1][1]
        return found if counted and counted >= 2 else None

    return look


async def test_an_engines_row_says_what_it_runs(build: Build) -> None:
    house = build()
    house.create("a", steps=4)
    async with house.router() as (_, engine):
        engine.steps = 2
        await until(lambda: house.job("a").step == 2)
        await until(lambda: any(row.step.get("segments") for row in house.store.engines(60.0)))
        (row,) = house.store.engines(60.0)
        ((job, index, step, steps, tokens, advances),) = row.step["segments"]
        assert (job, index, step, steps, advances) == ("a", 0, 2, 4, True)
        assert tokens == row.step["tokens"] > 0
        assert row.step["predicted"] > 0
