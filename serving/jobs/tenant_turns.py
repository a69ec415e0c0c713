"""Turns between tenants for scarce resources of a process: media workers, and lists from the database."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class TenantTurns(Generic[T]):
    """A queue of several tenants' items, which take turns.

    The tenant with the least in progress comes first; among equals, the one that has used the least so far. A tenant
    that is new, or returns, starts level with the others. Not thread-safe.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}
        self._under_way = Counter[str]()
        self._used: dict[str, float] = {}

    def put(self, tenant: str, thing: T) -> None:
        """Queue an item behind the tenant's others."""
        if tenant not in self._waiting and not self._under_way[tenant]:
            there = {*self._waiting, *self._under_way}
            level = min((self._used.get(other, 0.0) for other in there), default=0.0)
            self._used[tenant] = max(level, self._used.get(tenant, 0.0))
        self._waiting.setdefault(tenant, deque()).append(thing)

    def get(self, fits: Callable[[T], bool] = lambda _: True) -> tuple[str, T] | None:
        """Return the next item that fits, with its tenant; `done` must follow. None: there is none."""
        for tenant in sorted(self._waiting, key=lambda tenant: (self._under_way[tenant], self._used[tenant])):
            thing = next(filter(fits, self._waiting[tenant]), None)
            if thing is not None:
                self._remove(tenant, thing)
                self._under_way[tenant] += 1
                return tenant, thing
        return None

    def done(self, tenant: str, used: float) -> None:
        """Record that an item is done and has used so much of the resource."""
        self._under_way[tenant] -= 1
        if not self._under_way[tenant]:
            del self._under_way[tenant]
        self._used[tenant] += used
        if not self._waiting and not self._under_way:
            self._used.clear()

    def drop(self, tenant: str, thing: T) -> None:
        """Remove an item from the queue, if it is there."""
        if thing in self._waiting.get(tenant, ()):
            self._remove(tenant, thing)

    def of(self, tenant: str) -> int:
        """Return how many of a tenant's items are queued or in progress."""
        return len(self._waiting.get(tenant, ())) + self._under_way[tenant]

    def __iter__(self) -> Iterator[T]:
        """Iterate over all queued items."""
        return (thing for things in self._waiting.values() for thing in things)

    def _remove(self, tenant: str, thing: T) -> None:
        self._waiting[tenant].remove(thing)
        if not self._waiting[tenant]:
            del self._waiting[tenant]
