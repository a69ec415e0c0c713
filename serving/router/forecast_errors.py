"""Measures forecasts against what came of them, and widens the next ones accordingly. No clock."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Phase: TypeAlias = Literal["queued", "conditioning", "denoising", "decoding"]
PHASES: tuple[Phase, ...] = ("queued", "conditioning", "denoising", "decoding")
SAMPLES = 100  # of each phase that are remembered
# What the time left was, as a multiple of what had been predicted, until there are measurements.
PRIOR = (0.6, 0.75, 0.85, 0.92, 0.97, 1.0, 1.0, 1.03, 1.1, 1.2, 1.4, 1.8)
LOW, HIGH = 0.1, 0.9  # quantiles: four out of five lie between
SMALLEST = 0.1  # seconds: below that, a multiple says nothing
WIDEST = 4.0  # a median is believed within a factor of this
BOUNDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0)  # of the histogram of errors


@dataclass(frozen=True, slots=True)
class _Forecast:
    """The first in a phase: when it was made, and the seconds left, as the model has it and as it was told."""

    at: float
    raw: float
    told: float


@dataclass
class _Record:
    """What is known of one phase's forecasts: multiples, newest last, and a histogram of errors."""

    multiples: deque[float] = field(default_factory=lambda: deque(PRIOR, maxlen=SAMPLES))
    ordered: list[float] = field(default_factory=lambda: sorted(PRIOR))
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def add(self, multiple: float) -> None:
        self.multiples.append(multiple)
        self.ordered = sorted(self.multiples)

    def quantile(self, share: float) -> float:
        place = share * (len(self.ordered) - 1)
        low = int(place)
        high = min(low + 1, len(self.ordered) - 1)
        return self.ordered[low] + (place - low) * (self.ordered[high] - self.ordered[low])


class ForecastErrors:
    """Of one model. Times are seconds of one clock, passed in."""

    def __init__(self) -> None:
        self._records: dict[Phase, _Record] = {phase: _Record() for phase in PHASES}
        self._made: dict[str, dict[Phase, _Forecast]] = {}

    def spread(self, phase: Phase) -> tuple[float, float, float]:
        """Return what to multiply a raw forecast with: for the low end of its interval, for the estimate, and for the
        high end. They are quantiles of what the time left came to, by what had been predicted."""
        record = self._records[phase]
        low, middle, high = (record.quantile(share) for share in (LOW, 0.5, HIGH))
        middle = min(WIDEST, max(1 / WIDEST, middle))
        return min(low, middle), middle, max(high, middle)

    def note(self, job_id: str, phase: Phase, now: float, raw: float, told: float) -> None:
        """Remember the first forecast of a job in a phase: ``raw`` seconds left, told as ``told`` seconds."""
        self._made.setdefault(job_id, {}).setdefault(phase, _Forecast(now, raw, told))

    def ended(self, job_id: str, created_at: float, now: float, *, succeeded: bool) -> None:
        """Compare with when a job ended. Of one that failed or was cancelled nothing is learned."""
        made = self._made.pop(job_id, {})
        if not succeeded:
            return
        duration = max(now - created_at, SMALLEST)
        for phase, forecast in made.items():
            record, left = self._records[phase], now - forecast.at
            record.add((left + SMALLEST) / (forecast.raw + SMALLEST))
            error = abs(forecast.told - left) / duration
            record.counts[bisect_left(BOUNDS, error)] += 1
            record.total += error

    def keep(self, job_ids: Mapping[str, Any] | set[str]) -> None:
        """Forget the forecasts of all other jobs: they are somebody else's, or gone."""
        for job_id in self._made.keys() - job_ids:
            del self._made[job_id]

    def to_dict(self) -> dict[str, Any]:
        """Return what gateways make known: the spread of each phase, and the errors as a cumulative histogram; all of
        them from the start."""
        errors = {}
        for phase, record in self._records.items():
            below, buckets = 0, []
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), record.counts, strict=True):
                below += count
                buckets.append((bound, below))
            errors[phase] = {"buckets": buckets, "sum": round(record.total, 4)}
        spread = {phase: [round(value, 3) for value in self.spread(phase)] for phase in PHASES}
        return {"spread": spread, "errors": errors}
