"""Turns between tenants for what a process has little of: media workers, and lists from the database."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Shares(Generic[T]):
    """Things of several tenants that wait for their turn.

    The tenant with least under way comes first; among equals the one that has used least so far. Who comes new, or
    back, starts level with those that are there. Not safe to use from several threads at a time.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}
        self._under_way = Counter[str]()
        self._used: dict[str, float] = {}

    def put(self, tenant: str, thing: T) -> None:
        """Have it wait behind the tenant's others."""
        if tenant not in self._waiting and not self._under_way[tenant]:
            there = {*self._waiting, *self._under_way}
            level = min((self._used.get(other, 0.0) for other in there), default=0.0)
            self._used[tenant] = max(level, self._used.get(tenant, 0.0))
        self._waiting.setdefault(tenant, deque()).append(thing)

    def take(self, fits: Callable[[T], bool] = lambda _: True) -> tuple[str, T] | None:
        """The next thing, with its tenant, that fits; `done` has to follow. None: there is none."""
        for tenant in sorted(self._waiting, key=lambda tenant: (self._under_way[tenant], self._used[tenant])):
            thing = next(filter(fits, self._waiting[tenant]), None)
            if thing is not None:
                self._remove(tenant, thing)
                self._under_way[tenant] += 1
                return tenant, thing
        return None

    def done(self, tenant: str, used: float) -> None:
        """A thing that was taken is no longer under way and has used so much of what is scarce."""
        self._under_way[tenant] -= 1
        if not self._under_way[tenant]:
            del self._under_way[tenant]
        self._used[tenant] += used
        if not self._waiting and not self._under_way:
            self._used.clear()

    def drop(self, tenant: str, thing: T) -> None:
        """Nobody waits for it any more; it need not be there."""
        if thing in self._waiting.get(tenant, ()):
            self._remove(tenant, thing)

    def of(self, tenant: str) -> int:
        """How many things of a tenant's wait or are under way."""
        return len(self._waiting.get(tenant, ())) + self._under_way[tenant]

    def __iter__(self) -> Iterator[T]:
        """All that wait."""
        return (thing for things in self._waiting.values() for thing in things)

    def _remove(self, tenant: str, thing: T) -> None:
        self._waiting[tenant].remove(thing)
        if not self._waiting[tenant]:
            del self._waiting[tenant]
