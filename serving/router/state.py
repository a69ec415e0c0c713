"""The router's state: active segments, the engines that hold them, and the cost of a step. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from zoetrope.cluster.planning.step_costs import Load, StepCosts
from zoetrope.cluster.protocol.messages import Broken, Failed, Report, StepPlan
from zoetrope.model.request.loras import AdapterUse, slot_key
from zoetrope.model.request.steps import computed_steps, computes, step_after, step_before
from zoetrope.serving.router.active import Active, job_of
from zoetrope.serving.router.backlog import Backlog
from zoetrope.serving.router.engine_view import EngineView, News
from zoetrope.serving.router.handovers import Handovers
from zoetrope.serving.router.loading import Loading
from zoetrope.serving.router.placement import GangSize, leaves, sizes_of, takes
from zoetrope.serving.router.policies.fair import Fair
from zoetrope.serving.router.policies.work import EngineState, Work
from zoetrope.serving.router.scheduler import LOOK, decide

MAX_CRASHES = 3  # of engines with a segment alone in the step, after which it counts as the cause
LEAST_SECONDS = 1e-3  # of a segment's cost, where it is not known
LOAD_PATIENCE = 60.0  # seconds in which an engine must have checkpointed what it holds, before it loads another model
PATIENCE = 5.0  # times its predicted duration, after which a step's engine counts as lost


@dataclass
class RouterState:
    """Segments and engines. Times are seconds of one monotonic clock, passed in.

    Attributes:
        engine_timeout: how long an engine may be silent in addition to its steps.
        costs: of the steps of the engine that sent a report. company: segments of a model's steps, on average.
        backlog: what waits, by the router's policy; whoever knows of jobs that are only queued keeps them there too.
        preview_steps: steps between two previews of a segment; 0: none.
        adapter_slots: of each engine, for different adapters (or pairs of them).
        loading: decides which engines load other models; None: they serve one.
    """

    step_tokens: int
    engine_timeout: float
    costs: Callable[[Report], StepCosts]
    company: Callable[[str], float] = lambda _: 1.0
    backlog: Backlog = field(default_factory=lambda: Backlog(Fair()))
    preview_steps: int = 0
    adapter_slots: int = 0
    loading: Loading | None = None
    active: dict[str, Active] = field(default_factory=dict)
    engines: dict[str, EngineView] = field(default_factory=dict)
    handovers: Handovers = field(default_factory=Handovers)
    _cohorts: int = 0

    def add(self, segment: Active) -> None:
        self.active[segment.spec.id] = segment
        self.backlog.add(self._work(segment))

    def remove(self, segment_id: str) -> None:
        """Remove a segment; the next plan of an engine that still holds it says to drop it."""
        segment = self.active.pop(segment_id, None)
        if segment is not None:
            self.backlog.remove(segment_id)
            if segment.engine is not None:
                self.handovers.remove(segment_id, segment.engine)

    def waiting_jobs(self) -> set[str]:
        """Return the ids of the jobs whose segment is in no engine's newest step."""
        stepping = {segment_id for view in self.engines.values() for segment_id in view.stepping}
        return {job_of(segment_id) for segment_id in self.active if segment_id not in stepping}

    def apply(self, report: Report, now: float) -> News:
        """Apply an engine's report. Segments that it should hold but does not are waiting again; the next engine
        resumes them from their snapshots."""
        view = self.engines.get(report.engine)
        if view is None:
            if report.state == "loading":
                return News((), (), ())  # of its steps nothing is known before it is ready
            view = EngineView(report.model, report.gang_epoch, now, now, self.costs(report), ranks=report.ranks)
            self.engines[report.engine] = view
        self._note_model(report, view, now)
        view.gang_epoch, view.seen_at = report.gang_epoch, now
        view.role, view.ready = report.role, report.state == "ready"
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
        if report.load_failed is not None and self.loading is not None:
            wanted = report.load_failed.model
            waiting = [i for i, s in self.active.items() if s.model == wanted and s.engine is None]
            failed += self.loading.failed(report.load_failed, waiting, now)
        progressed = [segment_id for segment_id, step in held.items() if self._moved(self.active[segment_id], step)]
        for segment_id in mine.intersection(report.handed_over):
            self.active[segment_id].needs = "low" if report.role == "high" else "high"
        ended = {*(i for i, _ in finished), *(f.id for f in failed), *lost}
        for segment_id in ended:
            self.remove(segment_id)
        self.handovers.over({*ended, *(f.id for f in report.finished), *(f.id for f in report.failed)})
        for segment_id in mine - held.keys() - ended - {*starting}:
            self._requeue(segment_id)
        if report.state in ("draining", "out"):
            del self.engines[report.engine]
            self.handovers.forget(report.engine)
        else:
            self.handovers.hear(report.engine, (h.id for h in report.held if self._foreign(h.id)))
        return News(tuple(progressed), finished, tuple(failed), lost)

    def plan(self, report: Report, now: float) -> StepPlan:
        """Return the next plan for the engine that sent ``report``, after `apply`; an empty one if it is not ready.

        While a plan is running, the next one excludes the segments that end with it, and nothing is planned that
        depends on whether it breaks.

        Args:
            now: of the clock of the jobs' times.
        """
        view = self.engines.get(report.engine)
        if view is None or report.state != "ready":
            return StepPlan()
        ahead = report.running is not None
        if self.loading is not None and (
            model := self.loading.model_for(report.engine, self.engines, *self._work_of_models(), view.seen_at)
        ):
            if ahead:
                return StepPlan()
            view.ready, view.stale = False, True
            view.due += LOAD_PATIENCE
            return StepPlan(load=model)
        ids = [h.id for h in report.held] + [*(report.running.admitted if report.running is not None else ())]
        mine = [i for i in ids if self._holds(report.engine, i)]
        held = [self._work(self.active[i], ahead) for i in mine]
        for work in held:
            self.backlog.begin(work)
        staying = [w for w in held if not (self.active[w.id].leaving or (ahead and self._ends(self.active[w.id])))]
        sizes = self._sizes(view)
        engine = self._engine(report, view, staying, sizes)
        leaving = sum(segment.leaving for segment in self.active.values())
        decision = decide(engine, self.backlog, now, self._beside(report.engine), leaving)
        if ahead and decision.trial:
            return StepPlan()
        moving = [work.id for work in staying if len(sizes) > 1 and leaves(view.ranks, work, sizes)]
        for segment_id in (*decision.drop, *moving):
            self.active[segment_id].leaving = True
        for segment_id in decision.admit:
            self.active[segment_id].engine = report.engine
            self.backlog.begin(self._work(self.active[segment_id]))
        view.stepping = frozenset(decision.advance)
        view.first = self._work(self.active[decision.advance[0]], ahead) if decision.advance else None
        now_running = {*mine} if ahead else set()
        steps = [(s, s.next_step(i in now_running)) for i in decision.advance for s in [self.active[i]]]
        tokens = sum(segment.tokens_at(step) for segment, step in steps)
        view.due += PATIENCE * self._seconds(view, tokens, [segment.load(step) for segment, step in steps])
        drop, foreign = self._not_held(report.engine, ids)
        return StepPlan(
            drop=drop,
            release=(*(i for i in mine if self.active[i].leaving), *foreign),
            admit=tuple(self.active[i].admission() for i in decision.admit),
            advance=decision.advance,
            tokens=tokens,
            checkpoint=decision.trial,
            preview=tuple(i for i in decision.advance if self._wants_preview(self.active[i], ahead and i in mine)),
            prefetch=self._next_adapters(report, view, now),
        )

    def held_works(self, model: str) -> list[Work]:
        """Describe the segments of a model that engines hold."""
        return [self._work(segment) for segment in self.active.values() if segment.engine and segment.model == model]

    def lose_silent_engines(self, now: float) -> list[str]:
        """Give up engines that are overdue, allowing for long steps. Their segments are waiting again.

        Returns:
            Their ids.
        """
        silent = [i for i, view in self.engines.items() if now > view.due]
        for engine_id in silent:
            del self.engines[engine_id]
            self.handovers.forget(engine_id)
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

    def notice(self, model: str, now: float) -> str:
        """Say why segments of a model cannot be taken by any engine; "" where there is one."""
        return "" if self.loading is None else self.loading.notice(model, self.engines, now)

    def seconds_to_model(self, model: str, now: float) -> float | None:
        """Return the seconds until an engine is expected to have a model; None if that is not known."""
        return (
            None if self.loading is None else self.loading.expected(model, self.engines, self._work_of_models()[1], now)
        )

    def _note_model(self, report: Report, view: EngineView, now: float) -> None:
        """Note which model an engine has, and how long it took to load."""
        if report.state == "loading":
            view.model, view.stale = report.model, True
            if self.loading is not None:
                self.loading.begun(report.engine, now)
        elif view.stale and report.state == "ready":
            view.model, view.costs, view.seconds_per_token = report.model, self.costs(report), None
            view.since, view.stale, view.most_tokens = now, False, report.most_tokens
            self._price_waiting(report.model)
            if self.loading is not None:
                self.loading.over(report.engine)
                self.loading.saw(report.model, report.load_seconds)

    def _work_of_models(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the GPU-seconds of work that waits, by model, and that engines hold, by engine."""
        waiting: dict[str, float] = {}
        held: dict[str, float] = {}
        for segment in self.active.values():
            where, of = (waiting, segment.model) if segment.engine is None else (held, segment.engine)
            where[of] = where.get(of, 0.0) + max(LEAST_SECONDS, self._work(segment).remaining)
        return waiting, held

    def _sizes(self, view: EngineView) -> dict[int, GangSize]:
        """Return the sizes of the engines that can take the same work as one."""
        beside = [other for other in self.engines.values() if (other.model, other.role) == (view.model, view.role)]
        works = (
            self._work(s) for s in self.active.values() if s.model == view.model and view.role in ("both", s.needs)
        )
        return sizes_of(beside, works)

    def _engine(self, report: Report, view: EngineView, held: list[Work], sizes: Mapping[int, GangSize]) -> EngineState:

        def may_take(work: Work) -> bool:
            return not self.handovers.hold_back(work.id, view.seen_at) and (
                len(sizes) < 2 or takes(view.ranks, work, sizes)
            )

        return EngineState(
            report.engine,
            view.model,
            report.ranks,
            view.role,
            self.step_tokens,
            self.adapter_slots,
            tuple(held),
            view.costs,
            view.stepping,
            may_take,
        )

    def _beside(self, engine_id: str) -> list[Work | None]:
        """Return the most urgent work in the newest step of each other engine of the same kind; None of an idle one."""
        mine = self.engines[engine_id]
        return [
            view.first
            for other, view in self.engines.items()
            if other != engine_id
            and view.ready
            and (view.model, view.role, view.ranks) == (mine.model, mine.role, mine.ranks)
        ]

    def _seconds(self, view: EngineView, tokens: int, loads: list[Load]) -> float:
        """Predict a step with patience: by what it computes, or by its tokens as the steps before."""
        return max(view.costs.seconds(loads), tokens * (view.seconds_per_token or 0.0))

    def _next_adapters(self, report: Report, view: EngineView, now: float) -> tuple[AdapterUse, ...]:
        """Return the adapters that segments will need next, as many as an engine has slots for."""
        keys: dict[tuple[str, ...], tuple[AdapterUse, ...]] = {}
        if self.adapter_slots:
            for work in islice(self.backlog.in_order(report.model, now, role=view.role), LOOK):
                if work.adapters and len(keys) < self.adapter_slots:
                    keys.setdefault(work.adapters, self.active[work.id].spec.loras)
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

    def _not_held(self, engine: str, ids: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Divide what an engine should not have into segments that were removed or are elsewhere, and those of another
        router, which has stopped: their jobs will be claimed again and can go on from a snapshot of now."""
        strange = [i for i in ids if not self._holds(engine, i)]
        drop = tuple(i for i in strange if not self._foreign(i))
        self.handovers.over(drop)
        return drop, tuple(i for i in strange if i not in drop)

    def _foreign(self, segment_id: str) -> bool:
        """Whether a segment that an engine holds is another router's."""
        return segment_id not in self.active and not self.handovers.removed(segment_id)

    def _work(self, segment: Active, running: bool = False) -> Work:
        """Describe a segment as it will be after the running step, if there is one."""
        step = segment.next_step(running)
        start = segment.furthest if step is None else step
        costs = self._costs_of(segment)
        return Work(
            segment.spec.id,
            segment.tenant,
            segment.model,
            segment.priority,
            segment.created_at,
            segment.deadline,
            segment.price if costs is None else segment.remaining(costs, self.company(segment.model), start),
            segment.load(step),
            segment.peak_tokens(running),
            segment.steps_left(start),
            slot_key(segment.spec.loras),
            segment.cohort,
            segment.needs,
        )

    def _costs_of(self, segment: Active) -> StepCosts | None:
        """Return those of its engine, or of any that could take it."""
        mine = self.engines.get(segment.engine or "")
        if mine is not None:
            return mine.costs
        return next((view.costs for view in self.engines.values() if view.model == segment.model), None)

    def _price_waiting(self, model: str) -> None:
        """Price what waits for the first engine of a model."""
        if sum(view.model == model for view in self.engines.values()) == 1:
            for segment in self.active.values():
                if segment.model == model and segment.engine is None:
                    self.backlog.add(self._work(segment))

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
        segment = self.active[segment_id]
        segment.engine, segment.step, segment.leaving = None, None, False
        self.backlog.add(self._work(segment))
