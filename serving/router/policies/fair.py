"""Fair shares of the GPUs between tenants; for each of them, deadlines and short waits."""

from __future__ import annotations

import math

from zoetrope.serving.router.policies.policy import Policy, named
from zoetrope.serving.router.work import Work

SLOWDOWN = 3.0  # work is due after so many times what it takes alone
LATE_SLOWDOWN = 30.0  # if its deadline cannot be met any more
PRIORITY_SECONDS = 21_600.0  # of waiting, that a level of priority counts


@named("fair")
class Fair(Policy):
    """Weighted fair queueing between tenants: work goes in the order in which it would be done if all of them shared
    the GPUs all the time. So none is done later than that by more than the work of one job, and of tenants that have
    used the same, the one with the shorter job goes first.

    A tenant's own work is in the order in which it is due: at its deadline, and at the latest `SLOWDOWN` times its
    remaining cost after it was created, so short work passes long work that is not much older. Work whose deadline
    cannot be met any more is due much later. All this is a fixed time for each work, so nothing starves: only finitely
    much can be due before it.
    """

    def key(self, work: Work, late: bool) -> float:
        due = work.created_at + (LATE_SLOWDOWN if late else SLOWDOWN) * work.remaining / self.ranks
        if work.deadline is not None and not late:
            due = min(due, work.deadline)
        return due - PRIORITY_SECONDS * work.priority

    def latest(self, work: Work) -> float:
        return math.inf if work.deadline is None else work.deadline - work.remaining / self.ranks

    def place(self, work: Work, key: float, standing: float) -> float:
        return standing + self.cost(work, begun=False)

    def cost(self, work: Work, begun: bool) -> float:
        return work.remaining / self.weights.get(work.tenant, 1.0)

    def charge(self, tenant: str, seconds: float) -> None:
        self._used[tenant] = self.used(tenant) + seconds / self.weights.get(tenant, 1.0)
