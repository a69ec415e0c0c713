"""When a job of a simulation will be done, as the router's own forecast foresees it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from zoetrope.benchmarks.simulate.fleet import Fleet
from zoetrope.benchmarks.simulate.jobs import SimEngine, SimJob
from zoetrope.serving.router.forecast import FOLLOWED, Awaited, House, Runner, forecast

UNLIMITED = 1_000_000  # jobs at a time, of a router that claims any number


def foreseen_seconds(
    job: SimJob,
    order: Iterable[str],
    jobs: Mapping[str, SimJob],
    decoding: Sequence[SimJob],
    waiting: Collection[str],
    queued: Collection[str],
    engines: Sequence[SimEngine],
    fleet: Fleet,
    room: int | None,
    preempts: bool,
    step_tokens: int,
    now: float,
) -> float | None:
    """Foresee the seconds until a job is done; None while there is no engine.

    Args:
        order: ids of the jobs that are not decoded yet, in the order of the policy. decoding: the others.
        waiting: ids of those that an engine could take. queued: of those that the router has not claimed.
        room: jobs that the router runs at a time.
    """
    every = fleet.stages.every
    taken = {
        one.id: math.floor((now - run.start) / run.seconds)
        for engine in engines
        if (run := engine.run) is not None
        for one in run.jobs
    }
    awaited = [_awaited(one, every, 0, claimed=True, ready=True, decoding=True) for one in decoding]
    for number, job_id in enumerate(order):
        one = jobs[job_id]
        # A router without a limit has claimed all; those far behind are only summed up, as where there is one.
        claimed = job_id not in queued and (room is not None or number < FOLLOWED)
        ready = job_id in waiting or one.engine is not None
        awaited.append(_awaited(one, every, taken.get(job_id, 0), claimed=claimed, ready=ready))
    runners = [
        Runner(engine.id, engine.ranks, step_tokens, 0, engine.costs, _elapsed(engine, now))
        for engine in engines
        if engine.up
    ]
    house = House(room or UNLIMITED, fleet.conditioners, fleet.decoders, preempts=preempts)
    found = forecast(awaited, runners, house).get(job.id)
    return None if found is None else found.eta


def _awaited(job: SimJob, every: float, taken: int, *, claimed: bool, ready: bool, decoding: bool = False) -> Awaited:
    """``taken``: steps of its segment in the run in progress, which it has not been credited with yet."""
    segments_after = len(job.segments) - 1 - job.index
    started = ready or job.index > 0
    cost = 0.0 if decoding else job.remaining - taken * job.prices[job.index]
    return Awaited(
        job.id,
        job.asked.tenant,
        job.asked.arrival,
        job.load,
        job.load.tokens * job.load.branches,
        cost / job.prices[job.index],
        0.0 if ready else job.tail if started else every + job.conditioning,
        job.decoding + job.tail * segments_after,
        cost,
        claimed=claimed or decoding,
        ready=ready and not decoding,
        engine=job.engine.id if job.engine is not None else None,
        decoding=decoding,
    )


def _elapsed(engine: SimEngine, now: float) -> float:
    """Seconds since the step in progress began."""
    run = engine.run
    return 0.0 if run is None else (now - run.start) % run.seconds
