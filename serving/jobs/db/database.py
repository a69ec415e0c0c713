"""Transactions on either database, with group commit: what waits together is committed together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from zoetrope.cluster.telemetry.metrics import STORE_ERRORS
from zoetrope.serving.jobs.db.errors import StoreError, StoreRefused

MAX_BATCH = 256  # bodies in one transaction
RETRIES = 5  # of a transaction that conflicted with others
RETRY_SECONDS = 0.01  # before the first retry, doubled each time

T = TypeVar("T")
Clock: TypeAlias = Callable[[], float]
Values: TypeAlias = Sequence[Any]
Tally: TypeAlias = tuple[int, int]  # jobs, and milliseconds of their clips: whole numbers, which sum up exactly
Mark: TypeAlias = tuple[int, int, dict[str, Tally]]

_COUNT = (
    "INSERT INTO tally (name, jobs, millis) VALUES (?, ?, ?) ON CONFLICT (name)"
    " DO UPDATE SET jobs = tally.jobs + excluded.jobs, millis = tally.millis + excluded.millis"
)


def clean(values: Values) -> Values:
    """Replace what a database cannot hold in text: NUL, and lone surrogates."""
    return [
        value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        if isinstance(value, str) and ("\0" in value or not value.isascii())
        else value
        for value in values
    ]


class Row(Protocol):
    """A row of a result, by column name."""

    def __getitem__(self, key: str, /) -> Any: ...


@dataclass(frozen=True)
class Dialect:
    """The differences between the databases' SQL. Placeholders are `?` in both."""

    among: str  # "{column} is one of the values of one placeholder", which `array` makes
    array: Callable[[Sequence[str]], Any]
    has_label: str  # "the job has this label with this value", two placeholders
    for_update: str  # locks the rows that a SELECT finds
    for_share: str
    skip_locked: str  # locks them, and leaves out those that others hold


class ErrorKind(Enum):
    """What an error of the database means for its transaction."""

    STATEMENT = "one statement was refused"
    CONFLICT = "it conflicted with others; a retry may succeed"
    LOST = "the connection is gone"
    BROKEN = "the whole transaction is gone"


class Session(Protocol):
    """The connection that writes. Used by a single thread."""

    dialect: Dialect
    errors: tuple[type[Exception], ...]  # what its driver raises
    final_errors: tuple[type[Exception], ...]  # of these, those for which a retry is useless

    def begin(self, *, synced: bool, locks: Sequence[str]) -> None: ...
    def commit(self) -> None: ...
    def rollback(self) -> None:
        """Roll back, if there is a transaction; reopen the connection if it was lost. Raises nothing."""

    def execute(self, sql: str, values: Values) -> tuple[list[Row], int]:
        """Return the rows, and how many were changed."""

    def execute_many(self, sql: str, values: Sequence[Values]) -> None: ...
    def now(self) -> float: ...
    def verdict(self, error: Exception) -> ErrorKind: ...
    def close(self) -> None: ...


class Readers(Protocol):
    """Connections that only read. Thread-safe."""

    errors: tuple[type[Exception], ...]

    def read(self, sql: str, values: Values) -> list[Row]: ...
    def now(self) -> float: ...
    def close(self) -> None: ...


class Tx:
    """The transaction of a body, which shares it with others without noticing."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._later: list[tuple[str, Values]] = []
        self._changes = 0
        self._found: dict[str, Tally] = {}  # as the database has them
        self._added: dict[str, Tally] = {}

    @property
    def dialect(self) -> Dialect:
        return self._session.dialect

    def all(self, sql: str, values: Values = ()) -> list[Row]:
        """Return every row of a query (or of a change with RETURNING)."""
        self._changes += not sql.startswith("SELECT")
        return self._session.execute(sql, clean(values))[0]

    def one(self, sql: str, values: Values = ()) -> Row | None:
        rows = self.all(sql, values)
        return rows[0] if rows else None

    def run(self, sql: str, values: Values = ()) -> int:
        """Make a change. Returns how many rows it affected."""
        self._changes += 1
        return self._session.execute(sql, clean(values))[1]

    def later(self, sql: str, values: Values) -> None:
        """Make a change just before the commit, together with others like it; this transaction must not depend on
        it."""
        self._later.append((sql, clean(values)))

    def count(self, name: str, jobs: int, seconds: float = 0.0) -> None:
        """Add to a tally, or subtract from it."""
        known = self._added.get(name, (0, 0))
        self._added[name] = known[0] + jobs, known[1] + round(seconds * 1_000)

    def tally(self, name: str) -> tuple[int, float]:
        """Return the jobs and the clip seconds of a tally."""
        if name not in self._found:
            row = self.one("SELECT jobs, millis FROM tally WHERE name = ?", (name,))
            self._found[name] = (0, 0) if row is None else (row["jobs"], row["millis"])
        found, added = self._found[name], self._added.get(name, (0, 0))
        return found[0] + added[0], (found[1] + added[1]) / 1_000

    def now(self) -> float:
        """Return the seconds since the epoch, by the clock that all users of the database share."""
        return self._session.now()

    def among(self, column: str, values: Sequence[str]) -> tuple[str, Any]:
        """Return the condition that a column is one of these values, with one placeholder, and the value for that."""
        return self.dialect.among.format(column=column), self.dialect.array([str(value) for value in clean(values)])

    # For the group commit.

    def _mark(self) -> Mark:
        return len(self._later), self._changes, dict(self._added)

    def _back(self, mark: Mark) -> None:
        del self._later[mark[0] :]
        self._changes, self._added = mark[1], mark[2]

    def _changed_since(self, mark: Mark) -> bool:
        return self._changes > mark[1]

    def _flush(self) -> None:
        grouped: dict[str, list[Values]] = {}
        for sql, values in self._later:
            grouped.setdefault(sql, []).append(values)
        for sql, many in grouped.items():
            self._session.execute_many(sql, many)
        # Last, because others wait for these rows, and always in the same order, to avoid deadlocks.
        tallies = [(name, *added) for name, added in sorted(self._added.items()) if added != (0, 0)]
        if tallies:
            self._session.execute_many(_COUNT, tallies)


@dataclass
class _Item(Generic[T]):
    body: Callable[[Tx], T]
    synced: bool
    lock: str | None
    future: Future[T] | asyncio.Future[T]
    outcome: tuple[T | None, Exception | None] = (None, None)

    def is_awaited(self) -> bool:
        """Whether anybody still waits for it."""
        if isinstance(self.future, asyncio.Future):
            return not self.future.cancelled()
        return self.future.set_running_or_notify_cancel()

    def settle(self) -> None:
        """Resolve the future; if it is asyncio's, only on its loop."""
        value, error = self.outcome
        if self.future.done():
            return  # cancelled meanwhile
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(value)  # type: ignore[arg-type]


def _settle(batch: Sequence[_Item[Any]]) -> None:
    """Resolve the futures; each event loop is woken once for all of its own."""
    loops: dict[asyncio.AbstractEventLoop, list[_Item[Any]]] = {}
    for item in batch:
        if isinstance(item.future, asyncio.Future):
            loops.setdefault(item.future.get_loop(), []).append(item)
        else:
            item.settle()
    for loop, items in loops.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_settle_here, items)


def _settle_here(items: Sequence[_Item[Any]]) -> None:
    for item in items:
        item.settle()


class _NotAlone(Exception):
    """A body failed after it had changed something, which only a savepoint could undo."""


class Database:
    """One database: any thread may read, one thread writes.

    The writer takes all waiting bodies and runs them in one transaction, each as if it were alone: one that raises
    undoes only its own changes. Then it commits once for all. It never waits for more: a lone body is committed at
    once. A body may be run again (after a deadlock, for example), so it must do nothing but use its `Tx`.
    """

    def __init__(self, name: str, session: Session, readers: Readers) -> None:
        """Start the writer. ``name`` prefixes every error message."""
        self._name = name
        self._session = session
        self._readers = readers
        self._queue: SimpleQueue[_Item[Any] | None] = SimpleQueue()
        self._closed = False
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="job-store-writer", daemon=True)
        self._thread.start()

    @property
    def dialect(self) -> Dialect:
        return self._session.dialect

    def close(self) -> None:
        """Finish what is waiting and close; later calls raise StoreError."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._session.close()
        self._readers.close()

    def submit(self, body: Callable[[Tx], T], *, synced: bool = True, lock: str | None = None) -> Future[T]:
        """Run a body in a transaction.

        Args:
            synced: whether the change must survive a loss of power. A batch is synced if one of its bodies is.
            lock: bodies with the same lock never overlap, in any process.

        Returns:
            A future of what the body returns or raises, done once that is committed. It raises StoreError if the
            database refused a statement or the commit; then nothing of the body is stored, unless the connection
            broke during a commit.
        """
        future = Future[T]()
        self._put(_Item(body, synced, lock, future))
        return future

    def write(self, body: Callable[[Tx], T], *, synced: bool = True, lock: str | None = None) -> T:
        """`submit`, and wait for the result."""
        return self.submit(body, synced=synced, lock=lock).result()

    async def awrite(self, body: Callable[[Tx], T], *, synced: bool = True, lock: str | None = None) -> T:
        """`write` without blocking a thread."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._put(_Item(body, synced, lock, future))
        return await future

    def read(self, sql: str, values: Values = ()) -> list[Row]:
        """Return the rows of a query, which sees what is committed and does not wait for writers."""
        if self._closed:
            raise StoreError(f"{self._name}: it is closed")
        try:
            return self._readers.read(sql, clean(values))
        except self._readers.errors as error:
            raise self._named(error) from error

    def now(self) -> float:
        """Return the seconds since the epoch, by the clock that all users of the database share."""
        try:
            return self._readers.now()
        except self._readers.errors as error:
            raise self._named(error) from error

    def among(self, column: str, values: Sequence[str]) -> tuple[str, Any]:
        """See `Tx.among`."""
        return self.dialect.among.format(column=column), self.dialect.array([str(value) for value in clean(values)])

    def _put(self, item: _Item[Any]) -> None:
        with self._gate:
            if self._closed:
                raise StoreError(f"{self._name}: it is closed")
            self._queue.put(item)

    def _named(self, error: Exception) -> StoreError:
        text = str(error).strip()
        refused = isinstance(error, self._session.final_errors)
        kind = StoreRefused if refused else StoreError
        if not refused:
            STORE_ERRORS.labels("database").inc()
        return kind(f"{self._name}: {text.splitlines()[0] if text else type(error).__name__}")

    # The writer's thread.

    def _serve(self) -> None:
        closing = False
        while not closing:
            batch: list[_Item[Any]] = []
            item = self._queue.get()
            while True:
                if item is None:
                    closing = True
                    break
                if item.is_awaited():
                    batch.append(item)
                if len(batch) == MAX_BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except Empty:
                    break
            if batch:
                self._commit(batch)
                _settle(batch)

    def _commit(self, batch: list[_Item[Any]]) -> None:
        """Run a batch and set the outcome of every item."""
        session, careful, retries, lost = self._session, False, 0, False
        synced = any(item.synced for item in batch)
        locks = sorted({item.lock for item in batch if item.lock is not None})  # in one order, to avoid deadlocks
        while True:
            committing = False
            try:
                session.begin(synced=synced, locks=locks)
                tx = Tx(session)
                for item in batch:
                    self._body(tx, item, careful)
                tx._flush()
                committing = True
                session.commit()
                return
            except _NotAlone:
                session.rollback()
                careful = True
            except session.errors as error:
                verdict = session.verdict(error)
                session.rollback()
                if verdict is ErrorKind.CONFLICT and retries < RETRIES:
                    time.sleep(RETRY_SECONDS * 2**retries)
                    retries += 1
                elif verdict is ErrorKind.LOST and not committing and not lost:
                    lost = True  # none of it can have been committed
                else:
                    for item in batch:
                        item.outcome = None, self._named(error)
                    return
            except BaseException as error:
                session.rollback()
                for item in batch:
                    item.outcome = None, StoreError(f"{self._name}: {type(error).__name__}: {error}")
                return

    def _body(self, tx: Tx, item: _Item[Any], careful: bool) -> None:
        session, mark = self._session, tx._mark()
        if careful:
            session.execute("SAVEPOINT body", ())
        try:
            item.outcome = item.body(tx), None
        except Exception as error:
            refused = isinstance(error, session.errors)
            if refused and session.verdict(error) is not ErrorKind.STATEMENT:
                raise
            if careful:
                session.execute("ROLLBACK TO SAVEPOINT body", ())
            elif refused or tx._changed_since(mark):
                raise _NotAlone from error
            tx._back(mark)
            item.outcome = None, self._named(error) if refused else error
        if careful:
            session.execute("RELEASE SAVEPOINT body", ())
