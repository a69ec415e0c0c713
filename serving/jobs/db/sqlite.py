"""The job database as one SQLite file, which several processes of one machine may open at the same time."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import cast

from zoetrope.serving.jobs.db.database import Clock, Database, Dialect, ErrorKind, Row, Values
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.db.migrations import APPLICATION_ID, MIGRATIONS, check_version, outstanding
from zoetrope.serving.jobs.db.writer_lock import WriterLock

BUSY_SECONDS = 10.0
READERS = 4
OLDEST_SQLITE = (3, 37, 0)  # STRICT tables; RETURNING came two releases earlier

DIALECT = Dialect(
    among="{column} IN (SELECT value FROM json_each(?))",
    array=lambda values: json.dumps(list(values)),
    has_label="EXISTS (SELECT 1 FROM json_each(job.labels) AS label WHERE label.key = ? AND label.value = ?)",
    for_update="",  # a writer is alone
    for_share="",
    skip_locked="",
)


class SqliteSession:
    """Implements `database.Session`."""

    dialect = DIALECT
    errors: tuple[type[Exception], ...] = (sqlite3.Error, OverflowError)
    final_errors: tuple[type[Exception], ...] = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError)

    def __init__(self, connection: sqlite3.Connection, turns: WriterLock, clock: Clock) -> None:
        self._connection = connection
        self._turns = turns
        self._clock = clock

    def begin(self, *, synced: bool, locks: Sequence[str]) -> None:
        if not self._turns.acquire(BUSY_SECONDS):
            raise sqlite3.OperationalError("database is locked")
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._connection.execute("COMMIT")
        self._turns.release()

    def rollback(self) -> None:
        with suppress(sqlite3.Error):  # such as after a full disk, which has rolled it back already
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self._turns.release()

    def execute(self, sql: str, values: Values) -> tuple[list[Row], int]:
        cursor = self._connection.execute(sql, values)
        return cast(list[Row], cursor.fetchall()), cursor.rowcount

    def execute_many(self, sql: str, values: Sequence[Values]) -> None:
        self._connection.executemany(sql, values)

    def now(self) -> float:
        return self._clock()

    def verdict(self, error: Exception) -> ErrorKind:
        # A full disk, for example, may roll back the transaction together with the statement.
        return ErrorKind.STATEMENT if self._connection.in_transaction else ErrorKind.BROKEN

    def close(self) -> None:
        self._connection.close()
        self._turns.close()


class SqliteReaders:
    """Implements `database.Readers`."""

    errors: tuple[type[Exception], ...] = (sqlite3.Error, OverflowError)

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._idle: SimpleQueue[sqlite3.Connection | None] = SimpleQueue()
        self._idle.put(self._open())
        for _ in range(READERS - 1):
            self._idle.put(None)  # opened when first needed

    def _open(self) -> sqlite3.Connection:
        connection = _connect(self._path)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def read(self, sql: str, values: Values) -> list[Row]:
        connection = self._idle.get()
        try:
            if connection is None:
                connection = self._open()
            return cast(list[Row], connection.execute(sql, values).fetchall())
        finally:
            self._idle.put(connection)

    def now(self) -> float:
        return self._clock()

    def close(self) -> None:
        for _ in range(READERS):
            connection = self._idle.get()  # waits for a read in progress
            if connection is not None:
                connection.close()
        for _ in range(READERS):
            self._idle.put(None)


def open_sqlite(path: Path, clock: Clock = time.time, *, migrate: bool = True) -> Database:
    """Open the file for one process, creating or updating it where needed if ``migrate``.

    Raises:
        StoreOutdated: it needs to be and must not.
        StoreError: the file is not a database, or another program's, or of a newer version, or cannot be opened.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StoreError(f"this Python has SQLite {sqlite3.sqlite_version}, the job store needs {oldest} or newer")
    writer: sqlite3.Connection | None = None
    try:
        if not migrate and not path.exists():
            check_version(f"job database {path}", 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # it holds prompts
        writer = _connect(path)
        _migrate(writer, path, migrate)
        _enter_wal(writer)
        session = SqliteSession(writer, WriterLock(path), clock)
        return Database(f"job database {path}", session, SqliteReaders(path, clock))
    except (sqlite3.Error, OSError, StoreError) as error:
        if writer is not None:
            writer.close()
        if isinstance(error, StoreError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"cannot open the job database {path}: {reason}") from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection


def _migrate(connection: sqlite3.Connection, path: Path, migrate: bool) -> None:
    """Check whose file it is and migrate it to the current version in one transaction: another process may be opening
    it as well. Without ``migrate`` only check it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _pragma(connection, "user_version")
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if _pragma(connection, "application_id") != APPLICATION_ID and (version or tables):
            raise StoreError(f"{path} is another program's database, not a job database")
        if not migrate:
            check_version(f"job database {path}", version)
        for statement in outstanding(str(path), version, postgres=False):
            connection.execute(statement)
        if version < len(MIGRATIONS):
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log, where readers and the writer do not block each other; the file remembers it. The
    switch ignores the busy timeout, so that processes that open a new file together must retry."""
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
