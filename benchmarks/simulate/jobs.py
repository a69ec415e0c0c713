"""The jobs and engines of a simulation, and what they are to the router's scheduler."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from zoetrope.benchmarks.simulate.clock import ClockEvent
from zoetrope.benchmarks.simulate.fleet import Fleet, StageSeconds
from zoetrope.benchmarks.simulate.metrics import Outcome, slo_due
from zoetrope.benchmarks.simulate.trace import TraceJob
from zoetrope.benchmarks.simulate.workload import SimSegment, Workload
from zoetrope.cluster.engine.engine import LEAD_SECONDS, SHORT_SECONDS
from zoetrope.cluster.planning.step_costs import Load, StepCosts
from zoetrope.serving.router.policies.work import Work

PICTURES = {"image_to_video": 1, "first_last_frame": 2, "grid_to_video": 4}  # in the areas of a frame


@dataclass(eq=False, slots=True)
class SimJob:
    """A job on its way.

    Attributes:
        prices: GPU-seconds of one step of each segment, alone on the smallest engine. later: of all steps behind it.
        conditioning, decoding, tail: seconds of those stages; the last, between two segments.
        deadline: of its last step, as far as schedulers know.
        index, step: its segment, and the steps taken of it. saved: the same in its last snapshot, and when that was.
        engine: that holds it. stepping: it takes part in the newest step.
    """

    number: int
    asked: TraceJob
    segments: Sequence[SimSegment]
    loads: Sequence[Load]
    prices: Sequence[float]
    later: Sequence[float]
    conditioning: float
    decoding: float
    tail: float
    deadline: float | None
    outcome: Outcome
    index: int = 0
    step: int = 0
    saved: tuple[float, int, int] = (0.0, 0, 0)
    engine: SimEngine | None = None
    over: bool = False

    @property
    def id(self) -> str:
        return f"{self.number:07d}"

    @property
    def load(self) -> Load:
        return self.loads[self.index]

    @property
    def left(self) -> int:
        """Steps of its segment that are not taken yet."""
        return self.segments[self.index].steps - self.step

    @property
    def remaining(self) -> float:
        """GPU-seconds that its steps to come cost, each alone on the smallest engine."""
        return self.left * self.prices[self.index] + self.later[self.index]


@dataclass(eq=False, slots=True)
class StepRun:
    """Steps in a row of an unchanged batch. ``start``: of the first; ``seconds``: of each; ``end``: after the last."""

    jobs: Sequence[SimJob]
    start: float
    seconds: float
    steps: int
    shares: Sequence[float]
    end: ClockEvent | None = None

    def settled(self, now: float) -> int:
        """Count the steps that can no longer be decided otherwise: those begun, and the one behind them if the engine
        has asked for it already. It asks at once during a short step, otherwise just before the end."""
        since = now - self.start
        begun = 1 + math.floor(since / self.seconds)
        asked = self.seconds < SHORT_SECONDS or begun * self.seconds - since < LEAD_SECONDS
        return begun + asked


@dataclass(eq=False, slots=True)
class SimEngine:
    """An engine. ``first``: the most urgent work of its newest step. ``busy``: seconds in which it took steps."""

    number: int
    ranks: int
    costs: StepCosts
    up: bool = True
    held: dict[str, SimJob] = field(default_factory=dict)
    run: StepRun | None = None
    stepping: frozenset[str] = frozenset()
    first: Work | None = None
    busy: float = 0.0
    failures: int = 0

    @property
    def id(self) -> str:
        return f"engine-{self.number}"


def jobs_of(asked: Sequence[TraceJob], work: Workload, fleet: Fleet, slo: float, tell: bool) -> list[SimJob]:
    """Return the jobs of a trace.

    Args:
        slo: the time that a job should take, in multiples of what it takes alone on the fleet's largest engine.
        tell: schedulers know when a job should be done.
    """
    return list(_jobs(asked, work, fleet, slo, tell))


def _jobs(asked: Sequence[TraceJob], work: Workload, fleet: Fleet, slo: float, tell: bool) -> Iterator[SimJob]:
    costs = fleet.costs[min(fleet.engines)]
    for number, (job, segments, megapixels) in enumerate(zip(asked, work.segments, work.megapixels, strict=True)):
        stages = fleet.stages
        conditioning, tail = conditioning_seconds(job, stages), tail_seconds(job, stages)
        decoding = stages.decode * megapixels
        loads = [Load(segment.tokens, segment.branches) for segment in segments]
        solo = stages.every + conditioning + decoding + tail * (len(segments) - 1)
        solo += fleet.denoise_seconds(segments, fleet.fastest)
        due = slo_due(job.arrival, solo, slo)
        prices = [costs.ranks * costs.seconds([load]) for load in loads]
        told = [at for at in (job.deadline, due if tell else None) if at is not None]
        yield SimJob(
            number,
            job,
            segments,
            loads,
            prices,
            [
                sum(s.steps * p for s, p in zip(segments[n:], prices[n:], strict=True))
                for n in range(1, len(prices) + 1)
            ],
            conditioning,
            decoding,
            tail,
            min(told) - decoding if told else None,
            Outcome(job.shape, job.tenant, job.arrival, solo, due),
        )


def conditioning_seconds(job: TraceJob, stages: StageSeconds) -> float:
    """Return the seconds of the text encoder, and of encoding the job's pictures and clips."""
    frames = {"reference_to_video": max(1, job.references), "edit_video": job.frames}.get(
        job.task, PICTURES.get(job.task, 0)
    )
    return stages.text + stages.encode * frames * job.width * job.height / 1e6


def tail_seconds(job: TraceJob, stages: StageSeconds) -> float:
    """Return the seconds from the end of one segment to the conditions of the next, which continues its last frame."""
    return stages.text + (stages.encode + stages.decode) * job.width * job.height / 1e6
