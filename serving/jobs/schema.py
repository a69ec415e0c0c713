"""The job database's tables, how a file is opened, and how an older one is brought up to date."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

APPLICATION_ID = 0x5A4F4554  # "ZOET" in the file's header: tells our files from other programs'
BUSY_SECONDS = 10.0
OLDEST_SQLITE = (3, 37, 0)  # STRICT tables; RETURNING came two releases earlier


class StoreError(Exception):
    """The database cannot be opened, read or written; the message names the file and fits on one line."""


# One entry for each version of the schema; entry i leads from user_version i to i + 1. Never edit a released one.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE job (
            id               TEXT PRIMARY KEY,
            owner            TEXT NOT NULL,
            state            TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
            stage            TEXT,
            model            TEXT NOT NULL,
            spec             TEXT NOT NULL,
            step             INTEGER NOT NULL DEFAULT 0,
            steps            INTEGER NOT NULL,
            created_at       REAL NOT NULL,
            started_at       REAL,
            finished_at      REAL,
            attempt          INTEGER NOT NULL DEFAULT 0,
            lease_epoch      INTEGER NOT NULL DEFAULT 0,
            lease_owner      TEXT,
            lease_until      REAL,
            cancel_requested INTEGER NOT NULL DEFAULT 0,
            error_code       TEXT,
            error_message    TEXT,
            result           TEXT,
            eta_seconds      REAL,
            request_id       TEXT,
            fingerprint      TEXT NOT NULL,
            CHECK ((state = 'running') = (lease_owner IS NOT NULL)),
            CHECK ((state = 'running') = (lease_until IS NOT NULL)),
            CHECK ((state = 'running') = (stage IS NOT NULL)),
            CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
            CHECK ((state = 'succeeded') = (result IS NOT NULL)),
            CHECK ((state = 'failed') = (error_code IS NOT NULL))
        ) STRICT
        """,
        "CREATE UNIQUE INDEX job_request ON job (owner, request_id) WHERE request_id IS NOT NULL",
        # What a claim, a count of the queue and a position in it scan: live jobs only, however many are finished.
        "CREATE INDEX job_live ON job (created_at, id) WHERE finished_at IS NULL",
        "CREATE INDEX job_page ON job (owner, created_at, id)",
        "CREATE INDEX job_recent ON job (model, finished_at) WHERE state = 'succeeded'",
        """
        CREATE TABLE engine (
            id         TEXT PRIMARY KEY,
            model      TEXT NOT NULL,
            gang_epoch INTEGER NOT NULL,
            ranks      INTEGER NOT NULL,
            seen_at    REAL NOT NULL
        ) STRICT
        """,
    ),
    ("ALTER TABLE job ADD COLUMN warnings TEXT NOT NULL DEFAULT '[]'",),
)


def open_database(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """Open the file for one process, creating or updating it where needed.

    Returns:
        A connection that writes and one that only reads, both in autocommit mode and usable from any thread, one
        thread at a time.

    Raises:
        StoreError: the file is no database, another program's, of a newer version, or cannot be opened.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StoreError(f"this Python has SQLite {sqlite3.sqlite_version}, the job store needs {oldest} or newer")
    connections: list[sqlite3.Connection] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # it holds prompts
        writer = _connect(path, connections)
        _migrate(writer, path)
        _enter_wal(writer)
        reader = _connect(path, connections)
        reader.execute("PRAGMA query_only = ON")
        return writer, reader
    except (sqlite3.Error, OSError, StoreError) as error:
        for connection in connections:
            connection.close()
        if isinstance(error, StoreError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"cannot open the job database {path}: {reason}") from error


def _connect(path: Path, opened: list[sqlite3.Connection]) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    opened.append(connection)
    connection.row_factory = sqlite3.Row
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Check whose file it is and bring it to the current version, all or nothing, in one transaction: another process
    may be opening it as well."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _pragma(connection, "user_version")
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if _pragma(connection, "application_id") != APPLICATION_ID and (version or tables):
            raise StoreError(f"{path} is another program's database, not a job database")
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{path} has schema version {version}, this release knows versions up to {len(MIGRATIONS)}; "
                "use the newer release that wrote it"
            )
        if version < len(MIGRATIONS):
            for statement in (sql for migration in MIGRATIONS[version:] for sql in migration):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log, where readers and the writer do not block each other; it sticks to the file. The
    switch does not honour the busy timeout, so that processes that open a new file together have to try again."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
            continue
        if mode != "wal":
            raise sqlite3.OperationalError("its file system does not support a write-ahead log")
        return


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)
