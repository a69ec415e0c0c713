"""What the router makes known of an engine."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from zoetrope.cluster.protocol.messages import Report
from zoetrope.serving.jobs.job import EngineRow
from zoetrope.serving.router.active import Active, job_of
from zoetrope.serving.router.metering import Meter


def engine_row(
    report: Report,
    active: Mapping[str, Active],
    stepping: Collection[str],
    meter: Meter,
    before: EngineRow | None,
) -> EngineRow:
    """Describe the engine that sent a report.

    Args:
        active: the segments that the router knows, by id. stepping: those in the engine's newest plan.
        before: what was last known of it.
    """
    return EngineRow(
        id=report.engine,
        model=report.model,
        gang_epoch=report.gang_epoch,
        ranks=report.ranks,
        seen_at=time.time(),
        state=report.state,
        restarts=asdict(report.restarts),
        jobs=jobs_on(report),
        costs=meter.row(report.engine),
        step=_step(report, active, stepping, meter, {} if before is None else before.step),
    )


def jobs_on(report: Report) -> tuple[str, ...]:
    """Return the ids of the jobs that an engine denoises, each once."""
    return tuple(sorted({job_of(segment_id) for segment_id in _segments(report)}))


def step_seconds(row: EngineRow) -> float:
    """Return how long the step may take that an engine is in; 0 if nothing is known of it."""
    return max(float(row.step.get("seconds") or 0.0), float(row.step.get("predicted") or 0.0))


def _segments(report: Report) -> tuple[str, ...]:
    admitted = () if report.running is None else report.running.admitted
    return (*(held.id for held in report.held), *admitted)


def _step(
    report: Report, active: Mapping[str, Active], stepping: Collection[str], meter: Meter, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the engine does: its ``segments`` (job, index, step, steps, tokens, whether it takes part), the
    ``tokens`` of the step in progress and the seconds ``predicted`` for it, the ``seconds`` that the newest finished
    step took, and what had been ``expected`` of that."""
    known = [(segment_id, active[segment_id]) for segment_id in _segments(report) if segment_id in active]
    loads = [one.load(one.step) for segment_id, one in known if segment_id in stepping]
    costs = meter.costs(report.engine)
    predicted = costs.seconds(loads) if costs is not None and loads else None
    taken = report.step_seconds > 0
    return {
        "segments": [
            [
                job_of(segment_id),
                int(segment_id.rpartition("/")[2]),
                one.furthest if one.step is None else one.step,
                one.spec.steps,
                one.tokens,
                segment_id in stepping,
            ]
            for segment_id, one in known
        ],
        "tokens": sum(one.tokens for segment_id, one in known if segment_id in stepping),
        "predicted": None if predicted is None else round(predicted, 5),
        "seconds": round(report.step_seconds, 5) if taken else before.get("seconds"),
        "expected": (round(meter.predicted(report.engine), 5) or None) if taken else before.get("expected"),
    }
