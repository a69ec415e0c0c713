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
        adapters: what it needs in one of the engine's slots (`model.request.loras.slot_key`); () for nothing.
    """

    id: str
    order: tuple[float | str, ...]
    tokens: int
    cohort: int = 0
    adapters: tuple[str, ...] = ()


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


def decide(held: Sequence[Candidate], waiting: Sequence[Candidate], step_tokens: int, slots: int = 0) -> Decision:
    """Continuous batching, first come first served.

    Everything the engine holds takes a step; waiting segments join, oldest first, while the batch stays within
    ``step_tokens``. A segment larger than that runs alone. A large one at the front is never starved: while it does not
    fit, nothing behind it is admitted.

    The engine has ``slots`` for adapters, each for the segments that need the same; what is held keeps its own. While
    one segment waits for a slot, no other behind it that needs one is admitted, not even one whose adapters are there,
    for it would keep a slot longer.

    Suspects go first, one cohort at a time and on their own, so that a failure is informative and costs the others only
    the wait for one step. While they wait for slots that others hold, these go on.
    """
    trial = min((c.cohort for c in (*held, *waiting) if c.cohort), default=0)
    decision = _of_cohort(trial, held, waiting, step_tokens, slots)
    if trial and not decision.advance:
        return _of_cohort(0, held, (), step_tokens, slots)
    return decision


def _of_cohort(
    trial: int, held: Sequence[Candidate], waiting: Sequence[Candidate], step_tokens: int, slots: int
) -> Decision:
    running = [c for c in held if c.cohort == trial]
    total = sum(c.tokens for c in running)
    taken = {c.adapters for c in held} - {()}
    slots_free = True
    admit: list[str] = []
    for candidate in sorted((c for c in waiting if c.cohort == trial), key=lambda c: c.order):
        if total and total + candidate.tokens > step_tokens:
            break
        if candidate.adapters:
            slots_free = slots_free and (candidate.adapters in taken or len(taken) < slots)
            if not slots_free:
                continue
            taken.add(candidate.adapters)
        admit.append(candidate.id)
        total += candidate.tokens
    return Decision(tuple(admit), (*(c.id for c in running), *admit), trial != 0)
