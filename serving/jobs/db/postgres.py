"""The job database in PostgreSQL, for gateways and routers on several machines."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, LiteralString, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool

from zoetrope.serving.jobs.db.database import Clock, Database, Dialect, ErrorKind, Row, Values
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.db.migrations import MIGRATIONS, check_version, outstanding

SCHEMA = "zoetrope"
OLDEST_POSTGRES = 130_000  # the oldest known to accept this SQL
READERS = 8
PATIENCE: dict[str, Any] = {"connect_timeout": 5, "keepalives_idle": 30, "tcp_user_timeout": 15_000}  # s, s, ms
WAIT_SECONDS = 10.0  # for a lock, or for a connection of the pool
CLOCK_SECONDS = 60.0  # how long an answer of the server's clock is used
LOCK_SPACE = 0x5A4F  # of advisory locks: "ZO"
CONFLICTS = ("40001", "40P01")  # serialization_failure, deadlock_detected
# A process that freezes in a transaction must not block the others for long.
OPTIONS = (
    f"-c search_path={SCHEMA} -c lock_timeout={WAIT_SECONDS:.0f}s -c statement_timeout=30s"
    " -c idle_in_transaction_session_timeout=20s -c default_transaction_isolation=read\\ committed"
)
NOW = "SELECT extract(epoch FROM clock_timestamp())::float8 AS now"

DIALECT = Dialect(
    among="{column} = ANY(?)",
    array=list,
    has_label="(job.labels::json ->> ?::text) = ?",
    for_update=" FOR UPDATE",
    for_share=" FOR SHARE",
    skip_locked=" FOR UPDATE SKIP LOCKED",
)


@lru_cache(maxsize=512)
def _translated(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


class ServerClock:
    """The server's clock, asked now and then and extrapolated in between."""

    def __init__(self) -> None:
        self._answer: tuple[float, float] | None = None  # the server's time, and this machine's counter at that moment

    def learn(self, now: float) -> None:
        self._answer = now, time.monotonic()

    def now(self) -> float | None:
        """Return the server's time; None if the last answer is too old, or there is none."""
        if self._answer is None or time.monotonic() - self._answer[1] > CLOCK_SECONDS:
            return None
        return self._answer[0] + time.monotonic() - self._answer[1]


class PostgresSession:
    """Implements `database.Session`."""

    dialect = DIALECT
    errors: tuple[type[Exception], ...] = (psycopg.Error,)
    final_errors: tuple[type[Exception], ...] = (
        psycopg.IntegrityError,
        psycopg.DataError,
        psycopg.errors.ProgramLimitExceeded,  # such as a text that an index cannot hold
    )

    def __init__(
        self, connection: psycopg.Connection[DictRow], conninfo: str, server: ServerClock, clock: Clock | None
    ) -> None:
        self._connection = connection
        self._conninfo = conninfo
        self._server = server
        self._clock = clock

    def begin(self, *, synced: bool, locks: Sequence[str]) -> None:
        if self._connection.closed:
            self._connection = _connect(self._conninfo)
        parts = ["BEGIN"]
        if not synced:
            parts.append("SET LOCAL synchronous_commit = off")
        parts += [f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, {zlib.crc32(lock.encode()) >> 1})" for lock in locks]
        cursor = self._connection.execute("; ".join([*parts, NOW]))
        while cursor.nextset():
            pass
        (row,) = cursor.fetchall()
        self._server.learn(row["now"])

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        try:
            self._connection.execute("ROLLBACK")
        except psycopg.Error:
            self._connection.close()  # begin opens the next one

    def execute(self, sql: str, values: Values) -> tuple[list[Row], int]:
        cursor = self._connection.execute(_translated(sql), values)
        return cast(list[Row], cursor.fetchall()) if cursor.description else [], cursor.rowcount

    def execute_many(self, sql: str, values: Sequence[Values]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(_translated(sql), values)

    def now(self) -> float:
        if self._clock is not None:
            return self._clock()
        return self._server.now() or time.time()  # begin has just asked

    def verdict(self, error: Exception) -> ErrorKind:
        if self._connection.closed:
            return ErrorKind.LOST
        return ErrorKind.CONFLICT if getattr(error, "sqlstate", None) in CONFLICTS else ErrorKind.STATEMENT

    def close(self) -> None:
        self._connection.close()


class PostgresReaders:
    """Implements `database.Readers`."""

    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(self, conninfo: str, server: ServerClock, clock: Clock | None) -> None:
        self._server = server
        self._clock = clock
        self._pool = ConnectionPool(
            _with_options(conninfo, "-c default_transaction_read_only=on"),
            connection_class=psycopg.Connection[DictRow],
            kwargs={"autocommit": True, "row_factory": dict_row},
            min_size=1,
            max_size=READERS,
            timeout=WAIT_SECONDS,
            open=True,
            name="job-store-readers",
        )

    def read(self, sql: str, values: Values) -> list[Row]:
        try:
            return self._read(sql, values)
        except psycopg.OperationalError as error:
            if error.sqlstate is not None and not error.sqlstate.startswith(("08", "57P")):
                raise
            self._pool.check()  # a restarted server has closed all of them
            return self._read(sql, values)

    def _read(self, sql: str, values: Values) -> list[Row]:
        with self._pool.connection() as connection:
            return cast(list[Row], connection.execute(_translated(sql), values).fetchall())

    def now(self) -> float:
        if self._clock is not None:
            return self._clock()
        now = self._server.now()
        if now is None:
            now = float(self.read(NOW, ())[0]["now"])
            self._server.learn(now)
        return now

    def close(self) -> None:
        self._pool.close()


def open_postgres(url: str, clock: Clock | None = None, *, migrate: bool = True) -> Database:
    """Open the database for one process.

    Args:
        clock: seconds since the epoch; None: the server's.
        migrate: create or update its tables where needed, for which its user must be allowed to.

    Raises:
        StoreOutdated: they would have to be, and ``migrate`` is off.
        StoreError: it cannot be reached, or its tables are another program's or of a newer version.
    """
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise StoreError("the database URL cannot be read; it is like postgresql://user@host:5432/name") from error
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    name = f"job database {parts.get('dbname') or parts.get('user') or ''} on {host}"
    conninfo = _with_options(make_conninfo(url, **{**PATIENCE, **parts}), OPTIONS)
    connection: psycopg.Connection[DictRow] | None = None
    try:
        connection = _connect(conninfo)
        _check_server(connection, name)
        if migrate:
            _migrate(connection, name)
        else:
            check_version(name, _version(connection))
        server = ServerClock()
        session = PostgresSession(connection, conninfo, server, clock)
        return Database(name, session, PostgresReaders(conninfo, server, clock))
    except (psycopg.Error, StoreError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, StoreError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StoreError(f"cannot open the {name}: {reason}") from error


def _with_options(conninfo: str, options: str) -> str:
    parts: dict[str, Any] = dict(conninfo_to_dict(conninfo))
    given = parts.get("options")
    return make_conninfo(conninfo, options=f"{given} {options}" if given else options)


def _connect(conninfo: str) -> psycopg.Connection[DictRow]:
    return psycopg.Connection[DictRow].connect(conninfo, autocommit=True, row_factory=dict_row)


def _check_server(connection: psycopg.Connection[DictRow], name: str) -> None:
    if connection.info.server_version < OLDEST_POSTGRES:
        has, needs = connection.info.server_version // 10_000, OLDEST_POSTGRES // 10_000
        raise StoreError(f"{name}: it is PostgreSQL {has}, the job store needs {needs} or newer")


def _version(connection: psycopg.Connection[DictRow]) -> int:
    """Return the version of the tables; 0: there are none."""
    if "schema_version" not in {row["name"] for row in _rows(connection, _TABLES, SCHEMA)}:
        return 0
    (row,) = _rows(connection, "SELECT version FROM schema_version")
    return int(row["version"])


def _migrate(connection: psycopg.Connection[DictRow], name: str) -> None:
    """Migrate the tables to the current version in one transaction, one process after the other."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_SPACE, zlib.crc32(b"migrations") >> 1))
        if not _rows(connection, "SELECT 1 AS one FROM pg_namespace WHERE nspname = %s", SCHEMA):
            connection.execute(f"CREATE SCHEMA {SCHEMA}")
        tables = {row["name"] for row in _rows(connection, _TABLES, SCHEMA)}
        if "schema_version" not in tables:
            if tables:
                raise StoreError(f"{name}: its schema {SCHEMA} is another program's")
            connection.execute("CREATE TABLE schema_version (version BIGINT NOT NULL)")
            connection.execute("INSERT INTO schema_version VALUES (0)")
        (row,) = _rows(connection, "SELECT version FROM schema_version")
        for statement in outstanding(name, row["version"], postgres=True):
            connection.execute(statement)
        connection.execute("UPDATE schema_version SET version = %s", (len(MIGRATIONS),))


_TABLES = "SELECT tablename AS name FROM pg_tables WHERE schemaname = %s"


def _rows(connection: psycopg.Connection[DictRow], sql: LiteralString, *values: str) -> list[DictRow]:
    return connection.execute(sql, values).fetchall()
