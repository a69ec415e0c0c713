"""Time calls: with CUDA events on a GPU, with the clock on a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Call = Callable[[], object]
WARM_UP = 3
MAX_RUNS = 50
MIN_RUNS = 3
L2_BYTES = 256 << 20  # several times the L2 cache of any current GPU
HEAD_START = 1_000_000  # cycles that the GPU waits, so that launches are queued before the clock starts


@dataclass(frozen=True)
class Timing:
    """Seconds per run: median, 5th and 95th percentile of ``runs`` runs."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Summarise the seconds of all runs."""
        ranked = sorted(seconds)
        last = len(ranked) - 1
        return cls(statistics.median(ranked), ranked[round(0.05 * last)], ranked[round(0.95 * last)], len(ranked))


class Clock(Protocol):
    """Times calls that do the same work on different inputs, alternating between them."""

    def time(self, calls: Sequence[Call], cap: float) -> Timing:
        """Time at most about ``cap`` seconds of runs, but at least MIN_RUNS, after warming up."""
        ...


class WallClock:
    """Times calls on a CPU."""

    def time(self, calls: Sequence[Call], cap: float) -> Timing:
        return _run(calls, cap, self._once)

    def _once(self, call: Call) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


class CudaClock:
    """Times calls on a GPU with events around each run.

    Before each run, the L2 cache is flushed and the GPU waits while the host queues launches, so that only the GPU's
    work is timed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.flush = torch.empty(L2_BYTES, dtype=torch.int8, device=device)

    def time(self, calls: Sequence[Call], cap: float) -> Timing:
        return _run(calls, cap, self._once)

    def _once(self, call: Call) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.flush.zero_()
        torch.cuda._sleep(HEAD_START)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(self.device)
        return float(start.elapsed_time(end)) / 1000


def clock_for(device: torch.device) -> Clock:
    """Return the clock for a device."""
    return CudaClock(device) if device.type == "cuda" else WallClock()


def _run(calls: Sequence[Call], cap: float, once: Callable[[Call], float]) -> Timing:
    for i in range(max(WARM_UP, len(calls))):
        guess = once(calls[i % len(calls)])
    runs = min(MAX_RUNS, max(MIN_RUNS, int(cap / max(guess, 1e-7))))
    return Timing.of([once(calls[i % len(calls)]) for i in range(runs)])
