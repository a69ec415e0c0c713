"""Foresees when jobs will be done: a pure function of the queue in the policy's order, the engines, and what steps and
stages take.

The jobs nearest to their turn are followed from event to event, as fluids: between two events an engine advances the
same segments, each by so many steps. Of those far behind, only the work ahead of them is summed up.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, merge
from itertools import accumulate, islice
from statistics import median

from zoetrope.cluster.planning.step_costs import Load, StepCosts
from zoetrope.serving.jobs.forecast_table import Why
from zoetrope.serving.router.next_claims import HELD_BACK
from zoetrope.serving.router.scheduler import WORTH

FOLLOWED = 128  # jobs that are followed one by one
LOOKED = 16  # of them, by an engine that chooses its next step
OFFERS = 3  # engines that look at a job that has become ready
DONE = 1e-6  # steps left, that are none
NEARLY = 0.9  # of a step, that may have been taken before the engine says that it has
SOON_SECONDS = 1.0  # until its turn, within which a job does not count as waiting


@dataclass(frozen=True, slots=True)
class Awaited:
    """An unfinished job.

    Attributes:
        load, peak_tokens, adapters: as of `serving.router.policies.work.Work`, of its segments.
        steps: that its segments must still take, all together.
        before, after: seconds that the conditioner and the decoder still need for it.
        cost: GPU-seconds that it still takes, all in all.
        claimed: a router works on it. ready: an engine can take it. engine: that holds it.
        decoding: it has taken all its steps.
    """

    id: str
    tenant: str
    created_at: float
    load: Load
    peak_tokens: int
    steps: float
    before: float
    after: float
    cost: float
    adapters: tuple[str, ...] = ()
    claimed: bool = False
    ready: bool = False
    engine: str | None = None
    decoding: bool = False


@dataclass(frozen=True, slots=True)
class Runner:
    """An engine that works. ``elapsed``: seconds since its step in progress began."""

    id: str
    ranks: int
    step_tokens: int
    adapter_slots: int
    costs: StepCosts
    elapsed: float = 0.0


@dataclass(frozen=True, slots=True)
class House:
    """What is around the engines. ``room``: jobs that a router works on at a time. ``conditioners``, ``decoders``: jobs
    that those stages take at a time. ``cold``: seconds until a first engine is up. ``preempts``: the policy may leave
    what is held out of a step."""

    room: int
    conditioners: int = 4
    decoders: int = 2
    cold: float | None = None
    preempts: bool = True


@dataclass(frozen=True, slots=True)
class Foreseen:
    """Seconds from now: ``start`` until its first step, 0 once it has taken it; ``eta`` until it is done. ``place``:
    jobs that have not begun ahead of it."""

    eta: float
    start: float
    place: int
    why: Why


def forecast(jobs: Sequence[Awaited], runners: Sequence[Runner], house: House) -> dict[str, Foreseen]:
    """Foresee when each job will be done.

    Args:
        jobs: in the order of the policy, those on engines among them.

    Returns:
        By id; nothing while there is no engine and none is expected.
    """
    if not jobs or (not runners and house.cold is None):
        return {}
    near = [job for job in jobs if job.claimed]
    near += [job for job in jobs if not job.claimed][: max(0, FOLLOWED - len(near))]
    rank = {job.id: number for number, job in enumerate(jobs)}
    near.sort(key=lambda job: rank[job.id])
    run = _Run(near, runners, house)
    run.play()
    found = _places(jobs, run)
    if len(near) < len(jobs):
        found |= _far(jobs, near, run, found)
    return found


def _places(jobs: Sequence[Awaited], run: _Run) -> dict[str, Foreseen]:
    """Combine what was played with the places in the queue, and say why jobs wait."""
    found: dict[str, Foreseen] = {}
    newest: dict[str, float] = {}  # of those ahead, by tenant: when the newest was created
    begun = {job.tenant for job in jobs if job.engine is not None}
    ahead: set[str] = set()
    place = 0
    for job in jobs:
        waits = job.engine is None and not job.decoding
        if (index := run.index.get(job.id)) is not None:
            start, eta = run.started[index], run.done[index]
            why: Why = ""
            if waits and start > SOON_SECONDS:
                others = max((at for tenant, at in newest.items() if tenant != job.tenant), default=-math.inf)
                overtaken = others > job.created_at and (job.tenant in begun or job.tenant in ahead)
                why = run.reasons.get(index) or ("share" if overtaken else "ahead")
            found[job.id] = Foreseen(eta, start if waits else 0.0, place, why)
        if waits:
            place += 1
            ahead.add(job.tenant)
        newest[job.tenant] = max(job.created_at, newest.get(job.tenant, -math.inf))
    return found


def _far(
    jobs: Sequence[Awaited], near: Sequence[Awaited], run: _Run, found: dict[str, Foreseen]
) -> dict[str, Foreseen]:
    """Foresee the jobs behind those that were played, at the pace at which these begin."""
    starts = [start for start in run.started if start > 0]
    cost = sum(job.cost for job in near)
    last = max(starts, default=0.0)
    gpus = sum(runner.ranks for runner in run.runners) or 1
    pace = max(last, 1e-6) / cost if cost and last else 1.0 / gpus  # seconds of a GPU-second
    stretch = [(f.eta - f.start) / job.cost for job in near if (f := found[job.id]).start and job.cost]
    own = median(stretch) if stretch else 1.0 / gpus
    place = sum(job.engine is None and not job.decoding for job in near)
    behind = [job for job in jobs if job.id not in found]
    sums = accumulate((job.cost for job in behind), initial=0.0)
    far = {}
    for number, (job, ahead) in enumerate(zip(behind, sums, strict=False)):
        start = last + ahead * pace
        far[job.id] = Foreseen(start + own * job.cost, start, place + number, "ahead")
    return far


_CONDITIONED, _STEPPED, _DECODED = range(3)


@dataclass(slots=True)
class _Engine:
    """An engine in the play: jobs by their index, which is their rank. ``pace``: seconds of a step."""

    number: int
    runner: Runner
    held: list[int] = field(default_factory=list)
    advancing: list[int] = field(default_factory=list)
    since: float = 0.0
    pace: float = 0.0
    version: int = 0


class _Run:
    """A play of the future. Jobs are named by their rank."""

    def __init__(self, jobs: Sequence[Awaited], runners: Sequence[Runner], house: House) -> None:
        self.jobs = jobs
        self.runners = runners
        self.index = {job.id: i for i, job in enumerate(jobs)}
        self.started = [0.0] * len(jobs)
        self.done = [0.0] * len(jobs)
        self.reasons: dict[int, Why] = {}  # why jobs wait now, where it is not for those ahead
        self._preempts = house.preempts
        self._cold = house.cold or 0.0
        self._left = [job.steps for job in jobs]
        self._events: list[tuple[float, int, int, int]] = []
        self._ready: list[int] = []
        self._queue = [i for i, job in enumerate(jobs) if not job.claimed]
        self._next = 0
        self._room = house.room
        self._claimed = len(jobs) - len(self._queue)
        self._elsewhere = 0  # jobs with the conditioner or the decoder
        self._conditioners = [0.0] * max(1, house.conditioners)
        self._decoders = [0.0] * max(1, house.decoders)
        self._engines = [_Engine(number, runner) for number, runner in enumerate(runners)]
        shapes: dict[Load, int] = {}
        self._shapes = [shapes.setdefault(job.load, len(shapes)) for job in jobs]
        self._seconds: dict[tuple[int, ...], float] = {}

    def play(self) -> None:
        """Follow all jobs to their ends."""
        by_id = {engine.runner.id: engine for engine in self._engines}
        for i, job in enumerate(self.jobs):
            if job.decoding:
                self._decode(0.0, i)
            elif job.engine in by_id:
                by_id[job.engine].held.append(i)
            elif job.ready or job.engine is not None:
                self._ready.append(i)
            elif job.claimed:
                self.reasons[i] = "conditioning"
                self._condition(0.0, i)
        if not self._engines:
            self._alone()
            return
        for engine in self._engines:
            self._settle(engine, 0.0, engine.runner.elapsed)
        self._note_slots()
        self._claim(0.0)
        while self._events:
            at, kind, which, version = heappop(self._events)
            if kind == _STEPPED:
                engine = self._engines[which]
                if version == engine.version:
                    self._advance(engine, at)
                    self._finish(engine, at)
                    self._settle(engine, at)
            elif kind == _CONDITIONED:
                self._elsewhere -= 1
                insort(self._ready, which)
                self._offer(which, at)
            else:
                self._elsewhere -= 1
                self._claimed -= 1
            self._claim(at)

    def _alone(self) -> None:
        """Without an engine: one after the other, from when one will be up."""
        at = self._cold
        for i, job in enumerate(self.jobs):
            if not job.decoding:
                self.reasons[i] = "engine"
                self.started[i] = at
                at += job.cost
                self.done[i] = at

    def _claim(self, at: float) -> None:
        """Claim jobs as `serving.router.next_claims` does: what is claimed and waits takes no room."""
        stepping = sum(len(engine.advancing) for engine in self._engines)
        free = min(self._room - stepping - self._elsewhere, HELD_BACK * self._room - self._claimed)
        for number in range(free):
            if self._next == len(self._queue):
                return
            i = self._queue[self._next]
            if bisect_left(self._ready, i) + number >= free:
                return
            self._next += 1
            self._claimed += 1
            self._condition(at, i)

    def _condition(self, at: float, i: int) -> None:
        self._elsewhere += 1
        heappush(self._events, (_taken(self._conditioners, at, self.jobs[i].before), _CONDITIONED, i, 0))

    def _decode(self, at: float, i: int) -> None:
        self._elsewhere += 1
        self.done[i] = _taken(self._decoders, at, self.jobs[i].after)
        heappush(self._events, (self.done[i], _DECODED, i, 0))

    def _offer(self, i: int, at: float) -> None:
        """Have the engines with the least to do look at what has become ready, until one takes it."""
        for engine in sorted(self._engines, key=lambda one: (one.pace, one.number))[:OFFERS]:
            self._advance(engine, at)
            self._settle(engine, at)
            if i not in self._ready:
                return

    def _advance(self, engine: _Engine, at: float) -> None:
        """Count the steps taken since the last event."""
        if engine.pace > 0:
            steps = (at - engine.since) / engine.pace
            for i in engine.advancing:
                self._left[i] -= steps
        engine.since = at

    def _finish(self, engine: _Engine, at: float) -> None:
        """Send what has taken its last step to the decoder."""
        for i in [i for i in engine.advancing if self._left[i] <= DONE]:
            engine.held.remove(i)
            self._decode(at, i)

    def _settle(self, engine: _Engine, at: float, elapsed: float = 0.0) -> None:
        """Choose the segments of an engine's steps from now on, and foresee when the first of them takes its last.

        Args:
            elapsed: seconds since the step in progress began, which may be late.
        """
        engine.advancing = self._chosen(engine) if self._preempts else self._joined(engine)
        engine.version += 1
        for i in engine.advancing:
            if i not in engine.held:
                insort(engine.held, i)
                self._ready.remove(i)
            if not self.started[i]:
                self.started[i] = at
        if not engine.advancing:
            engine.pace = 0.0
            return
        engine.pace = self._step(engine, engine.advancing)
        if elapsed:
            engine.since = at - min(elapsed, NEARLY * engine.pace)
        steps = max(0.0, min(self._left[i] for i in engine.advancing))
        heappush(self._events, (max(at, engine.since + steps * engine.pace), _STEPPED, engine.number, engine.version))

    def _chosen(self, engine: _Engine) -> list[int]:
        """Choose as `serving.router.scheduler.decide` does for a policy that preempts: in order, what saves time by
        sharing a step."""
        batch: list[int] = []
        tokens, seconds = 0, 0.0
        for i in islice(merge(engine.held, self._ready), LOOKED):
            job = self.jobs[i]
            together = alone = self._step(engine, [i])
            if batch:
                if tokens + job.peak_tokens > engine.runner.step_tokens:
                    continue
                together = self._step(engine, [*batch, i])
                if seconds + alone - together < WORTH * alone:
                    continue
            if i not in engine.held and not self._has_slot(engine, job, batch):
                continue
            batch.append(i)
            tokens += job.peak_tokens
            seconds = together
        return batch

    def _joined(self, engine: _Engine) -> list[int]:
        """Choose as it does for any other policy: all that is held, and what waits, in order, while there is room."""
        batch = list(engine.held)
        tokens = sum(self.jobs[i].peak_tokens for i in batch)
        slotless = False
        for i in self._ready:
            job = self.jobs[i]
            if batch and tokens + job.peak_tokens > engine.runner.step_tokens:
                break
            if job.adapters:
                slotless = slotless or not self._has_slot(engine, job, batch)
                if slotless:
                    continue
            batch.append(i)
            tokens += job.peak_tokens
        return batch

    def _has_slot(self, engine: _Engine, job: Awaited, batch: Sequence[int] = ()) -> bool:
        if not job.adapters:
            return True
        taken = {self.jobs[k].adapters for k in (*engine.held, *batch)} - {()}
        return job.adapters in taken or len(taken) < max(1, engine.runner.adapter_slots)

    def _note_slots(self) -> None:
        """Note who waits for a slot alone, as things are now."""
        for i in self._ready:
            if not any(self._has_slot(engine, self.jobs[i]) for engine in self._engines):
                self.reasons[i] = "slot"

    def _step(self, engine: _Engine, batch: Sequence[int]) -> float:
        """Return the seconds of a step, looked up where it was asked before: shapes repeat."""
        key = (engine.number, *(self._shapes[i] for i in batch))
        found = self._seconds.get(key)
        if found is None:
            loads = [self.jobs[i].load for i in batch]
            found = self._seconds[key] = max(1e-6, engine.runner.costs.seconds(loads))
        return found


def _taken(places: list[float], at: float, seconds: float) -> float:
    """Return when work that comes now will be done, by the place that is free first, each free from then on."""
    first = min(range(len(places)), key=places.__getitem__)
    places[first] = max(at, places[first]) + seconds
    return places[first]
