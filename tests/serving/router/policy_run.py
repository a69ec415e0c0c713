"""Engines that do what is decided, in no time: for tests of what becomes of all the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.serving.router.costs import nano_costs
from zoetrope.serving.router.backlog import Backlog
from zoetrope.serving.router.policies.choose import policy_of
from zoetrope.serving.router.policies.work import EngineState, Work
from zoetrope.serving.router.scheduler import decide

COSTS = nano_costs()


@dataclass
class PolicyRun:
    """Engines of one kind under a policy; `run` asserts what must hold at every decision.

    Attributes:
        ended: when each work was done. steps: the ids in every step, in order.
    """

    policy: str
    engines: int = 1
    step_tokens: int = 100_000
    slots: int = 4
    backlog: Backlog = field(init=False)
    now: float = 0.0
    ended: dict[str, float] = field(default_factory=dict)
    steps: list[tuple[str, ...]] = field(default_factory=list)
    busy: float = 0.0
    _held: list[dict[str, Work]] = field(init=False)
    _until: list[float] = field(init=False)
    _newest: list[tuple[str, ...]] = field(init=False)
    _first: list[Work | None] = field(init=False)

    def __post_init__(self) -> None:
        self.backlog = Backlog(policy_of(self.policy))
        self._held = [{} for _ in range(self.engines)]
        self._until = [0.0] * self.engines
        self._newest = [()] * self.engines
        self._first = [None] * self.engines

    def run(self, arrivals: Sequence[Work], until: float = 1e9) -> None:
        """Have work arrive at its ``created_at`` and be done; stop when all is, or at a time."""
        coming = sorted(arrivals, key=lambda work: (work.created_at, work.id))
        while self.now < until:
            while coming and coming[0].created_at <= self.now:
                self.backlog.add(coming.pop(0))
            for number in range(self.engines):
                if self._until[number] <= self.now:
                    self._plan(number)
            times = [time for number, time in enumerate(self._until) if self._newest[number]]
            if coming:
                times.append(coming[0].created_at)
            if not times:
                assert not len(self.backlog), "nothing runs while work waits"
                return
            self.now = max(self.now, min(times))

    def _plan(self, number: int) -> None:
        """End the step of an engine, and begin its next."""
        held = self._held[number]
        for work_id in self._newest[number]:
            work = held[work_id]
            used = COSTS.seconds([work.load])
            self.backlog.charge(work.tenant, used)
            if work.steps_left == 1:
                del held[work_id]
                self.backlog.remove(work_id)
                self.ended[work_id] = self.now
            else:
                left = max(0.0, work.remaining - used)
                held[work_id] = replace(work, remaining=left, steps_left=work.steps_left - 1)
                self.backlog.begin(held[work_id])
        beside = [work for other, work in enumerate(self._first) if other != number]
        stepping = frozenset(self._newest[number]) & held.keys()
        state = EngineState(
            str(number), "nano", 1, "both", self.step_tokens, self.slots, tuple(held.values()), COSTS, stepping
        )
        waiting = {work.id: work for work in self.backlog.in_order("nano", self.now)}
        decision = decide(state, self.backlog, self.now, beside)
        assert decision == decide(state, self.backlog, self.now, beside), "a decision changes nothing"
        assert decision.advance or not (held or waiting), "an engine idles while there is work for it"
        for work_id in decision.drop:
            self.backlog.add(held.pop(work_id))
        for work_id in decision.admit:
            assert not any(work_id in other for other in self._held), "it is on another engine"
            held[work_id] = waiting[work_id]
            self.backlog.begin(waiting[work_id])
        step = [held[work_id] for work_id in decision.advance]
        assert len(step) == 1 or sum(work.peak_tokens for work in step) <= self.step_tokens or not decision.admit
        assert len({work.adapters for work in held.values()} - {()}) <= self.slots
        self._newest[number] = decision.advance
        self._first[number] = step[0] if step else None
        seconds = COSTS.seconds([work.load for work in step])
        self._until[number] = self.now + seconds
        self.busy += seconds
        self.steps.append(decision.advance)


def job(work_id: str, tokens: int, steps: int, created_at: float = 0.0, **changes: object) -> Work:
    """Work with its true price."""
    from tests.serving.router.drawn_work import make_work

    work = make_work(work_id, tokens=tokens, created_at=created_at, **changes)  # type: ignore[arg-type]
    return replace(work, steps_left=steps, remaining=steps * COSTS.seconds([work.load]))
