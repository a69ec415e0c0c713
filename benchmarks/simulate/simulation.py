"""One simulation: a trace, a fleet and a policy, under a virtual clock. The policy is the router's own object."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from zoetrope.benchmarks.simulate.clock import VirtualClock
from zoetrope.benchmarks.simulate.fleet import Fleet
from zoetrope.benchmarks.simulate.foresight import foreseen_seconds
from zoetrope.benchmarks.simulate.jobs import SimEngine, SimJob, StepRun, jobs_of
from zoetrope.benchmarks.simulate.metrics import Outcome, SimTally, percentile, summary
from zoetrope.benchmarks.simulate.servers import Servers
from zoetrope.benchmarks.simulate.trace import TraceJob
from zoetrope.benchmarks.simulate.workload import Workload
from zoetrope.serving.router.backlog import Backlog
from zoetrope.serving.router.heap import Heap
from zoetrope.serving.router.next_claims import HELD_BACK
from zoetrope.serving.router.policies.policy import Policy
from zoetrope.serving.router.policies.work import EngineState, Work
from zoetrope.serving.router.scheduler import decide

MODEL = "simulated"
HOUR = 3_600.0


@dataclass(frozen=True)
class SimRules:
    """How to simulate.

    Attributes:
        slo: the time that a job should take, in multiples of what it takes alone. tell: schedulers know.
        step_tokens: budget of a step, as the service's setting.
        max_running: jobs that the router runs at a time, as the service's setting; None: any number.
        etas: of so many jobs the end is foreseen on their arrival; 0: of none.
        quantum: seconds for which an engine keeps a decision while work waits; steps are not cut short.
        noise: standard deviation of the logarithm of a step's seconds.
        until: when to stop, in seconds; None: once every job has ended.
        seed: of failures and noise.
    """

    slo: float = 3.0
    tell: bool = True
    step_tokens: int = 100_000
    max_running: int | None = None
    etas: int = 0
    quantum: float = 1.0
    noise: float = 0.0
    until: float | None = None
    seed: int = 1


class Simulation:
    """Call `run` once."""

    def __init__(
        self, trace: Sequence[TraceJob], work: Workload, fleet: Fleet, policy: Policy, rules: SimRules
    ) -> None:
        self._fleet, self._policy, self._how = fleet, policy, rules
        self._clock = VirtualClock()
        self._jobs = jobs_of(trace, work, fleet, rules.slo, rules.tell)
        self._by_id = {job.id: job for job in self._jobs}
        self._engines = [SimEngine(n, ranks, fleet.costs[ranks]) for n, ranks in enumerate(fleet.engines)]
        self._conditioners = Servers(self._clock, fleet.conditioners)
        self._decoders = Servers(self._clock, fleet.decoders)
        self._backlog = Backlog(policy)
        self._queued: dict[str, SimJob] = {}
        self._decoding: dict[str, SimJob] = {}
        self._claimed = 0
        self._ready: set[str] = set()  # ids of those in the backlog that an engine could take
        self._chance = random.Random(rules.seed)
        self._open = len(self._jobs)
        self._heap = Heap()
        self._leaving = 0  # segments on their way from one engine to another
        self.tally = SimTally()

    def run(self) -> list[Outcome]:
        """Simulate until every job has ended, or the time is up; returns what became of each."""
        for job in self._jobs:
            self._clock.at(job.asked.arrival, lambda job=job: self._arrive(job))  # type: ignore[misc]
            if job.asked.deadline is not None:
                self._clock.at(job.asked.deadline, lambda job=job: self._too_late(job))  # type: ignore[misc]
        for engine in self._engines:
            if self._fleet.cold:
                engine.up = False
                self._clock.after(self._fleet.restart, lambda engine=engine: self._restarted(engine))  # type: ignore[misc]
            else:
                self._fail_later(engine)
        self._heap.tidy(always=True)
        self._clock.run(math.inf if self._how.until is None else self._how.until)
        return self.outcomes

    @property
    def outcomes(self) -> list[Outcome]:
        return [job.outcome for job in self._jobs]

    @property
    def seconds(self) -> float:
        """How long it took under the virtual clock."""
        return self._clock.now

    def figures(self) -> dict[str, Any]:
        """Return the figures of the run."""
        busy = sum(engine.busy * engine.ranks for engine in self._engines)
        finished = [job for job in self._jobs if job.outcome.done is not None]
        hours, decisions = max(self.seconds, 1e-9) / HOUR, self.tally.decisions
        frames = sum(job.asked.frames for job in finished)
        return summary(
            self.outcomes,
            {
                "policy": self._policy.name,
                "seconds": self.seconds,
                "jobs_per_hour": len(finished) / hours,
                "frames_per_hour": frames / hours,
                "gpu_seconds_used": busy,
                "gpu_seconds_available": self.seconds * self._fleet.gpus,
                "busy": busy / max(self.seconds * self._fleet.gpus, 1e-9),
                "decoders_busy": self._decoders.busy / max(self.seconds * self._fleet.decoders, 1e-9),
                "steps": self.tally.steps,
                "failures": self.tally.failures,
                "redone_gpu_seconds": self.tally.redone,
                "longest_queue": self.tally.longest,
                "decisions": len(decisions),
                "decision_ms": {
                    name: 1e3 * percentile(decisions, share)
                    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
                },
            },
        )

    # Jobs on their way through the stages.

    def _arrive(self, job: SimJob) -> None:
        self._backlog.add(self._work(job), ready=False)
        self._heap.put()
        self._queued[job.id] = job
        self._claim()
        if self._how.etas and job.number % math.ceil(len(self._jobs) / self._how.etas) == 0:
            job.outcome.eta = self._foresee(job)

    def _claim(self) -> None:
        """Start jobs, in the order of the policy, as `serving.router.next_claims` does."""
        room, chosen = self._how.max_running, list(self._queued)
        if room is not None and chosen:
            waiting = len(self._ready) + sum(len(e.held.keys() - e.stepping) for e in self._engines)
            ahead = max(0, room - (self._claimed - waiting))
            first = islice(self._backlog.all_in_order(MODEL, self._clock.now), ahead)
            chosen = [work.id for work in first if work.id in self._queued]
            chosen = chosen[: max(0, HELD_BACK * room - self._claimed)]
        for job_id in chosen:
            job = self._queued.pop(job_id)
            self._claimed += 1
            every = self._fleet.stages.every
            self._clock.after(every, lambda job=job: self._condition(job, job.conditioning))  # type: ignore[misc]

    def _condition(self, job: SimJob, seconds: float) -> None:
        self._conditioners.serve(seconds, lambda: self._wait(job), self._urgency(job))

    def _wait(self, job: SimJob) -> None:
        """Its next segment waits for an engine."""
        if job.over:
            return
        self._backlog.add(self._work(job))
        self._heap.put()
        self._ready.add(job.id)
        self.tally.longest = max(self.tally.longest, len(self._ready))
        self._changed()

    def _denoised(self, job: SimJob) -> None:
        """Its segment has taken its last step."""
        self._leave(job)
        if job.index + 1 < len(job.segments):
            job.index, job.step = job.index + 1, 0
            self._backlog.add(self._work(job), ready=False)
            self._condition(job, job.tail)
        else:
            self._backlog.remove(job.id)
            self._decoding[job.id] = job
            self._decoders.serve(job.decoding, lambda: self._done(job), self._urgency(job))

    def _urgency(self, job: SimJob) -> float:
        """Order the jobs that wait for a stage, as `serving.router.router` does."""
        return self._backlog.place(self._work(job))

    def _done(self, job: SimJob) -> None:
        del self._decoding[job.id]
        if not job.over:
            job.outcome.done = self._clock.now
            self._end(job)

    def _too_late(self, job: SimJob) -> None:
        if not job.over:
            job.outcome.failed = True
            self._backlog.remove(job.id)
            self._ready.discard(job.id)
            self._end(job)
            if job.engine is not None:
                self._interrupt(job.engine)

    def _end(self, job: SimJob) -> None:
        job.over = True
        self._open -= 1
        if self._queued.pop(job.id, None) is None:
            self._claimed -= 1
            self._claim()

    def _leave(self, job: SimJob) -> None:
        if job.engine is not None:
            del job.engine.held[job.id]
            job.engine = None

    # Engines.

    def _changed(self) -> None:
        """Something new waits: engines consider it, those that are idle at once."""
        for engine in self._engines:
            if engine.run is None:
                self._plan(engine)
            else:
                self._interrupt(engine)

    def _interrupt(self, engine: SimEngine) -> None:
        """Have an engine ask for a plan as soon as it can."""
        run = engine.run
        if run is None or run.steps == 1:
            return
        if (taken := run.settled(self._clock.now)) < run.steps:
            run.steps = taken
            assert run.end is not None
            run.end.cancel()
            run.end = self._clock.at(run.start + taken * run.seconds, lambda: self._stepped(engine))

    def _plan(self, engine: SimEngine) -> None:
        """Have the policy decide, and start what it says."""
        if not engine.up or engine.run is not None:
            return
        for job in [job for job in engine.held.values() if job.over]:
            self._leave(job)
        held = tuple(self._work(job) for job in engine.held.values())
        state = EngineState(
            id=engine.id,
            model=MODEL,
            ranks=engine.ranks,
            role="both",
            step_tokens=self._how.step_tokens,
            adapter_slots=0,
            held=held,
            costs=engine.costs,
            stepping=engine.stepping,
        )
        beside = [other.first for other in self._engines if other.up and other is not engine]
        started = time.perf_counter()
        decision = decide(state, self._backlog, self._clock.now, beside, self._leaving)
        self.tally.decisions.append(time.perf_counter() - started)
        for job_id in decision.drop:
            self._give_up(self._by_id[job_id])
        for job_id in decision.admit:
            job = self._by_id[job_id]
            self._ready.remove(job_id)
            self._backlog.begin(self._work(job))
            job.engine = engine
            job.saved = (self._clock.now, job.index, job.step)
            engine.held[job_id] = job
        for job_id in engine.stepping:
            if job_id in engine.held and job_id not in decision.advance:
                engine.held[job_id].outcome.preemptions += 1
        engine.stepping = frozenset(decision.advance)
        engine.first = self._work(self._by_id[decision.advance[0]]) if decision.advance else None
        if decision.advance:
            self._start(engine, [self._by_id[job_id] for job_id in decision.advance])
        self._claim()

    def _start(self, engine: SimEngine, jobs: Sequence[SimJob]) -> None:
        now, loads = self._clock.now, [job.load for job in jobs]
        seconds = engine.costs.seconds(loads)
        if self._how.noise:
            seconds *= math.exp(self._chance.gauss(0.0, self._how.noise))
        steps = min(job.left for job in jobs)
        if len(jobs) < len(engine.held) or self._ready:
            steps = min(steps, max(1, math.floor(self._how.quantum / seconds)))
        for job in jobs:
            if job.outcome.first_step is None:
                job.outcome.first_step = now
        run = engine.run = StepRun(jobs, now, seconds, steps, engine.costs.shares(loads))
        run.end = self._clock.after(steps * seconds, lambda: self._stepped(engine))

    def _stepped(self, engine: SimEngine) -> None:
        run = engine.run
        assert run is not None
        self._account(engine, run, run.steps)
        engine.run = None
        for job in run.jobs:
            if not job.over and job.left == 0:
                self._denoised(job)
        self._plan(engine)

    def _account(self, engine: SimEngine, run: StepRun, steps: int) -> None:
        """Take so many steps of a run; snapshots are taken on the way."""
        self.tally.steps += steps
        engine.busy += steps * run.seconds
        for job, share in zip(run.jobs, run.shares, strict=True):
            job.step += steps
            used = steps * run.seconds * engine.ranks * share
            job.outcome.used += used
            if not job.over:
                self._backlog.charge(job.asked.tenant, used)
                self._backlog.begin(self._work(job))
            since = run.start - job.saved[0]
            due = max(1, math.ceil((self._fleet.snapshot - since) / run.seconds))  # steps until the next snapshot
            if steps >= due:
                every = max(1, math.ceil(self._fleet.snapshot / run.seconds))
                last = due + (steps - due) // every * every
                job.saved = (run.start + last * run.seconds, job.index, job.step - steps + last)

    def _give_up(self, job: SimJob) -> None:
        """Snapshot a segment, so that another engine can take it."""
        self._leave(job)
        job.outcome.moves += 1
        self._backlog.add(self._work(job), ready=False)
        self._leaving += 1
        self._clock.after(self._fleet.handover, lambda: self._handed_over(job))

    def _handed_over(self, job: SimJob) -> None:
        self._leaving -= 1
        self._wait(job)

    # Failures.

    def _fail_later(self, engine: SimEngine) -> None:
        if self._fleet.failures is not None:
            mean = self._fleet.failures * HOUR / engine.ranks
            self._clock.after(self._chance.expovariate(1 / mean), lambda: self._fail(engine))

    def _fail(self, engine: SimEngine) -> None:
        """An engine loses a GPU, and with it all that its segments did since their last snapshots."""
        if not self._open:
            return  # nothing is left to fail
        self.tally.failures += 1
        engine.up = False
        if (run := engine.run) is not None:
            assert run.end is not None
            run.end.cancel()
            whole = min(run.steps, math.floor((self._clock.now - run.start) / run.seconds))
            self._account(engine, run, whole)
            engine.busy += self._clock.now - run.start - whole * run.seconds
            engine.run = None
        engine.stepping, engine.first = frozenset(), None
        for job in list(engine.held.values()):
            self._leave(job)
            _, index, step = job.saved
            if index == job.index:
                self.tally.redone += (job.step - step) * job.prices[job.index]
                job.step = step
            job.outcome.moves += 1
            self._wait(job)
        self._clock.after(self._fleet.restart, lambda: self._restarted(engine))

    def _restarted(self, engine: SimEngine) -> None:
        engine.up = True
        self._fail_later(engine)
        self._plan(engine)

    def _foresee(self, job: SimJob) -> float | None:
        held = [self._work(one) for engine in self._engines for one in engine.held.values() if not one.over]
        stepping = frozenset().union(*(engine.stepping for engine in self._engines))
        order = self._backlog.all_in_order(MODEL, self._clock.now, held=held, stepping=stepping)
        return foreseen_seconds(
            job,
            [work.id for work in order],
            self._by_id,
            list(self._decoding.values()),
            self._ready,
            self._queued,
            self._engines,
            self._fleet,
            self._how.max_running,
            self._policy.preempts,
            self._how.step_tokens,
            self._clock.now,
        )

    def _work(self, job: SimJob) -> Work:
        load = job.load
        return Work(
            id=job.id,
            tenant=job.asked.tenant,
            model=MODEL,
            priority=job.asked.priority,
            created_at=job.asked.arrival,
            deadline=job.deadline,
            remaining=job.remaining,
            load=load,
            peak_tokens=load.tokens * load.branches,
            steps_left=job.left,
        )
