"""The router: a Serve deployment that leases jobs, sends them through the stages and drives the engines."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from ray.exceptions import RayError

from cluster.messages import Owner, Plan, Previewed, Report
from cluster.shelf import Shelf, SnapshotError
from model.tasks import ModelCard, SegmentSpec, VideoSpec, needs_negative
from serving.artifacts import ArtifactError, open_artifacts
from serving.jobs.errors import StoreError
from serving.jobs.job import EngineRow, Job, Stage, State
from serving.jobs.open import open_stores
from serving.router.board import Active, Board
from serving.router.work import ConditionsLost, JobFailed, LeaseLost, Ways, lease_prefix, make
from serving.settings import Settings
from serving.stages.rendered import Rendered

log = logging.getLogger("zoetrope.router")

POLL_SECONDS = 0.1  # how often new jobs and cancellations are looked for
LONG_POLL_SECONDS = 1.0  # how long an idle engine waits for work; also its heartbeat
ENGINE_TIMEOUT_SECONDS = 10.0
STORE_PAUSE_SECONDS = 0.5  # before a database that did not answer is asked again


class Router:
    """One replica. Everything it knows it can learn again: jobs from the store, segments from the engines.

    While the database is away it goes on with what it has; how jobs end is written once it is back.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, card: ModelCard, conditioner: Any, decoder: Any
    ) -> None:
        """``conditioner`` and ``decoder`` are handles of the deployments in `serving.stages`."""
        self._settings = settings
        self._card = card
        self._id = f"router-{uuid.uuid4().hex[:12]}"
        stores = open_stores(settings.database_url)
        self._store = stores.jobs
        self._artifacts = open_artifacts(settings.artifacts_url)
        self._snapshots = Shelf(str(settings.snapshots))
        self._board = Board(settings.step_tokens, ENGINE_TIMEOUT_SECONDS, settings.preview_steps)
        self._work = asyncio.Event()
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._outcomes: dict[str, asyncio.Future[Any]] = {}
        self._previews: set[asyncio.Task[None]] = set()
        self._decoder = decoder
        self._ways = Ways(conditioner, decoder, stores.media, self._denoise, self._at_stage, self._warn)
        self._loop = asyncio.create_task(self._supervise())

    def check_health(self) -> None:
        """Serve replaces the replica when its loop has ended."""
        if self._loop.done():
            raise RuntimeError("the router's loop has stopped")

    async def ready(self) -> bool:
        """An engine has asked for work."""
        return bool(self._board.engines)

    async def tell(self, report: Report) -> None:
        """An engine reports what came of its last plan."""
        now = time.monotonic()
        news = self._board.take(report, now)
        if report.broken is not None:
            log.warning("engine %s broke in epoch %d: %s", report.engine, report.gang_epoch, report.broken.reason)
        self._note_engine(report)
        for segment_id in news.progressed:
            self._write_progress(segment_id)
        for segment_id, latents in news.finished:
            self._settle(segment_id, latents)
        for segment_id, reason in news.failed:
            self._settle(segment_id, JobFailed(reason))
        for segment_id in news.lost:
            self._settle(segment_id, ConditionsLost())
        for preview in report.previews:
            self._show(preview)
        self._if_stored(self._renew_leases)

    async def next_plan(self, report: Report) -> Plan:
        """An engine reports and gets its next plan; an idle one waits a while for it."""
        await self.tell(report)
        plan = self._board.plan(report)
        if report.state == "ready" and report.running is None and not (plan.advance or plan.drop):
            self._work.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._work.wait(), LONG_POLL_SECONDS)
            plan = self._board.plan(report)
        return plan

    async def _supervise(self) -> None:
        """Claim jobs, renew leases, notice cancellations, deadlines and lost engines."""
        while True:
            self._if_stored(self._renew_leases)  # first: after a pause our own leases have run out
            self._if_stored(self._claim)
            for engine_id in self._board.lose_silent_engines(time.monotonic()):
                log.warning("engine %s is silent, its segments go on elsewhere", engine_id)
                self._if_stored(lambda engine_id=engine_id: self._store.remove_engine(engine_id))  # type: ignore[misc]
            await asyncio.sleep(POLL_SECONDS)

    def _claim(self) -> None:
        free = self._settings.max_running - len(self._running)
        if free > 0:
            lease, attempts = self._settings.lease_seconds, self._settings.max_attempts
            in_hand = tuple(self._running)
            for job in self._store.claim(self._id, free, lease, attempts, (self._card.name,), in_hand):
                self._running[job.id] = (job, asyncio.create_task(self._work_on(job)))

    def _renew_leases(self) -> None:
        """Prolong all leases in one write; jobs that were lost or are to end stop here."""
        if not self._running:
            return
        leases = [(job.id, job.lease_epoch) for job, _ in self._running.values()]
        for job_id, need in self._store.heartbeat(self._id, leases, self._settings.lease_seconds).items():
            job, task = self._running.pop(job_id)
            for segment_id in [i for i in self._board.active if i.startswith(lease_prefix(job))]:
                self._board.remove(segment_id)  # now, not when the task gets to it: a plan may be made in between
            task.cancel()
            if need == "cancel":
                self._store.finish(job_id, job.lease_epoch, State.CANCELLED)
            elif need == "deadline":
                message = "it was not done by its deadline"
                self._store.finish(
                    job_id, job.lease_epoch, State.FAILED, error_code="DEADLINE_EXCEEDED", error_message=message
                )
            if need != "lost":
                self._discard(job)

    async def _work_on(self, job: Job) -> None:
        """Take one job through the stages and write how it ended."""
        try:
            rendered = await make(job, self._ways)
            await self._end(job, State.SUCCEEDED, rendered)
        except LeaseLost:
            log.info("job %s: lease lost", job.id)
        except JobFailed as error:
            log.warning("job %s failed: %s", job.id, error)
            await self._end(job, State.FAILED, code=error.code, message=str(error))
        except StoreError:
            log.exception("job %s: the database does not answer; it is taken up again later", job.id)
        except Exception as error:
            log.exception("job %s failed", job.id)
            message = f"internal error: {type(error).__name__}"
            await self._end(job, State.FAILED, code="INTERNAL", message=message)
        finally:
            if self._running.get(job.id, (None,))[0] is job:
                del self._running[job.id]

    async def _end(
        self, job: Job, state: State, rendered: Rendered | None = None, code: str | None = None, message: str = ""
    ) -> None:
        """Write how a job ended, as soon as the database takes it. Files of a job that is somebody else's by now are
        deleted: nobody would ever ask for them."""
        result = None if rendered is None else rendered.result
        verdict = None if rendered is None else rendered.verdict
        while True:
            try:
                held = self._store.finish(
                    job.id,
                    job.lease_epoch,
                    state,
                    result=result,
                    error_code=code,
                    error_message=message or None,
                    verdict=verdict,
                )
                break
            except StoreError as error:
                log.warning("job %s: cannot be ended yet: %s", job.id, error)
                await asyncio.sleep(STORE_PAUSE_SECONDS)
        self._discard(job)
        if not held and result is not None:
            files = [file.key for file in (result.video, result.latents) if file is not None]
            with suppress(ArtifactError):
                await asyncio.to_thread(self._artifacts.delete, files)

    async def _denoise(self, job: Job, index: int, segment: SegmentSpec, conditions: Any) -> Any:
        """Have the engines make one segment; returns the reference to its latents."""
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._outcomes[segment.id] = outcome
        owner = Owner(job.id, index, job.lease_epoch)
        order = (-job.priority, job.created_at, job.id)
        self._board.add(Active(segment, order, self._tokens(segment), conditions, owner))
        self._work.set()
        try:
            return await outcome
        finally:
            self._board.remove(segment.id)
            self._outcomes.pop(segment.id, None)

    def _show(self, preview: Previewed) -> None:
        """Have a picture made of a segment, beside everything else."""
        job_id = preview.id.partition("/")[0]
        if job_id in self._running and preview.id in self._board.active:
            job, _ = self._running[job_id]
            step = self._board.active[preview.id].spec.steps * int(preview.id.rpartition("/")[2]) + preview.step
            task = asyncio.create_task(self._preview(job, step, preview.latents))
            self._previews.add(task)
            task.add_done_callback(self._previews.discard)

    async def _preview(self, job: Job, step: int, latents: Any) -> None:
        """A job goes on without one that fails."""
        try:
            spec = VideoSpec.from_dict(job.spec)
            picture = await self._decoder.preview.remote(spec, [latents], f"jobs/{job.id}/{job.lease_epoch}", step)
            held, old = await asyncio.to_thread(self._store.put_preview, job.id, job.lease_epoch, picture)
            useless = old if held else picture
            if useless is not None:
                await asyncio.to_thread(self._artifacts.delete, [useless.key])
        except (RayError, StoreError, ArtifactError) as error:
            log.warning("job %s: no preview after step %d: %s", job.id, step, type(error).__name__)

    def _settle(self, segment_id: str, outcome: Any) -> None:
        future = self._outcomes.get(segment_id)
        if future is None or future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _write_progress(self, segment_id: str) -> None:
        job_id = segment_id.partition("/")[0]
        if job_id in self._running:
            job, _ = self._running[job_id]
            active = self._board.active[segment_id]
            step = active.spec.steps * int(segment_id.rpartition("/")[2]) + active.furthest
            eta = self._board.eta_seconds(segment_id)
            with suppress(LeaseLost):  # the next heartbeat ends the job
                self._progress(job, Stage.DENOISING, step, eta)

    def _at_stage(self, job: Job, stage: Stage, step: int) -> None:
        self._progress(job, stage, step, None)

    def _progress(self, job: Job, stage: Stage, step: int, eta_seconds: float | None) -> None:
        try:
            held = self._store.progress(job.id, job.lease_epoch, stage=stage, step=step, eta_seconds=eta_seconds)
        except StoreError as error:
            log.warning("job %s: its progress cannot be written: %s", job.id, error)
            return
        if not held:
            raise LeaseLost

    def _warn(self, job: Job, warnings: tuple[str, ...]) -> None:
        self._if_stored(lambda: self._store.warn(job.id, job.lease_epoch, warnings))

    def _note_engine(self, report: Report) -> None:
        if report.state != "ready":
            log.warning("engine %s is %s", report.engine, report.state)
        if report.state == "draining":
            self._if_stored(lambda: self._store.remove_engine(report.engine))
            return
        row = EngineRow(
            id=report.engine,
            model=report.model,
            gang_epoch=report.gang_epoch,
            ranks=report.ranks,
            seen_at=time.time(),
            state=report.state,
            restarts=asdict(report.restarts),
        )
        self._if_stored(lambda: self._store.put_engine(row))

    def _if_stored(self, write: Callable[[], object]) -> None:
        """What can be written another time as well."""
        try:
            write()
        except StoreError as error:
            log.warning("%s", error)

    def _discard(self, job: Job) -> None:
        """Delete the snapshots of a job that is over, beside everything else; what stays is swept at the next start."""

        def discard() -> None:
            try:
                self._snapshots.discard(job.id)
            except SnapshotError as error:
                log.warning("job %s: %s", job.id, error)

        asyncio.get_running_loop().run_in_executor(None, discard)

    def _tokens(self, segment: SegmentSpec) -> int:
        """Tokens of a step, both guidance branches counted."""
        patch = self._card.size_multiple // self._card.spatial
        _, t, h, w = segment.latent_shape
        branches = 2 if needs_negative(segment.guidance) else 1
        return branches * t * math.ceil(h / patch) * math.ceil(w / patch)
