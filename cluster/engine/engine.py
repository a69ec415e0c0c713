"""An engine: the leader of one gang of ranks. It asks the router for plans and has its ranks execute them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import ray

from zoetrope.cluster.engine.draining import watch_nodes
from zoetrope.cluster.engine.gang import Gang, GangFailed
from zoetrope.cluster.engine.late_imports import load, open_snapshots
from zoetrope.cluster.engine.rank_process import Place, StepOutcome
from zoetrope.cluster.engine.router_client import RouterClient
from zoetrope.cluster.engine.step_record import StepRecord
from zoetrope.cluster.engine.watchdog import Watchdog, forecast
from zoetrope.cluster.planning.groups import Groups
from zoetrope.cluster.planning.hardware import hardware_of
from zoetrope.cluster.planning.placement import Placement
from zoetrope.cluster.protocol.messages import (
    Admit,
    Broken,
    LoadFailed,
    Report,
    Restarts,
    Running,
    State,
    StepPlan,
    one_line,
)
from zoetrope.cluster.protocol.processes import Process
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.cluster.telemetry import metrics
from zoetrope.cluster.telemetry.logs import about_process
from zoetrope.cluster.telemetry.process import begin
from zoetrope.cluster.telemetry.traces import flush_traces
from zoetrope.model.catalog.model_card import scheduler_config
from zoetrope.model.catalog.weights_identity import weights_of
from zoetrope.model.families import family_of
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.tasks import ModelCard

log = logging.getLogger("zoetrope.engine")

LEAD_SECONDS = 0.05  # before the expected end of a step, when the next plan is requested
SHORT_SECONDS = 0.25  # for a shorter step it is requested at once, in the message that reports the step before
SETTLE_SECONDS = 1.0  # for a message in flight when a gang is lost
MAX_FAILURES = 3  # gangs in a row that died, hung or did not start, after which the engine is out of service
BEAT_SECONDS = 1.0  # between two messages while a model is loaded
DRAIN_SECONDS = 55.0  # for a step to end and all segments to be checkpointed


@dataclass
class _StartedPlan:
    """A plan that the ranks execute now, or after the one before. ``ahead``: it arrived before that one had ended, so
    the router has not received its report yet."""

    plan: StepPlan
    results: list[Any]
    ahead: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def running(self) -> Running:
        return Running(tuple(admit.spec.id for admit in self.plan.admit), self.plan.tokens)


class Engine:
    """The leader. It pulls its work, so that nobody needs a handle to a particular engine.

    The next plan is requested shortly before the current step ends and given to the ranks at once, so that they go from
    one step to the next without waiting.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        card: ModelCard,
        router: Any,
        settings: EngineSettings,
        groups: tuple[Placement, ...] = (),
        others: tuple[ModelCard, ...] = (),
    ) -> None:
        """Start the engine; it is ready when the ranks have loaded and warmed up.

        Args:
            router: a handle, see `cluster.engine.router_client.RouterClient`. groups:
                `cluster.planning.placement.Seat.groups`. others: models that it can load instead.

        Raises:
            GangFailed: the first gang could not be started.
        """
        begin("engine")
        self._card = card
        self._cards = {other.name: other for other in (card, *others)}
        self._settings = settings
        self._id = uuid.uuid4().hex[:12]
        self._epoch = 0
        self._failures = 0
        self._restarts = Restarts()
        self._scheduler_config = scheduler_config(card)
        self._draining = asyncio.Event()
        self._asked_to = False  # drain
        self._router = RouterClient(router, self._id, self._draining)
        self._pace: float | None = None  # seconds of a token, in the last step
        self._ready = asyncio.Event()
        self._groups = Groups(groups, settings.ranks)
        self._record = StepRecord(self._id)
        about_process(engine=self._id)
        loading = asyncio.create_task(asyncio.to_thread(load, card))  # while the ranks load as well
        self._load_seconds = 0.0
        self._gang = await self._build()
        await loading
        self._snapshots = open_snapshots(settings.snapshots)
        self._watchdog = self._watch()
        self._task = asyncio.create_task(self._drive())
        self._watching = asyncio.create_task(watch_nodes(lambda: {p.node for p in self._gang.places()}, self._leave))

    def check_health(self) -> None:
        """Raise RuntimeError if the loop has ended by itself: Serve then replaces the replica."""
        if self._task.done() and not self._asked_to:
            raise RuntimeError(f"engine {self._id} has stopped")

    async def drain(self) -> None:
        """Finish the current step, checkpoint all segments, tell the router and stop the ranks."""
        self._asked_to = True
        self._watching.cancel()
        self._draining.set()
        await asyncio.wait([self._task], timeout=DRAIN_SECONDS)
        await asyncio.to_thread(flush_traces)

    def name(self) -> str:
        return self._id

    def process(self) -> Process:
        """Return the leader's process."""
        return Process.this()

    async def ranks(self) -> list[Place]:
        """Return where the ranks run, in order; waits for a gang that is being rebuilt."""
        await self._ready.wait()
        return self._gang.places()

    async def _build(self) -> Gang:
        """Start a gang under a new epoch."""
        self._epoch += 1
        about: dict[str, str | int] = {"engine": self._id, "gang_epoch": self._epoch}
        about_process(**about)
        gang = Gang(self._card, self._settings, self._groups.slots, about)
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            await gang.start()
        except BaseException:
            await gang.kill()
            raise
        self._load_seconds = clock() - started
        self._ready.set()
        phases = (*gang.phases.seconds(), ("total", self._load_seconds))
        for phase, seconds in phases:
            metrics.START_SECONDS.labels(self._card.name, phase).set(seconds)
        took = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in phases)
        log.info("engine %s: gang epoch %d of %d ranks is ready: %s", self._id, self._epoch, self._settings.ranks, took)
        return gang

    def _leave(self, node: str) -> None:
        """Drain, because a node of a rank does: Serve looks at the leader's alone. From the replica's health it learns
        that this engine is gone, and starts another elsewhere."""
        log.warning("engine %s: node %s is drained, its segments go on elsewhere", self._id, node)
        self._draining.set()

    def _watch(self) -> Watchdog:
        """A watchdog that knows the model and the hardware of its ranks."""
        from zoetrope.cluster.planning.calibration import known_rates
        from zoetrope.cluster.planning.gang_plan import preset_of

        settings, rates = self._settings, known_rates(hardware_of(self._gang.places()[0].device))
        predicted = forecast(preset_of(self._card).config, rates, settings.ranks // settings.cfg_groups)
        return Watchdog(settings.hang_seconds, settings.first_step_seconds, predicted)

    async def _drive(self) -> None:
        report, step = self._report(), None
        while step is not None or not self._draining.is_set():
            if step is None:
                plan = await self._router.ask(report)
                if plan.load:
                    swapped = await self._swap(plan.load)
                    if swapped is None:
                        return
                    report = swapped
                    continue
                step = await self._start_plan(plan)
            after = asyncio.create_task(self._look_ahead(report, step))
            try:
                outcome = await self._gang.collect(step.results, self._watchdog.seconds(step.plan.tokens))
            except GangFailed as failure:
                log.warning("engine %s: gang epoch %d is lost: %s", self._id, self._epoch, failure)
                self._restarts = replace(self._restarts, **{failure.loss: getattr(self._restarts, failure.loss) + 1})
                broken = Broken(step.plan.advance, str(failure), failure.raised)
                step.ended.set()
                await asyncio.wait([after], timeout=SETTLE_SECONDS)  # what it started died with the gang
                after.cancel()
                if not await self._rebuild(broken):
                    return
                report, step = self._report(), None
                continue
            self._record.note(outcome, self._card.name, self._epoch)
            if outcome.step_tokens:
                self._failures = 0
                self._watchdog.saw(outcome.step_seconds, outcome.step_tokens)
                self._pace = outcome.step_seconds / max(1, step.plan.tokens)
            step.ended.set()
            report, step = self._report(outcome), await after
        await self._shut_down(report)

    async def _swap(self, name: str) -> Report | None:
        """Load another model in place of this one, after a checkpoint of everything held: the segments can resume on
        another engine, or here once their model is back. If the other's gang does not start, this one is loaded again.

        Returns:
            The report to go on with; None if no gang starts any more and the engine is out of service.
        """
        before, wanted, failed = self._card, self._cards.get(name), None
        if wanted is None:
            return replace(self._report(), load_failed=LoadFailed(name, "this engine does not know it"))
        try:
            await self._gang.checkpoint(DRAIN_SECONDS / 2)
        except GangFailed as failure:
            log.warning("engine %s: not everything was checkpointed, older snapshots must do: %s", self._id, failure)
        self._ready.clear()
        for card in (wanted, before):
            try:
                self._card, self._scheduler_config = card, scheduler_config(card)
                async with self._telling("loading"):
                    await self._gang.kill()
                    self._gang = await self._build()
                break
            except (GangFailed, ModelError) as failure:
                log.warning("engine %s: %s cannot be loaded: %s", self._id, card.name, failure)
                failed = failed or LoadFailed(name, str(failure))
        else:
            assert failed is not None
            if not await self._rebuild(Broken((), failed.reason, raised=False)):
                return None
        self._watchdog, self._pace = self._watch(), None
        return replace(self._report(), load_failed=failed)

    @asynccontextmanager
    async def _telling(self, state: State) -> AsyncIterator[None]:
        """Tell the router of a state at once and then regularly, until the end of a block. After that no such message
        is on its way any more, which could be taken for news."""
        over = asyncio.Event()

        async def tell() -> None:
            while not over.is_set():
                await self._router.tell(replace(self._report(), state=state))
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), BEAT_SECONDS)

        telling = asyncio.create_task(tell())
        try:
            yield
        finally:
            over.set()
            await telling

    async def _start_plan(self, plan: StepPlan, ahead: bool = False) -> _StartedPlan:
        """Give a plan to the ranks."""
        self._record.follow(plan)
        plan = replace(plan, admit=tuple([await self._with_snapshot(admit) for admit in plan.admit]))
        return _StartedPlan(plan, self._gang.execute(plan), ahead)

    async def _look_ahead(self, report: Report, step: _StartedPlan) -> _StartedPlan | None:
        """Report what came before ``step``, if the router does not know it, and start the plan after it when it is
        about to end. None if its end cannot be predicted, or the next plan depends on its outcome."""
        report = replace(report, running=step.running())
        known = replace(
            report, finished=(), failed=(), previews=(), handed_over=(), step_seconds=0.0, step_tokens=0, shares=()
        )
        foreseen = self._pace is not None and bool(step.plan.advance) and not step.plan.checkpoint
        seconds = (self._pace or 0.0) * step.plan.tokens
        if foreseen and seconds < SHORT_SECONDS and not self._draining.is_set():
            plan = await self._router.ask(report if step.ahead else known)
            return await self._start_plan(plan, ahead=True) if plan.advance else None
        if step.ahead:
            await self._router.tell(report)
        if not foreseen:
            return None
        with suppress(TimeoutError):
            await asyncio.wait_for(step.ended.wait(), seconds - LEAD_SECONDS)
        if step.ended.is_set() or self._draining.is_set():
            return None
        plan = await self._router.ask_once(known)
        return await self._start_plan(plan, ahead=True) if plan.advance else None

    async def _with_snapshot(self, admit: Admit) -> Admit:
        """Add the newest snapshot from which the segment can resume, read once for all ranks. If its snapshots cannot
        be read, it starts again: better late than never."""
        if self._snapshots is None or admit.owner is None:
            return admit
        from zoetrope.cluster.snapshots.format import Fingerprint
        from zoetrope.model.denoising.resume import sampler_of

        config = self._scheduler_config
        # Only ranks have the conditions, which say how many frames lead; they check the state again.
        lead = None if family_of(self._card.family).leading_frames else 0
        check = partial(sampler_of, scheduler_config=config, spec=admit.spec, lead=lead)
        try:
            weights = await asyncio.to_thread(weights_of, self._card)  # known since the start
            expected = Fingerprint.of(weights, admit.spec, config)
            data = await asyncio.to_thread(self._snapshots.latest_bytes, admit.owner, expected, check)
        except Exception as error:  # whatever it is, it is not the segment's fault
            log.warning("engine %s: segment %s starts again: %s", self._id, admit.spec.id, one_line(error))
            return admit
        return admit if data is None else replace(admit, snapshot=ray.put(data))

    async def _shut_down(self, report: Report) -> None:
        """Checkpoint what is held, send the last report and stop the ranks; the segments can resume elsewhere."""
        try:
            await self._gang.checkpoint(DRAIN_SECONDS / 2)
        except GangFailed as failure:
            log.warning("engine %s: not everything was checkpointed, older snapshots must do: %s", self._id, failure)
        await self._router.farewell(replace(report, held=(), state="draining"))
        await self._gang.kill()
        self._groups.remove()

    async def _rebuild(self, broken: Broken) -> bool:
        """Start a gang under a new epoch; False if too many in a row have failed. The router is told at once, so that
        other engines resume the segments meanwhile.

        An exception in a step is a segment's fault: the router finds which one from several such failures in a row. A
        gang whose hardware is at fault fails to start.
        """
        self._ready.clear()
        killed = asyncio.create_task(self._gang.kill())
        self._failures += not broken.raised
        while True:
            out = self._failures >= MAX_FAILURES
            await self._router.ask(replace(self._report(), state="out" if out else "rebuilding", broken=broken))
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

    def _report(self, outcome: StepOutcome | None = None) -> Report:
        report = Report(
            self._id,
            self._epoch,
            self._card.name,
            role=self._settings.role,
            ranks=self._settings.ranks,
            restarts=self._restarts,
            failures=self._failures,
            load_seconds=self._load_seconds,
            cfg_groups=self._settings.cfg_groups,
            device=self._gang.device,
            most_tokens=self._gang.joined.most_tokens,
            streaming=self._gang.joined.streaming,
        )
        if outcome is None:
            return replace(report, warmed=self._gang.joined.warmed)
        return replace(
            report,
            held=outcome.held,
            finished=outcome.finished,
            failed=outcome.failed,
            previews=outcome.previews,
            handed_over=outcome.handed_over,
            step_seconds=outcome.step_seconds,
            step_tokens=outcome.step_tokens,
            shares=outcome.shares,
        )


class EngineReplica(Engine):
    """An engine as a Serve replica."""

    async def __del__(self) -> None:
        """Serve awaits this before it stops the replica."""
        await self.drain()
