"""What the job store does that no client and no router asks for, and what is known of the whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from serving.jobs import leases
from serving.jobs.admission import results_of
from serving.jobs.database import Database, Row, Tx
from serving.jobs.job import DeletedJob, EngineRow, Job, State, file_keys, result_bytes
from serving.jobs.rows import job_of
from serving.jobs.trail import in_state, record_row

EVENT_SECONDS = 7 * 86_400.0  # how long the trail of a deleted job is kept


class Upkeep:
    """The part of `JobStore` that a sweeper, a service's start and a gateway's overview use."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # What a sweeper does.

    def expire_leases(self) -> int:
        """Void all leases and forget all engines: the service starts, and its lock says that nobody else is alive.
        Not for a database with several routers, where the leases of the dead run out by themselves.

        The epochs grow as well, so that a survivor of the earlier run, should there be one, can change nothing.

        Returns:
            How many jobs were running; the next claim takes them up again.
        """

        def body(tx: Tx) -> int:
            tx.run("DELETE FROM engine")
            sql = "UPDATE job SET lease_until = 0, lease_epoch = lease_epoch + 1 WHERE finished_at IS NULL"
            rows = tx.all(f"{sql} AND state = 'running' RETURNING *")
            for row in rows:
                record_row(tx, "lease voided", State.RUNNING, State.RUNNING, "service", row, at=tx.now())
            return len(rows)

        return self._db.write(body)

    def fail_overdue(self) -> int:
        """Fail the jobs whose deadline passed and that nobody holds; how many."""
        return self._db.write(leases.fail_overdue)

    def delete_expired(self, limit: int) -> int:
        """Forget final jobs that were kept as long as asked for, as `delete` does; how many."""

        def body(tx: Tx) -> int:
            due = tx.all(
                f"SELECT id FROM job WHERE expire_at <= ? ORDER BY expire_at, id LIMIT ?{tx.dialect.skip_locked}",
                (tx.now(), max(limit, 0)),
            )
            return sum(delete(tx, "id = ?", (row["id"],), "sweeper") is not None for row in due)

        return self._db.write(body)

    def deleted(self, limit: int) -> list[DeletedJob]:
        """Jobs that were deleted and whose files are to be looked for now, the longest overdue first."""
        sql = "SELECT job_id, keys, deleted_at FROM deleted_job WHERE due_at <= ? ORDER BY due_at, job_id LIMIT ?"
        rows = self._db.read(sql, (self._db.now(), max(limit, 0)))
        return [DeletedJob(row["job_id"], tuple(json.loads(row["keys"])), row["deleted_at"]) for row in rows]

    def files_deleted(self, job_id: str, again_seconds: float) -> None:
        """Note that a deleted job's files were removed. It is forgotten ``again_seconds`` after its deletion, and due
        once more by then."""

        def body(tx: Tx) -> None:
            last = "deleted_at + ?"
            tx.run(f"DELETE FROM deleted_job WHERE job_id = ? AND {last} <= ?", (job_id, again_seconds, tx.now()))
            tx.run(f"UPDATE deleted_job SET due_at = {last} WHERE job_id = ?", (again_seconds, job_id))

        self._db.write(body)

    def maybe_littered(self, seconds: float) -> list[Job]:
        """Jobs that ended within the last so many seconds and were claimed several times or did not succeed: somebody
        may have left files of theirs."""
        sql = "SELECT * FROM job WHERE finished_at >= ? AND (lease_epoch > 1 OR state <> 'succeeded')"
        return [job_of(row) for row in self._db.read(sql, (self._db.now() - seconds,))]

    def forget_events(self, older_than: float = EVENT_SECONDS) -> int:
        """Delete the audit trails of jobs that were deleted more than ``older_than`` seconds ago; how many lines."""
        sql = "DELETE FROM job_event WHERE job_id IN (SELECT job_id FROM job_event WHERE to_state IS NULL AND at <= ?)"
        return self._db.write(lambda tx: tx.run(sql, (tx.now() - older_than,)))

    # What is known of the whole.

    def counts(self) -> dict[str, int]:
        """Jobs by state; 0 where there are none."""
        tallies = {row["name"]: int(row["jobs"]) for row in self._db.read("SELECT name, jobs FROM tally")}
        return {str(state): tallies.get(in_state(state), 0) for state in State}

    def put_engine(self, engine: EngineRow) -> None:
        """Note that an engine is alive."""
        columns = "id, model, gang_epoch, ranks, seen_at, state, restarts"
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns.split(", ")[1:])
        sql = f"INSERT INTO engine ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET {changes}"
        seen = (engine.id, engine.model, engine.gang_epoch, engine.ranks, engine.seen_at, engine.state)
        self._db.write(lambda tx: tx.run(sql, (*seen, json.dumps(engine.restarts))), synced=False)

    def remove_engine(self, engine_id: str) -> None:
        """Forget an engine; it need not be known."""
        self._db.write(lambda tx: tx.run("DELETE FROM engine WHERE id = ?", (engine_id,)), synced=False)

    def engines(self, max_age_seconds: float) -> list[EngineRow]:
        """The engines seen within the last ``max_age_seconds``, by id, whatever their state."""
        rows = self._db.read("SELECT * FROM engine WHERE seen_at >= ? ORDER BY id", (self._db.now() - max_age_seconds,))
        names = ("id", "model", "gang_epoch", "ranks", "seen_at", "state")
        return [EngineRow(restarts=json.loads(row["restarts"]), **{name: row[name] for name in names}) for row in rows]

    def recent_run_seconds(self, model: str, count: int = 20) -> float | None:
        """Mean seconds from start to end of a model's last succeeded jobs; None when there is none. Jobs that needed
        several attempts do not count, for the time in between says nothing about the model."""
        (row,) = self._db.read(
            "SELECT avg(seconds) AS mean FROM (SELECT CASE WHEN finished_at > started_at THEN finished_at - started_at"
            " ELSE 0 END AS seconds FROM job WHERE state = 'succeeded' AND model = ? AND lease_epoch = 1"
            " ORDER BY finished_at DESC LIMIT ?) AS recent",
            (model, count),
        )
        return None if row["mean"] is None else float(row["mean"])


def delete(tx: Tx, where: str, values: Sequence[Any], actor: str) -> Job | None:
    """Take a row out with all that hangs on it; its files are known by `deleted_job` from then on."""
    row: Row | None = tx.one(f"DELETE FROM job WHERE {where} RETURNING *", values)
    if row is None:
        return None
    job, now = job_of(row), tx.now()
    tx.count(results_of(job.owner), -result_bytes(job.result))
    tx.run("DELETE FROM job_media WHERE job_id = ?", (job.id,))
    tx.run("DELETE FROM job_label WHERE job_id = ?", (job.id,))
    tx.run(
        "INSERT INTO deleted_job (job_id, keys, deleted_at, due_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (job_id) DO UPDATE SET keys = excluded.keys, deleted_at = excluded.deleted_at,"
        " due_at = excluded.due_at",
        (job.id, json.dumps(file_keys(job)), now, now),
    )
    record_row(tx, "deleted", State(row["state"]), None, actor, row, at=now)
    return job
