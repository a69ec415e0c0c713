"""Opens the database that a URL names, with all of its tables."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from zoetrope.serving.jobs.adapter_table import AdapterTable
from zoetrope.serving.jobs.db.database import Clock, Database
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.db.sqlite import open_sqlite
from zoetrope.serving.jobs.forecast_table import ForecastTable
from zoetrope.serving.jobs.key_table import KeyTable
from zoetrope.serving.jobs.media_table import MediaTable
from zoetrope.serving.jobs.outbox import Outbox
from zoetrope.serving.jobs.store import JobStore

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")


@dataclass(frozen=True)
class Stores:
    """The tables of one database; they share one connection for writing."""

    jobs: JobStore
    media: MediaTable
    keys: KeyTable
    adapters: AdapterTable
    outbox: Outbox
    forecasts: ForecastTable
    database: Database

    def close(self) -> None:
        """Finish what is in progress and close; later calls raise StoreError."""
        self.database.close()


def open_stores(database: str, clock: Clock = time.time, *, migrate: bool = True) -> Stores:
    """Open a database.

    Args:
        database: ``sqlite:///`` and an absolute path, or ``postgresql://user@host/name``.
        clock: seconds since the epoch. PostgreSQL's own is used if none is given, because its users may be on
            machines with different clocks.
        migrate: create or update its tables where needed.

    Raises:
        StoreOutdated: they would have to be, and ``migrate`` is off.
        StoreError: it cannot be opened, or is another program's; the message contains no password.
    """
    if database.startswith(SQLITE):
        path = Path(unquote(database.removeprefix("sqlite://")))
        opened = open_sqlite(path, clock, migrate=migrate)
    elif database.startswith(POSTGRES):
        from zoetrope.serving.jobs.db.postgres import open_postgres  # imported here because its driver is optional

        opened = open_postgres(database, None if clock is time.time else clock, migrate=migrate)
    else:
        scheme = database.partition("://")[0] if "://" in database else ""
        raise StoreError(f"a database URL starts with {SQLITE} or {POSTGRES[0]}, not with {scheme + '://'!r}")
    return Stores(
        JobStore(opened),
        MediaTable(opened),
        KeyTable(opened),
        AdapterTable(opened),
        Outbox(opened),
        ForecastTable(opened),
        opened,
    )
