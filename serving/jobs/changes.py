"""What can be changed of a job between its states, each inside a transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping

from serving.jobs import leases
from serving.jobs.admission import put_labels
from serving.jobs.database import Tx
from serving.jobs.errors import NotAllowed
from serving.jobs.job import Job, State
from serving.jobs.leases import HELD
from serving.jobs.rows import job_of
from serving.jobs.trail import record_row


def cancel(tx: Tx, job_id: str, owner: str) -> Job | None:
    """As `JobStore.request_cancel`."""
    mine = (job_id, owner)
    row = tx.one(f"SELECT * FROM job WHERE id = ? AND owner = ?{tx.dialect.for_update}", mine)
    if row is None or State(row["state"]).final or row["cancel_requested"]:
        return None if row is None else job_of(row)
    changed = tx.all("UPDATE job SET cancel_requested = 1 WHERE id = ? AND owner = ? RETURNING *", mine)
    if row["state"] == "queued":
        changed = leases.end(tx, "id = ?", (job_id,), State.QUEUED, State.CANCELLED, "cancelled", "client")
    else:
        record_row(tx, "cancel requested", State.RUNNING, State.RUNNING, "client", changed[0], at=tx.now())
    return job_of(changed[0])


def update(
    tx: Tx,
    job_id: str,
    owner: str,
    labels: Mapping[str, str] | None,
    priority: int | None,
    expire_at: float | None,
) -> Job | None:
    """See `JobStore.update`."""
    row = tx.one(f"SELECT * FROM job WHERE id = ? AND owner = ?{tx.dialect.for_update}", (job_id, owner))
    if row is None:
        return None
    state = State(row["state"])
    if priority is not None and state is not State.QUEUED:
        raise NotAllowed("priority", f"the job is {state}, only that of a queued one can be changed")
    if expire_at is not None and not state.final:
        raise NotAllowed("expire_time", f"the job is {state}, it has one when it is done")
    for column, value in (
        ("labels", None if labels is None else json.dumps(dict(labels))),
        ("priority", priority),
        ("expire_at", expire_at),
    ):
        if value is not None:
            tx.run(f"UPDATE job SET {column} = ? WHERE id = ?", (value, job_id))
    if labels is not None:
        tx.run("DELETE FROM job_label WHERE job_id = ?", (job_id,))
        put_labels(tx, job_id, owner, labels, row["created_at"])
    changed = tx.one("SELECT * FROM job WHERE id = ?", (job_id,))
    return None if changed is None else job_of(changed)


def add_verdict(tx: Tx, job_id: str, epoch: int, verdict: Mapping[str, str]) -> None:
    """Note what a check said, while the lease is held."""
    row = tx.one(f"SELECT verdicts FROM job WHERE {HELD}{tx.dialect.for_update}", (job_id, epoch))
    if row is not None:
        verdicts = [*json.loads(row["verdicts"]), dict(verdict)]
        tx.run("UPDATE job SET verdicts = ? WHERE id = ?", (json.dumps(verdicts), job_id))
