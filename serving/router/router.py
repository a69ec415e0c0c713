"""The router: a Serve deployment that leases jobs, sends them through the stages and schedules the engines."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from zoetrope.cluster.protocol.messages import Owner, Previewed, Report, StepPlan
from zoetrope.cluster.snapshots.objects import SnapshotError, SnapshotObjects
from zoetrope.cluster.telemetry.process import begin
from zoetrope.cluster.telemetry.traces import flush_traces, traceparent
from zoetrope.model.request.specs import SegmentSpec, VideoSpec
from zoetrope.serving.config.engine_groups import engine_groups
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.forecast_table import ModelForecast
from zoetrope.serving.jobs.job import EngineRow, Job, Stage, State
from zoetrope.serving.router.active import Active, job_of
from zoetrope.serving.router.around import WIDTH, Surroundings
from zoetrope.serving.router.backlog import Backlog
from zoetrope.serving.router.backoff import backoff
from zoetrope.serving.router.claims import ClaimedJobs
from zoetrope.serving.router.engine_rows import engine_row, step_seconds
from zoetrope.serving.router.forecaster import Forecaster
from zoetrope.serving.router.heap import Heap
from zoetrope.serving.router.job_database import Ending, open_database
from zoetrope.serving.router.job_records import note_ending, note_models, recorded
from zoetrope.serving.router.loading import loading_of
from zoetrope.serving.router.metering import Meter
from zoetrope.serving.router.model_notices import ModelNotices
from zoetrope.serving.router.next_claims import next_claims
from zoetrope.serving.router.pipeline import ConditionsLost, JobFailed, Stages, lease_prefix, make
from zoetrope.serving.router.policies.choose import policy_of
from zoetrope.serving.router.previews import Previews
from zoetrope.serving.router.pricing import load_of
from zoetrope.serving.router.progress import ProgressWriter
from zoetrope.serving.router.queued_jobs import QueuedJobs, work_of
from zoetrope.serving.router.scaling import ColdStart
from zoetrope.serving.router.state import RouterState
from zoetrope.serving.storage.store import ArtifactError, open_artifacts

log = logging.getLogger("zoetrope.router")

POLL_SECONDS = 0.1  # how often engines are looked after
LONG_POLL_SECONDS = 1.0  # how long an idle engine waits for work; also its heartbeat
ENGINE_TIMEOUT_SECONDS = 10.0
SIGHT_SECONDS = 1.0  # between two records that an engine in a long step is alive
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0  # before a database that did not answer is asked again
REMEMBERED_SECONDS = 3_600.0  # since an engine was seen whose costs an earlier router has learned
STOP_SECONDS = 5.0  # for the database to release leases
TAKE_SECONDS = 4.0  # for the latents of an engine that stops to be taken over; it waits no longer for an answer


class Router:
    """One replica. It can recover its whole state: jobs from the store, segments from the engines.

    It never waits for the database while an engine waits for it. While the database is unavailable it continues with
    the jobs it has; their ends are written once it is back. A lease that runs out meanwhile is renewed then, unless
    somebody else has claimed the job, as the renewal says.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, models: ServedModels, conditioners: Sequence[Any], decoders: Sequence[Any]
    ) -> None:
        """Start the loops. ``conditioners`` and ``decoders`` are handles of the deployments in `serving.stages`, of one
        process each."""
        begin("router")
        self._settings = settings
        self._cards = models.by_name()
        note_models(self._cards)
        self._database = await open_database(settings, tuple(self._cards))
        self._writer = ProgressWriter(self._database)
        self._artifacts = open_artifacts(settings.artifacts_url)
        self._snapshots = SnapshotObjects(settings.snapshots_url)
        self._cold_start = ColdStart()
        self._cold_start.see(0, True, time.monotonic())  # engines start when the router does, or run already
        self._meter = Meter(self._cards.get, int(settings.adapter_rank), settings.vae_devices)
        groups = engine_groups(settings)
        gpus = sum(group.count * group.ranks for group in groups)
        self._state = RouterState(
            settings.step_tokens,
            ENGINE_TIMEOUT_SECONDS,
            self._meter.costs_of,
            self._meter.company,
            Backlog(policy_of(settings.policy, max(g.ranks for g in groups), settings.weights, gpus)),
            settings.preview_steps,
            settings.adapter_slots,
            loading_of(settings, models),
        )
        with suppress(StoreError):
            engines = await self._database.run(lambda: self._database.jobs.engines(REMEMBERED_SECONDS))
            self._meter.recall({engine.id: engine.costs for engine in engines})
            alive = [engine for engine in engines if time.time() < engine.seen_at + ENGINE_TIMEOUT_SECONDS]
            self._state.handovers.expect({engine.id: step_seconds(engine) for engine in alive})
        self._work = asyncio.Event()
        self._outcomes: dict[str, asyncio.Future[Any]] = {}
        self._rows: dict[str, EngineRow] = {}
        self._around = Surroundings(settings, conditioners, decoders, self._artifacts, self._urgency)
        self._previews = Previews(self._around.decoder, self._database, self._artifacts)
        self._stages = Stages(
            self._around.conditioner,
            self._around.decoder,
            self._database.media,
            self._denoise,
            self._at_stage,
            self._warn,
            self._waiting,
            self._around.latents,
            self._around.note_caches,
            self._database.adapters,
            settings.adapter_slots,
            self._meter,
        )
        self._heap = Heap()
        self._queue = QueuedJobs(self._database, self._state.backlog, self._heap)
        self._claimed = ClaimedJobs(self._database, self._queue, self._choose, self._outcome, self._drop, self._clear)
        self._forecaster = Forecaster(
            self._cards,
            self._state,
            self._meter,
            self._claimed.jobs,
            self._database.jobs.get_many,
            self._put_forecast,
            room=settings.max_running,
            decoders=WIDTH * settings.decoders,
            cold=lambda model: (
                self._state.seconds_to_model(model, time.monotonic()) or self._cold_start.expected(time.monotonic())
            ),
            figures=self._around.figures,
        )
        self._notices = ModelNotices(self._state, self._claimed.job, self._waiting)
        self._stopping = False
        self._loops = [
            asyncio.create_task(self._forecaster.run()),
            asyncio.create_task(self._claimed.claim()),
            asyncio.create_task(self._claimed.renew()),
            asyncio.create_task(self._watch_engines()),
            asyncio.create_task(self._writer.run()),
        ]
        self._heap.tidy(always=True)

    def check_health(self) -> None:
        """Raise RuntimeError if one of the loops has ended: Serve then replaces the replica."""
        if not self._stopping and any(loop.done() for loop in self._loops):
            raise RuntimeError("a loop of the router has stopped")

    async def ready(self) -> bool:
        """Return whether an engine has asked for work."""
        return bool(self._state.engines)

    async def stop(self) -> None:
        """Release all leases, so that others can resume the jobs at once, without counting an attempt. The ends of
        finished jobs are written first."""
        self._stopping = True
        await self._claimed.release_all(STOP_SECONDS)
        self._previews.cancel()
        for loop in self._loops:
            loop.cancel()
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._writer.flush()
                await self._database.close()
        await asyncio.to_thread(flush_traces)

    async def tell(self, report: Report) -> None:
        """Receive an engine's report on its last plan."""
        now = time.monotonic()
        for job_id, seconds in self._meter.note(report).items():
            if (job := self._claimed.job(job_id)) is not None:
                self._state.backlog.charge(job.owner, seconds)
        news = self._state.apply(report, now)
        leaving = [self._around.latents.taken(i) for i, _ in news.finished] if report.state == "draining" else []
        if report.broken is not None:
            log.warning("engine %s broke in epoch %d: %s", report.engine, report.gang_epoch, report.broken.reason)
        self._note_engine(report)
        for segment_id in news.progressed:
            self._note_progress(segment_id)
        for segment_id, latents in news.finished:
            self._settle(segment_id, latents)
        for failure in news.failed:
            self._settle(failure.id, JobFailed(failure.reason, failure.code))
        for segment_id in news.lost:
            self._settle(segment_id, ConditionsLost())
        for preview in report.previews:
            self._show(preview)
        if len(self._state.backlog):
            self._work.set()  # an engine that is idle may take what this one gave up
        self._claimed.look()
        if leaving:  # what it has finished is gone once it has its answer
            with suppress(TimeoutError):
                async with asyncio.timeout(TAKE_SECONDS):
                    await asyncio.gather(*(taken.wait() for taken in leaving))

    async def next_plan(self, report: Report) -> StepPlan:
        """Receive an engine's report and return its next plan; an idle engine waits a while for it."""
        await self.tell(report)
        plan = self._state.plan(report, time.time())
        if report.state == "ready" and report.running is None and plan.nothing:
            self._work.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LONG_POLL_SECONDS):
                    await self._work.wait()
            plan = self._state.plan(report, time.time())
        return plan

    async def _watch_engines(self) -> None:
        """Give up engines that are silent. Record that those in a step longer than the usual timeout are alive."""
        while True:
            now = time.monotonic()
            for engine_id in self._state.lose_silent_engines(now):
                log.warning("engine %s is silent, its segments resume elsewhere", engine_id)
                self._forget_engine(engine_id)
            waiting = any(segment.engine is None for segment in self._state.active.values())
            self._cold_start.see(len(self._state.engines), waiting, now)
            self._notices.look(now)
            if not (self._state.active or len(self._queue)):
                self._heap.tidy()
            for engine_id, view in self._state.engines.items():
                row = self._rows.get(engine_id)
                long = view.due > view.seen_at + ENGINE_TIMEOUT_SECONDS
                if row is not None and long and time.time() > row.seen_at + SIGHT_SECONDS:
                    self._put_engine(replace(row, seen_at=time.time()))
            await asyncio.sleep(POLL_SECONDS)

    def _choose(self, claimed: list[Job]) -> list[str]:
        """Return the ids of the jobs to claim next, of each model."""
        if self._around.latents.full:
            return []
        room = self._settings.max_running
        return next_claims(self._state, self._queue, self._cards, claimed, room, time.time())

    async def _outcome(self, job: Job) -> Ending:
        """Take a job through the stages and return how it ended, and what it used."""
        self._meter.begin(job.id, job.used)
        self._state.backlog.reserve(work_of(job))
        try:
            with recorded(job) as made:
                ending = note_ending(made, await self._ending(job))
            self._forecaster.ended(job, succeeded=ending.state is State.SUCCEEDED)
            return replace(ending, used=self._meter.used(job.id))
        finally:
            self._meter.forget(job.id)
            self._state.backlog.remove(job.id)

    async def _ending(self, job: Job) -> Ending:
        waits = backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            try:
                rendered = await make(job, self._stages)
            except JobFailed as error:
                log.warning("job %s failed: %s", job.id, error)
                return Ending(State.FAILED, error_code=error.code, error_message=str(error) or None)
            except StoreError as error:
                log.warning("job %s: the database does not answer: %s", job.id, error)
                await asyncio.sleep(next(waits))
            except Exception as error:
                log.exception("job %s failed", job.id)
                message = f"internal error: {type(error).__name__}"
                return Ending(State.FAILED, error_code="INTERNAL", error_message=message)
            else:
                await self._previews.done(job.id)  # a job that is over takes none
                return Ending(State.SUCCEEDED, rendered.result, verdict=rendered.verdict)

    def _urgency(self, job_id: str) -> float:
        """Order the jobs that wait for a place in a stage as the policy does."""
        job = self._claimed.job(job_id)
        return math.inf if job is None else self._state.backlog.place(work_of(job))

    def _drop(self, job: Job) -> None:
        """Remove a job's segments from all further plans."""
        for segment_id in [i for i in self._state.active if i.startswith(lease_prefix(job))]:
            self._state.remove(segment_id)

    async def _clear(self, job: Job, over: bool, files: list[str]) -> None:
        """Delete files that a job left, and its snapshots if it is over; the sweeper deletes what remains."""
        try:
            if over:
                await asyncio.to_thread(self._snapshots.discard, job.id)
            if files:
                await asyncio.to_thread(self._artifacts.delete, files)
        except (SnapshotError, ArtifactError) as error:
            log.warning("job %s: %s", job.id, error)

    async def _denoise(self, job: Job, index: int, segment: SegmentSpec, conditions: Any) -> Any:
        """Have the engines denoise one segment; returns a reference to its latents."""
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._outcomes[segment.id] = outcome
        owner, load = Owner(job.id, index, job.lease_epoch), load_of(segment, self._cards[job.model])
        if index == 0:
            await self._around.latents.room()
        self._state.backlog.remove(job.id)  # its segment counts from now on
        self._state.add(
            Active(
                segment,
                load.tokens * load.branches,
                conditions,
                owner,
                job.model,
                job.owner,
                job.priority,
                job.created_at,
                self._meter.denoised_by(job.deadline_at, VideoSpec.from_dict(job.spec)),
                following=len(job.spec["spans"]) - 1 - index,
                price=job.price,
                trace=traceparent(),
            )
        )
        self._work.set()
        try:
            latents = await outcome
        finally:
            self._state.remove(segment.id)
            self._outcomes.pop(segment.id, None)
        if index == 0 and segment.steps <= self._settings.preview_steps:  # too few for one on the way
            self._previews.start(job, segment.steps, latents)
        return latents

    def _show(self, preview: Previewed) -> None:
        """Have a preview of a segment made in the background."""
        job_id = job_of(preview.id)
        job = self._claimed.job(job_id)
        if job is not None and preview.id in self._state.active:
            step = self._state.active[preview.id].spec.steps * int(preview.id.rpartition("/")[2]) + preview.step
            self._previews.start(job, step, preview.latents)

    def _settle(self, segment_id: str, outcome: Any) -> None:
        future = self._outcomes.get(segment_id)
        if future is None or future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _note_progress(self, segment_id: str) -> None:
        job = self._claimed.job(job_of(segment_id))
        if job is not None:
            active = self._state.active[segment_id]
            step = active.spec.steps * int(segment_id.rpartition("/")[2]) + active.furthest
            self._progress(job, Stage.DENOISING, step, self._state.eta_seconds(segment_id))

    def _at_stage(self, job: Job, stage: Stage, step: int) -> None:
        self._forecaster.at_stage(job, stage)
        self._progress(job, stage, step, None)

    def _progress(self, job: Job, stage: Stage, step: int, eta_seconds: float | None) -> None:
        write, epoch, used = self._database.jobs.progress, job.lease_epoch, self._meter.used(job.id)
        self._writer.put(
            "progress",
            job.id,
            lambda: write(job.id, epoch, stage=stage, step=step, eta_seconds=eta_seconds, used=used),
        )

    def _warn(self, job: Job, warnings: tuple[str, ...]) -> None:
        self._writer.put("warnings", job.id, lambda: self._database.jobs.warn(job.id, job.lease_epoch, warnings))

    def _waiting(self, job: Job, notice: str) -> None:
        self._writer.put("notice", job.id, lambda: self._database.jobs.put_notice(job.id, job.lease_epoch, notice))

    def _note_engine(self, report: Report) -> None:
        if report.state != "ready" and report.state != getattr(self._rows.get(report.engine), "state", ""):
            log.warning("engine %s is %s", report.engine, report.state)
        if report.state == "draining":
            self._forget_engine(report.engine)
            return
        view = self._state.engines.get(report.engine)
        stepping = frozenset[str]() if view is None else view.stepping
        before = self._rows.get(report.engine)
        self._put_engine(engine_row(report, self._state.active, stepping, self._meter, before))

    def _put_forecast(self, forecast: ModelForecast) -> None:
        self._writer.put("forecast", forecast.model, lambda: self._database.forecasts.put(forecast))

    def _put_engine(self, row: EngineRow) -> None:
        self._rows[row.id] = row
        self._writer.put("engine", row.id, lambda: self._database.jobs.put_engine(row))

    def _forget_engine(self, engine_id: str) -> None:
        self._rows.pop(engine_id, None)
        self._writer.put("engine", engine_id, lambda: self._database.jobs.remove_engine(engine_id))


class RouterReplica(Router):
    """A router as a Serve replica."""

    async def __del__(self) -> None:
        """Serve awaits this before it stops the replica."""
        await self.stop()
