"""Send jobs when their time has come, however slow the server is, and note what becomes of each."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.serving_load.target import FollowedJob, Target, TargetRefused, describe_job
from zoetrope.benchmarks.simulate.trace import TraceJob

SAMPLE_SECONDS = 0.5  # between two looks at the engines
WITHDRAW_SECONDS = 10.0  # for the jobs of a run that is interrupted to be cancelled
TOLD_SECONDS = 1.0  # between two reports of progress
REFUSED, UNFINISHED = "refused", "unfinished"


@dataclass
class JobRecord:
    """What became of a job; times in seconds from the start of the run.

    Attributes:
        number: in the trace. sent: when the server had taken it; None: it did not. started: when its work was seen to
            begin. preview: when the first one came. ended: when its end was seen.
        state: succeeded, failed, cancelled, refused, or unfinished when the run stopped waiting.
        error: the kind of it. queued: by the server's clock where it tells.
        cancel_asked: whether the run asked for its end.
    """

    number: int
    job: TraceJob
    name: str = ""
    sent: float | None = None
    started: float | None = None
    preview: float | None = None
    ended: float | None = None
    state: str = UNFINISHED
    error: str = ""
    queued: float | None = None
    video_seconds: float = 0.0
    gpu_seconds: float | None = None
    attempts: int = 0
    cancel_asked: bool = False

    @property
    def kind(self) -> str:
        """Its class in reports."""
        return describe_job(self.job)

    @property
    def latency(self) -> float | None:
        """Seconds from its arrival in the trace to its end; None if it did not succeed."""
        return None if self.state != "succeeded" or self.ended is None else self.ended - self.job.arrival


@dataclass
class Stay:
    """A job on an engine, as it was seen: from when to when, and whether it took part in the steps."""

    engine: str
    job: str
    start: float
    end: float
    steps: bool


@dataclass(frozen=True)
class Struck:
    """A fault.

    Attributes:
        at: when it came, in seconds from the start. what: was done.
        under_way: jobs that the server had then and that had not ended.
        on_engines: those of them that were seen on an engine at the last look; None: the server does not tell.
        hit: whether there was a job that the fault could cost anything.
    """

    at: float
    what: str
    under_way: int
    on_engines: int | None
    hit: bool


class LoadFault(Protocol):
    """Something to do to a service at a time, in seconds from the start of the run."""

    @property
    def at(self) -> float: ...

    @property
    def hits_engines(self) -> bool:
        """Whether it costs only those jobs something that are on an engine."""

    async def ready(self, run: LoadRun) -> None:
        """Wait for what it needs."""

    async def strike(self, run: LoadRun, target: Target) -> str:
        """Do it, and say what was done."""


@dataclass
class LoadRun:
    """A run of one trace.

    Attributes:
        late: seconds by which the load generator itself was behind the trace at most.
        on_engines: names of the jobs that were on an engine at the last look; None: the server has not told.
    """

    records: list[JobRecord]
    stays: list[Stay] = field(default_factory=list)
    struck: list[Struck] = field(default_factory=list)
    late: float = 0.0
    on_engines: frozenset[str] | None = None
    begun: float = field(default_factory=time.monotonic)

    @property
    def now(self) -> float:
        """Seconds from its start."""
        return time.monotonic() - self.begun

    @property
    def sent(self) -> int:
        return sum(record.sent is not None for record in self.records)

    @property
    def over(self) -> int:
        return sum(record.state != UNFINISHED for record in self.records)

    def under_way(self) -> list[JobRecord]:
        """Return the jobs that the server has and that have not ended, oldest first."""
        return [record for record in self.records if record.sent is not None and record.state == UNFINISHED]


Told = Callable[[LoadRun], None]


async def drive(
    target: Target,
    trace: Sequence[TraceJob],
    *,
    drain: float,
    faults: Sequence[LoadFault] = (),
    told: Told = lambda run: None,
    seed: int = 0,
) -> LoadRun:
    """Run a trace.

    Args:
        drain: seconds to wait for jobs after the last arrival; those that have not ended by then are unfinished.
        told: called about every second, and at the end.
        seed: of the first job, each has the next one.
    """
    run = LoadRun([JobRecord(number, job) for number, job in enumerate(trace)])
    beside = [asyncio.create_task(_look(run, target)), asyncio.create_task(_tell(run, told))]
    striking = [asyncio.create_task(_strike(run, target, fault)) for fault in faults]
    jobs: set[asyncio.Task[None]] = set()
    try:
        for record in run.records:
            await asyncio.sleep(max(0.0, record.job.arrival - run.now))
            run.late = max(run.late, run.now - record.job.arrival)
            jobs.add(asyncio.create_task(_one(run, target, record, seed + record.number)))
        if jobs:
            await asyncio.wait(jobs, timeout=drain)
        if striking:
            await asyncio.wait(striking, timeout=drain)
    except asyncio.CancelledError:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_withdraw(run, target), WITHDRAW_SECONDS)
        raise
    finally:
        for task in (*jobs, *beside, *striking):
            task.cancel()
        found = await asyncio.gather(*jobs, *beside, *striking, return_exceptions=True)
    told(run)
    for error in found:
        if isinstance(error, Exception):
            raise error
    return run


async def alone(target: Target, jobs: Sequence[TraceJob], rounds: int, told: Callable[[str], None]) -> dict[str, float]:
    """Make each job by itself, so often, and return seconds by class: the median, without the first of several.

    Raises:
        BenchmarkError: one does not succeed.
    """
    found: dict[str, list[float]] = {}
    for turn in range(rounds):
        for number, job in enumerate(jobs):
            told(f"warm-up {turn + 1} of {rounds}: {describe_job(job)}")
            record = JobRecord(number, job.model_copy(update={"arrival": 0.0, "deadline": None}))
            run = LoadRun([record])
            await _one(run, target, record, number)
            if record.latency is None:
                why = record.error or record.state
                raise BenchmarkError(f"warm-up: {describe_job(job)} did not succeed: {why}")
            found.setdefault(describe_job(job), []).append(record.latency)
    return {kind: _median(values[1:] or values) for kind, values in found.items()}


async def _withdraw(run: LoadRun, target: Target) -> None:
    """Cancel what is under way: whoever interrupts a run does not want its jobs any more."""
    asked = [target.cancel(record.job.tenant, record.name) for record in run.under_way()]
    await asyncio.gather(*asked, return_exceptions=True)


async def _one(run: LoadRun, target: Target, record: JobRecord, seed: int) -> None:
    job = record.job
    due = None if job.deadline is None else time.time() + max(0.0, job.deadline - run.now)
    try:
        record.name = await target.submit(job, seed, due)
    except TargetRefused as refused:
        record.state, record.error, record.ended = REFUSED, refused.kind, run.now
        return
    record.sent = run.now

    def started() -> None:
        record.started = record.started or run.now

    def preview() -> None:
        record.preview = record.preview or run.now

    try:
        ending = await target.follow(job.tenant, record.name, FollowedJob(started, preview))
    except TargetRefused as refused:
        record.error = refused.kind  # it stays unfinished: nobody knows how it ended
        return
    record.state, record.error, record.ended = ending.state, ending.error, run.now
    record.queued, record.gpu_seconds, record.attempts = ending.queued, ending.gpu_seconds, ending.attempts
    record.video_seconds = ending.video_seconds


async def _look(run: LoadRun, target: Target) -> None:
    """Look at the engines again and again; stays that go on are one."""
    open_stays: dict[tuple[str, str], Stay] = {}
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        with contextlib.suppress(TargetRefused):
            seen, now = await target.sights(), run.now
            if seen is None:
                return
            run.on_engines = frozenset(sight.job for sight in seen)
            before, open_stays = open_stays, {}
            for sight in seen:
                stay = before.get((sight.engine, sight.job))
                if stay is not None:
                    stay.end = now
                if stay is None or stay.steps != sight.steps:
                    since = now - SAMPLE_SECONDS / 2 if stay is None else now
                    stay = Stay(sight.engine, sight.job, since, now, sight.steps)
                    run.stays.append(stay)
                open_stays[sight.engine, sight.job] = stay


async def _tell(run: LoadRun, told: Told) -> None:
    while True:
        told(run)
        await asyncio.sleep(TOLD_SECONDS)


async def _strike(run: LoadRun, target: Target, fault: LoadFault) -> None:
    await asyncio.sleep(max(0.0, fault.at - run.now))
    await strike_now(run, target, fault)


async def strike_now(run: LoadRun, target: Target, fault: LoadFault) -> None:
    """Strike, and note which jobs the fault found."""
    await fault.ready(run)
    at, jobs = run.now, run.under_way()
    on_engines = None if run.on_engines is None else sum(record.name in run.on_engines for record in jobs)
    hit = bool(on_engines if fault.hits_engines and on_engines is not None else jobs)
    run.struck.append(Struck(at, await fault.strike(run, target), len(jobs), on_engines, hit))


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
