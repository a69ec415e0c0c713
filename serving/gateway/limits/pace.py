"""Slow down callers that keep the event loop busy.

One event loop answers all calls of a gateway. A caller that sends many calls, or large ones, delays everyone else, and
limits alone do not help, because even a call that is refused must be read first. So while several callers are active
and the loop is late or saturated, the caller with the most calls is delayed, longer each time, and a caller that sent a
large request pauses before its next one. Processor time taken by other programs is not held against any caller: the
kernel reports how long a thread was ready to run without a processor, and that time is subtracted.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from pathlib import Path

from cachetools import LRUCache

TICK_SECONDS = 0.02  # between two measurements of how late the loop is
WINDOW_TICKS = 5  # after which the delays are updated
LATE_SECONDS = 0.004  # mean lateness of a window above which the loop counts as late
BUSY = 0.7  # share of a window spent computing, above which calls queue up in sockets before the loop is late
SATURATED_SECONDS = 10.0  # for which the loop counts as saturated after it was busy
ACTIVE_SECONDS = 3.0  # for which an authenticated caller counts as active after a call
LEAST_RATE = 50.0  # calls a second below which no caller is delayed
MAX_ADDRESSES = 10_000  # remembered, of callers with a key
FIRST_DELAY, MAX_DELAY = 0.02, 2.0  # seconds before each call
GROWTH, DECAY = 2.0, 0.97  # factor of a delay after a window in which the loop was late, and was not
KEPT = 0.8  # share of the counted calls that a new window starts with
REST_SECONDS_PER_BYTE = 0.2 / (1 << 20)  # about 20 times as long as parsing a byte takes


class Pace:
    """One per gateway and event loop. `run` measures, `wait` delays."""

    def __init__(self) -> None:
        self._busy_at = -math.inf
        self._calls: Counter[str] = Counter()  # recent ones, by caller
        self._seen: dict[str, float] = {}  # time of each caller's last call
        self._addresses: LRUCache[str, bool] = LRUCache(MAX_ADDRESSES)  # from which callers with a key came
        self._delays: dict[str, float] = {}

    @property
    def saturated(self) -> bool:
        """Whether the loop was busy within the last SATURATED_SECONDS."""
        return time.monotonic() - self._busy_at < SATURATED_SECONDS

    def knows(self, address: str) -> bool:
        """Return whether a caller with a key came from this address; the latest MAX_ADDRESSES are remembered."""
        return address in self._addresses

    async def run(self) -> None:
        """Measure how late and how busy the loop is, until cancelled."""
        while True:
            started, computed, kept, late = time.monotonic(), time.thread_time(), _kept_waiting(), 0.0
            for _ in range(WINDOW_TICKS):
                due = time.monotonic() + TICK_SECONDS
                await asyncio.sleep(TICK_SECONDS)
                late += time.monotonic() - due
            kept = _kept_waiting() - kept
            busy = (time.thread_time() - computed) / max(TICK_SECONDS, time.monotonic() - started - kept)
            self.adjust(max(0.0, late - kept) / WINDOW_TICKS, busy)

    async def wait(self, caller: str, known: bool = True) -> None:
        """Count a call, or a piece of a long answer, and wait for the caller's delay.

        Args:
            known: False for a probe or a refused call, on whose account nobody else is delayed.
        """
        self._calls[caller] += 1
        if known:
            self._seen[caller] = time.monotonic()
        if (delay := self._delays.get(caller)) is not None:
            await asyncio.sleep(delay)

    def welcome(self, address: str) -> None:
        """Note that a caller with a key came from this address."""
        self._addresses[address] = True

    def rest(self, size: int) -> float:
        """Return the seconds that a caller pauses after a request of ``size`` bytes; 0 while nobody else is active."""
        return size * REST_SECONDS_PER_BYTE if len(self._seen) > 1 else 0.0

    def adjust(self, late_seconds: float, busy: float = 0.0) -> None:
        """Update the delays after a window.

        Args:
            late_seconds: mean lateness of the loop.
            busy: share of the window that the loop spent computing.
        """
        now = time.monotonic()
        late, since = late_seconds > LATE_SECONDS or busy > BUSY, now - ACTIVE_SECONDS
        if busy > BUSY:
            self._busy_at = now
        self._seen = {caller: at for caller, at in self._seen.items() if at > since}
        if not late:
            self._delays = {c: delay * DECAY for c, delay in self._delays.items() if delay * DECAY > FIRST_DELAY / 2}
        elif self._calls:
            ((caller, calls),) = self._calls.most_common(1)
            others = any(other != caller for other in self._seen)
            # With a share KEPT from window to window, a constant rate adds up to 1 / (1 - KEPT) windows.
            often = calls * (1 - KEPT) > LEAST_RATE * TICK_SECONDS * WINDOW_TICKS
            if others and (often or caller in self._delays):
                self._delays[caller] = min(MAX_DELAY, max(FIRST_DELAY, GROWTH * self._delays.get(caller, 0.0)))
        self._calls = Counter({c: n * KEPT for c, n in self._calls.items() if n * KEPT > 0.1})


def _kept_waiting() -> float:
    """Return the seconds for which this thread was ready to run without a processor; 0 if the kernel does not say.

    Source: the kernel's Documentation/scheduler/sched-stats.rst.
    """
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
