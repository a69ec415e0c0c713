"""The audit log: a line for each change of a job's state, written in the transaction that makes it. The jobs in each
state are counted with it."""

from __future__ import annotations

from zoetrope.serving.jobs.db.database import Tx
from zoetrope.serving.jobs.db.records import columns, insert, to_values
from zoetrope.serving.jobs.job import Job, JobEvent, State
from zoetrope.serving.jobs.states import transition

_INSERT = insert("job_event", ("owner", *columns(JobEvent)))


def in_state(state: State) -> str:
    """Name the tally of jobs in a state."""
    return f"state {state}"


def queued_by(owner: str) -> str:
    """Name the tally of a tenant's queued jobs."""
    return f"queued {owner}"


def record(
    tx: Tx,
    job: Job,
    what: str,
    source: State | None,
    target: State | None,
    actor: str,
    *,
    at: float,
    note: str = "",
) -> None:
    """Append a line about a job. Raises ValueError if the table of transitions does not allow the change."""
    transition(what, source, target, actor)
    for state, change in ((source, -1), (target, 1)):
        if state is not None and source is not target:
            tx.count(in_state(state), change)
            if state is State.QUEUED:
                tx.count(queued_by(job.owner), change)
    event = JobEvent(job.id, at, what, source, target, actor, job.attempt, job.lease_epoch, note)
    tx.later(_INSERT, (job.owner, *to_values(event).values()))
