"""Both databases: a SQLite file for each test, and one PostgreSQL server for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.jobs.harness import Clock, new_job
from zoetrope.serving.jobs.job import Job, QueueLimits
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.jobs.store import JobStore


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres"))
    return f"sqlite://{tmp_path}/jobs.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stores(database: str, clock: Clock) -> Iterator[Stores]:
    stores = open_stores(database, clock)
    yield stores
    stores.close()


@pytest.fixture
def store(stores: Stores) -> JobStore:
    return stores.jobs


@pytest.fixture
def create(store: JobStore, clock: Clock) -> Callable[..., Job]:
    """Queues a job, a second after the one before."""

    def call(job_id: str, *, limits: QueueLimits | None = None, max_queued: int = 1_000, **changes: Any) -> Job:
        clock.now += 1
        return store.create(new_job(job_id, **changes), limits or QueueLimits(max_queued))

    return call
