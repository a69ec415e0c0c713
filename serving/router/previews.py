"""Previews of running jobs, made in the background: if one fails, its job continues without it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from zoetrope.model.request.specs import VideoSpec
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.job import Job
from zoetrope.serving.router.job_database import RouterDatabase
from zoetrope.serving.stages.isolation import IsolatedStage
from zoetrope.serving.storage.store import ArtifactError, ArtifactStore

DONE_SECONDS = 5.0  # that the end of a job waits for a preview in the making
log = logging.getLogger("zoetrope.router")


class Previews:
    """Has decoders make previews and records them."""

    def __init__(self, decoder: IsolatedStage, database: RouterDatabase, artifacts: ArtifactStore) -> None:
        self._decoder = decoder
        self._database = database
        self._artifacts = artifacts
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, job: Job, step: int, latents: Any) -> None:
        """Make a preview of a job after so many steps; ``latents`` as in `cluster.protocol.messages.Previewed`."""
        task = asyncio.create_task(self._make(job, step, latents), name=job.id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def done(self, job_id: str) -> None:
        """Wait for the previews of a job, but not long."""
        if mine := [task for task in self._tasks if task.get_name() == job_id]:
            await asyncio.wait(mine, timeout=DONE_SECONDS)

    def cancel(self) -> None:
        """Stop those in the making."""
        for task in self._tasks:
            task.cancel()

    async def _make(self, job: Job, step: int, latents: Any) -> None:
        try:
            spec = VideoSpec.from_dict(job.spec)
            async with self._decoder.shared() as decoder:
                picture = await decoder.preview.remote(spec, [latents], f"jobs/{job.id}/{job.lease_epoch}", step)
            held, old = await self._database.put_preview(job, picture)
            useless = old if held else picture
            if useless is not None:
                await asyncio.to_thread(self._artifacts.delete, [useless.key])
        except (RayError, RayServeException, StoreError, ArtifactError) as error:
            log.warning("job %s: no preview after step %d: %s", job.id, step, type(error).__name__)
