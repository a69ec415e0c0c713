"""Claims, heartbeats and ends of jobs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from zoetrope.serving.jobs.admission import count_price, live, results_of
from zoetrope.serving.jobs.audit_log import record
from zoetrope.serving.jobs.db.database import Database, Tx
from zoetrope.serving.jobs.db.records import from_row, to_column
from zoetrope.serving.jobs.job import Job, Need, Preview, QueuedJob, Result, Stage, State, result_bytes
from zoetrope.serving.jobs.outbox import enqueue

# The holder of a job is whoever has the newest epoch. A lease that ran out counts until the next claim.
HELD = "id = ? AND state = 'running' AND lease_epoch = ?"
LAPSED = "state = 'running' AND lease_until <= ?"
TOO_LATE = ("DEADLINE_EXCEEDED", "the deadline of the request passed")
RAN_OUT, GIVEN_BACK = "its lease had run out", "its lease had been given back"
PAGE = 1_000  # jobs of the queue that are read at a time
QUEUED = (
    "SELECT id, owner, model, priority, created_at, deadline_at, price, used, steps, state = 'running' AS lapsed"
    " FROM job"
)
NEXT_QUEUED = (  # from a time and an id on, of a model; what can be done by now
    f"{QUEUED} WHERE finished_at IS NULL AND model = ? AND (created_at, id) > (?, ?) AND state = 'queued'"
    f" AND (deadline_at IS NULL OR deadline_at > ?) ORDER BY created_at, id LIMIT {PAGE}"
)


class JobLeases:
    """The part of `JobStore` that the holders of leases use."""

    _db: Database

    def waiting(self, models: Sequence[str], since: float = -math.inf) -> Iterator[QueuedJob]:
        """Go through the jobs of these models that wait for a router: the queued ones created at ``since`` or later,
        the oldest first, and then all running ones whose lease ran out. They are read a page at a time, so that whoever
        keeps few of them needs no memory for the others."""
        now = self._db.now()
        for model in models:  # one after the other, so that each follows its own part of the index
            at, last = since, ""
            while rows := self._db.read(NEXT_QUEUED, (model, at, last, now)):
                yield from (from_row(QueuedJob, row) for row in rows)
                if len(rows) < PAGE:
                    break
                at, last = rows[-1]["created_at"], rows[-1]["id"]
        among, value = self._db.among("model", models)
        lapsed = self._db.read(f"{QUEUED} WHERE {LAPSED} AND {among} ORDER BY id", (now, value))
        yield from (from_row(QueuedJob, row) for row in lapsed)

    def claim(
        self,
        lease_owner: str,
        wanted: Sequence[str],
        lease_seconds: float,
        max_attempts: int,
        in_hand: Sequence[str] = (),
    ) -> list[Job]:
        """Claim jobs: those of the ``wanted`` that are still queued, or running with a lease that ran out.

        A claimed job starts a new attempt with a new epoch, from step 0. Any running job whose lease ran out is not
        claimed but ended if its cancellation was requested, if its deadline passed, or (as failed) after
        ``max_attempts`` attempts in a row in which it got no further than before.

        Args:
            in_hand: jobs that must not be claimed, because the caller is working on them.

        Returns:
            The jobs, in the order in which they were wanted.
        """
        order = {job_id: number for number, job_id in enumerate(wanted)}

        def body(tx: Tx) -> list[Job]:
            now, actor = tx.now(), f"router:{lease_owner}"
            _end_lapsed(tx, now, actor, max_attempts, in_hand)
            mine, ours = tx.among("id", [job_id for job_id in order if job_id not in in_hand])
            free = tx.all(
                f"SELECT id, state, lease_until FROM job WHERE {mine} AND finished_at IS NULL"
                " AND (state = 'queued' OR lease_until <= ?)"
                f" AND (deadline_at IS NULL OR deadline_at > ?) ORDER BY id{tx.dialect.skip_locked}",
                (ours, now, now),
            )
            if not free:
                return []
            before = {row["id"]: row["state"] for row in free}
            among, value = tx.among("id", list(before))
            given_back = {row["id"] for row in free if row["lease_until"] == 0}
            rows = tx.all(
                "UPDATE job SET state = 'running', stage = ?, step = 0, eta_seconds = NULL, notice = '',"
                " attempt = attempt + 1, fruitless = fruitless + 1, lease_epoch = lease_epoch + 1, lease_owner = ?,"
                f" lease_until = ?, started_at = coalesce(started_at, ?) WHERE {among} RETURNING *",
                (str(Stage.CONDITIONING), lease_owner, now + lease_seconds, now, value),
            )
            claimed = sorted((from_row(Job, row) for row in rows), key=lambda job: order[job.id])
            for job in claimed:
                if before[job.id] == State.QUEUED:
                    record(tx, job, "claimed", State.QUEUED, State.RUNNING, actor, at=now)
                    enqueue(tx, job, ("start",), now)
                else:
                    note = GIVEN_BACK if job.id in given_back else RAN_OUT
                    record(tx, job, "claimed again", State.RUNNING, State.RUNNING, actor, at=now, note=note)
            return claimed

        return self._db.write(body)

    def release(self, lease_owner: str, leases: Sequence[tuple[str, int]]) -> int:
        """Give back leases, as (job id, epoch), before they run out: the holder stops in good order, which does not
        count as a failed attempt.

        Returns:
            How many there were.
        """
        held = list(leases)
        return self._db.write(lambda tx: sum(_release(tx, lease_owner, HELD, lease) for lease in held)) if held else 0

    def release_unheard(self, lease_owner: str, in_hand: Sequence[str]) -> int:
        """`release` whatever this owner was given in a claim whose answer it did not hear; ``in_hand`` are the jobs
        that it knows of."""

        def body(tx: Tx) -> int:
            known, value = tx.among("id", in_hand)
            return _release(tx, lease_owner, f"state = 'running' AND NOT ({known})", (value,))

        return self._db.write(body)

    def heartbeat(self, lease_owner: str, leases: Sequence[tuple[str, int]], lease_seconds: float) -> dict[str, Need]:
        """Extend leases, given as (job id, epoch), from now on.

        Returns:
            What needs the holder's attention: "lost" if the job is not this owner's any more, or was released (stop,
            and change nothing), "cancel" if its cancellation was requested, "deadline" if its deadline passed (end it).
        """
        held = list(leases)
        places = ", ".join(["(?, ?)"] * len(held))

        def body(tx: Tx) -> dict[str, Need]:
            now = tx.now()
            rows = tx.all(
                f"WITH held (id, epoch) AS (VALUES {places}) UPDATE job SET lease_until = ? FROM held"
                " WHERE job.id = held.id AND state = 'running' AND lease_epoch = held.epoch AND lease_owner = ?"
                " AND lease_until > 0"  # one that was given back stays so
                " RETURNING job.id AS id, cancel_requested, deadline_at",
                (*(value for lease in held for value in lease), now + lease_seconds, lease_owner),
            )
            needs: dict[str, Need] = dict.fromkeys((job_id for job_id, _ in held), "lost")
            for row in rows:
                if row["cancel_requested"]:
                    needs[row["id"]] = "cancel"
                elif row["deadline_at"] is not None and row["deadline_at"] <= now:
                    needs[row["id"]] = "deadline"
                else:
                    del needs[row["id"]]
            return needs

        return self._db.write(body, synced=False) if held else {}

    def progress(
        self,
        job_id: str,
        epoch: int,
        *,
        stage: Stage,
        step: int,
        eta_seconds: float | None,
        used: float | None = None,
    ) -> bool:
        """Record how far a job is. A repeated step does not show: within an attempt the number never goes back. A step
        that was never reached before is progress: earlier attempts no longer count against the job. ``used``: the
        GPU-seconds so far. Returns False if the lease is lost."""
        sql = (
            "UPDATE job SET stage = ?, step = CASE WHEN step > ? THEN step ELSE ? END, eta_seconds = ?,"
            " used = coalesce(?, used),"
            " fruitless = CASE WHEN ? > furthest THEN 0 ELSE fruitless END,"
            f" furthest = CASE WHEN ? > furthest THEN ? ELSE furthest END WHERE {HELD}"
        )
        values = (str(stage), step, step, eta_seconds, used, step, step, step, job_id, epoch)
        return self._db.write(lambda tx: tx.run(sql, values), synced=False) == 1

    def warn(self, job_id: str, epoch: int, warnings: Sequence[str]) -> None:
        """Record what the client should know; it replaces what an earlier attempt recorded."""
        values = (to_column(warnings), job_id, epoch)
        self._db.write(lambda tx: tx.run(f"UPDATE job SET warnings = ? WHERE {HELD}", values), synced=False)

    def put_notice(self, job_id: str, epoch: int, notice: str) -> None:
        """Record what the job waits for; "": nothing any more."""
        sql = f"UPDATE job SET notice = ? WHERE {HELD}"
        self._db.write(lambda tx: tx.run(sql, (notice, job_id, epoch)), synced=False)

    def put_preview(self, job_id: str, epoch: int, preview: Preview) -> tuple[bool, Preview | None]:
        """Record the newest preview.

        Returns:
            Whether the lease is still held (if not, nothing changed and the caller deletes what it stored), and the
            preview that this one replaces, whose file the caller deletes.
        """

        def body(tx: Tx) -> tuple[bool, Preview | None]:
            job = held_job(tx, job_id, epoch)
            if job is None:
                return False, None
            tx.run("UPDATE job SET preview = ? WHERE id = ?", (to_column(preview), job_id))
            return True, job.preview

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
        used: float | None = None,
    ) -> bool:
        """End a job; ``verdict`` is added to those that it has, ``used`` is its GPU-seconds. A caller that did not hear
        the outcome may repeat the call.

        Returns:
            False if the lease is lost (or the job has ended otherwise): then nothing changed.

        Raises:
            ValueError: the state is not final, a result without success or the reverse, an error code without failure
                or the reverse.
        """
        if not state.final:
            raise ValueError(f"a job cannot finish as {state}")
        if (state is State.SUCCEEDED) != (result is not None) or (state is State.FAILED) != (error_code is not None):
            raise ValueError("success has a result, failure an error code, and nothing else has either")
        what = str(state)
        if error_code is not None:
            what = "deadline" if error_code == TOO_LATE[0] else "failed"

        def body(tx: Tx) -> bool:
            job = held_job(tx, job_id, epoch)
            if job is None:
                return _ended_so(tx, job_id, epoch, state, result)
            if verdict is not None:
                verdicts = to_column([*job.verdicts, dict(verdict)])
                tx.run("UPDATE job SET verdicts = ? WHERE id = ?", (verdicts, job_id))
            if used is not None:
                tx.run("UPDATE job SET used = ? WHERE id = ?", (used, job_id))
            actor, error = f"router:{job.lease_owner}", (error_code, error_message)
            end(tx, HELD, (job_id, epoch), State.RUNNING, state, what, actor, result=result, error=error)
            return True

        return self._db.write(body)


def held_job(tx: Tx, job_id: str, epoch: int) -> Job | None:
    """Return a job whose newest epoch this is, locked; None if the lease is lost."""
    row = tx.one(f"SELECT * FROM job WHERE {HELD}{tx.dialect.for_update}", (job_id, epoch))
    return None if row is None else from_row(Job, row)


def _end_lapsed(tx: Tx, now: float, actor: str, max_attempts: int, in_hand: Sequence[str]) -> None:
    """End the jobs whose lease ran out and that must not be claimed again."""
    cancelled = f"{LAPSED} AND cancel_requested = 1"
    end(tx, cancelled, (now,), State.RUNNING, State.CANCELLED, "cancelled", actor, RAN_OUT)
    late = f"{LAPSED} AND deadline_at <= ?"
    end(tx, late, (now, now), State.RUNNING, State.FAILED, "deadline", actor, RAN_OUT, error=TOO_LATE)
    error = ("UNAVAILABLE", f"given up after {max_attempts} attempts in a row without progress")
    known, value = tx.among("id", in_hand)
    spent, of = f"{LAPSED} AND fruitless >= ? AND NOT ({known})", (now, max_attempts, value)
    end(tx, spent, of, State.RUNNING, State.FAILED, "given up", actor, RAN_OUT, error=error)


def _ended_so(tx: Tx, job_id: str, epoch: int, state: State, result: Result | None) -> bool:
    """Whether this very end is in the database already: its holder did not hear of the commit and says it again."""
    row = tx.one("SELECT state, result FROM job WHERE id = ? AND lease_epoch = ?", (job_id, epoch))
    if row is None or row["state"] != state:
        return False
    return result is None or json.loads(row["result"])["video"]["key"] == result.video.key


def _release(tx: Tx, lease_owner: str, where: str, values: Sequence[Any]) -> int:
    rows = tx.all(
        "UPDATE job SET lease_until = 0, notice = '', attempt = attempt - 1,"
        " fruitless = CASE WHEN fruitless > 0 THEN fruitless - 1 ELSE 0 END"
        f" WHERE {where} AND lease_owner = ? AND lease_until > 0 RETURNING *",
        (*values, lease_owner),
    )
    for row in rows:
        actor = f"router:{lease_owner}"
        record(tx, from_row(Job, row), "released", State.RUNNING, State.RUNNING, actor, at=tx.now())
    return len(rows)


def fail_overdue(tx: Tx) -> int:
    """See `Maintenance.fail_overdue`."""
    now = tx.now()
    waiting = "state = 'queued' AND finished_at IS NULL AND deadline_at <= ?"
    queued = end(tx, waiting, (now,), State.QUEUED, State.FAILED, "deadline", "sweeper", error=TOO_LATE)
    late = f"{LAPSED} AND deadline_at <= ? AND cancel_requested = 0"
    left = end(tx, late, (now, now), State.RUNNING, State.FAILED, "deadline", "sweeper", error=TOO_LATE)
    return len(queued) + len(left)


def end(
    tx: Tx,
    where: str,
    values: Sequence[Any],
    source: State,
    target: State,
    what: str,
    actor: str,
    note: str = "",
    *,
    result: Result | None = None,
    error: tuple[str | None, str | None] = (None, None),
) -> list[Job]:
    """End the jobs that a condition selects, with all that belongs to an end: the audit log, the tallies, when they
    expire, and the messages to their clients.

    Returns:
        The jobs as they are now.
    """
    now = tx.now()
    made = None if result is None else asdict(result)
    step = "steps" if target is State.SUCCEEDED else "step"
    rows = tx.all(
        f"UPDATE job SET state = ?, result = ?, error_code = ?, error_message = ?, step = {step}, lease_owner = NULL,"
        " lease_until = NULL, stage = NULL, eta_seconds = NULL, notice = '', finished_at = ?,"
        " expire_at = retention_seconds + ?"
        f" WHERE {where} RETURNING *",
        (str(target), to_column(made), *error, now, now, *values),
    )
    ended = [from_row(Job, row) for row in rows]
    for job in ended:
        if job.key_id is not None:
            tx.count(live(job.key_id), -1, -job.seconds)
        count_price(tx, job, -1)
        tx.count(results_of(job.owner), result_bytes(made))
        record(tx, job, what, source, target, actor, at=now, note=note or error[0] or "")
        enqueue(tx, job, ("output", "completed") if target is State.SUCCEEDED else ("completed",), now)
    return ended
