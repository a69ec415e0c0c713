"""A virtual clock: what happens next, in the order of time and, at one time, of its scheduling."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count


class ClockEvent:
    """Something scheduled; ``cancel`` keeps it from happening."""

    __slots__ = ("act", "at")

    def __init__(self, at: float, act: Callable[[], None]) -> None:
        self.at = at
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        self.act = None


class VirtualClock:
    """``now``: in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, ClockEvent]] = []
        self._numbers = count()

    def at(self, when: float, act: Callable[[], None]) -> ClockEvent:
        """Schedule an act; a time that has passed means now."""
        event = ClockEvent(max(when, self.now), act)
        heappush(self._events, (event.at, next(self._numbers), event))
        return event

    def after(self, seconds: float, act: Callable[[], None]) -> ClockEvent:
        return self.at(self.now + seconds, act)

    def run(self, until: float = float("inf")) -> None:
        """Let everything happen that is due by ``until``, and what that schedules; ``now`` ends at the last of it."""
        while self._events and self._events[0][0] <= until:
            _, _, event = heappop(self._events)
            if event.act is not None:
                self.now = event.at
                event.act()
