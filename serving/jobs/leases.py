"""Claims, heartbeats and ends: what a job's holder and its deadlines do to it, each inside a transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from serving.jobs.admission import live, results_of
from serving.jobs.database import Row, Tx
from serving.jobs.job import Job, Need, Result, Stage, State, result_bytes
from serving.jobs.outbox import enqueue
from serving.jobs.rows import job_of, webhook_of
from serving.jobs.shares import in_turn, note_turns, turns, waiting_tenants
from serving.jobs.trail import record_row

# What makes somebody the holder of a job: its epoch is the newest. A lease that ran out counts until the next claim.
HELD = "id = ? AND state = 'running' AND lease_epoch = ?"
LAPSED = "state = 'running' AND lease_until <= ?"
TOO_LATE = ("DEADLINE_EXCEEDED", "the deadline of the request passed")


def claim(
    tx: Tx,
    lease_owner: str,
    limit: int,
    lease_seconds: float,
    max_attempts: int,
    models: Sequence[str],
    in_hand: Sequence[str],
) -> list[Job]:
    """See `JobStore.claim`."""
    now, actor = tx.now(), f"router:{lease_owner}"
    lapsed = "its lease had run out"
    end(tx, f"{LAPSED} AND cancel_requested = 1", (now,), State.RUNNING, State.CANCELLED, "cancelled", actor, lapsed)
    late = f"{LAPSED} AND deadline_at <= ?"
    end(tx, late, (now, now), State.RUNNING, State.FAILED, "deadline", actor, lapsed, error=TOO_LATE)
    error = ("UNAVAILABLE", f"given up after {max_attempts} attempts in a row without progress")
    held, held_value = tx.among("id", in_hand)
    spent, of = f"{LAPSED} AND fruitless >= ? AND NOT ({held})", (now, max_attempts, held_value)
    end(tx, spent, of, State.RUNNING, State.FAILED, "given up", actor, lapsed, error=error)
    found = _in_turn(tx, limit, models, in_hand, now)
    if not found:
        return []
    among, value = tx.among("id", found)
    rows = tx.all(
        "UPDATE job SET state = 'running', stage = ?, step = 0, eta_seconds = NULL, notice = '', attempt = attempt + 1,"
        " fruitless = fruitless + 1,"
        " lease_epoch = lease_epoch + 1, lease_owner = ?, lease_until = ?, started_at = coalesce(started_at, ?)"
        f" WHERE {among} RETURNING *",
        (str(Stage.CONDITIONING), lease_owner, now + lease_seconds, now, value),
    )
    for row in rows:
        if row["lease_epoch"] == 1:
            record_row(tx, "claimed", State.QUEUED, State.RUNNING, actor, row, at=now)
            enqueue(tx, row["id"], row["owner"], webhook_of(row), ("start",), now)
        else:
            record_row(tx, "claimed again", State.RUNNING, State.RUNNING, actor, row, at=now, note=lapsed)
    return sorted((job_of(row) for row in rows), key=lambda job: found.index(job.id))


def _in_turn(tx: Tx, limit: int, models: Sequence[str], in_hand: Sequence[str], now: float) -> list[str]:
    """Ids of jobs to claim: one tenant's after the other's (`serving.jobs.shares`), each tenant's own by priority and
    age. What it takes grows with the tenants and with what they have running, not with what waits."""
    found: list[str] = []

    def take(owner: str) -> Row | None:
        held, value = tx.among("id", [*in_hand, *found])
        heads: list[Row] = []
        for model in models:  # one after the other, so that each follows its own part of the index
            heads += tx.all(
                "SELECT id, priority, created_at FROM job WHERE finished_at IS NULL AND model = ? AND owner = ?"
                " AND (state = 'queued' OR lease_until <= ?) AND (deadline_at IS NULL OR deadline_at > ?)"
                f" AND NOT ({held}) ORDER BY priority DESC, created_at, id LIMIT 1{tx.dialect.skip_locked}",
                (model, owner, now, now, value),
            )
        return min(heads, key=lambda row: (-row["priority"], row["created_at"], row["id"]), default=None)

    live = "finished_at IS NULL AND model = ?"
    owners = sorted({owner for model in models for owner in waiting_tenants(tx, "job", live, (model,))})
    if limit <= 0 or not owners:
        return found
    running = "SELECT owner, count(*) AS jobs FROM job WHERE state = 'running' AND lease_until > ? GROUP BY owner"
    busy = {row["owner"]: int(row["jobs"]) for row in tx.all(running, (now,))}
    loads = {owner: (busy.get(owner, 0), turn) for owner, turn in turns(tx, owners).items()}
    served: list[str] = []
    for owner, row in in_turn(loads, take):
        found.append(row["id"])
        served.append(owner)
        if len(found) == limit:
            break
    if served:
        note_turns(tx, served)
    return found


def heartbeat(tx: Tx, lease_owner: str, leases: Sequence[tuple[str, int]], lease_seconds: float) -> dict[str, Need]:
    """See `JobStore.heartbeat`."""
    now = tx.now()
    places = ", ".join(["(?, ?)"] * len(leases))
    rows = tx.all(
        f"WITH held (id, epoch) AS (VALUES {places}) UPDATE job SET lease_until = ? FROM held"
        " WHERE job.id = held.id AND state = 'running' AND lease_epoch = held.epoch AND lease_owner = ?"
        " AND lease_until > 0"  # one that was given back stays so
        " RETURNING job.id AS id, cancel_requested, deadline_at",
        (*(value for lease in leases for value in lease), now + lease_seconds, lease_owner),
    )
    needs: dict[str, Need] = dict.fromkeys((job_id for job_id, _ in leases), "lost")
    for row in rows:
        if row["cancel_requested"]:
            needs[row["id"]] = "cancel"
        elif row["deadline_at"] is not None and row["deadline_at"] <= now:
            needs[row["id"]] = "deadline"
        else:
            del needs[row["id"]]
    return needs


def finish(
    tx: Tx,
    job_id: str,
    epoch: int,
    state: State,
    result: Result | None,
    error_code: str | None,
    error_message: str | None,
) -> bool:
    """See `JobStore.finish`."""
    held = tx.one(f"SELECT lease_owner FROM job WHERE {HELD}{tx.dialect.for_update}", (job_id, epoch))
    if held is None:
        return _ended_so(tx, job_id, epoch, state, result)
    if state is State.FAILED:
        what = "deadline" if error_code == TOO_LATE[0] else "failed"
    else:
        what = str(state)
    actor, error = f"router:{held['lease_owner']}", (error_code, error_message)
    end(tx, HELD, (job_id, epoch), State.RUNNING, state, what, actor, result=result, error=error)
    return True


def _ended_so(tx: Tx, job_id: str, epoch: int, state: State, result: Result | None) -> bool:
    """Whether this very end is in the database already: its holder did not hear of the commit and says it again."""
    row = tx.one("SELECT state, result FROM job WHERE id = ? AND lease_epoch = ?", (job_id, epoch))
    if row is None or row["state"] != state:
        return False
    return result is None or json.loads(row["result"])["video"]["key"] == result.video.key


def release(tx: Tx, lease_owner: str, leases: Sequence[tuple[str, int]]) -> int:
    """See `JobStore.release`."""
    return sum(_release(tx, lease_owner, HELD, lease) for lease in leases)


def release_unheard(tx: Tx, lease_owner: str, in_hand: Sequence[str]) -> int:
    """See `JobStore.release_unheard`."""
    held, value = tx.among("id", in_hand)
    return _release(tx, lease_owner, f"state = 'running' AND NOT ({held})", (value,))


def _release(tx: Tx, lease_owner: str, where: str, values: Sequence[Any]) -> int:
    rows = tx.all(
        "UPDATE job SET lease_until = 0, notice = '', attempt = attempt - 1,"
        " fruitless = CASE WHEN fruitless > 0 THEN fruitless - 1 ELSE 0 END"
        f" WHERE {where} AND lease_owner = ? AND lease_until > 0 RETURNING *",
        (*values, lease_owner),
    )
    for row in rows:
        record_row(tx, "released", State.RUNNING, State.RUNNING, f"router:{lease_owner}", row, at=tx.now())
    return len(rows)


def fail_overdue(tx: Tx) -> int:
    """See `JobStore.fail_overdue`."""
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
) -> list[Row]:
    """End the jobs that a condition names, with all that belongs to an end: the trail, when they expire, and the
    messages to their clients."""
    now = tx.now()
    made = None if result is None else asdict(result)
    text = None if made is None else json.dumps(made)
    step = "steps" if target is State.SUCCEEDED else "step"
    rows = tx.all(
        f"UPDATE job SET state = ?, result = ?, error_code = ?, error_message = ?, step = {step}, lease_owner = NULL,"
        " lease_until = NULL, stage = NULL, eta_seconds = NULL, notice = '', finished_at = ?,"
        " expire_at = retention_seconds + ?"
        f" WHERE {where} RETURNING *",
        (str(target), text, *error, now, now, *values),
    )
    for row in rows:
        if row["key_id"] is not None:
            tx.count(live(row["key_id"]), -1, -row["seconds"])
        tx.count(results_of(row["owner"]), result_bytes(made))
        record_row(tx, what, source, target, actor, row, at=now, note=note or error[0] or "")
        events = ("output", "completed") if target is State.SUCCEEDED else ("completed",)
        enqueue(tx, row["id"], row["owner"], webhook_of(row), events, now)
    return rows
