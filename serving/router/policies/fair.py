"""Fair shares of the GPUs between tenants; for each of them, deadlines and short waits."""

from __future__ import annotations

import math

from zoetrope.serving.router.policies.policy import Policy, named
from zoetrope.serving.router.policies.work import Work

SLOWDOWN = 3.0  # work without a deadline is due after so many times what it takes alone
LATE_SLOWDOWN = 300.0  # work whose deadline cannot be met any more
PRIORITY_SECONDS = 21_600.0  # of waiting, that a level of priority counts


@named("fair")
class Fair(Policy):
    """Work goes in the order in which it is due: at its deadline; without one, `SLOWDOWN` times its remaining cost
    after it was created, so short work passes long work that is not much older; and much later if its deadline cannot
    be met any more. All these are fixed times, so nothing starves: only finitely much can be due before it.

    Between tenants, work is due later by what its tenant has used of all GPUs, in seconds, over its weight. And what
    has no deadline counts as if it had come when its tenant's last work began: one that has queued much delays
    another's first job by about one of its own, however long its queue has been there.
    """

    shares = True

    def key(self, work: Work, late: bool) -> float:
        if work.deadline is not None and not late:
            due = work.deadline
        else:
            due = work.created_at + (SLOWDOWN if work.deadline is None else LATE_SLOWDOWN) * work.remaining / self.ranks
        return due - PRIORITY_SECONDS * work.priority

    def latest(self, work: Work) -> float:
        return math.inf if work.deadline is None else work.deadline - work.remaining / self.ranks

    def place(self, work: Work, key: float, standing: float, since: float) -> float:
        due = key + PRIORITY_SECONDS * work.priority
        if work.deadline is None:
            due = max(due, since + SLOWDOWN * work.remaining / self.ranks)
        return due + standing / self.gpus

    def cost(self, work: Work, begun: bool) -> float:
        return 0.0 if begun else work.remaining / self.weights.get(work.tenant, 1.0)  # begun, it pays as it uses

    def charge(self, tenant: str, seconds: float) -> None:
        self._used[tenant] = self.used(tenant) + seconds / self.weights.get(tenant, 1.0)
