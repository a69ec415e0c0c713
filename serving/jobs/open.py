"""Opens the database that a URL names, and everything that is kept in it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from serving.jobs.database import Clock, Database
from serving.jobs.errors import StoreError
from serving.jobs.key_table import KeyTable
from serving.jobs.media_table import MediaTable
from serving.jobs.outbox import Outbox
from serving.jobs.sqlite import open_sqlite
from serving.jobs.store import JobStore

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")


@dataclass(frozen=True)
class Stores:
    """Everything that is kept in one database; its parts share one connection for writing."""

    jobs: JobStore
    media: MediaTable
    keys: KeyTable
    outbox: Outbox
    database: Database

    def close(self) -> None:
        """Finish what is under way and close; calls after that raise StoreError."""
        self.database.close()


def open_stores(database: str, clock: Clock = time.time) -> Stores:
    """Open a database, creating or updating its tables where needed.

    Args:
        database: ``sqlite:///`` and an absolute path, or ``postgresql://user@host/name``.
        clock: seconds since the epoch. PostgreSQL's own is used where none is given, for its users may sit on
            machines whose clocks differ.

    Raises:
        StoreError: it cannot be opened, or is not ours; the message has no password in it.
    """
    if database.startswith(SQLITE):
        path = Path(unquote(database.removeprefix("sqlite://")))
        opened = open_sqlite(path, clock)
    elif database.startswith(POSTGRES):
        from serving.jobs.postgres import open_postgres  # its driver is only needed here

        opened = open_postgres(database, None if clock is time.time else clock)
    else:
        scheme = database.partition("://")[0] if "://" in database else ""
        raise StoreError(f"a database URL starts with {SQLITE} or {POSTGRES[0]}, not with {scheme + '://'!r}")
    return Stores(JobStore(opened), MediaTable(opened), KeyTable(opened), Outbox(opened), opened)
