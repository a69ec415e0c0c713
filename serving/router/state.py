"""The router's state: active segments, the engines that hold them, and the cost of a step. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from zoetrope.cluster.protocol.messages import Admit, Broken, Failed, Owner, Report, StepPlan
from zoetrope.model.request.loras import AdapterUse, slot_key
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.model.request.steps import branch_count, computed_steps, computes, step_after, step_before
from zoetrope.model.request.tasks import Role
from zoetrope.serving.router.scheduler import Candidate, decide

MAX_CRASHES = 3  # of engines with a segment alone in the step, after which it counts as the cause
PATIENCE = 5.0  # times its predicted duration, after which a step's engine counts as lost


@dataclass
class Active:
    """A segment between its conditions and its last step.

    Attributes:
        tokens: of a step with all its guidance branches.
        owner: by which its snapshots are found. needs: the noise expert of its next step, if they are apart.
        engine: that holds it; None while it waits. step: taken there; None until that is known.
        furthest: the most steps ever taken. redone: how many steps were repeated.
        cohort: of the suspects with which it is tried, 0 for none. losses: of gangs whose process died or hung while it
            was in the step; alone: those with nothing else in it. All count until it is past step ``broke_at``.
    """

    spec: SegmentSpec
    order: tuple[float | str, ...]
    tokens: int
    conditions: Any
    owner: Owner | None = None
    needs: Role = "high"
    engine: str | None = None
    step: int | None = 0
    furthest: int = 0
    redone: int = 0
    cohort: int = 0
    broke_at: int = 0
    losses: int = 0
    alone: int = 0

    @property
    def begun(self) -> bool:
        """Whether its job has taken a step, in this segment or an earlier one, as far as this router knows."""
        return bool(self.furthest) or (self.owner is not None and self.owner.index > 0)

    def tokens_at(self, step: int | None) -> int:
        """Count the tokens of a step, number ``step`` from 0; None: it is not known which."""
        return self.tokens * branch_count(self.spec, step) // branch_count(self.spec)

    def next_step(self, running: bool) -> int | None:
        """Return the step to take next, after the running one if there is one; None if that is not known."""
        return step_after(self.spec, self.step) if running and self.step is not None else self.step

    def peak_tokens(self, running: bool) -> int:
        """Count the most tokens of any step from the next one on."""
        start = self.next_step(running)
        if start is None or self.spec.guidance_end >= 1:
            return self.tokens
        return max((self.tokens_at(step) for step in range(start, self.spec.steps)), default=self.tokens)


@dataclass
class EngineView:
    """An engine as of its last report, and when it will be given up without another one."""

    model: str
    gang_epoch: int
    seen_at: float
    due: float
    role: Role = "both"
    seconds_per_token: float | None = None


@dataclass(frozen=True)
class News:
    """The news of a report: ids of segments that progressed or finished (with a reference to the latents), those that
    failed, and ids of those whose conditions are gone."""

    progressed: tuple[str, ...]
    finished: tuple[tuple[str, Any], ...]
    failed: tuple[Failed, ...]
    lost: tuple[str, ...] = ()


@dataclass
class RouterState:
    """Segments and engines. Times are seconds of one monotonic clock, passed in.

    Attributes:
        engine_timeout: how long an engine may be silent in addition to its steps.
        preview_steps: steps between two previews of a segment; 0: none.
        adapter_slots: of each engine, for different adapters (or pairs of them).
        taking_jobs: whether engines may start jobs; those that have begun continue in any case.
    """

    step_tokens: int
    engine_timeout: float
    preview_steps: int = 0
    adapter_slots: int = 0
    taking_jobs: bool = True
    active: dict[str, Active] = field(default_factory=dict)
    engines: dict[str, EngineView] = field(default_factory=dict)
    _cohorts: int = 0

    def add(self, segment: Active) -> None:
        self.active[segment.spec.id] = segment

    def remove(self, segment_id: str) -> None:
        """Remove a segment; the next plan of an engine that still holds it says to drop it."""
        self.active.pop(segment_id, None)

    def apply(self, report: Report, now: float) -> News:
        """Apply an engine's report. Segments that it should hold but does not are waiting again; the next engine
        resumes them from their snapshots."""
        view = self.engines.setdefault(report.engine, EngineView(report.model, report.gang_epoch, now, now))
        view.gang_epoch, view.seen_at = report.gang_epoch, now
        view.role = report.role
        if report.step_tokens:
            cost = report.step_seconds / report.step_tokens
            old = view.seconds_per_token
            view.seconds_per_token = cost if old is None else 0.7 * old + 0.3 * cost
        view.due = now + self.engine_timeout
        starting: tuple[str, ...] = ()
        if report.running is not None:
            starting = report.running.admitted
            view.due += PATIENCE * report.running.tokens * (view.seconds_per_token or 0.0)
        mine = {i for i, s in self.active.items() if s.engine == report.engine}
        held = {h.id: h.step for h in report.held if h.id in mine}
        finished = tuple((f.id, f.latents) for f in report.finished if f.id in mine)
        failed = [f for f in report.failed if f.id in mine and not f.lost]
        lost = tuple(f.id for f in report.failed if f.id in mine and f.lost)
        if report.broken is not None:
            failed += self._suspect(report.broken, mine)
        progressed = [segment_id for segment_id, step in held.items() if self._moved(self.active[segment_id], step)]
        for segment_id in mine.intersection(report.handed_over):
            self.active[segment_id].needs = "low" if report.role == "high" else "high"
        ended = {*(i for i, _ in finished), *(f.id for f in failed), *lost}
        for segment_id in ended:
            del self.active[segment_id]
        for segment_id in mine - held.keys() - ended - {*starting}:
            self._requeue(segment_id)
        if report.state in ("draining", "out"):
            del self.engines[report.engine]
        return News(tuple(progressed), finished, tuple(failed), lost)

    def plan(self, report: Report) -> StepPlan:
        """Return the next plan for the engine that sent ``report``, after `apply`; an empty one if it is not ready.

        While a plan is running, the next one excludes the segments that end with it, and nothing is planned that
        depends on whether it breaks.
        """
        view = self.engines.get(report.engine)
        if view is None or report.state != "ready":
            return StepPlan()
        ahead = report.running is not None
        ids = [h.id for h in report.held] + [*(report.running.admitted if report.running is not None else ())]
        mine = [i for i in ids if self._holds(report.engine, i)]
        held = [self._candidate(i, ahead) for i in mine if not (ahead and self._ends(self.active[i]))]
        waiting = [
            self._candidate(i)
            for i, s in self.active.items()
            if s.engine is None and view.role in ("both", s.needs) and (self.taking_jobs or s.begun)
        ]
        decision = decide(held, waiting, self.step_tokens, self.adapter_slots)
        if ahead and decision.trial:
            return StepPlan()
        for segment_id in decision.admit:
            self.active[segment_id].engine = report.engine
        now_running = {*mine} if ahead else set()
        tokens = sum(s.tokens_at(s.next_step(i in now_running)) for i in decision.advance for s in [self.active[i]])
        view.due += PATIENCE * tokens * (view.seconds_per_token or 0.0)
        return StepPlan(
            drop=tuple(i for i in ids if not self._holds(report.engine, i)),
            admit=tuple(Admit(s.spec, s.conditions, s.owner) for s in (self.active[i] for i in decision.admit)),
            advance=decision.advance,
            tokens=tokens,
            checkpoint=decision.trial,
            preview=tuple(i for i in decision.advance if self._wants_preview(self.active[i], ahead and i in mine)),
            prefetch=self._next_adapters([c for c in waiting if c.id not in decision.admit]),
        )

    def lose_silent_engines(self, now: float) -> list[str]:
        """Give up engines that are overdue, allowing for long steps. Their segments are waiting again.

        Returns:
            Their ids.
        """
        silent = [i for i, view in self.engines.items() if now > view.due]
        for engine_id in silent:
            del self.engines[engine_id]
            for segment_id, segment in self.active.items():
                if segment.engine == engine_id:
                    self._requeue(segment_id)
        return silent

    def eta_seconds(self, segment_id: str) -> float | None:
        """Estimate the seconds until the last step at the present pace of its engine's whole batch."""
        segment = self.active[segment_id]
        view = self.engines.get(segment.engine or "")
        if view is None or view.seconds_per_token is None:
            return None
        others = sum(
            s.tokens_at(s.step) for i, s in self.active.items() if s.engine == segment.engine and i != segment_id
        )
        spec, start = segment.spec, segment.furthest
        own = sum(segment.tokens_at(step) for step in range(start, spec.steps) if computes(spec, step))
        return (computed_steps(spec, start) * others + own) * view.seconds_per_token

    def _next_adapters(self, waiting: list[Candidate]) -> tuple[AdapterUse, ...]:
        """Return the adapters that segments will need next, as many as an engine has slots for."""
        keys: dict[tuple[str, ...], tuple[AdapterUse, ...]] = {}
        for candidate in sorted(waiting, key=lambda c: c.order):
            if candidate.adapters and len(keys) < self.adapter_slots:
                keys.setdefault(candidate.adapters, self.active[candidate.id].spec.loras)
        return tuple(lora for loras in keys.values() for lora in loras)

    def _ends(self, segment: Active) -> bool:
        """Whether the segment ends with the running step."""
        return segment.step is not None and step_after(segment.spec, segment.step) >= segment.spec.steps

    def _wants_preview(self, segment: Active, running: bool) -> bool:
        spec, every = segment.spec, self.preview_steps
        before = step_after(spec, segment.furthest) if running else segment.furthest
        step = step_after(spec, before)  # number of steps that the segment will have taken
        return bool(every) and step // every > before // every and step < spec.steps

    def _holds(self, engine: str, segment_id: str) -> bool:
        segment = self.active.get(segment_id)
        return segment is not None and segment.engine == engine

    def _candidate(self, segment_id: str, running: bool = False) -> Candidate:
        segment = self.active[segment_id]
        adapters = slot_key(segment.spec.loras)
        return Candidate(segment_id, segment.order, segment.peak_tokens(running), segment.cohort, adapters)

    def _moved(self, segment: Active, step: int) -> bool:
        """Record the step of a segment. Returns whether that is further than ever before."""
        # Where its snapshot was is before the step just taken.
        before = step_before(segment.spec, step) if segment.step is None else segment.step
        segment.redone += max(0, min(step, segment.furthest) - before)
        segment.step = step
        if step > segment.broke_at:
            segment.cohort = segment.losses = segment.alone = 0  # the step that broke did not break this time
        further = step > segment.furthest
        segment.furthest = max(segment.furthest, step)
        return further

    def _suspect(self, broken: Broken, mine: set[str]) -> list[Failed]:
        """Suspect the segments of the step that broke an engine, in halves, until the one at fault is alone and fails.

        A process that died or hung may be nobody's fault, so only the second time makes suspects, and only
        `MAX_CRASHES` alone make a culprit.

        Returns:
            The culprit, if there is one, and the reason.
        """
        suspects = [i for i in broken.segments if i in mine]
        alone = len(broken.segments) == 1
        for segment_id in suspects:
            segment = self.active[segment_id]
            segment.broke_at = segment.furthest
            if alone and broken.raised:
                return [Failed(segment_id, broken.reason)]
            segment.losses += not broken.raised
            segment.alone += alone
            if segment.alone >= MAX_CRASHES:
                return [Failed(segment_id, f"{broken.reason}, {segment.alone} times")]
        worst = max((self.active[i].losses for i in suspects), default=0)
        if not alone and suspects and (broken.raised or worst > 1):
            middle = (len(suspects) + 1) // 2
            for half in (suspects[:middle], suspects[middle:]):
                self._cohorts += 1
                for segment_id in half:
                    self.active[segment_id].cohort = self._cohorts
        return []

    def _requeue(self, segment_id: str) -> None:
        self.active[segment_id].engine = None
        self.active[segment_id].step = None
