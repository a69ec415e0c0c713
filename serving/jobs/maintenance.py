"""Maintenance of the job store, and overviews of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoetrope.serving.jobs import leases
from zoetrope.serving.jobs.admission import results_of
from zoetrope.serving.jobs.audit_log import in_state, record
from zoetrope.serving.jobs.db.database import Database, Row, Tx
from zoetrope.serving.jobs.db.records import from_row, insert, to_column, to_values
from zoetrope.serving.jobs.job import DeletedJob, EngineRow, Job, State, UnfinishedWork, file_keys, result_bytes

RESTORE_EPOCHS = 1_000_000  # more than a job had claims since a backup was made
EVENT_SECONDS = 7 * 86_400.0  # how long the audit log of a deleted job is kept


class Maintenance:
    """The part of `JobStore` that the sweeper, the start of a service and a gateway's overview use."""

    _db: Database

    # Used by the sweeper and at the start of a service.

    def expire_leases(self) -> int:
        """Void all leases and forget all engines when the service starts and its lock says that nobody else is alive.
        Not for a database with several routers, where the leases of dead ones run out by themselves.

        The epochs grow as well, so that a survivor of the earlier run, if there is one, can change nothing.

        Returns:
            How many jobs were running; they will be claimed again.
        """

        def body(tx: Tx) -> int:
            tx.run("DELETE FROM engine")
            sql = "UPDATE job SET lease_until = 0, lease_epoch = lease_epoch + 1 WHERE finished_at IS NULL"
            rows = tx.all(f"{sql} AND state = 'running' RETURNING *")
            for row in rows:
                job = from_row(Job, row)
                record(tx, job, "lease voided", State.RUNNING, State.RUNNING, "service", at=tx.now())
            return len(rows)

        return self._db.write(body)

    def after_restore(self) -> tuple[int, int]:
        """Make a database that was restored from a backup safe to go on with, before any router uses it.

        After the backup was made, jobs went on: under leases, in files and in snapshots whose epochs the restored rows
        do not know. All unfinished jobs get epochs beyond those, so that nobody from that time can change them, and
        nothing that was written then is taken for theirs. Running ones are claimed again.

        Returns:
            How many jobs are queued, and how many were running.
        """

        def body(tx: Tx) -> tuple[int, int]:
            tx.run("DELETE FROM engine")
            sql = "UPDATE job SET lease_epoch = lease_epoch + ? WHERE finished_at IS NULL AND state = 'queued'"
            queued = tx.run(sql, (RESTORE_EPOCHS,))
            rows = tx.all(
                "UPDATE job SET lease_epoch = lease_epoch + ?, lease_until = 0 WHERE finished_at IS NULL"
                " AND state = 'running' RETURNING *",
                (RESTORE_EPOCHS,),
            )
            for row in rows:
                job = from_row(Job, row)
                record(tx, job, "lease voided", State.RUNNING, State.RUNNING, "service", at=tx.now(), note="restored")
            return queued, len(rows)

        return self._db.write(body)

    def fail_overdue(self) -> int:
        """Fail the jobs whose deadline passed and that nobody holds. Returns how many."""
        return self._db.write(leases.fail_overdue)

    def delete_expired(self, limit: int) -> int:
        """Delete final jobs that were kept as long as requested. Returns how many."""

        def body(tx: Tx) -> int:
            due = tx.all(
                f"SELECT id FROM job WHERE expire_at <= ? ORDER BY expire_at, id LIMIT ?{tx.dialect.skip_locked}",
                (tx.now(), max(limit, 0)),
            )
            return sum(delete(tx, "id = ?", (row["id"],), "sweeper") is not None for row in due)

        return self._db.write(body)

    def deleted(self, limit: int) -> list[DeletedJob]:
        """Return deleted jobs whose files are due to be removed, the longest overdue first."""
        sql = "SELECT job_id AS id, * FROM deleted_job WHERE due_at <= ? ORDER BY due_at, job_id LIMIT ?"
        return [from_row(DeletedJob, row) for row in self._db.read(sql, (self._db.now(), max(limit, 0)))]

    def files_deleted(self, job_id: str, again_seconds: float) -> None:
        """Record that a deleted job's files were removed. The job is due once more ``again_seconds`` after its
        deletion, and forgotten then."""

        def body(tx: Tx) -> None:
            last = "deleted_at + ?"
            tx.run(f"DELETE FROM deleted_job WHERE job_id = ? AND {last} <= ?", (job_id, again_seconds, tx.now()))
            tx.run(f"UPDATE deleted_job SET due_at = {last} WHERE job_id = ?", (again_seconds, job_id))

        self._db.write(body)

    def maybe_littered(self, seconds: float, recent_seconds: float) -> list[Job]:
        """Return the jobs whose folders may hold files that no row names.

        Args:
            seconds: after the end of a job that was claimed several times or did not succeed; an earlier holder may
                still write.
            recent_seconds: after the end of any other job; a replaced preview may not have been deleted.
        """
        sql = (
            "SELECT * FROM job WHERE finished_at >= ? AND (finished_at >= ? OR lease_epoch > 1 OR state <> 'succeeded')"
        )
        now = self._db.now()
        return [from_row(Job, row) for row in self._db.read(sql, (now - seconds, now - recent_seconds))]

    def forget_events(self, older_than: float = EVENT_SECONDS) -> int:
        """Delete the audit logs of jobs that were deleted more than ``older_than`` seconds ago. Returns how many
        lines."""
        sql = "DELETE FROM job_event WHERE job_id IN (SELECT job_id FROM job_event WHERE to_state IS NULL AND at <= ?)"
        return self._db.write(lambda tx: tx.run(sql, (tx.now() - older_than,)))

    # Overviews.

    def counts(self) -> dict[str, int]:
        """Count jobs by state; every state has a count."""
        tallies = {row["name"]: int(row["jobs"]) for row in self._db.read("SELECT name, jobs FROM tally")}
        return {str(state): tallies.get(in_state(state), 0) for state in State}

    def unfinished_work(self) -> dict[str, UnfinishedWork]:
        """Return the unfinished work by model. A job that is being decoded needs no engine any more."""
        sql = (
            "SELECT model, count(*) AS jobs, sum(CASE WHEN price > used THEN price - used ELSE 0 END) AS seconds"
            " FROM job WHERE finished_at IS NULL AND (stage IS NULL OR stage <> 'decoding') GROUP BY model"
        )
        return {
            row["model"]: UnfinishedWork(int(row["jobs"]), float(row["seconds"] or 0.0)) for row in self._db.read(sql)
        }

    def put_engine(self, engine: EngineRow) -> None:
        """Record that an engine is alive."""
        values = to_values(engine)
        changes = ", ".join(f"{name} = excluded.{name}" for name in values)
        sql = f"{insert('engine', tuple(values))} ON CONFLICT (id) DO UPDATE SET {changes}"
        self._db.write(lambda tx: tx.run(sql, tuple(values.values())), synced=False)

    def remove_engine(self, engine_id: str) -> None:
        """Delete an engine, if it is known."""
        self._db.write(lambda tx: tx.run("DELETE FROM engine WHERE id = ?", (engine_id,)), synced=False)

    def engines(self, max_age_seconds: float) -> list[EngineRow]:
        """Return the engines seen within the last ``max_age_seconds``, ordered by id, whatever their state."""
        rows = self._db.read("SELECT * FROM engine WHERE seen_at >= ? ORDER BY id", (self._db.now() - max_age_seconds,))
        return [from_row(EngineRow, row) for row in rows]

    def recent_run_seconds(self, model: str, count: int = 20) -> float | None:
        """Return the mean seconds from start to end of a model's last succeeded jobs; None if there are none. Jobs with
        several attempts do not count, because the time in between says nothing about the model."""
        (row,) = self._db.read(
            "SELECT avg(seconds) AS mean FROM (SELECT CASE WHEN finished_at > started_at THEN finished_at - started_at"
            " ELSE 0 END AS seconds FROM job WHERE state = 'succeeded' AND model = ? AND lease_epoch = 1"
            " ORDER BY finished_at DESC LIMIT ?) AS recent",
            (model, count),
        )
        return None if row["mean"] is None else float(row["mean"])


def delete(tx: Tx, where: str, values: Sequence[Any], actor: str) -> Job | None:
    """Delete a job's row with everything that belongs to it; its files are listed in `deleted_job` from then on."""
    row: Row | None = tx.one(f"DELETE FROM job WHERE {where} RETURNING *", values)
    if row is None:
        return None
    job, now = from_row(Job, row), tx.now()
    tx.count(results_of(job.owner), -result_bytes(job.result))
    tx.run("DELETE FROM job_media WHERE job_id = ?", (job.id,))
    tx.run("DELETE FROM job_label WHERE job_id = ?", (job.id,))
    tx.run(
        insert("deleted_job", ("job_id", "keys", "deleted_at", "due_at"))
        + " ON CONFLICT (job_id) DO UPDATE SET keys = excluded.keys, deleted_at = excluded.deleted_at,"
        " due_at = excluded.due_at",
        (job.id, to_column(file_keys(job)), now, now),
    )
    record(tx, job, "deleted", job.state, None, actor, at=now)
    return job
