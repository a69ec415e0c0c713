"""The audit trail: a line for each change of a job's state, written in the transaction that makes it. The jobs in each
state are counted with it."""

from __future__ import annotations

from serving.jobs.database import Row, Tx
from serving.jobs.job import JobEvent, State
from serving.jobs.states import transition

_INSERT = (
    "INSERT INTO job_event (job_id, owner, at, what, from_state, to_state, actor, attempt, epoch, note)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def in_state(state: State) -> str:
    """The tally of jobs in a state."""
    return f"state {state}"


def queued_by(owner: str) -> str:
    """The tally of a tenant's queued jobs."""
    return f"queued {owner}"


def record(
    tx: Tx,
    what: str,
    source: State | None,
    target: State | None,
    actor: str,
    *,
    at: float,
    job_id: str,
    owner: str,
    attempt: int = 0,
    epoch: int = 0,
    note: str = "",
) -> None:
    """Append a line; the table of transitions has to allow the change."""
    transition(what, source, target, actor)
    for state, change in ((source, -1), (target, 1)):
        if state is not None and source is not target:
            tx.count(in_state(state), change)
            if state is State.QUEUED:
                tx.count(queued_by(owner), change)
    states = (None if source is None else str(source), None if target is None else str(target))
    tx.later(_INSERT, (job_id, owner, at, what, *states, actor, attempt, epoch, note))


def record_row(
    tx: Tx, what: str, source: State | None, target: State | None, actor: str, row: Row, *, at: float, note: str = ""
) -> None:
    """As `record`, of a job's row."""
    record(
        tx,
        what,
        source,
        target,
        actor,
        at=at,
        job_id=row["id"],
        owner=row["owner"],
        attempt=row["attempt"],
        epoch=row["lease_epoch"],
        note=note,
    )


def event_of(row: Row) -> JobEvent:
    """A row of `SELECT * FROM job_event`."""
    return JobEvent(
        job_id=row["job_id"],
        at=row["at"],
        what=row["what"],
        from_state=None if row["from_state"] is None else State(row["from_state"]),
        to_state=None if row["to_state"] is None else State(row["to_state"]),
        actor=row["actor"],
        attempt=row["attempt"],
        epoch=row["epoch"],
        note=row["note"],
    )
