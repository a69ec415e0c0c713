"""The durable job: one database, shared by gateways and routers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TypeAlias

from serving.jobs import changes, leases, pages
from serving.jobs.admission import LOCK, admit, live, queue_share, results_of
from serving.jobs.database import Tx
from serving.jobs.errors import (
    MediaInUse,
    OffsetMismatch,
    QueueFull,
    QuotaExceeded,
    RequestConflict,
    StoreError,
    UnknownMedia,
)
from serving.jobs.job import (
    Job,
    JobEvent,
    JobFilter,
    Limits,
    Need,
    NewJob,
    Preview,
    Result,
    Stage,
    State,
    Usage,
)
from serving.jobs.leases import HELD
from serving.jobs.rows import Encoded, job_of, preview_of
from serving.jobs.shares import PLACES
from serving.jobs.trail import event_of, in_state, queued_by
from serving.jobs.upkeep import Upkeep, delete

__all__ = [
    "JobStore",
    "MediaInUse",
    "OffsetMismatch",
    "QueueFull",
    "QuotaExceeded",
    "RequestConflict",
    "StoreError",
    "UnknownMedia",
]

Marks: TypeAlias = dict[str, list[tuple[int, int, float, str]]]
Jobs: TypeAlias = list[Job]  # inside JobStore the name `list` is a method
Events: TypeAlias = list[JobEvent]


class JobStore(Upkeep):
    """Jobs and engines in a database that several processes may use at the same time.

    Every change is seen whole or not at all, and once a method has returned it survives a SIGKILL of any process. It
    also survives a loss of power, for changes that a client was told of or that start a new epoch; what only keeps a
    running lease going (``heartbeat``, ``progress``, ``warn``, ``put_notice``, ``put_preview``, ``put_engine``) is not
    synced to the disk, because its loss costs nothing.

    Whoever claims a job gets a lease and the job's new epoch; each write of a holder names its epoch and does nothing
    when a newer one exists. Leases are timed by the clock that the users of the database share. A jump of that clock
    may end a lease early, which the epochs make harmless. Each change of state is a row of `states.TRANSITIONS` and
    leaves a line in the job's audit trail.

    Safe to use from several threads. Readers never wait for writers. Every method may raise StoreError.
    """

    # What a client does.

    def create(self, job: NewJob, limits: Limits) -> Job:
        """Queue a job, or return the one that an earlier call with this owner and request id made (its id then differs
        from ``job.id``).

        Raises:
            RequestConflict: the request id is known with another fingerprint.
            QueueFull, QuotaExceeded: a limit is reached. Replays are not refused.
            UnknownMedia: the owner has no such medium that is ready.
            TypeError: the spec, the origin or a verdict is no JSON.
        """
        return self.create_batch([job], limits)[0]

    async def acreate(self, job: NewJob, limits: Limits) -> Job:
        """`create`, without a thread that waits."""
        return (await self.acreate_batch([job], limits))[0]

    def create_batch(self, jobs: Sequence[NewJob], limits: Limits) -> Jobs:
        """Queue all of these jobs or none; raises as `create`."""
        return self._db.write(_admission(jobs, limits), lock=LOCK)

    async def acreate_batch(self, jobs: Sequence[NewJob], limits: Limits) -> Jobs:
        """`create_batch`, without a thread that waits."""
        return await self._db.awrite(_admission(jobs, limits), lock=LOCK)

    def get(self, job_id: str, owner: str) -> Job | None:
        """The job, or None where this owner has no such job."""
        rows = self._db.read("SELECT * FROM job WHERE id = ? AND owner = ?", (job_id, owner))
        return job_of(rows[0]) if rows else None

    def get_many(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Those of these jobs that exist, whosever they are."""
        among, value = self._db.among("id", job_ids)
        return {row["id"]: job_of(row) for row in self._db.read(f"SELECT * FROM job WHERE {among}", (value,))}

    def list(
        self,
        owner: str,
        *,
        page_size: int,
        where: JobFilter = JobFilter(),  # noqa: B008
        before: tuple[float, str] | None = None,
        oldest_first: bool = False,
    ) -> Jobs:
        """An owner's jobs, newest first unless told otherwise.

        Args:
            where: only these.
            before: (created_at, id) of the last job of the page before; jobs made or deleted in between neither repeat
                nor hide others.
        """
        sql, values = pages.query(self._db.dialect, owner, page_size, where, before, oldest_first)
        return [job_of(row) for row in self._db.read(sql, values)]

    def queue_position(self, job: Job) -> int:
        """How many queued jobs are in front of it; 0 when it is next, or no longer queued."""
        return self.positions([job.id]).get(job.id, 0)

    def positions(self, job_ids: Sequence[str]) -> dict[str, int]:
        """`queue_position` of those of these jobs that are queued."""
        among, value = self._db.among("id", job_ids)
        rows = self._db.read(f"SELECT id, place FROM ({PLACES}) AS places WHERE {among}", (value,))
        return {row["id"]: int(row["place"]) for row in rows}

    def marks(self, every: int) -> Marks:
        """One queued job in ``every`` of each tenant's, the first one among them: places by tenant, each with the job's
        priority, created_at and id, in the order of the queue."""
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
            The job as it is now, or None where this owner has no such job.
        """
        return self._db.write(lambda tx: changes.cancel(tx, job_id, owner))

    def delete(self, job_id: str, owner: str) -> Job | None:
        """Forget a final job and its request id. Its files are known by `deleted` from then on.

        Returns:
            The job as it was; None where this owner has no such job or it is not final.
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
    ) -> Job | None:
        """Change what is not None. The job as it is then, or None where this owner has no such job.

        Raises:
            NotAllowed: the priority of a job that is not queued, or the expiry of one that is not done.
        """
        return self._db.write(lambda tx: changes.update(tx, job_id, owner, labels, priority, expire_at))

    def usage(self, owner: str, key_id: str | None, max_queued: int) -> Usage:
        """What a tenant has, and one key of it."""

        def body(tx: Tx) -> Usage:
            jobs, seconds = (0, 0.0) if key_id is None else tx.tally(live(key_id))
            queued = tx.tally(queued_by(owner))[0]
            share = max_queued
            if key_id is not None:
                share = queue_share(max_queued, tx.tally(in_state(State.QUEUED))[0], queued)
            return Usage(jobs, seconds, queued, share, tx.tally(results_of(owner))[0])

        return self._db.write(body, synced=False)

    def events(self, job_id: str, owner: str) -> Events:
        """A job's audit trail, oldest first; kept for seven days after the job was deleted."""
        rows = self._db.read("SELECT * FROM job_event WHERE job_id = ? AND owner = ? ORDER BY seq", (job_id, owner))
        return [event_of(row) for row in rows]

    # What the holder of a lease does.

    def claim(
        self,
        lease_owner: str,
        limit: int,
        lease_seconds: float,
        max_attempts: int,
        models: Sequence[str],
        in_hand: Sequence[str] = (),
    ) -> Jobs:
        """Take up to ``limit`` jobs of these models: queued ones, and running ones whose lease ran out. Tenants
        take turns; of one tenant's jobs those of a higher priority come first, then the oldest.

        A claimed job begins a new attempt with a new epoch, from step 0. A running job whose lease ran out is not
        claimed but ended where its cancellation was asked for, where its deadline passed, or (as failed) after
        ``max_attempts`` attempts in a row in which it got no further than before.

        Args:
            in_hand: jobs that are not to be claimed, for the caller is at work on them.
        """
        return self._db.write(
            lambda tx: leases.claim(tx, lease_owner, limit, lease_seconds, max_attempts, models, in_hand)
        )

    def release(self, lease_owner: str, leases_held: Sequence[tuple[str, int]]) -> int:
        """Give leases, as (job id, epoch), back before they run out: the holder stops in good order, which counts as no
        failure of the job's. How many there were."""
        held = list(leases_held)
        return self._db.write(lambda tx: leases.release(tx, lease_owner, held)) if held else 0

    def release_unheard(self, lease_owner: str, in_hand: Sequence[str]) -> int:
        """`release` whatever this owner was given in a claim whose answer it did not hear; ``in_hand`` are the jobs
        that it knows of."""
        return self._db.write(lambda tx: leases.release_unheard(tx, lease_owner, in_hand))

    def heartbeat(
        self, lease_owner: str, leases_held: Sequence[tuple[str, int]], lease_seconds: float
    ) -> dict[str, Need]:
        """Prolong leases, given as (job id, epoch), from now on.

        Returns:
            What needs the holder's attention: "lost" where the job is not this owner's any more, or was released (stop,
            and change nothing), "cancel" where its cancellation was asked for and "deadline" where its deadline passed
            (end it).
        """
        if not leases_held:
            return {}
        held = list(leases_held)
        return self._db.write(lambda tx: leases.heartbeat(tx, lease_owner, held, lease_seconds), synced=False)

    def progress(self, job_id: str, epoch: int, *, stage: Stage, step: int, eta_seconds: float | None) -> bool:
        """Note how far a job is. A step that is taken again does not show: within an attempt the number never goes
        back. A step that was never reached before is progress: earlier attempts no longer count against the job.
        False when the lease is lost."""
        sql = (
            "UPDATE job SET stage = ?, step = CASE WHEN step > ? THEN step ELSE ? END, eta_seconds = ?,"
            " fruitless = CASE WHEN ? > furthest THEN 0 ELSE fruitless END,"
            f" furthest = CASE WHEN ? > furthest THEN ? ELSE furthest END WHERE {HELD}"
        )
        values = (str(stage), step, step, eta_seconds, step, step, step, job_id, epoch)
        return self._db.write(lambda tx: tx.run(sql, values), synced=False) == 1

    def warn(self, job_id: str, epoch: int, warnings: Sequence[str]) -> None:
        """Note what the client should know; what an earlier attempt noted goes."""
        values = (json.dumps(list(warnings)), job_id, epoch)
        self._db.write(lambda tx: tx.run(f"UPDATE job SET warnings = ? WHERE {HELD}", values), synced=False)

    def put_notice(self, job_id: str, epoch: int, notice: str) -> None:
        """Note what the job waits for; nothing any more where that is empty."""
        sql = f"UPDATE job SET notice = ? WHERE {HELD}"
        self._db.write(lambda tx: tx.run(sql, (notice, job_id, epoch)), synced=False)

    def put_preview(self, job_id: str, epoch: int, preview: Preview) -> tuple[bool, Preview | None]:
        """Note the newest preview.

        Returns:
            Whether the lease is still held (if not, nothing changed and the caller deletes what it stored), and the
            preview that this one replaces, whose file the caller deletes.
        """

        def body(tx: Tx) -> tuple[bool, Preview | None]:
            row = tx.one(f"SELECT preview FROM job WHERE {HELD}{tx.dialect.for_update}", (job_id, epoch))
            if row is None:
                return False, None
            tx.run("UPDATE job SET preview = ? WHERE id = ?", (json.dumps(asdict(preview)), job_id))
            return True, preview_of(row)

        return self._db.write(body, synced=False)

    def finish(
        self,
        job_id: str,
        epoch: int,
        state: State,
        *,
        result: Result | None = None,
        error_code: str | None = None,
        error_message: str | None = None,
        verdict: Mapping[str, str] | None = None,
    ) -> bool:
        """End a job; ``verdict`` joins those that it has. False when the lease is lost (or the job has ended
        otherwise): then nothing changed. Who did not hear what came of a call may repeat it.

        Raises:
            ValueError: the state is not final, a result without success or the reverse, an error code without failure
                or the reverse.
        """
        if not state.final:
            raise ValueError(f"a job cannot finish as {state}")
        if (state is State.SUCCEEDED) != (result is not None) or (state is State.FAILED) != (error_code is not None):
            raise ValueError("success has a result, failure an error code, and nothing else has either")

        def body(tx: Tx) -> bool:
            if verdict is not None:
                changes.add_verdict(tx, job_id, epoch, verdict)
            return leases.finish(tx, job_id, epoch, state, result, error_code, error_message)

        return self._db.write(body)


def _admission(jobs: Sequence[NewJob], limits: Limits) -> Callable[[Tx], list[Job]]:
    """What a create does in its transaction; all that needs none is done at once."""
    encoded = [Encoded(job) for job in jobs]
    return lambda tx: [admit(tx, one, limits) for one in encoded]
