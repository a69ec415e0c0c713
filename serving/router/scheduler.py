"""Which segments an engine starts, advances and gives up next: a pure function of what is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf

from zoetrope.cluster.planning.step_costs import Load
from zoetrope.serving.router.backlog import HYSTERESIS, Backlog
from zoetrope.serving.router.policies.work import Decision, EngineState, Work

FAR = 2_000  # segments that an engine looks at, of which none may be for it
LOOK = 32  # segments that a step could have are looked at, once it has one
WORTH = 0.02  # of what a step of its own takes, that a segment must save by sharing one
MAX_HELD = 32  # segments that an engine holds, in a step or not
MOVE_SECONDS = 1.0  # that a segment must take yet, to be moved to an engine that has nothing to do


def decide(
    engine: EngineState, backlog: Backlog, now: float, beside: Sequence[Work | None] = (), leaving: int = 0
) -> Decision:
    """Decide what an engine does next, by the policy of the backlog.

    A preempting policy makes every step anew, from what is held and what waits. The most urgent segment is in it;
    others join in the order of the policy if the step then takes less than their own steps would, so small work shares
    steps and what fills the engine by itself runs alone. Whatever is held beside that waits on the engine, at no cost.
    With any other policy, all that is held takes every step, and what waits joins in order while there is room.

    A step has at most ``step_tokens``; a segment larger than that runs alone. The engine has slots for adapters, each
    for the segments that need the same; what is held keeps its own, unless the most urgent segment needs it.

    Suspects go first, one cohort at a time and on their own, so that a failure is informative and costs the others only
    the wait for one step. While they wait for slots that others hold, these go on.

    What it would not advance it gives up for engines like it whose own work is less urgent, so that no segment waits on
    one engine while others, together, do less urgent work.

    Args:
        beside: the most urgent segment in the newest step of each engine like it; None: it has nothing to do.
        leaving: segments that are on their way to these engines already.
    """
    cohorts = {work.cohort for work in engine.held} | backlog.cohorts(engine.model, engine.role)
    trial = min(cohorts - {0}, default=0)
    if trial:
        step = _join(engine, backlog, now, trial)
        if step.batch:
            return step.decision(trial=True)
        return _join(engine, backlog, now, 0, waiting=False).decision()
    if not backlog.policy.preempts:
        return _join(engine, backlog, now, 0).decision()
    step = _choose(engine, backlog, now)
    step.spare(backlog, now, beside, leaving)
    return step.decision()


@dataclass
class _Step:
    """A step in the making.

    Attributes:
        held: by id, what the engine holds and keeps. taken: what its adapter slots have, by how many segments.
        passed: what is held and was looked at, but is not in the step, the most urgent first.
    """

    engine: EngineState
    held: dict[str, Work]
    batch: list[Work] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0
    admitted: list[str] = field(default_factory=list)
    passed: list[Work] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    _saving: dict[Load, bool] = field(default_factory=dict)  # what was found for this batch

    @classmethod
    def of(cls, engine: EngineState) -> _Step:
        return cls(engine, {work.id: work for work in engine.held})

    def fits(self, work: Work) -> bool:
        """Tell whether its tokens do. Anything fits into an empty step."""
        return not self.batch or self.tokens + work.peak_tokens <= self.engine.step_tokens

    def slot(self, work: Work) -> bool:
        """Tell whether there is an adapter slot for work that waits."""
        taken = {held.adapters for held in self.held.values()} - {()}
        return not work.adapters or work.adapters in taken or len(taken) < self.engine.adapter_slots

    def saves(self, work: Work) -> bool:
        """Tell whether the step with this work takes less than one without it and one of its own."""
        if not self.batch:
            return True
        found = self._saving.get(work.load)
        if found is None:
            costs = self.engine.costs
            alone = costs.seconds([work.load])
            found = self.seconds + alone - costs.seconds([*self.loads, work.load]) >= WORTH * alone
            self._saving[work.load] = found
        return found

    def add(self, work: Work) -> None:
        if work.id not in self.held:
            self.held[work.id] = work
            self.admitted.append(work.id)
        self.batch.append(work)
        self.loads.append(work.load)
        self.tokens += work.peak_tokens
        self.seconds = self.engine.costs.seconds(self.loads)
        self._saving.clear()

    def give_up(self, work: Work) -> None:
        del self.held[work.id]
        self.dropped.append(work.id)

    def make_room(self, work: Work, unlooked: Sequence[Work]) -> bool:
        """Give up less urgent segments, so that the engine can hold the most urgent one.

        Args:
            unlooked: what is held behind it.

        Returns:
            Whether it can.
        """
        if not self.slot(work):
            keys = {held.adapters for held in unlooked} - {held.adapters for held in self.passed} - {()}
            if not keys or not self.engine.adapter_slots:
                return False
            least = min(keys, key=lambda key: (sum(held.adapters == key for held in unlooked), key))
            for held in [held for held in unlooked if held.adapters == least]:
                self.give_up(held)
        if len(self.held) >= MAX_HELD:
            left = [held for held in unlooked if held.id in self.held]
            if not left:
                return False
            self.give_up(max(left, key=lambda held: (held.remaining, held.id)))
        return True

    def spare(self, backlog: Backlog, now: float, beside: Sequence[Work | None], leaving: int) -> None:
        """Give up what is not in the step for the engines whose work is the least urgent, the most urgent first. What
        waits already goes before it, in the order of the policy."""
        engine, together = self.engine, {work.id for work in self.batch}
        least = MOVE_SECONDS * engine.ranks
        left = {i: work for i, work in self.held.items() if i not in together and work.remaining > least}
        if not left or len(beside) <= leaving:
            return
        places = [inf if work is None else backlog.place(work) for work in beside]
        order = sorted(range(len(beside)), key=lambda number: -places[number])
        others = [beside[number] for number in order[leaving:]]
        if not any(_moves(backlog, work, others[0], engine.ranks) for work in left.values()):
            return
        coming = backlog.in_order(engine.model, now, role=engine.role, held=tuple(left.values()))
        free = iter(others)
        for work in islice(coming, FAR):
            if work.id in together or not (work.id in left or engine.takes(work)):
                continue
            other = next(free, work)
            if other is work or (work.id in left and not _moves(backlog, work, other, engine.ranks)):
                return
            if work.id in left:
                self.give_up(work)

    def decision(self, *, trial: bool = False) -> Decision:
        return Decision(tuple(self.admitted), tuple(work.id for work in self.batch), tuple(self.dropped), trial)


def _join(engine: EngineState, backlog: Backlog, now: float, cohort: int, *, waiting: bool = True) -> _Step:
    """Advance all that is held of a cohort, and let what waits join, in order, until something does not fit. While one
    segment waits for an adapter slot, no other behind it that needs one is admitted, not even one whose adapters are
    there, for it would keep a slot longer."""
    step = _Step.of(engine)
    for work in engine.held:
        if work.cohort == cohort:
            step.add(work)
    behind: Iterable[Work] = backlog.in_order(engine.model, now, role=engine.role, cohort=cohort) if waiting else ()
    slots_free = True
    for work in filter(engine.takes, islice(behind, FAR)):
        if not step.fits(work) or len(step.held) >= MAX_HELD:
            break
        if work.adapters:
            slots_free = slots_free and step.slot(work)
            if not slots_free:
                continue
        step.add(work)
    return step


def _choose(engine: EngineState, backlog: Backlog, now: float) -> _Step:
    """Make a step of the most urgent segments, held or waiting, that save time together."""
    step = _Step.of(engine)
    unlooked = {work.id: work for work in engine.held if not work.cohort}
    order = backlog.in_order(
        engine.model, now, role=engine.role, held=tuple(unlooked.values()), stepping=engine.stepping
    )
    for looked, work in enumerate(order):
        if looked >= FAR or (step.batch and (looked >= LOOK or step.tokens >= engine.step_tokens)):
            break
        if unlooked.pop(work.id, None) is not None:
            if work.id not in step.held:
                continue  # given up
            if step.fits(work) and step.saves(work):
                step.add(work)
            else:
                step.passed.append(work)
        elif step.fits(work) and engine.takes(work) and step.saves(work):
            if step.batch:
                there = step.slot(work) and len(step.held) < MAX_HELD
            else:
                there = step.make_room(work, list(unlooked.values()))
            if there:
                step.add(work)
    return step


def _moves(backlog: Backlog, work: Work, other: Work | None, ranks: int) -> bool:
    """Tell whether work that is held is worth moving to an engine that does the other, or nothing."""
    if other is None:
        return True
    order = backlog.key if work.tenant == other.tenant else backlog.place
    return order(work) + HYSTERESIS * work.remaining / ranks < order(other)
