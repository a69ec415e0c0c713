"""Servers of a stage: each does one job at a time, the most urgent of those that wait, as the router has it."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from zoetrope.benchmarks.simulate.clock import VirtualClock


class Servers:
    """``busy``: seconds that they worked, all together."""

    def __init__(self, clock: VirtualClock, servers: int) -> None:
        self._clock = clock
        self._free = servers
        self._numbers = count()
        self._queue: list[tuple[float, int, float, Callable[[], None]]] = []
        self.busy = 0.0

    def serve(self, seconds: float, done: Callable[[], None], urgency: float = 0.0) -> None:
        """Have a job done, now or when a server is free; ``done`` is called at its end.

        Args:
            urgency: of those that wait, the one with the smallest is next; of equals, the one that came first.
        """
        heappush(self._queue, (urgency, next(self._numbers), seconds, done))
        self._start()

    def _start(self) -> None:
        while self._free and self._queue:
            _, _, seconds, done = heappop(self._queue)
            self._free -= 1
            self.busy += seconds
            self._clock.after(seconds, lambda done=done: self._end(done))  # type: ignore[misc]

    def _end(self, done: Callable[[], None]) -> None:
        self._free += 1
        self._start()
        done()
