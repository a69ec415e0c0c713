"""What a run amounts to: throughput, latencies by class, objectives, use of the GPUs, errors, and what faults cost."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoetrope.benchmarks.serving_load.drive import UNFINISHED, JobRecord, LoadRun
from zoetrope.benchmarks.serving_load.noted_steps import NotedSteps
from zoetrope.benchmarks.simulate.metrics import percentile
from zoetrope.benchmarks.simulate.trace import TraceJob

HOUR = 3_600.0
PERCENTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


@dataclass(frozen=True)
class Yardstick:
    """What a run's figures are held against.

    Attributes:
        alone: seconds of each class by itself; empty: not measured. slo: the objective, in multiples of those.
        gpus: of the server; None: not known. gpu_price: of a GPU-hour, in any currency; None: not asked for.
        tokens: of a job, denoised: its sequences times its steps; None: the model's shape is not known.
    """

    alone: Mapping[str, float]
    slo: float
    gpus: int | None = None
    gpu_price: float | None = None
    tokens: Callable[[TraceJob], int] | None = None

    def in_time(self, record: JobRecord) -> bool | None:
        """Tell whether a job met its objective and its own deadline; None: it has neither."""
        due = record.job.deadline
        limit = self.alone.get(record.kind)
        if due is None and limit is None:
            return None
        if record.latency is None or record.ended is None:
            return False
        return (due is None or record.ended <= due) and (limit is None or record.latency <= self.slo * limit)


def figures(run: LoadRun, held: Yardstick) -> dict[str, Any]:
    """Return the figures of a run, for JSON. Rates are over the time from the first arrival to the last end."""
    records = run.records
    done = [record for record in records if record.latency is not None]
    ends = [record.ended for record in records if record.ended is not None]
    window = max(0.0, max(ends, default=0.0) - min((record.job.arrival for record in records), default=0.0))
    video = sum(record.video_seconds or 0.0 for record in done)
    judged = [met for record in records if not record.cancel_asked and (met := held.in_time(record)) is not None]
    used = [record.gpu_seconds for record in records if record.gpu_seconds is not None]
    gpu_time = None if held.gpus is None or not window else held.gpus * window
    return {
        "jobs": len(records),
        "accepted": run.sent,
        "succeeded": len(done),
        "errors": _errors(records),
        "seconds": window,
        "offered_per_second": _rate(records),
        "videos_per_second": _over(len(done), window),
        "video_seconds_per_second": _over(video, window),
        "video_seconds_per_gpu_second": _over(video, gpu_time),
        "tokens": None if held.tokens is None else sum(held.tokens(record.job) for record in records),
        "tokens_per_second": None
        if held.tokens is None
        else _over(float(sum(held.tokens(record.job) for record in done)), window),
        "gpus": held.gpus,
        "gpu_busy_share": None if not used else _over(sum(used), gpu_time),
        "cost_per_video_second": None
        if held.gpu_price is None or gpu_time is None or not video
        else gpu_time / HOUR * held.gpu_price / video,
        "slo_attainment": statistics.fmean(judged) if judged else None,
        "goodput_per_second": _over(sum(judged), window) if judged else None,
        "latency": described(record.latency for record in done),
        "queued": described(record.queued for record in done),
        "first_preview": described(_preview(record) for record in records),
        "generator_late": run.late,
        "classes": _classes(records, held),
        "tenants": _tenants(records, held),
    }


def described(values: Iterable[float | None]) -> dict[str, float] | None:
    """Return count, mean and percentiles of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    found = {name: percentile(known, share) for name, share in PERCENTILES}
    return {"count": len(known), "mean": statistics.fmean(known), **found}


def fault_figures(
    run: LoadRun, steps_taken: Mapping[str, NotedSteps] | None, steps_needed: Mapping[str, int]
) -> dict[str, Any]:
    """Return what faults cost. Steps are those of all accepted jobs, of such as did not succeed up to their end.

    Args:
        steps_taken: by the ids of jobs, as the engine noted them; None: it is not ours.
        steps_needed: of each job by its id, to succeed.
    """
    accepted = [record for record in run.records if record.sent is not None]
    needed: dict[str, int] = {}
    redone: dict[str, int] = {}
    for record in accepted if steps_taken is not None else ():
        assert steps_taken is not None
        job, noted = _id(record), steps_taken.get(_id(record), NotedSteps())
        if record.latency is None:
            needed[job], redone[job] = noted.taken - noted.again, noted.again
        else:
            needed[job] = steps_needed[job]
            redone[job] = max(noted.again, noted.taken - steps_needed[job])
    counted = steps_taken is not None
    ends = sorted(record.ended for record in run.records if record.latency is not None and record.ended is not None)
    return {
        "struck": [
            {
                "at": struck.at,
                "what": struck.what,
                "under_way": struck.under_way,
                "on_engines": struck.on_engines,
                "hit": struck.hit,
                "next_end_after": next((end - struck.at for end in ends if end > struck.at), None),
            }
            for struck in sorted(run.struck, key=lambda one: one.at)
        ],
        "accepted": len(accepted),
        "lost": sum(record.state == UNFINISHED for record in accepted),
        "failed": sum(record.state == "failed" for record in accepted),
        "cancelled": sum(record.state == "cancelled" for record in accepted),
        "cancel_asked": sum(record.cancel_asked for record in accepted),
        "begun_again": sum(record.attempts > 1 for record in accepted),
        "steps_needed": sum(needed.values()) if counted else None,
        "steps_redone": sum(redone.values()) if counted else None,
        "most_redone_by_a_job": max(redone.values(), default=0) if counted else None,
    }


def _id(record: JobRecord) -> str:
    return record.name.rpartition("/")[2]


def steps_needed(run: LoadRun, steps: Callable[[TraceJob], int]) -> dict[str, int]:
    """Return the steps that each accepted job takes when nothing goes wrong, by its id. ``steps``: of a job."""
    return {_id(record): steps(record.job) for record in run.records if record.name}


def _errors(records: Sequence[JobRecord]) -> dict[str, int]:
    kinds = Counter(
        f"{record.state}: {record.error or 'no answer in time'}"
        for record in records
        if record.state not in ("succeeded", "cancelled")
    )
    return dict(sorted(kinds.items()))


def _rate(records: Sequence[JobRecord]) -> float | None:
    """Jobs a second, as they arrived."""
    if len(records) < 2:
        return None
    return _over(len(records) - 1, records[-1].job.arrival - records[0].job.arrival)


def _over(value: float, seconds: float | None) -> float | None:
    return value / seconds if seconds else None


def _preview(record: JobRecord) -> float | None:
    return None if record.preview is None else record.preview - record.job.arrival


def _classes(records: Sequence[JobRecord], held: Yardstick) -> list[dict[str, Any]]:
    return [
        {"class": kind, "alone": held.alone.get(kind), **_group(group, held)}
        for kind, group in sorted(_by(records, lambda record: record.kind).items())
    ]


def _tenants(records: Sequence[JobRecord], held: Yardstick) -> list[dict[str, Any]]:
    groups = _by(records, lambda record: record.job.tenant)
    return [{"tenant": name, **_group(group, held)} for name, group in sorted(groups.items())]


def _group(group: Sequence[JobRecord], held: Yardstick) -> dict[str, Any]:
    met = [found for record in group if not record.cancel_asked and (found := held.in_time(record)) is not None]
    return {
        "jobs": len(group),
        "succeeded": sum(record.latency is not None for record in group),
        "slo_attainment": statistics.fmean(met) if met else None,
        "latency": described(record.latency for record in group),
        "queued": described(record.queued for record in group if record.latency is not None),
        "first_preview": described(_preview(record) for record in group),
    }


def _by(records: Sequence[JobRecord], key: Callable[[JobRecord], str]) -> dict[str, list[JobRecord]]:
    groups: dict[str, list[JobRecord]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups
