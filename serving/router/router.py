"""The router: a Serve deployment that leases jobs, sends them through the stages and drives the engines."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from contextlib import suppress
from typing import Any

from ray.exceptions import RayError

from cluster.messages import Owner, Plan, Report
from cluster.shelf import Shelf, SnapshotError
from model.chain import overlap_of
from model.tasks import ModelCard, SegmentSpec, VideoSpec, needs_negative, segment_of
from serving.jobs.job import EngineRow, Job, Result, Stage, State
from serving.jobs.store import JobStore
from serving.router.board import Active, Board
from serving.settings import Settings

log = logging.getLogger("zoetrope.router")

POLL_SECONDS = 0.1  # how often new jobs and cancellations are looked for
LONG_POLL_SECONDS = 1.0  # how long an idle engine waits for work; also its heartbeat
ENGINE_TIMEOUT_SECONDS = 10.0
TRIES = 3  # of a job within one lease, when a process that worked on it died


class JobFailed(Exception):
    """The job itself is at fault; it ends with this message."""


class LeaseLost(Exception):
    """The job ended or belongs to somebody else now; nothing more may be written about it."""


class Router:
    """One replica. Everything it knows it can learn again: jobs from the store, segments from the engines."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, card: ModelCard, conditioner: Any, decoder: Any
    ) -> None:
        """``conditioner`` and ``decoder`` are handles of the deployments in `serving.stages`."""
        self._settings = settings
        self._card = card
        self._conditioner = conditioner
        self._decoder = decoder
        self._id = f"router-{uuid.uuid4().hex[:12]}"
        self._store = JobStore(settings.database)
        self._snapshots = Shelf(str(settings.snapshots))
        self._board = Board(settings.step_tokens, ENGINE_TIMEOUT_SECONDS)
        self._work = asyncio.Event()
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._outcomes: dict[str, asyncio.Future[Any]] = {}
        self._loop = asyncio.create_task(self._supervise())

    def check_health(self) -> None:
        """Serve replaces the replica when its loop has ended."""
        if self._loop.done():
            raise RuntimeError("the router's loop has stopped")

    async def ready(self) -> bool:
        """An engine has asked for work."""
        return bool(self._board.engines)

    async def next_plan(self, report: Report) -> Plan:
        """An engine reports what came of its last plan and gets the next one; an idle engine waits a while for it."""
        now = time.monotonic()
        news = self._board.take(report, now)
        if report.broken is not None:
            log.warning("engine %s broke in epoch %d: %s", report.engine, report.gang_epoch, report.broken.reason)
        if report.state == "ready":
            row = EngineRow(report.engine, report.model, report.gang_epoch, report.ranks, time.time())
            self._store.put_engine(row)
        else:
            log.warning("engine %s is %s", report.engine, report.state)
            self._store.remove_engine(report.engine)
        for segment_id in news.progressed:
            self._write_progress(segment_id)
        for segment_id, latents in news.finished:
            self._settle(segment_id, latents)
        for segment_id, reason in news.failed:
            self._settle(segment_id, JobFailed(reason))
        self._renew_leases()
        plan = self._board.plan(report)
        if report.state == "ready" and not (plan.advance or plan.drop):
            self._work.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._work.wait(), LONG_POLL_SECONDS)
            plan = self._board.plan(report)
        return plan

    async def _supervise(self) -> None:
        """Claim jobs, renew leases, notice cancellations and lost engines."""
        while True:
            free = self._settings.max_running - len(self._running)
            if free > 0:
                claimed = self._store.claim(self._id, free, self._settings.lease_seconds, self._settings.max_attempts)
                for job in claimed:
                    self._running[job.id] = (job, asyncio.create_task(self._work_on(job)))
            self._renew_leases()
            for engine_id in self._board.lose_silent_engines(time.monotonic()):
                log.warning("engine %s is silent, its segments go on elsewhere", engine_id)
                self._store.remove_engine(engine_id)
            await asyncio.sleep(POLL_SECONDS)

    def _renew_leases(self) -> None:
        """Prolong all leases in one write; jobs that were lost or are to be cancelled stop here."""
        if not self._running:
            return
        leases = [(job.id, job.lease_epoch) for job, _ in self._running.values()]
        lost, cancelled = self._store.heartbeat(self._id, leases, self._settings.lease_seconds)
        for job_id in cancelled - lost:
            self._store.finish(job_id, self._running[job_id][0].lease_epoch, State.CANCELLED)
            self._discard(job_id)
        for job_id in lost | cancelled:
            job, task = self._running.pop(job_id)
            for segment_id in [i for i in self._board.active if i.startswith(lease_prefix(job))]:
                self._board.remove(segment_id)  # now, not when the task gets to it: a plan may be made in between
            task.cancel()

    async def _work_on(self, job: Job) -> None:
        """Take one job through the stages and write how it ended."""
        try:
            result = await self._try_job(job)
            self._store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=result)
            self._discard(job.id)
        except LeaseLost:
            log.info("job %s: lease lost", job.id)
        except JobFailed as error:
            log.warning("job %s failed: %s", job.id, error)
            self._fail(job, str(error))
        except Exception as error:
            log.exception("job %s failed", job.id)
            self._fail(job, f"internal error: {type(error).__name__}")
        finally:
            if self._running.get(job.id, (None,))[0] is job:
                del self._running[job.id]

    async def _try_job(self, job: Job) -> Result:
        """All stages; from the start again when a process died on the way."""
        spec = VideoSpec.from_dict(job.spec)
        for left in reversed(range(TRIES)):
            try:
                return await self._stages(job, spec)
            except RayError as error:
                log.warning("job %s: %s, %d tries left", job.id, type(error).__name__, left)
        raise JobFailed(f"the processes that worked on it died {TRIES} times")

    async def _stages(self, job: Job, spec: VideoSpec) -> Result:
        """Each segment goes on from the last frames of the one before it; the file is made of all of them."""
        if warnings := await self._conditioner.warnings.remote(spec):
            self._store.warn(job.id, job.lease_epoch, warnings)
        latents: list[Any] = []
        before: Any = None
        for index in range(len(spec.spans)):
            conditions = (await self._conditioner.encode.remote(spec, index, [before]))[0]
            self._progress(job, Stage.DENOISING, index * spec.steps, None)
            segment = segment_of(spec, segment_id_of(job, index), index)
            latents.append(await self._denoise(job, index, segment, conditions))
            overlap = overlap_of(spec, index)
            before = (await self._decoder.tail.remote(spec, latents[-1:], overlap))[0] if overlap else None
        self._progress(job, Stage.DECODING, spec.steps * len(spec.spans), None)
        result: Result = await self._decoder.render.remote(spec, latents, f"jobs/{job.id}/{job.lease_epoch}")
        return result

    async def _denoise(self, job: Job, index: int, segment: SegmentSpec, conditions: Any) -> Any:
        """Have the engines make one segment; returns the reference to its latents."""
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._outcomes[segment.id] = outcome
        owner = Owner(job.id, index, job.lease_epoch)
        self._board.add(Active(segment, (job.created_at, job.id), self._tokens(segment), conditions, owner))
        self._work.set()
        try:
            return await outcome
        finally:
            self._board.remove(segment.id)
            self._outcomes.pop(segment.id, None)

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
            with suppress(LeaseLost):  # the next heartbeat ends the job
                self._progress(job, Stage.DENOISING, step, self._board.eta_seconds(segment_id))

    def _progress(self, job: Job, stage: Stage, step: int, eta_seconds: float | None) -> None:
        if not self._store.progress(job.id, job.lease_epoch, stage=stage, step=step, eta_seconds=eta_seconds):
            raise LeaseLost

    def _fail(self, job: Job, message: str) -> None:
        self._store.finish(job.id, job.lease_epoch, State.FAILED, error_code="INTERNAL", error_message=message)
        self._discard(job.id)

    def _discard(self, job_id: str) -> None:
        """Delete the snapshots of a job that is over, beside everything else; what stays is swept at the next start."""

        def discard() -> None:
            try:
                self._snapshots.discard(job_id)
            except SnapshotError as error:
                log.warning("job %s: %s", job_id, error)

        asyncio.get_running_loop().run_in_executor(None, discard)

    def _tokens(self, segment: SegmentSpec) -> int:
        """Tokens of a step, both guidance branches counted."""
        patch = self._card.size_multiple // self._card.spatial
        _, t, h, w = segment.latent_shape
        branches = 2 if needs_negative(segment.guidance) else 1
        return branches * t * math.ceil(h / patch) * math.ceil(w / patch)


def segment_id_of(job: Job, index: int) -> str:
    """Unique for each claim, so that an engine's stale segment is never taken for the new one."""
    return f"{lease_prefix(job)}{index}"


def lease_prefix(job: Job) -> str:
    """What the ids of all its segments under this claim begin with."""
    return f"{job.id}/{job.lease_epoch}/"
