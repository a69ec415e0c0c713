"""Gangs that change their size between steps, and fixed ones under the same rule.

Time goes in rounds. At the start of each, the GPUs are given to jobs by one rule, whatever sizes are allowed: jobs in
the order of their deadlines, each the fewest GPUs with which it is done in time if it keeps them; then those that are
late already, the shortest first; what is left over doubles the gangs that gain most. Fixed gangs follow the same rule
with the sizes that their node is split into. A gang whose job ends takes the next one until the round is over.

It is an upper bound of what changing sizes gives: every GPU is taken to hold the whole model, the rule looks at all
jobs of all nodes, and a round ends in the middle of a step at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

from zoetrope.benchmarks.simulate.clock import ClockEvent, VirtualClock
from zoetrope.benchmarks.simulate.fleet import Fleet
from zoetrope.benchmarks.simulate.jobs import SimJob, jobs_of
from zoetrope.benchmarks.simulate.metrics import Outcome, summary
from zoetrope.benchmarks.simulate.servers import Servers
from zoetrope.benchmarks.simulate.trace import TraceJob
from zoetrope.benchmarks.simulate.workload import Workload

NODE = 8  # GPUs that NVLink joins, and so the largest gang


@dataclass(frozen=True)
class GangRules:
    """How nodes are shared.

    Attributes:
        split: sizes of a node's fixed gangs; empty: gangs have any of ``sizes``, in every round anew.
        round: seconds between two assignments.
        change: seconds that a job loses when it gets another number of GPUs, or another node.
        slo: the time that a job should take, in multiples of what it takes alone on a whole node.
    """

    split: tuple[int, ...] = ()
    sizes: tuple[int, ...] = (1, 2, 4, 8)
    round: float = 2.0
    change: float = 0.1
    slo: float = 3.0

    @property
    def name(self) -> str:
        return " + ".join(map(str, self.split)) if self.split else "elastic"


@dataclass(eq=False, slots=True)
class _Gang:
    """GPUs of a node for the rest of a round. ``since``: from when the job makes progress."""

    node: int
    size: int
    job: _Elastic | None = None
    since: float = 0.0
    end: ClockEvent | None = None


@dataclass(eq=False, slots=True)
class _Elastic:
    """A job; ``left``: steps of its segment, in fractions. ``paces``: seconds of one by segment and size of gang."""

    job: SimJob
    paces: Sequence[dict[int, float]]
    left: float
    size: int = 0
    node: int = -1

    @property
    def pace(self) -> dict[int, float]:
        return self.paces[self.job.index]

    def denoising(self, size: int) -> float:
        """Seconds of all steps to come on a gang of that size."""
        job = self.job
        later = range(job.index + 1, len(job.segments))
        return self.left * self.pace[size] + sum(job.segments[i].steps * self.paces[i][size] for i in later)

    def slack(self, size: int, now: float) -> float:
        """Seconds to spare if it keeps a gang of that size."""
        job = self.job
        rest = job.decoding + job.tail * (len(job.segments) - 1 - job.index)
        return job.outcome.due - now - rest - self.denoising(size)


class ElasticSimulation:
    """Call `run` once."""

    def __init__(self, trace: Sequence[TraceJob], work: Workload, fleet: Fleet, rules: GangRules) -> None:
        """``fleet``: its engines are the nodes; it must know the costs of all sizes that the rules name."""
        self._rules, self._fleet = rules, fleet
        self._sizes = tuple(sorted(set(rules.split or rules.sizes)))
        self._clock = VirtualClock()
        self._jobs = jobs_of(trace, work, fleet, rules.slo, True)
        self._conditioners = Servers(self._clock, fleet.conditioners)
        self._decoders = Servers(self._clock, fleet.decoders)
        self._ready: dict[int, _Elastic] = {}
        self._gangs: list[_Gang] = []
        self._over = 0.0  # when the round ends
        self._next: ClockEvent | None = None
        self.busy = 0.0
        self.changes = 0

    def run(self) -> list[Outcome]:
        """Simulate until every job is done; returns what became of each."""
        for job in self._jobs:
            self._clock.at(job.asked.arrival, lambda job=job: self._arrive(job))  # type: ignore[misc]
        self._clock.run()
        return self.outcomes

    @property
    def outcomes(self) -> list[Outcome]:
        return [job.outcome for job in self._jobs]

    def figures(self) -> dict[str, Any]:
        """Return the figures of the run."""
        available = self._clock.now * self._fleet.gpus
        about = {"policy": self._rules.name, "busy": self.busy / available, "size_changes": self.changes}
        return summary(self.outcomes, about)

    def _arrive(self, job: SimJob) -> None:
        paces = [{size: self._fleet.costs[size].seconds([load]) for size in self._sizes} for load in job.loads]
        waiting = _Elastic(job, paces, float(job.segments[0].steps))
        self._conditioners.serve(job.conditioning, lambda: self._wait(waiting))

    def _wait(self, waiting: _Elastic) -> None:
        self._ready[waiting.job.number] = waiting
        if self._next is None:
            self._round()
            return
        free = [gang for gang in self._gangs if gang.job is None]
        if free:  # nothing else waits, or it would have been taken
            self._start(
                min(free, key=lambda gang: (waiting.slack(gang.size, self._clock.now) < 0, -gang.size)), waiting
            )

    def _round(self) -> None:
        """Take all GPUs back and give them out again."""
        now = self._clock.now
        self._next = None
        for gang in self._gangs:
            if gang.end is not None and gang.end.at <= now:
                gang.end.cancel()
                self._finish(gang)
            else:
                self._stop(gang)
        if not self._ready:
            self._gangs = []
            return
        self._over = now + self._rules.round
        self._next = self._clock.at(self._over, self._round)
        order = self._order(now)
        if self._rules.split:
            self._gangs = [_Gang(node, size) for node in range(len(self._fleet.engines)) for size in self._rules.split]
            for waiting in order:
                free = [gang for gang in self._gangs if gang.job is None]
                if not free:
                    break
                self._start(self._fixed(free, waiting, now), waiting)
        else:
            self._gangs = _packed(self._shares(order, now), len(self._fleet.engines))
            for gang in self._gangs:
                if gang.job is not None:
                    waiting, gang.job = gang.job, None
                    self._start(gang, waiting)

    def _order(self, now: float) -> list[_Elastic]:
        """What waits: first what can be in time, by deadline, then the rest, the shortest first."""
        largest = self._sizes[-1]

        def key(waiting: _Elastic) -> tuple[bool, float, int]:
            late = waiting.slack(largest, now) < 0
            return late, waiting.denoising(largest) if late else waiting.job.outcome.due, waiting.job.number

        return sorted(self._ready.values(), key=key)

    def _fewest(self, waiting: _Elastic, now: float) -> int:
        """The fewest GPUs with which it is in time; if there is no such number, the fewest."""
        change = self._rules.change
        return next((size for size in self._sizes if waiting.slack(size, now) >= change), self._sizes[0])

    def _fixed(self, free: Sequence[_Gang], waiting: _Elastic, now: float) -> _Gang:
        """The smallest gang that is large enough, or else the largest; if possible the one that it had."""
        wanted = self._fewest(waiting, now)

        def key(gang: _Gang) -> tuple[bool, int, bool]:
            small = gang.size < wanted
            same = gang.size == waiting.size and gang.node == waiting.node
            return small, -gang.size if small else gang.size, not same

        return min(free, key=key)

    def _shares(self, order: Sequence[_Elastic], now: float) -> list[tuple[_Elastic, int]]:
        """The jobs of the round with their numbers of GPUs."""
        left, shares = self._fleet.gpus, dict[int, int]()
        skipped = []
        for waiting in order:
            size = self._fewest(waiting, now)
            if size <= left:
                shares[waiting.job.number] = size
                left -= size
            else:
                skipped.append(waiting)
        for waiting in skipped:
            size = max((size for size in self._sizes if size <= left), default=0)
            if not size:
                break
            shares[waiting.job.number] = size
            left -= size
        gains = [(-self._gain(self._ready[number], size), number) for number, size in shares.items()]
        heapify(gains)
        while left and gains:
            gain, number = heappop(gains)
            size = shares[number]
            if gain < -1 and size <= left:
                left -= size
                shares[number] = 2 * size
                heappush(gains, (-self._gain(self._ready[number], 2 * size), number))
        return [(self._ready[number], size) for number, size in shares.items()]

    def _gain(self, waiting: _Elastic, size: int) -> float:
        """How many times as fast it is on twice as many GPUs."""
        return waiting.pace[size] / waiting.pace[2 * size] if 2 * size in self._sizes else 0.0

    def _start(self, gang: _Gang, waiting: _Elastic) -> None:
        job, now = waiting.job, self._clock.now
        del self._ready[job.number]
        lost = 0.0
        if waiting.size and (waiting.size, waiting.node) != (gang.size, gang.node):
            lost = self._rules.change
            self.changes += 1
            job.outcome.moves += 1
        waiting.size, waiting.node = gang.size, gang.node
        if job.outcome.first_step is None:
            job.outcome.first_step = now
        gang.job, gang.since = waiting, now + lost
        end = gang.since + waiting.left * waiting.pace[gang.size]
        if end <= self._over:
            gang.end = self._clock.at(end, lambda: self._finish(gang))

    def _stop(self, gang: _Gang) -> None:
        """Take the GPUs from a job that goes on waiting."""
        waiting = gang.job
        if waiting is None:
            return
        if gang.end is not None:
            gang.end.cancel()
            gang.end = None
        took = max(0.0, self._clock.now - gang.since)
        waiting.left = max(0.0, waiting.left - took / waiting.pace[gang.size])
        self._use(waiting, gang, took)
        gang.job = None
        self._ready[waiting.job.number] = waiting

    def _finish(self, gang: _Gang) -> None:
        """A job has taken the last step of a segment; the gang goes on with another one."""
        waiting = gang.job
        assert waiting is not None
        self._use(waiting, gang, self._clock.now - gang.since)
        gang.job = gang.end = None
        job = waiting.job
        if job.index + 1 < len(job.segments):
            job.index += 1
            waiting.left = float(job.segments[job.index].steps)
            self._conditioners.serve(job.tail, lambda: self._wait(waiting))
        else:
            self._decoders.serve(job.decoding, lambda: self._done(job))
        if self._ready and self._over > self._clock.now:
            self._start(gang, self._order(self._clock.now)[0])

    def _use(self, waiting: _Elastic, gang: _Gang, seconds: float) -> None:
        waiting.job.outcome.used += gang.size * seconds
        self.busy += gang.size * seconds

    def _done(self, job: SimJob) -> None:
        job.outcome.done = self._clock.now
        job.over = True


def _packed(shares: Sequence[tuple[_Elastic, int]], nodes: int) -> list[_Gang]:
    """Place gangs on nodes, the largest first, where their jobs were if possible. All fit, because their sizes are
    powers of two and not more in all than there are GPUs."""
    free = [NODE] * nodes
    gangs = []
    for waiting, size in sorted(shares, key=lambda share: (-share[1], share[0].job.number)):
        node = waiting.node
        if node < 0 or free[node] < size:
            node = min((n for n in range(nodes) if free[n] >= size), key=lambda n: (free[n], n))
        free[node] -= size
        gangs.append(_Gang(node, size, waiting))
    gangs += [_Gang(node, left) for node, left in _left_over(free)]
    return gangs


def _left_over(free: Sequence[int]) -> list[tuple[int, int]]:
    """Free GPUs of each node as gangs of powers of two."""
    found = []
    for node, count in enumerate(free):
        while count:
            size = 1 << int(math.log2(count))
            found.append((node, size))
            count -= size
    return found
