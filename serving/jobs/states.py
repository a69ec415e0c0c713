"""The allowed changes of a job's state: the one table that the store follows."""

from __future__ import annotations

from dataclasses import dataclass

from zoetrope.serving.jobs.job import State


@dataclass(frozen=True)
class Transition:
    """One allowed change. `None` stands for a job that does not exist (yet, or any longer)."""

    what: str
    source: State | None
    target: State | None
    by: str  # "client", "router", "sweeper" or "service" (its start)
    when: str


QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = State
FINAL = tuple(state for state in State if state.final)

TRANSITIONS: tuple[Transition, ...] = (
    Transition("created", None, QUEUED, "client", "a request was accepted"),
    Transition("claimed", QUEUED, RUNNING, "router", "a router took it with a lease: attempt 1"),
    Transition("claimed again", RUNNING, RUNNING, "router", "its lease ran out or was given back; it resumes"),
    Transition("released", RUNNING, RUNNING, "router", "the holder stopped in good order; any router may resume it"),
    Transition(
        "lease voided", RUNNING, RUNNING, "service", "the service started, or a copy was restored; nobody holds it"
    ),
    Transition("cancelled", QUEUED, CANCELLED, "client", "its client cancelled it before a router took it"),
    Transition("cancel requested", RUNNING, RUNNING, "client", "its client cancelled it; the holder learns of it"),
    Transition("cancelled", RUNNING, CANCELLED, "router", "the holder stopped it, or its lease ran out meanwhile"),
    Transition("succeeded", RUNNING, SUCCEEDED, "router", "the holder stored its checked result"),
    Transition("failed", RUNNING, FAILED, "router", "the holder could not complete it"),
    Transition("given up", RUNNING, FAILED, "router", "its lease ran out and it had used all of its attempts"),
    Transition("deadline", QUEUED, FAILED, "sweeper", "its deadline passed before a router took it"),
    Transition("deadline", RUNNING, FAILED, "router", "its deadline passed; the holder stopped it"),
    Transition("deadline", RUNNING, FAILED, "sweeper", "its deadline passed and nobody held it"),
    *(Transition("deleted", state, None, "client", "its client deleted it") for state in FINAL),
    *(Transition("deleted", state, None, "sweeper", "it was kept as long as requested") for state in FINAL),
)

_BY_KEY = {(t.what, t.source, t.target, t.by): t for t in TRANSITIONS}


def transition(what: str, source: State | None, target: State | None, actor: str) -> Transition:
    """Return a row of the table.

    Args:
        actor: who makes the change; after a colon may follow which one of its kind.

    Raises:
        ValueError: the table has no such row.
    """
    found = _BY_KEY.get((what, source, target, actor.partition(":")[0]))
    if found is None:
        raise ValueError(f"a job cannot go from {source} to {target} as {what!r} by {actor!r}")
    return found
