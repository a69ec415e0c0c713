"""First come, first served."""

from __future__ import annotations

from zoetrope.serving.router.policies.policy import Policy, named
from zoetrope.serving.router.policies.work import Work


@named("fifo")
class Fifo(Policy):
    """What is held takes every step; what waits joins in the order in which it was created, while there is room."""

    preempts = False

    def key(self, work: Work, late: bool) -> float:
        return work.created_at
