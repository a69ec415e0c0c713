"""What a policy decides, and the policies by name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar, TypeVar

from zoetrope.serving.router.policies.work import Work

NO_WEIGHTS: Mapping[str, float] = MappingProxyType({})


class Policy(ABC):
    """Who runs next. A policy knows no clock and does no I/O: times are passed in, and what was used is told to it.

    A tenant's own work is in the order of `key`; tenants are in the order of the `place` of the first of each. Both
    must depend on nothing but their arguments, because they are computed when something changes, not at each decision.
    """

    name: ClassVar[str]
    preempts: ClassVar[bool] = True  # what is held may be left out of a step, for what is more urgent
    shares: ClassVar[bool] = False  # tenants have shares: the first job of one need not wait for another's to end

    def __init__(self, ranks: int = 1, weights: Mapping[str, float] = NO_WEIGHTS, gpus: int = 0) -> None:
        """
        Args:
            ranks: of an engine, by which GPU-seconds become seconds.
            weights: of tenants' shares; 1 for one that is not named.
            gpus: of all engines; 0: of one.
        """
        self.ranks = ranks
        self.gpus = gpus or ranks
        self.weights = weights
        self._used: dict[str, float] = {}

    @abstractmethod
    def key(self, work: Work, late: bool) -> float:
        """Return the place of work in its tenant's queue; the smallest goes first. ``late``: `latest` is past."""

    def latest(self, work: Work) -> float:
        """Return when the work becomes late; infinity: never."""
        return math.inf

    def place(self, work: Work, key: float, standing: float, since: float) -> float:
        """Return the place of a tenant by its first work.

        Args:
            standing: what the tenant has used, with what it has ahead of that.
            since: when work of the tenant began last; minus infinity: not yet.
        """
        return key

    def cost(self, work: Work, begun: bool) -> float:
        """Return what work adds to the standing of its tenant. ``begun``: it is on an engine."""
        return 0.0

    def begin(self, work: Work) -> None:  # noqa: B027  # most policies need not know
        """Learn that an engine has taken up the work."""

    def charge(self, tenant: str, seconds: float) -> None:  # noqa: B027
        """Learn that a tenant has used so many GPU-seconds."""

    def used(self, tenant: str) -> float:
        """Return what a tenant has used, in the unit of `cost`."""
        return self._used.get(tenant, 0.0)

    def enter(self, tenant: str, others: float | None) -> None:
        """Learn that a tenant has work again. It has used as much as the others at least, so it starts level with them.

        Args:
            others: what they have used; None: nothing has begun yet.
        """
        if others is not None:
            self._used[tenant] = max(others, self.used(tenant))


P = TypeVar("P", bound=type[Policy])
_POLICIES: dict[str, type[Policy]] = {}


def named(name: str) -> Callable[[P], P]:
    """Register a policy under a name."""

    def register(policy: P) -> P:
        policy.name = name
        _POLICIES[name] = policy
        return policy

    return register


def registered() -> Mapping[str, type[Policy]]:
    """Return the policies that were imported, by name."""
    return MappingProxyType(_POLICIES)
