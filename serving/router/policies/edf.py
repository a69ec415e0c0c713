"""Earliest deadline first."""

from __future__ import annotations

from zoetrope.serving.router.policies.policy import Policy, named
from zoetrope.serving.router.policies.work import Work

NO_DEADLINE = 1e11  # seconds since the epoch, behind every deadline


@named("edf")
class EarliestDeadline(Policy):
    """What must be done first goes first, whether it still can be or not; what has no deadline goes last, in the order
    in which it was created."""

    def key(self, work: Work, late: bool) -> float:
        return NO_DEADLINE + work.created_at if work.deadline is None else work.deadline
