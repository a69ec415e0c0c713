"""Which segments an engine starts and advances next: a pure function of what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A segment as the scheduler sees it."""

    id: str
    order: tuple[float, str]  # by creation; smaller goes first
    tokens: int  # in one step, all guidance branches counted


@dataclass(frozen=True)
class Decision:
    admit: tuple[str, ...]
    advance: tuple[str, ...]


def decide(held: Sequence[Candidate], waiting: Sequence[Candidate], step_tokens: int) -> Decision:
    """Continuous batching, first come first served.

    Everything the engine holds takes a step; waiting segments join, oldest first, while the batch stays within
    ``step_tokens``. A segment larger than that runs alone. A large one at the front is never overtaken for good: while
    it does not fit, nothing behind it is admitted.
    """
    total = sum(c.tokens for c in held)
    admit: list[str] = []
    for candidate in sorted(waiting, key=lambda c: c.order):
        if total and total + candidate.tokens > step_tokens:
            break
        admit.append(candidate.id)
        total += candidate.tokens
    return Decision(admit=tuple(admit), advance=(*(c.id for c in held), *admit))
