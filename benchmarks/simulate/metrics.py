"""What a simulation, or a service, did for its jobs: latencies, attainment, fairness, use."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Outcome:
    """What became of a job; times in seconds from the start of the trace.

    Attributes:
        solo: seconds that it takes alone on an idle fleet. due: when it should be done (`slo_due`).
        first_step, done: when; None if that never happened. failed: it missed the deadline that it came with.
        preemptions: how often it was left out of a step of its engine. moves: how often it changed its engine.
        used: GPU-seconds of its steps. eta: what was predicted when it arrived, in seconds from then.
    """

    shape: str
    tenant: str
    arrival: float
    solo: float
    due: float
    first_step: float | None = None
    done: float | None = None
    failed: bool = False
    preemptions: int = 0
    moves: int = 0
    used: float = 0.0
    eta: float | None = None

    @property
    def latency(self) -> float | None:
        return None if self.done is None else self.done - self.arrival

    @property
    def in_time(self) -> bool:
        return self.done is not None and self.done <= self.due


@dataclass
class SimTally:
    """What is counted on the way. ``decisions``: seconds that each took here. ``redone``: GPU-seconds of steps that
    failures undid. ``longest``: the most segments that waited for engines."""

    decisions: list[float] = field(default_factory=list)
    steps: int = 0
    redone: float = 0.0
    failures: int = 0
    longest: int = 0


def slo_due(arrival: float, solo: float, scale: float) -> float:
    """Return when a job should be done: ``scale`` times what it takes alone."""
    return arrival + scale * solo


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed (nearest rank); NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def jain(values: Iterable[float]) -> float:
    """Return Jain's index of fairness: 1 if all are equal, 1 / n if one has everything."""
    listed = list(values)
    squares = sum(value * value for value in listed)
    return sum(listed) ** 2 / (len(listed) * squares) if squares else 1.0


def latencies(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """Return count, mean and percentiles of the latencies of finished jobs, in seconds."""
    found = [outcome.latency for outcome in outcomes if outcome.latency is not None]
    values = {name: percentile(found, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
    return {"jobs": len(found), "mean": statistics.fmean(found) if found else math.nan, **values}


def by_shape(outcomes: Iterable[Outcome], most: int = 12) -> dict[str, list[Outcome]]:
    """Group by shape, cheapest first; those beyond the ``most`` frequent together as "other"."""
    groups: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.shape].append(outcome)
    kept = sorted(groups, key=lambda shape: -len(groups[shape]))[:most]
    other = [outcome for shape in groups if shape not in kept for outcome in groups[shape]]
    named = {shape: groups[shape] for shape in kept} | ({"other": other} if other else {})
    return dict(sorted(named.items(), key=lambda item: statistics.fmean(one.solo for one in item[1])))


def attainment(outcomes: Sequence[Outcome]) -> float:
    """Return the share of jobs that were done when they should."""
    return sum(outcome.in_time for outcome in outcomes) / len(outcomes) if outcomes else math.nan


def fairness(outcomes: Iterable[Outcome]) -> float:
    """Return Jain's index over tenants of how fast their jobs are, compared with an idle fleet."""
    speeds: defaultdict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        latency = outcome.latency
        speeds[outcome.tenant].append(0.0 if latency is None else outcome.solo / max(latency, 1e-9))
    return jain(statistics.fmean(values) for values in speeds.values())


def eta_error(outcomes: Iterable[Outcome]) -> float | None:
    """Return the median error of predictions made on arrival, as a share of the job's duration; None without any."""
    errors = [
        abs(outcome.eta - outcome.latency) / outcome.latency
        for outcome in outcomes
        if outcome.eta is not None and outcome.latency
    ]
    return statistics.median(errors) if errors else None


def summary(outcomes: Sequence[Outcome], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of one run, with those in ``about``."""
    return {
        **about,
        "jobs": len(outcomes),
        "finished": sum(outcome.done is not None for outcome in outcomes),
        "failed": sum(outcome.failed for outcome in outcomes),
        "slo_attainment": attainment(outcomes),
        "latency": latencies(outcomes),
        "jain": fairness(outcomes),
        "preemptions": sum(outcome.preemptions for outcome in outcomes),
        "moves": sum(outcome.moves for outcome in outcomes),
        "eta_error": eta_error(outcomes),
        "classes": {
            shape: {
                **latencies(group),
                "slo_attainment": attainment(group),
                "solo": percentile([o.solo for o in group], 0.5),
            }
            for shape, group in by_shape(outcomes).items()
        },
    }
