"""The router: a Serve deployment that leases jobs, sends them through the stages and drives the engines."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from cluster.messages import Owner, Plan, Previewed, Report
from cluster.shelf import Shelf, SnapshotError
from model.tasks import ModelCard, SegmentSpec, VideoSpec, needs_negative
from serving.artifacts import ArtifactError, open_artifacts
from serving.jobs.errors import StoreError
from serving.jobs.job import EngineRow, Job, Stage, State
from serving.router.board import Active, Board
from serving.router.books import Books, Ending
from serving.router.hands import Hands
from serving.router.notes import Notes
from serving.router.pauses import pauses
from serving.router.scheduler import order_of
from serving.router.work import ConditionsLost, JobFailed, Ways, lease_prefix, make
from serving.settings import Settings
from serving.stages.ward import Ward

log = logging.getLogger("zoetrope.router")

POLL_SECONDS = 0.1  # how often new jobs and cancellations are looked for
LONG_POLL_SECONDS = 1.0  # how long an idle engine waits for work; also its heartbeat
ENGINE_TIMEOUT_SECONDS = 10.0
SIGHT_SECONDS = 1.0  # between two notes that an engine in a long step is alive
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0  # before a database that did not answer is asked again
STOP_SECONDS = 5.0  # for a database to take leases back


class Router:
    """One replica. Everything it knows it can learn again: jobs from the store, segments from the engines.

    It never waits for the database where an engine waits for it. While the database is away it goes on with what it
    has; how jobs end is written once it is back. A lease that runs out meanwhile is renewed then, unless somebody else
    took the job, which the renewal tells.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, card: ModelCard, conditioner: Any, decoder: Any
    ) -> None:
        """``conditioner`` and ``decoder`` are handles of the deployments in `serving.stages`."""
        self._settings = settings
        self._card = card
        self._books = await _open(settings, card.name)
        self._notes = Notes(self._books)
        self._artifacts = open_artifacts(settings.artifacts_url)
        self._snapshots = Shelf(str(settings.snapshots))
        self._board = Board(settings.step_tokens, ENGINE_TIMEOUT_SECONDS, settings.preview_steps)
        self._work = asyncio.Event()
        self._outcomes: dict[str, asyncio.Future[Any]] = {}
        self._previews: set[asyncio.Task[None]] = set()
        self._rows: dict[str, EngineRow] = {}
        self._decoder = Ward("decoder", decoder)
        self._ways = Ways(
            Ward("conditioner", conditioner),
            self._decoder,
            self._books.media,
            self._denoise,
            self._at_stage,
            self._warn,
            self._waiting,
        )
        self._hands = Hands(self._books, settings.max_running, self._outcome, self._drop, self._clear)
        self._stopping = False
        self._loops = [
            asyncio.create_task(self._hands.claim()),
            asyncio.create_task(self._hands.renew()),
            asyncio.create_task(self._watch_engines()),
            asyncio.create_task(self._notes.run()),
        ]

    def check_health(self) -> None:
        """Serve replaces the replica when one of its loops has ended."""
        if not self._stopping and any(loop.done() for loop in self._loops):
            raise RuntimeError("a loop of the router has stopped")

    async def ready(self) -> bool:
        """An engine has asked for work."""
        return bool(self._board.engines)

    async def stop(self) -> None:
        """Give all leases back: whoever goes on with the jobs does so at once, and it counts as no attempt of theirs.
        Jobs that have ended are written first."""
        self._stopping = True
        await self._hands.put_down(STOP_SECONDS)
        for task in (*self._loops, *self._previews):
            task.cancel()
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._notes.flush()
                await self._books.close()

    async def tell(self, report: Report) -> None:
        """An engine reports what came of its last plan."""
        now = time.monotonic()
        news = self._board.take(report, now)
        if report.broken is not None:
            log.warning("engine %s broke in epoch %d: %s", report.engine, report.gang_epoch, report.broken.reason)
        self._note_engine(report)
        for segment_id in news.progressed:
            self._note_progress(segment_id)
        for segment_id, latents in news.finished:
            self._settle(segment_id, latents)
        for segment_id, reason in news.failed:
            self._settle(segment_id, JobFailed(reason))
        for segment_id in news.lost:
            self._settle(segment_id, ConditionsLost())
        for preview in report.previews:
            self._show(preview)
        self._hands.look()

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

    async def _watch_engines(self) -> None:
        """Give up those that are silent. Of those in a step that takes longer than an engine is otherwise silent, note
        that they are alive."""
        while True:
            now = time.monotonic()
            for engine_id in self._board.lose_silent_engines(now):
                log.warning("engine %s is silent, its segments go on elsewhere", engine_id)
                self._forget_engine(engine_id)
            for engine_id, view in self._board.engines.items():
                row = self._rows.get(engine_id)
                long = view.due > view.seen_at + ENGINE_TIMEOUT_SECONDS
                if row is not None and long and time.time() > row.seen_at + SIGHT_SECONDS:
                    self._put_engine(replace(row, seen_at=time.time()))
            await asyncio.sleep(POLL_SECONDS)

    async def _outcome(self, job: Job) -> Ending:
        """Take one job through the stages; what came of it."""
        waits = pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            try:
                rendered = await make(job, self._ways)
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
                return Ending(State.SUCCEEDED, rendered.result, verdict=rendered.verdict)

    def _drop(self, job: Job) -> None:
        """Have no plan made with a job's segments any more."""
        for segment_id in [i for i in self._board.active if i.startswith(lease_prefix(job))]:
            self._board.remove(segment_id)

    async def _clear(self, job: Job, over: bool, files: list[str]) -> None:
        """Delete files that a job left, and its snapshots where it is over; what stays is swept."""
        try:
            if over:
                await asyncio.to_thread(self._snapshots.discard, job.id)
            if files:
                await asyncio.to_thread(self._artifacts.delete, files)
        except (SnapshotError, ArtifactError) as error:
            log.warning("job %s: %s", job.id, error)

    async def _denoise(self, job: Job, index: int, segment: SegmentSpec, conditions: Any) -> Any:
        """Have the engines make one segment; returns the reference to its latents."""
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._outcomes[segment.id] = outcome
        owner = Owner(job.id, index, job.lease_epoch)
        self._board.add(Active(segment, order_of(job), self._tokens(segment), conditions, owner))
        self._work.set()
        try:
            return await outcome
        finally:
            self._board.remove(segment.id)
            self._outcomes.pop(segment.id, None)

    def _show(self, preview: Previewed) -> None:
        """Have a picture made of a segment, beside everything else."""
        job_id = preview.id.partition("/")[0]
        job = self._hands.job(job_id)
        if job is not None and preview.id in self._board.active:
            step = self._board.active[preview.id].spec.steps * int(preview.id.rpartition("/")[2]) + preview.step
            task = asyncio.create_task(self._preview(job, step, preview.latents))
            self._previews.add(task)
            task.add_done_callback(self._previews.discard)

    async def _preview(self, job: Job, step: int, latents: Any) -> None:
        """A job goes on without one that fails."""
        try:
            spec = VideoSpec.from_dict(job.spec)
            async with self._decoder.beside() as decoder:
                picture = await decoder.preview.remote(spec, [latents], f"jobs/{job.id}/{job.lease_epoch}", step)
            held, old = await self._books.put_preview(job, picture)
            useless = old if held else picture
            if useless is not None:
                await asyncio.to_thread(self._artifacts.delete, [useless.key])
        except (RayError, RayServeException, StoreError, ArtifactError) as error:
            log.warning("job %s: no preview after step %d: %s", job.id, step, type(error).__name__)

    def _settle(self, segment_id: str, outcome: Any) -> None:
        future = self._outcomes.get(segment_id)
        if future is None or future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _note_progress(self, segment_id: str) -> None:
        job = self._hands.job(segment_id.partition("/")[0])
        if job is not None:
            active = self._board.active[segment_id]
            step = active.spec.steps * int(segment_id.rpartition("/")[2]) + active.furthest
            self._progress(job, Stage.DENOISING, step, self._board.eta_seconds(segment_id))

    def _at_stage(self, job: Job, stage: Stage, step: int) -> None:
        self._progress(job, stage, step, None)

    def _progress(self, job: Job, stage: Stage, step: int, eta_seconds: float | None) -> None:
        write, epoch = self._books.jobs.progress, job.lease_epoch
        self._notes.put(
            "progress", job.id, lambda: write(job.id, epoch, stage=stage, step=step, eta_seconds=eta_seconds)
        )

    def _warn(self, job: Job, warnings: tuple[str, ...]) -> None:
        self._notes.put("warnings", job.id, lambda: self._books.jobs.warn(job.id, job.lease_epoch, warnings))

    def _waiting(self, job: Job, notice: str) -> None:
        self._notes.put("notice", job.id, lambda: self._books.jobs.put_notice(job.id, job.lease_epoch, notice))

    def _note_engine(self, report: Report) -> None:
        if report.state != "ready":
            log.warning("engine %s is %s", report.engine, report.state)
        if report.state == "draining":
            self._forget_engine(report.engine)
            return
        self._put_engine(
            EngineRow(
                id=report.engine,
                model=report.model,
                gang_epoch=report.gang_epoch,
                ranks=report.ranks,
                seen_at=time.time(),
                state=report.state,
                restarts=asdict(report.restarts),
            )
        )

    def _put_engine(self, row: EngineRow) -> None:
        self._rows[row.id] = row
        self._notes.put("engine", row.id, lambda: self._books.jobs.put_engine(row))

    def _forget_engine(self, engine_id: str) -> None:
        self._rows.pop(engine_id, None)
        self._notes.put("engine", engine_id, lambda: self._books.jobs.remove_engine(engine_id))

    def _tokens(self, segment: SegmentSpec) -> int:
        """Tokens of a step, both guidance branches counted."""
        patch = self._card.size_multiple // self._card.spatial
        _, t, h, w = segment.latent_shape
        branches = 2 if needs_negative(segment.guidance) else 1
        return branches * t * math.ceil(h / patch) * math.ceil(w / patch)


async def _open(settings: Settings, model: str) -> Books:
    """The database, as soon as it answers."""
    waits = pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
    while True:
        try:
            return await asyncio.to_thread(Books, settings, f"router-{uuid.uuid4().hex[:12]}", model)
        except StoreError as error:
            log.warning("%s", error)
            await asyncio.sleep(next(waits))


class RouterReplica(Router):
    """A router as a Serve replica."""

    async def __del__(self) -> None:
        """Serve awaits this before it stops the replica."""
        await self.stop()
