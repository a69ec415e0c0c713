"""Shortest remaining cost first."""

from __future__ import annotations

from zoetrope.serving.router.policies.policy import Policy, named
from zoetrope.serving.router.policies.work import Work


@named("srpt")
class ShortestFirst(Policy):
    """What will be done soonest goes first. Without ageing: while small work keeps coming, large work waits."""

    def key(self, work: Work, late: bool) -> float:
        return work.remaining
