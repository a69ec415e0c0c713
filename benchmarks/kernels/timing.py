"""Seconds of a call: CUDA events on a GPU, the clock on a CPU; the median of many."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Call = Callable[[], object]
WARM_UP = 3
MOST = 50  # timed runs
FEWEST = 3
L2_BYTES = 256 << 20  # several times the L2 cache of any GPU in question
COVER = 1_000_000  # cycles that the GPU waits, so that launches are queued before the clock starts


@dataclass(frozen=True)
class Timing:
    """Seconds of ``runs`` runs: the median, and the fifth and ninety-fifth percentile."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        ranked = sorted(seconds)
        last = len(ranked) - 1
        return cls(statistics.median(ranked), ranked[round(0.05 * last)], ranked[round(0.95 * last)], len(ranked))


class Clock(Protocol):
    """Times calls that do the same work on different inputs, in turn."""

    def time(self, calls: Sequence[Call], cap: float) -> Timing:
        """At most about ``cap`` seconds of runs, but at least a few, after some to warm up."""
        ...


class WallClock:
    """For a CPU."""

    def time(self, calls: Sequence[Call], cap: float) -> Timing:
        return _run(calls, cap, self._once)

    def _once(self, call: Call) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


class CudaClock:
    """Events around each run.

    Before it the L2 cache is overwritten, and the GPU waits while the host queues launches, so that the GPU's work is
    timed and not the host's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.trash = torch.empty(L2_BYTES, dtype=torch.int8, device=device)

    def time(self, calls: Sequence[Call], cap: float) -> Timing:
        return _run(calls, cap, self._once)

    def _once(self, call: Call) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.trash.zero_()
        torch.cuda._sleep(COVER)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(self.device)
        return float(start.elapsed_time(end)) / 1000


def clock_for(device: torch.device) -> Clock:
    return CudaClock(device) if device.type == "cuda" else WallClock()


def _run(calls: Sequence[Call], cap: float, once: Callable[[Call], float]) -> Timing:
    for i in range(max(WARM_UP, len(calls))):
        guess = once(calls[i % len(calls)])
    runs = min(MOST, max(FEWEST, int(cap / max(guess, 1e-7))))
    return Timing.of([once(calls[i % len(calls)]) for i in range(runs)])
