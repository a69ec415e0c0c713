"""The durable job: one SQLite file, shared by the gateway and the router."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from serving.jobs.job import EngineRow, Job, Result, Stage, State
from serving.jobs.schema import StoreError, open_database

__all__ = ["JobStore", "QueueFull", "RequestConflict", "StoreError"]

Jobs: TypeAlias = list[Job]  # inside JobStore the name `list` is a method
Engines: TypeAlias = list[EngineRow]

# What makes somebody the holder of a job: its epoch is the newest. A lease that ran out counts until the next claim.
HELD = "id = ? AND state = 'running' AND lease_epoch = ?"
END = "lease_owner = NULL, lease_until = NULL, stage = NULL, eta_seconds = NULL, finished_at = ?"


class RequestConflict(Exception):
    """The request id was used before, for a request with another content."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request id {request_id!r} was used before for another request")
        self.request_id = request_id


class QueueFull(Exception):
    """As many jobs are queued as are allowed."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the queue is full: {limit} jobs are waiting, which is the limit")
        self.limit = limit


class JobStore:
    """Jobs and engines in one SQLite file that several processes may open at the same time.

    Every change is one transaction (``BEGIN IMMEDIATE``), so it is seen whole or not at all, and once a method has
    returned it survives a SIGKILL of any process. It also survives a loss of power, for changes that a client was told
    of or that start a new epoch are synced to the disk (a few milliseconds); what only keeps a running lease going
    (``heartbeat``, ``progress``, ``put_engine``) is not, because its loss costs nothing: it takes tens of microseconds.

    Whoever claims a job gets a lease and the job's new epoch; each write of a holder names its epoch and does nothing
    when a newer one exists. Leases are timed by the wall clock that the processes of one machine share. A jump of that
    clock may end a lease early, which the epochs make harmless.

    Safe to use from several threads. Readers never wait for writers. Every method may raise StoreError.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open or create the file and bring an older one up to date.

        Raises:
            StoreError: the file is no job database, or one of a newer release.
        """
        self._path = path
        self._clock = clock
        self._writer, self._reader = open_database(path)
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()

    def close(self) -> None:
        """Close the file; calls after that raise StoreError."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    # What a client does.

    def create(
        self,
        *,
        job_id: str,
        owner: str,
        model: str,
        spec: dict[str, Any],
        steps: int,
        request_id: str | None,
        fingerprint: str,
        max_queued: int,
    ) -> Job:
        """Queue a job, or return the one that an earlier call with this owner and request id made (its id then differs
        from ``job_id``).

        Raises:
            RequestConflict: the request id is known with another fingerprint.
            QueueFull: ``max_queued`` jobs wait already. Replays are not refused.
        """
        with self._write() as db:
            if request_id is not None:
                known = db.execute(
                    "SELECT * FROM job WHERE owner = ? AND request_id = ?", (owner, request_id)
                ).fetchone()
                if known is not None:
                    if known["fingerprint"] != fingerprint:
                        raise RequestConflict(request_id)
                    return _job(known)
            queued = db.execute("SELECT count(*) FROM job WHERE finished_at IS NULL AND state = 'queued'").fetchone()[0]
            if queued >= max_queued:
                raise QueueFull(max_queued)
            rows = db.execute(
                "INSERT INTO job (id, owner, state, model, spec, steps, created_at, request_id, fingerprint)"
                " VALUES (?, ?, 'queued', ?, ?, ?, ?, ?, ?) RETURNING *",
                (job_id, owner, model, json.dumps(spec), steps, self._clock(), request_id, fingerprint),
            ).fetchall()
            return _job(rows[0])

    def get(self, job_id: str, owner: str) -> Job | None:
        """The job, or None where this owner has no such job."""
        rows = self._read("SELECT * FROM job WHERE id = ? AND owner = ?", (job_id, owner))
        return _job(rows[0]) if rows else None

    def list(
        self, owner: str, *, page_size: int, states: Sequence[State] = (), before: tuple[float, str] | None = None
    ) -> Jobs:
        """An owner's jobs, newest first.

        Args:
            states: only these; all when empty.
            before: (created_at, id) of the last job of the page before; jobs made or deleted in between neither repeat
                nor hide others.
        """
        sql, values = "SELECT * FROM job WHERE owner = ?", [owner, *(str(state) for state in states)]
        if states:
            sql += f" AND state IN ({', '.join('?' * len(states))})"
        if before is not None:
            sql += " AND (created_at, id) < (?, ?)"
        sql += " ORDER BY created_at DESC, id DESC LIMIT ?"
        return [_job(row) for row in self._read(sql, (*values, *(before or ()), max(page_size, 0)))]

    def queue_position(self, job: Job) -> int:
        """How many queued jobs are in front of it; 0 when it is next, or no longer queued."""
        if job.state is not State.QUEUED:
            return 0
        rows = self._read(
            "SELECT count(*) FROM job WHERE finished_at IS NULL AND state = 'queued' AND (created_at, id) < (?, ?)",
            (job.created_at, job.id),
        )
        return int(rows[0][0])

    def request_cancel(self, job_id: str, owner: str) -> Job | None:
        """Cancel a queued job at once; tell the holder of a running one (see ``heartbeat``); leave a final one alone.

        Returns:
            The job as it is now, or None where this owner has no such job.
        """
        with self._write() as db:
            db.execute(
                f"UPDATE job SET state = 'cancelled', cancel_requested = 1, {END}"
                " WHERE id = ? AND owner = ? AND state = 'queued'",
                (self._clock(), job_id, owner),
            )
            db.execute(
                "UPDATE job SET cancel_requested = 1 WHERE id = ? AND owner = ? AND state = 'running'", (job_id, owner)
            )
            row = db.execute("SELECT * FROM job WHERE id = ? AND owner = ?", (job_id, owner)).fetchone()
            return None if row is None else _job(row)

    def delete(self, job_id: str, owner: str) -> bool:
        """Forget a final job and its request id. False where this owner has no such job or it is not final."""
        with self._write() as db:
            sql = "DELETE FROM job WHERE id = ? AND owner = ? AND finished_at IS NOT NULL"
            return db.execute(sql, (job_id, owner)).rowcount == 1

    # What the holder of a lease does.

    def claim(self, lease_owner: str, limit: int, lease_seconds: float, max_attempts: int) -> Jobs:
        """Take up to ``limit`` jobs, oldest first: queued ones, and running ones whose lease ran out.

        A claimed job begins a new attempt with a new epoch, from step 0. A running job whose lease ran out is not
        claimed but ended where its cancellation was asked for, or (as failed) where it had ``max_attempts`` attempts.
        """
        with self._write() as db:
            now = self._clock()  # after the wait for the write lock, as below
            expired = "finished_at IS NULL AND state = 'running' AND lease_until <= ?"
            db.execute(
                f"UPDATE job SET state = 'cancelled', {END} WHERE {expired} AND cancel_requested = 1", (now, now)
            )
            db.execute(
                f"UPDATE job SET state = 'failed', error_code = 'UNAVAILABLE', error_message ="
                f" 'given up after ' || attempt || ' attempts, none of which came to an end', {END}"
                f" WHERE {expired} AND attempt >= ?",
                (now, now, max_attempts),
            )
            rows = db.execute(
                "UPDATE job SET state = 'running', stage = ?, step = 0, eta_seconds = NULL, attempt = attempt + 1,"
                " lease_epoch = lease_epoch + 1, lease_owner = ?, lease_until = ?, started_at = coalesce(started_at, ?)"
                " WHERE id IN (SELECT id FROM job WHERE finished_at IS NULL AND (state = 'queued' OR lease_until <= ?)"
                " ORDER BY created_at, id LIMIT ?) RETURNING *",
                (str(Stage.CONDITIONING), lease_owner, now + lease_seconds, now, now, max(limit, 0)),
            ).fetchall()
        return sorted((_job(row) for row in rows), key=lambda job: (job.created_at, job.id))

    def heartbeat(
        self, lease_owner: str, leases: Sequence[tuple[str, int]], lease_seconds: float
    ) -> tuple[set[str], set[str]]:
        """Prolong leases, given as (job id, epoch), from now on.

        Returns:
            The ids that are not this owner's any more, and those still held whose cancellation was asked for.
        """
        lost: set[str] = set()
        cancelled: set[str] = set()
        if not leases:
            return lost, cancelled
        with self._write(synced=False) as db:
            until = self._clock() + lease_seconds
            for job_id, epoch in leases:
                rows = db.execute(
                    f"UPDATE job SET lease_until = ? WHERE {HELD} AND lease_owner = ? RETURNING cancel_requested",
                    (until, job_id, epoch, lease_owner),
                ).fetchall()
                if not rows:
                    lost.add(job_id)
                elif rows[0]["cancel_requested"]:
                    cancelled.add(job_id)
        return lost, cancelled

    def progress(self, job_id: str, epoch: int, *, stage: Stage, step: int, eta_seconds: float | None) -> bool:
        """Note how far a job is. A step that is taken again does not show: within an attempt the number never goes
        back. False when the lease is lost."""
        with self._write(synced=False) as db:
            sql = f"UPDATE job SET stage = ?, step = max(step, ?), eta_seconds = ? WHERE {HELD}"
            return db.execute(sql, (str(stage), step, eta_seconds, job_id, epoch)).rowcount == 1

    def warn(self, job_id: str, epoch: int, warnings: Sequence[str]) -> None:
        """Note what the client should know; what an earlier attempt noted goes."""
        with self._write(synced=False) as db:
            db.execute(f"UPDATE job SET warnings = ? WHERE {HELD}", (json.dumps(list(warnings)), job_id, epoch))

    def finish(
        self,
        job_id: str,
        epoch: int,
        state: State,
        *,
        result: Result | None = None,
        error_code: str | None = None,
        error_message: str | None = None,
    ) -> bool:
        """End a job. False when the lease is lost (or the job has ended): then nothing changed.

        Raises:
            ValueError: the state is not final, a result without success or the reverse, an error code without failure
                or the reverse.
        """
        if not state.final:
            raise ValueError(f"a job cannot finish as {state}")
        if (state is State.SUCCEEDED) != (result is not None) or (state is State.FAILED) != (error_code is not None):
            raise ValueError("success has a result, failure an error code, and nothing else has either")
        text = None if result is None else json.dumps(asdict(result))
        with self._write() as db:
            cursor = db.execute(
                f"UPDATE job SET state = ?, result = ?, error_code = ?, error_message = ?,"
                f" step = iif(? = 'succeeded', steps, step), {END} WHERE {HELD}",
                (str(state), text, error_code, error_message, str(state), self._clock(), job_id, epoch),
            )
            return cursor.rowcount == 1

    def expire_leases(self) -> int:
        """Void all leases and forget all engines: the service starts, and its lock says that nobody else is alive.

        The epochs grow as well, so that a survivor of the earlier run, should there be one, can change nothing.

        Returns:
            How many jobs were running; the next claim takes them up again.
        """
        with self._write() as db:
            db.execute("DELETE FROM engine")
            sql = "UPDATE job SET lease_until = 0, lease_epoch = lease_epoch + 1 WHERE finished_at IS NULL"
            return db.execute(f"{sql} AND state = 'running'").rowcount

    # What is known of engines and their speed.

    def put_engine(self, engine: EngineRow) -> None:
        """Note that an engine is alive."""
        with self._write(synced=False) as db:
            db.execute(
                "INSERT OR REPLACE INTO engine (id, model, gang_epoch, ranks, seen_at)"
                " VALUES (:id, :model, :gang_epoch, :ranks, :seen_at)",
                asdict(engine),
            )

    def remove_engine(self, engine_id: str) -> None:
        """Forget an engine; it need not be known."""
        with self._write(synced=False) as db:
            db.execute("DELETE FROM engine WHERE id = ?", (engine_id,))

    def engines(self, max_age_seconds: float) -> Engines:
        """The engines seen within the last ``max_age_seconds``, by id."""
        oldest = self._clock() - max_age_seconds
        return [
            EngineRow(**row) for row in self._read("SELECT * FROM engine WHERE seen_at >= ? ORDER BY id", (oldest,))
        ]

    def recent_run_seconds(self, model: str, count: int = 20) -> float | None:
        """Mean seconds from start to end of a model's last succeeded jobs; None when there is none. Jobs that needed
        several attempts do not count, for the time in between says nothing about the model."""
        rows = self._read(
            "SELECT avg(seconds) FROM (SELECT max(finished_at - started_at, 0) AS seconds FROM job"
            " WHERE state = 'succeeded' AND model = ? AND attempt = 1 ORDER BY finished_at DESC LIMIT ?)",
            (model, count),
        )
        mean = rows[0][0]
        return None if mean is None else float(mean)

    # Access to the file.

    def _read(self, sql: str, values: Sequence[Any]) -> Sequence[sqlite3.Row]:
        with self._named_errors(), self._read_lock:
            return self._reader.execute(sql, values).fetchall()

    @contextmanager
    def _write(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction; taken back where the body raises."""
        db = self._writer
        with self._named_errors(), self._write_lock:
            db.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"job database {self._path}: {error}") from error


def _job(row: sqlite3.Row) -> Job:
    return Job(
        id=row["id"],
        owner=row["owner"],
        state=State(row["state"]),
        stage=None if row["stage"] is None else Stage(row["stage"]),
        model=row["model"],
        spec=json.loads(row["spec"]),
        step=row["step"],
        steps=row["steps"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        attempt=row["attempt"],
        lease_epoch=row["lease_epoch"],
        lease_owner=row["lease_owner"],
        lease_until=row["lease_until"],
        cancel_requested=bool(row["cancel_requested"]),
        error_code=row["error_code"],
        error_message=row["error_message"],
        result=None if row["result"] is None else json.loads(row["result"]),
        eta_seconds=row["eta_seconds"],
        warnings=tuple(json.loads(row["warnings"])),
    )
