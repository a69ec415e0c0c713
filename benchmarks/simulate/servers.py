"""Servers of a stage: each does one job at a time, first come first served."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from zoetrope.benchmarks.simulate.clock import VirtualClock


class Servers:
    """``busy``: seconds that they worked, all together."""

    def __init__(self, clock: VirtualClock, count: int) -> None:
        self._clock = clock
        self._free = count
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()
        self.busy = 0.0

    def serve(self, seconds: float, done: Callable[[], None]) -> None:
        """Have a job done, now or when a server is free; ``done`` is called at its end."""
        self._queue.append((seconds, done))
        self._start()

    def _start(self) -> None:
        while self._free and self._queue:
            seconds, done = self._queue.popleft()
            self._free -= 1
            self.busy += seconds
            self._clock.after(seconds, lambda done=done: self._end(done))  # type: ignore[misc]

    def _end(self, done: Callable[[], None]) -> None:
        self._free += 1
        self._start()
        done()
