"""A real router and a real job store in one process, with doubles of the stages and of an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tests.serving.jobs.harness import LIMITS, new_job
from zoetrope.cluster.protocol.messages import Finished, HeldSegment, Report
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import TextToVideo, VideoRequest
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.job import Job, Preview, Result
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.router.router import Router
from zoetrope.serving.stages.encoded import Encoded
from zoetrope.serving.stages.rendered import Rendered
from zoetrope.serving.storage.store import open_artifacts

T = TypeVar("T")
CARD = find_model("nano")
LATENTS = np.zeros((16, 1, 4, 6), np.float32)


class Method:
    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    async def remote(self, *arguments: Any) -> Any:
        return await self._call(*arguments)


class Stages:
    """A conditioner and a decoder. ``encoding`` is called for each segment, and may wait or raise; ``rendering``
    and ``showing`` are waited for."""

    def __init__(self, artifacts: str) -> None:
        self._artifacts = open_artifacts(artifacts)
        self.encoding: Callable[[], Any] = _nothing
        self.rendering: asyncio.Event | None = None
        self.showing: asyncio.Event | None = None
        self.encode, self.render, self.tail, self.preview, self.warnings = (
            Method(call) for call in (self._encode, self._render, _nothing, self._preview, self._warnings)
        )

    async def _encode(self, *_: Any) -> Encoded:
        await self.encoding()
        return Encoded(["conditions"])

    async def _render(self, spec: Any, latents: Any, prefix: str, *_: Any) -> Rendered:
        if self.rendering is not None:
            await self.rendering.wait()
        video = self._artifacts.put_bytes(f"{prefix}/video.mp4", b"a video", "video/mp4")
        return Rendered(Result(video, None, frames=9, width=96, height=64, fps=12), None)

    async def _preview(self, spec: Any, latents: Any, prefix: str, step: int) -> Preview:
        if self.showing is not None:
            await self.showing.wait()
        file = self._artifacts.put_bytes(f"{prefix}/preview-{step}.webp", b"a picture", "image/webp")
        return Preview(file.key, file.mime_type, 12, 8, file.size_bytes, step)

    async def _warnings(self, *_: Any) -> tuple[str, ...]:
        return ()


async def _nothing(*_: Any) -> None:
    pass


class EngineDouble:
    """Takes the steps that it is told to take, and keeps a snapshot of each as the shelf would."""

    def __init__(self, router: Router, snapshots: dict[tuple[str, int], int], name: str = "e1") -> None:
        self.steps = 0  # left to take; it waits before the next
        self.taken: list[int] = []
        self._router, self._snapshots, self._name = router, snapshots, name
        self._held: dict[str, tuple[tuple[str, int], int, int]] = {}  # id -> (owner, steps, step)

    async def ask(self, report: Report | None = None) -> Any:
        return await self._router.next_plan(report or Report(self._name, 1, "nano"))

    async def run(self) -> None:
        finished: tuple[Finished, ...] = ()
        while True:
            held = tuple(HeldSegment(i, step) for i, (_, _, step) in self._held.items())
            plan = await self.ask(Report(self._name, 1, "nano", held=held, finished=finished))
            finished = ()
            for segment_id in (*plan.drop, *plan.release):  # of which a snapshot is kept in any case
                self._held.pop(segment_id, None)
            for admit in plan.admit:
                assert admit.owner is not None
                owner = (admit.owner.job, admit.owner.index)
                self._held[admit.spec.id] = (owner, admit.spec.steps, self._snapshots.get(owner, 0))
            if not plan.advance:
                continue
            while not self.steps:
                await asyncio.sleep(0.01)
            self.steps -= 1
            for segment_id in plan.advance:
                owner, steps, step = self._held[segment_id]
                self._held[segment_id] = (owner, steps, step + 1)
                self._snapshots[owner] = step + 1
                self.taken.append(step + 1)
                if step + 1 >= steps:  # a job whose last router died has a snapshot of its end
                    finished += (Finished(segment_id, LATENTS),)
                    del self._held[segment_id]


class House:
    """What several routers, one after the other, work in."""

    def __init__(self, directory: Path, database: str, **settings: Any) -> None:
        """``database``: the URL of one in PostgreSQL; empty: a SQLite file."""
        self.settings = Settings(model=("nano",), data_dir=directory / "data", database=database, **settings)
        self.stores = open_stores(self.settings.database_url)
        self.store = self.stores.jobs
        self.stages = Stages(self.settings.artifacts_url)
        self.artifacts = open_artifacts(self.settings.artifacts_url)
        self.snapshots: dict[tuple[str, int], int] = {}

    def create(self, job_id: str, steps: int = 4, **changes: Any) -> Job:
        request = VideoRequest(task=TextToVideo(prompt="a red circle"), steps=steps)
        spec = resolve(request, CARD, 0).to_dict()
        return self.store.create(new_job(job_id, spec=spec, steps=steps, **changes), LIMITS)

    def job(self, job_id: str) -> Job:
        job = self.store.get(job_id, "")
        assert job is not None
        return job

    def files(self) -> list[str]:
        """Of all jobs."""
        root = Path(self.settings.artifacts_url)
        return sorted(str(path.relative_to(root)) for path in root.rglob("*.mp4"))

    async def open_router(self) -> Router:
        router = Router.__new__(Router)
        models, stage = ServedModels([CARD]), [self.stages]
        await router.__init__(self.settings, models, stage, stage)  # type: ignore[misc]  # as Serve does
        return router

    @asynccontextmanager
    async def router(self) -> AsyncIterator[tuple[Router, EngineDouble]]:
        """One with an engine, stopped in good order."""
        router = await self.open_router()
        engine = EngineDouble(router, self.snapshots)
        running = asyncio.create_task(engine.run())
        try:
            yield router, engine
        finally:
            await router.stop()
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


async def until(condition: Callable[[], T], seconds: float = 30.0) -> T:
    """What the condition gives once it is true; asked in a thread, for it may wait for the database."""
    async with asyncio.timeout(seconds):
        while not (value := await asyncio.to_thread(condition)):
            await asyncio.sleep(0.02)
    return value
