"""The job store: one database, shared by gateways and routers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from zoetrope.serving.jobs import pages
from zoetrope.serving.jobs.admission import (
    LOCK,
    EncodedJob,
    check_job,
    enqueue_job,
    live,
    priced,
    put_labels,
    queue_share,
    results_of,
)
from zoetrope.serving.jobs.audit_log import in_state, queued_by, record
from zoetrope.serving.jobs.db.database import Database, Tx
from zoetrope.serving.jobs.db.records import from_row, to_column
from zoetrope.serving.jobs.errors import NotAllowed
from zoetrope.serving.jobs.fair_shares import PLACES
from zoetrope.serving.jobs.job import Job, JobEvent, JobFilter, NewJob, QueueLimits, State, TenantUsage
from zoetrope.serving.jobs.leases import JobLeases, end
from zoetrope.serving.jobs.maintenance import Maintenance, delete

Marks: TypeAlias = dict[str, list[tuple[int, int, float, str]]]
Jobs: TypeAlias = list[Job]  # inside JobStore the name `list` is a method
Events: TypeAlias = list[JobEvent]


class JobStore(JobLeases, Maintenance):
    """Jobs and engines in a database that several processes may use at the same time.

    Every change is atomic, and once a method has returned it survives a SIGKILL of any process. Changes that a client
    was told about or that start a new epoch also survive a loss of power; what only maintains a running lease
    (``heartbeat``, ``progress``, ``warn``, ``put_notice``, ``put_preview``, ``put_engine``) is not synced to the disk,
    because its loss costs nothing.

    A claim gives its caller a lease and the job a new epoch; each write of a holder names its epoch and does nothing if
    there is a newer one. Leases are timed by the clock that the users of the database share. A jump of that clock may
    end a lease early, which the epochs make harmless. Each change of state is a row of `states.TRANSITIONS` and adds a
    line to the job's audit log.

    Safe to use from several threads. Readers never wait for writers. Every method may raise StoreError.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def create(self, job: NewJob, limits: QueueLimits) -> Job:
        """Queue a job, or return the one that an earlier call with this owner and request id created (its id then
        differs from ``job.id``).

        Raises:
            RequestConflict: the request id is known with another fingerprint.
            QueueFull, QuotaExceeded: a limit is reached. Replays are not refused.
            UnknownMedia: the owner has no such medium that is ready.
            TypeError: the spec, the origin or a verdict is not JSON.
        """
        return self.create_batch([job], limits)[0]

    async def acreate(self, job: NewJob, limits: QueueLimits) -> Job:
        """`create` without blocking a thread."""
        return (await self.acreate_batch([job], limits))[0]

    def create_batch(self, jobs: Sequence[NewJob], limits: QueueLimits) -> Jobs:
        """Queue all of these jobs or none; raises as `create`."""
        return self._db.write(_creation(jobs, limits), lock=LOCK)

    async def acreate_batch(self, jobs: Sequence[NewJob], limits: QueueLimits) -> Jobs:
        """`create_batch` without blocking a thread."""
        return await self._db.awrite(_creation(jobs, limits), lock=LOCK)

    def get(self, job_id: str, owner: str) -> Job | None:
        """Return the job, or None if this owner has no such job."""
        rows = self._db.read("SELECT * FROM job WHERE id = ? AND owner = ?", (job_id, owner))
        return from_row(Job, rows[0]) if rows else None

    def get_many(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Return those of these jobs that exist, whoever owns them."""
        among, value = self._db.among("id", job_ids)
        return {row["id"]: from_row(Job, row) for row in self._db.read(f"SELECT * FROM job WHERE {among}", (value,))}

    def list(
        self,
        owner: str,
        *,
        page_size: int,
        where: JobFilter = JobFilter(),  # noqa: B008
        before: tuple[float, str] | None = None,
        oldest_first: bool = False,
    ) -> Jobs:
        """List an owner's jobs, newest first by default.

        Args:
            where: only these.
            before: (created_at, id) of the last job of the previous page; jobs created or deleted in between neither
                repeat nor hide others.
        """
        sql, values = pages.query(self._db.dialect, owner, page_size, where, before, oldest_first)
        return [from_row(Job, row) for row in self._db.read(sql, values)]

    def queue_position(self, job: Job) -> int:
        """Return how many queued jobs are ahead of it; 0 if it is next, or no longer queued."""
        return self.positions([job.id]).get(job.id, 0)

    def positions(self, job_ids: Sequence[str]) -> dict[str, int]:
        """Return the `queue_position` of each of these jobs that is queued."""
        among, value = self._db.among("id", job_ids)
        rows = self._db.read(f"SELECT id, place FROM ({PLACES}) AS places WHERE {among}", (value,))
        return {row["id"]: int(row["place"]) for row in rows}

    def marks(self, every: int) -> Marks:
        """Return, by tenant, every so manieth of its queued jobs, starting with the first: the job's place, priority,
        created_at and id, in the order of the queue."""
        sql = (
            f"SELECT owner, place, priority, created_at, id FROM ({PLACES}) AS places WHERE own % ? = 0 ORDER BY place"
        )
        marks: Marks = {}
        for row in self._db.read(sql, (every,)):
            mark = int(row["place"]), row["priority"], row["created_at"], row["id"]
            marks.setdefault(row["owner"], []).append(mark)
        return marks

    def request_cancel(self, job_id: str, owner: str) -> Job | None:
        """Cancel a queued job at once; tell the holder of a running one (see ``heartbeat``); leave a final one alone.

        Returns:
            The job as it is now, or None if this owner has no such job.
        """

        def body(tx: Tx) -> Job | None:
            job = _locked(tx, job_id, owner)
            if job is None or job.state.final or job.cancel_requested:
                return job
            tx.run("UPDATE job SET cancel_requested = 1 WHERE id = ?", (job_id,))
            if job.state is State.QUEUED:
                return end(tx, "id = ?", (job_id,), State.QUEUED, State.CANCELLED, "cancelled", "client")[0]
            record(tx, job, "cancel requested", State.RUNNING, State.RUNNING, "client", at=tx.now())
            return replace(job, cancel_requested=True)

        return self._db.write(body)

    def delete(self, job_id: str, owner: str) -> Job | None:
        """Delete a final job and its request id. Its files are listed by `deleted` from then on.

        Returns:
            The job as it was; None if this owner has no such job or it is not final.
        """
        return self._db.write(
            lambda tx: delete(tx, "id = ? AND owner = ? AND finished_at IS NOT NULL", (job_id, owner), "client")
        )

    def update(
        self,
        job_id: str,
        owner: str,
        *,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        expire_at: float | None = None,
        max_retention_seconds: float = math.inf,
    ) -> Job | None:
        """Change what is not None.

        Args:
            max_retention_seconds: the latest expiry, from the job's end.

        Returns:
            The job as it is then, or None if this owner has no such job.

        Raises:
            NotAllowed: the priority of a job that is not queued, or the expiry of one that is not final, or too late.
        """
        given = {"labels": None if labels is None else dict(labels), "priority": priority, "expire_at": expire_at}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}

        def body(tx: Tx) -> Job | None:
            job = _locked(tx, job_id, owner)
            if job is None:
                return None
            if priority is not None and job.state is not State.QUEUED:
                raise NotAllowed("priority", f"the job is {job.state}, only that of a queued one can be changed")
            if expire_at is not None and not job.state.final:
                raise NotAllowed("expire_time", f"the job is {job.state}, it has one when it is done")
            if expire_at is not None and expire_at > (job.finished_at or 0.0) + max_retention_seconds:
                raise NotAllowed("expire_time", f"is not within {max_retention_seconds:g} s from the job's end")
            for column, value in changes.items():
                tx.run(f"UPDATE job SET {column} = ? WHERE id = ?", (to_column(value), job_id))
            changed = replace(job, **changes)
            if labels is not None:
                tx.run("DELETE FROM job_label WHERE job_id = ?", (job_id,))
                put_labels(tx, changed)
            return changed

        return self._db.write(body)

    def usage(self, owner: str, key_id: str | None, max_queued: int) -> TenantUsage:
        """Return what counts against the limits of a tenant and one of its keys."""

        def body(tx: Tx) -> TenantUsage:
            jobs, seconds = (0, 0.0) if key_id is None else tx.tally(live(key_id))
            queued = tx.tally(queued_by(owner))[0]
            share = max_queued
            if key_id is not None:
                share = queue_share(max_queued, tx.tally(in_state(State.QUEUED))[0], queued)
            return TenantUsage(jobs, seconds, queued, share, tx.tally(results_of(owner))[0])

        return self._db.write(body, synced=False)

    def check(self, job: NewJob, limits: QueueLimits) -> None:
        """Raise what `create` would raise for the limits and the media of a job; nothing is stored."""
        encoded = EncodedJob.of(job)
        self._db.write(lambda tx: check_job(tx, encoded, limits), lock=LOCK, synced=False)

    def priced(self, models: Sequence[str]) -> dict[str, tuple[int, float]]:
        """Return by model how many jobs that have a price have not ended, and the GPU-seconds of their prices."""
        names = {priced(model): model for model in models}
        among, value = self._db.among("name", list(names))
        rows = self._db.read(f"SELECT name, jobs, millis FROM tally WHERE {among}", (value,))
        return {names[row["name"]]: (int(row["jobs"]), row["millis"] / 1_000) for row in rows}

    def gpu_seconds(self, owner: str, models: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Return, by model, the GPU-seconds of the prices of the jobs that have not ended: of all, and of a tenant."""

        def body(tx: Tx) -> dict[str, tuple[float, float]]:
            return {m: (tx.tally(priced(m))[1], tx.tally(priced(m, owner))[1]) for m in models}

        return self._db.write(body, synced=False)

    def events(self, job_id: str, owner: str) -> Events:
        """Return a job's audit log, oldest first; it is kept for seven days after the job was deleted."""
        rows = self._db.read("SELECT * FROM job_event WHERE job_id = ? AND owner = ? ORDER BY seq", (job_id, owner))
        return [from_row(JobEvent, row) for row in rows]


def _creation(jobs: Sequence[NewJob], limits: QueueLimits) -> Callable[[Tx], list[Job]]:
    """Return what a create does in its transaction; everything else is done at once."""
    encoded = [EncodedJob.of(job) for job in jobs]
    return lambda tx: [enqueue_job(tx, one, limits) for one in encoded]


def _locked(tx: Tx, job_id: str, owner: str) -> Job | None:
    row = tx.one(f"SELECT * FROM job WHERE id = ? AND owner = ?{tx.dialect.for_update}", (job_id, owner))
    return None if row is None else from_row(Job, row)
