"""Tenants take turns, a job each."""

from __future__ import annotations

from zoetrope.serving.router.policies.policy import Policy, named
from zoetrope.serving.router.policies.work import Work

FIRST = 1e11  # seconds, more than any time of creation: a higher priority always goes first


@named("round_robin")
class RoundRobin(Policy):
    """The tenant that has had the fewest turns is next, however long they were. Of a tenant's own work that of the
    highest priority goes first, then the oldest. What is held takes every step."""

    preempts = False
    shares = True

    def key(self, work: Work, late: bool) -> float:
        return work.created_at - FIRST * work.priority

    def place(self, work: Work, key: float, standing: float, since: float) -> float:
        return standing

    def cost(self, work: Work, begun: bool) -> float:
        return 0.0 if begun else 1.0

    def begin(self, work: Work) -> None:
        self._used[work.tenant] = self.used(work.tenant) + 1.0

    def enter(self, tenant: str, others: float | None) -> None:
        """Learn that a tenant has work again; it comes before those whose turn it is now."""
        super().enter(tenant, None if others is None else others - 1.0)
