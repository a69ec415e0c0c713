"""Which segments an engine starts and advances next: a pure function of what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoetrope.serving.jobs.fair_shares import queue_key
from zoetrope.serving.jobs.job import Job


@dataclass(frozen=True)
class Candidate:
    """A segment as the scheduler sees it.

    Attributes:
        order: smaller goes first, see `order_of`. tokens: of its largest step to come, all guidance branches counted.
        cohort: 0, or the number of a group of which one may be what an engine failed of; they are tried by themselves.
    """

    id: str
    order: tuple[float | str, ...]
    tokens: int
    cohort: int = 0


@dataclass(frozen=True)
class Decision:
    """``trial``: the step is one of suspects, so everything else that the engine holds should be checkpointed first."""

    admit: tuple[str, ...]
    advance: tuple[str, ...]
    trial: bool = False


def order_of(job: Job) -> tuple[float | str, ...]:
    """Order jobs by when they were claimed, because claims take turns between tenants (`serving.jobs.fair_shares`): by
    priority, one tenant's jobs could keep another's waiting here, however early it was claimed."""
    return (job.started_at or 0.0, *queue_key(job.priority, job.created_at, job.id))


def decide(held: Sequence[Candidate], waiting: Sequence[Candidate], step_tokens: int) -> Decision:
    """Continuous batching, first come first served.

    Everything the engine holds takes a step; waiting segments join, oldest first, while the batch stays within
    ``step_tokens``. A segment larger than that runs alone. A large one at the front is never starved: while it does not
    fit, nothing behind it is admitted.

    Suspects go first, one cohort at a time and on their own, so that a failure is informative and costs the others only
    the wait for one step.
    """
    trial = min((c.cohort for c in (*held, *waiting) if c.cohort), default=0)
    running = [c for c in held if c.cohort == trial]
    total = sum(c.tokens for c in running)
    admit: list[str] = []
    for candidate in sorted((c for c in waiting if c.cohort == trial), key=lambda c: c.order):
        if total and total + candidate.tokens > step_tokens:
            break
        admit.append(candidate.id)
        total += candidate.tokens
    return Decision(tuple(admit), (*(c.id for c in running), *admit), trial != 0)
