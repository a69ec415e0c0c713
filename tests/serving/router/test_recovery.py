"""The board and engines that break at random, in one process: whatever breaks, all work ends."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.serving.router.costs import costs_of_nano
from zoetrope.cluster.protocol.messages import Broken, Finished, HeldSegment, Report, StepPlan
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.serving.router.active import Active
from zoetrope.serving.router.state import RouterState

STEPS = 9
SNAPSHOT_STEPS = 2


@dataclass
class Engine:
    """As `cluster.engine.engine` and its ranks: takes plans, snapshots every other step, breaks when told to."""

    name: str
    snapshots: dict[str, int]
    bad: frozenset[str]
    epoch: int = 1
    held: dict[str, int] = field(default_factory=dict)
    report: Report | None = None

    def first(self) -> Report:
        return Report(self.name, self.epoch, "nano")

    def carry_out(self, plan: StepPlan, dies: bool) -> list[Report]:
        """The reports that follow, a lost gang's first."""
        for segment_id in plan.drop:
            self.held.pop(segment_id, None)
        for segment_id in plan.release:
            self.snapshots[segment_id] = self.held.pop(segment_id)
        for admit in plan.admit:
            self.held[admit.spec.id] = self.snapshots.get(admit.spec.id, 0)
        if plan.checkpoint:
            self.snapshots |= self.held
        culprit = any(i in self.bad and self.held[i] >= 3 for i in plan.advance)
        if plan.advance and (dies or culprit):
            broken = Broken(plan.advance, "no memory" if culprit else "died", raised=culprit)
            self.held = {}
            self.epoch += 1
            lost = Report(self.name, self.epoch, "nano", state="rebuilding", broken=broken)
            return [lost, self.first()]
        for segment_id in plan.advance:
            self.held[segment_id] += 1
            if self.held[segment_id] % SNAPSHOT_STEPS == 0:
                self.snapshots[segment_id] = self.held[segment_id]
        done = [i for i, step in self.held.items() if step >= STEPS]
        for segment_id in done:
            del self.held[segment_id]
        held = tuple(HeldSegment(i, step) for i, step in self.held.items())
        finished = tuple(Finished(i, i) for i in done)
        return [Report(self.name, self.epoch, "nano", held=held, finished=finished, step_seconds=0.1, step_tokens=10)]


@given(
    st.integers(1, 7),
    st.integers(0, 3),
    st.integers(1, 3),
    st.lists(st.integers(0, 40), max_size=2),  # a third death of one segment alone, without a step, would be its fault
    st.integers(1, 7),
    st.integers(0, 2**31),
)
@settings(max_examples=draws(150), deadline=None)
def test_everything_ends_and_only_the_bad_fail(
    count: int, bad_count: int, engine_count: int, deaths: list[int], room: int, seed: int
) -> None:
    rng = random.Random(seed)
    ids = [f"s{i}" for i in range(count)]
    bad = frozenset(rng.sample(ids, min(bad_count, count)))
    board = RouterState(10 * room, 1e9, costs_of_nano)
    for number, segment_id in enumerate(ids):
        spec = SegmentSpec(segment_id, (1, 1, 1, 1), STEPS, 1.0, 0)
        board.add(Active(spec, 10, None, model="nano", created_at=float(number)))
    snapshots: dict[str, int] = {}
    engines = [Engine(f"e{i}", snapshots, bad) for i in range(engine_count)]
    pending = {engine.name: [engine.first()] for engine in engines}
    ended: set[str] = set()
    failed: set[str] = set()
    redone = 0
    for tick in range(600):
        if not board.active:
            break
        engine = rng.choice(engines)
        report = pending[engine.name].pop(0)
        before = sum(s.redone for s in board.active.values())
        news = board.apply(report, float(tick))
        redone += max(0, sum(s.redone for s in board.active.values()) - before)
        ended |= {i for i, _ in news.finished}
        failed |= {failure.id for failure in news.failed}
        plan = board.plan(report, float(tick))
        if not pending[engine.name]:
            pending[engine.name] = engine.carry_out(plan, dies=tick in deaths)
    assert not board.active, f"left after {tick} plans: {board.active}"
    assert failed <= bad, "nobody fails for another"
    assert ended | failed == set(ids)
    assert bad <= failed
