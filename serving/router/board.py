"""What the router knows: the segments that are out, the engines that hold them, and what a step costs. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cluster.messages import Admit, Plan, Report
from model.tasks import SegmentSpec
from serving.router.scheduler import Candidate, decide

PATIENCE = 5.0  # how many times its predicted duration a step may take before its engine counts as lost


@dataclass
class Active:
    """A segment between its conditions and its last step."""

    spec: SegmentSpec
    order: tuple[float, str]
    tokens: int
    conditions: Any
    engine: str | None = None
    step: int = 0


@dataclass
class EngineView:
    """An engine as last heard of, and when it will be given up unless it is heard of again."""

    model: str
    gang_epoch: int
    seen_at: float
    due: float
    seconds_per_token: float | None = None


@dataclass(frozen=True)
class News:
    """What a report brought: ids of segments that moved on, finished (with a reference to the latents) or failed."""

    progressed: tuple[str, ...]
    finished: tuple[tuple[str, Any], ...]
    failed: tuple[tuple[str, str], ...]


@dataclass
class Board:
    """Segments and engines. Times are seconds of one monotonic clock, passed in; ``engine_timeout`` is how long an
    engine may be silent beside its steps."""

    step_tokens: int
    engine_timeout: float
    active: dict[str, Active] = field(default_factory=dict)
    engines: dict[str, EngineView] = field(default_factory=dict)

    def add(self, segment: Active) -> None:
        self.active[segment.spec.id] = segment

    def remove(self, segment_id: str) -> None:
        """Forget a segment; an engine that still holds it is told to drop it with its next plan."""
        self.active.pop(segment_id, None)

    def take(self, report: Report, now: float) -> News:
        """Note what an engine says. Segments that it should hold and does not are waiting again, from the start."""
        due = now + self.engine_timeout
        view = self.engines.setdefault(report.engine, EngineView(report.model, report.gang_epoch, now, due))
        view.gang_epoch, view.seen_at, view.due = report.gang_epoch, now, due
        if report.step_tokens:
            cost = report.step_seconds / report.step_tokens
            old = view.seconds_per_token
            view.seconds_per_token = cost if old is None else 0.7 * old + 0.3 * cost
        mine = {i for i, s in self.active.items() if s.engine == report.engine}
        held = {h.id: h.step for h in report.held if h.id in mine}
        finished = tuple((f.id, f.latents) for f in report.finished if f.id in mine)
        failed = tuple((f.id, f.reason) for f in report.failed if f.id in mine)
        progressed = []
        for segment_id, step in held.items():
            if step > self.active[segment_id].step:
                self.active[segment_id].step = step
                progressed.append(segment_id)
        ended = {i for i, _ in (*finished, *failed)}
        for segment_id in ended:
            del self.active[segment_id]
        for segment_id in mine - held.keys() - ended:
            self._requeue(segment_id)
        return News(tuple(progressed), finished, failed)

    def plan(self, report: Report) -> Plan:
        """The next plan for the engine that sent ``report``, after `take`."""
        held = [self._candidate(h.id) for h in report.held if self._holds(report.engine, h.id)]
        waiting = [self._candidate(i) for i, s in self.active.items() if s.engine is None]
        decision = decide(held, waiting, self.step_tokens)
        for segment_id in decision.admit:
            self.active[segment_id].engine = report.engine
        view = self.engines[report.engine]
        tokens = sum(self.active[i].tokens for i in decision.advance)
        view.due += PATIENCE * tokens * (view.seconds_per_token or 0.0)
        return Plan(
            drop=tuple(h.id for h in report.held if not self._holds(report.engine, h.id)),
            admit=tuple(Admit(self.active[i].spec, self.active[i].conditions) for i in decision.admit),
            advance=decision.advance,
        )

    def lose_silent_engines(self, now: float) -> list[str]:
        """Give up engines that are overdue, a long step's time allowed for, and return their ids.

        Their segments are waiting again.
        """
        silent = [i for i, view in self.engines.items() if now > view.due]
        for engine_id in silent:
            del self.engines[engine_id]
            for segment_id, segment in self.active.items():
                if segment.engine == engine_id:
                    self._requeue(segment_id)
        return silent

    def eta_seconds(self, segment_id: str) -> float | None:
        """Seconds until the last step at the present pace, the whole batch of its engine counted."""
        segment = self.active[segment_id]
        view = self.engines.get(segment.engine or "")
        if view is None or view.seconds_per_token is None:
            return None
        batch = sum(s.tokens for s in self.active.values() if s.engine == segment.engine)
        return (segment.spec.steps - segment.step) * batch * view.seconds_per_token

    def _holds(self, engine: str, segment_id: str) -> bool:
        segment = self.active.get(segment_id)
        return segment is not None and segment.engine == engine

    def _candidate(self, segment_id: str) -> Candidate:
        segment = self.active[segment_id]
        return Candidate(segment_id, segment.order, segment.tokens)

    def _requeue(self, segment_id: str) -> None:
        self.active[segment_id].engine = None
        self.active[segment_id].step = 0
