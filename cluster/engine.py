"""An engine: the leader of one gang of ranks. It asks the router for plans and has its ranks carry them out."""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import ray

from cluster.gang import Gang, GangFailed
from cluster.groups import Groups
from cluster.hardware import hardware_of
from cluster.line import Line
from cluster.messages import Admit, Broken, Plan, Report, Restarts, Running, one_line
from cluster.placement import Placement
from cluster.processes import Process
from cluster.rank_process import Outcome, Place
from cluster.settings import EngineSettings
from cluster.watchdog import Watchdog, forecast
from model.card import scheduler_config
from model.tasks import ModelCard

if TYPE_CHECKING:
    from cluster.snapshots import SnapshotStore

log = logging.getLogger("zoetrope.engine")

LEAD_SECONDS = 0.05  # before a step should end, the next plan is asked for
SHORT_SECONDS = 0.25  # steps that take less have theirs asked for at once, in the message that tells of the one before
SETTLE_SECONDS = 1.0  # for a message on its way when a gang is lost
MAX_FAILURES = 3  # gangs in a row that died, hung or did not start, after which the engine is out of service
DRAIN_SECONDS = 55.0  # for a step to end and all segments to be put away


@dataclass
class _Begun:
    """A plan that the ranks carry out now, or after the one before. ``ahead``: it came before that one had ended, whose
    report the router has not got yet."""

    plan: Plan
    results: list[Any]
    ahead: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def running(self) -> Running:
        return Running(tuple(admit.spec.id for admit in self.plan.admit), self.plan.tokens)


class Engine:
    """The leader. Nobody calls it: it pulls its work, so that no one needs a handle to a particular engine.

    A plan is asked for shortly before the step under way ends and given to the ranks at once, so that they go from one
    step to the next without waiting for anybody.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, card: ModelCard, router: Any, settings: EngineSettings, groups: tuple[Placement, ...] = ()
    ) -> None:
        """Ready when the ranks have loaded and warmed up.

        Args:
            router: a handle, see `cluster.line.Line`. groups: `cluster.placement.Seat.groups`.

        Raises:
            GangFailed: the first gang could not be started.
        """
        self._card = card
        self._settings = settings
        self._id = uuid.uuid4().hex[:12]
        self._epoch = 0
        self._failures = 0
        self._restarts = Restarts()
        self._scheduler_config = scheduler_config(card)
        self._draining = asyncio.Event()
        self._line = Line(router, self._id, self._draining)
        self._pace: float | None = None  # seconds of a token, in the last step
        self._ready = asyncio.Event()
        self._groups = Groups(groups, settings.ranks)
        loading = asyncio.create_task(asyncio.to_thread(_load))  # while the ranks load as well
        self._gang = await self._build()
        await loading
        self._snapshots = _open(settings.snapshots)
        self._watchdog = self._watch()
        self._task = asyncio.create_task(self._drive())

    def check_health(self) -> None:
        """Serve replaces the replica when the loop has ended of itself."""
        if self._task.done() and not self._draining.is_set():
            raise RuntimeError(f"engine {self._id} has stopped")

    async def drain(self) -> None:
        """End the step under way, put all segments away, tell the router and stop the ranks."""
        self._draining.set()
        await asyncio.wait([self._task], timeout=DRAIN_SECONDS)

    def name(self) -> str:
        return self._id

    def process(self) -> Process:
        """The leader's."""
        return Process.this()

    async def ranks(self) -> list[Place]:
        """Where the ranks run, in order; waits for a gang that is being rebuilt."""
        await self._ready.wait()
        return self._gang.places()

    async def _build(self) -> Gang:
        """Start a gang under a new epoch."""
        self._epoch += 1
        gang = Gang(self._card, self._settings, self._groups.slots)
        try:
            await gang.start()
        except BaseException:
            await gang.kill()
            raise
        self._ready.set()
        log.info("engine %s: gang epoch %d of %d ranks is ready", self._id, self._epoch, self._settings.ranks)
        return gang

    def _watch(self) -> Watchdog:
        """One that knows the model and what its ranks run on."""
        from cluster.calibration import known_rates
        from cluster.plan import preset_of

        settings, rates = self._settings, known_rates(hardware_of(self._gang.places()[0].device))
        foretell = forecast(preset_of(self._card).config, rates, settings.ranks // settings.cfg_groups)
        return Watchdog(settings.hang_seconds, settings.first_step_seconds, foretell)

    async def _drive(self) -> None:
        report, step = self._report(), None
        while step is not None or not self._draining.is_set():
            if step is None:
                step = await self._begin(await self._line.ask(report))
            after = asyncio.create_task(self._look_ahead(report, step))
            try:
                outcome = await self._gang.end(step.results, self._watchdog.seconds(step.plan.tokens))
            except GangFailed as failure:
                log.warning("engine %s: gang epoch %d is lost: %s", self._id, self._epoch, failure)
                self._restarts = replace(self._restarts, **{failure.loss: getattr(self._restarts, failure.loss) + 1})
                broken = Broken(step.plan.advance, str(failure), failure.raised)
                step.ended.set()
                await asyncio.wait([after], timeout=SETTLE_SECONDS)  # what it began died with the gang
                after.cancel()
                if not await self._rebuild(broken):
                    return
                report, step = self._report(), None
                continue
            if outcome.step_tokens:
                self._failures = 0
                self._watchdog.saw(outcome.step_seconds, outcome.step_tokens)
                self._pace = outcome.step_seconds / max(1, step.plan.tokens)
            step.ended.set()
            report, step = self._report(outcome), await after
        await self._put_away(report)

    async def _begin(self, plan: Plan, ahead: bool = False) -> _Begun:
        """Give a plan to the ranks."""
        plan = replace(plan, admit=tuple([await self._with_snapshot(admit) for admit in plan.admit]))
        return _Begun(plan, self._gang.begin(plan), ahead)

    async def _look_ahead(self, report: Report, step: _Begun) -> _Begun | None:
        """Tell the router what came before ``step``, if it does not know, and begin the plan after it when it is about
        to end. None where that is not foreseen, or should wait for what comes of the step."""
        report = replace(report, running=step.running())
        known = replace(report, finished=(), failed=(), previews=(), handed_over=(), step_seconds=0.0, step_tokens=0)
        foreseen = self._pace is not None and bool(step.plan.advance) and not step.plan.put_away
        seconds = (self._pace or 0.0) * step.plan.tokens
        if foreseen and seconds < SHORT_SECONDS and not self._draining.is_set():
            plan = await self._line.ask(report if step.ahead else known)
            return await self._begin(plan, ahead=True) if plan.advance else None
        if step.ahead:
            await self._line.tell(report)
        if not foreseen:
            return None
        with suppress(TimeoutError):
            await asyncio.wait_for(step.ended.wait(), seconds - LEAD_SECONDS)
        if step.ended.is_set() or self._draining.is_set():
            return None
        plan = await self._line.ask_once(known)
        return await self._begin(plan, ahead=True) if plan.advance else None

    async def _with_snapshot(self, admit: Admit) -> Admit:
        """The segment with the newest snapshot that it can go on from, read once for all ranks. One whose snapshots
        cannot be read starts again: a job late is better than none."""
        if self._snapshots is None or admit.owner is None:
            return admit
        from cluster.snapshots import Fingerprint
        from model.resume import sampler_of

        config = self._scheduler_config
        expected = Fingerprint.of(self._card.name, admit.spec, config)
        # Ranks have the conditions, which tell how many references VACE has; they look at the state as well.
        lead = None if self._card.conditioner == "vace" else 0
        check = partial(sampler_of, scheduler_config=config, spec=admit.spec, lead=lead)
        try:
            data = await asyncio.to_thread(self._snapshots.latest_bytes, admit.owner, expected, check)
        except Exception as error:  # whatever it is, the segment is not at fault
            log.warning("engine %s: segment %s starts again: %s", self._id, admit.spec.id, one_line(error))
            return admit
        return admit if data is None else replace(admit, snapshot=ray.put(data))

    async def _put_away(self, report: Report) -> None:
        """The last report: what was held can go on elsewhere."""
        try:
            await self._gang.put_away(DRAIN_SECONDS / 2)
        except GangFailed as failure:
            log.warning("engine %s: older snapshots have to do: %s", self._id, failure)
        await self._line.farewell(replace(report, held=(), state="draining"))
        await self._gang.kill()
        self._groups.remove()

    async def _rebuild(self, broken: Broken) -> bool:
        """A gang under a new epoch; False when too many in a row have failed. The router hears of it at once, so that
        other engines go on with the segments meanwhile.

        An exception in a step is a segment's fault, which the router finds by several such failures in a row; a gang
        whose hardware is at fault does not get through its start.
        """
        self._ready.clear()
        killed = asyncio.create_task(self._gang.kill())
        self._failures += not broken.raised
        while True:
            out = self._failures >= MAX_FAILURES
            await self._line.ask(replace(self._report(), state="out" if out else "rebuilding", broken=broken))
            await killed
            if out:
                log.error("engine %s: %d gangs failed in a row, out of service", self._id, self._failures)
                self._groups.remove()
                return False
            try:
                self._gang = await self._build()
                self._watchdog.restart()
                return True
            except GangFailed as failure:
                log.warning("engine %s: gang epoch %d did not start: %s", self._id, self._epoch, failure)
                self._failures += 1
                self._restarts = replace(self._restarts, start=self._restarts.start + 1)
                broken = Broken((), str(failure), failure.raised)

    def _report(self, outcome: Outcome | None = None) -> Report:
        report = Report(
            self._id,
            self._epoch,
            self._card.name,
            role=self._settings.role,
            ranks=self._settings.ranks,
            restarts=self._restarts,
            failures=self._failures,
        )
        if outcome is None:
            return report
        return replace(
            report,
            held=outcome.held,
            finished=outcome.finished,
            failed=outcome.failed,
            previews=outcome.previews,
            handed_over=outcome.handed_over,
            step_seconds=outcome.step_seconds,
            step_tokens=outcome.step_tokens,
        )


class EngineReplica(Engine):
    """An engine as a Serve replica."""

    async def __del__(self) -> None:
        """Serve awaits this before it stops the replica."""
        await self.drain()


def _load() -> None:
    """Import what the leader needs once there is a gang: it takes seconds, for it has torch in it."""
    import cluster.plan
    import cluster.snapshots  # noqa: F401


def _open(snapshots: str | None) -> SnapshotStore | None:
    from cluster.snapshots import SnapshotStore

    return None if snapshots is None else SnapshotStore(snapshots)
