"""The finished latents that wait for a decoder: so many bytes in memory, the rest in the artifact store."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray

from zoetrope.serving.jobs.job import Job
from zoetrope.serving.router.active import job_of
from zoetrope.serving.stages.latents import Array, spill
from zoetrope.serving.storage.store import ArtifactError, ArtifactStore

log = logging.getLogger("zoetrope.router")


@dataclass
class _Kept:
    """What is kept of a job, in bytes."""

    held: int = 0
    spilled: int = 0
    keys: list[str] = field(default_factory=list)


class LatentShelf:
    """Takes the latents of segments over from the engines, so that an engine may stop while they wait for a decoder or
    for the job's other segments.

    Up to ``held_bytes`` stay in Ray's object store, owned by this process; others are spilled to the artifact store.
    Once more than ``spilled_bytes`` are spilled it is `full`: then no engine should start another job. Later segments
    of a job must go on, for its latents leave only when it is whole.
    """

    def __init__(self, artifacts: ArtifactStore, held_bytes: int, spilled_bytes: int) -> None:
        self._artifacts = artifacts
        self._held_bytes, self._spilled_bytes = held_bytes, spilled_bytes
        self._released = asyncio.Event()
        self._kept: dict[str, _Kept] = {}
        self._taking: dict[str, asyncio.Event] = {}  # by segment

    def taken(self, segment_id: str) -> asyncio.Event:
        """Return what is set once the latents of a segment have been taken over."""
        return self._taking.setdefault(segment_id, asyncio.Event())

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return sum(kept.held for kept in self._kept.values())

    @property
    def spilled(self) -> int:
        """Bytes in the artifact store."""
        return sum(kept.spilled for kept in self._kept.values())

    @property
    def full(self) -> bool:
        return self.spilled > self._spilled_bytes

    async def room(self) -> None:
        """Wait while it is full."""
        while self.full:
            await self._released.wait()

    async def keep(self, job: Job, index: int, segment_id: str, latents: Any) -> Any:
        """Take over the latents of a segment, the job's number ``index``.

        Args:
            latents: a reference to an array that an engine owns, or an array.

        Returns:
            What a decoder takes: a `serving.stages.latents.Latents`.

        Raises:
            ArtifactError: there is no room in memory, and the store does not take them.
            RayError: the engine died before.
        """
        kept = await self._keep(job, index, latents)
        if (taken := self._taking.pop(segment_id, None)) is not None:
            taken.set()
        return kept

    async def _keep(self, job: Job, index: int, latents: Any) -> Any:
        array: Array = await asyncio.to_thread(ray.get, latents) if isinstance(latents, ray.ObjectRef) else latents
        kept, size = self._kept.setdefault(job.id, _Kept()), int(np.asarray(array).nbytes)
        if self.held + size <= self._held_bytes:
            kept.held += size
            return await asyncio.to_thread(ray.put, array) if isinstance(latents, ray.ObjectRef) else array
        kept.spilled += size  # before it is written, so that others see it
        key = f"jobs/{job.id}/{job.lease_epoch}/latents-{index}.{len(kept.keys)}.npy"  # made anew, they may differ
        kept.keys.append(key)
        try:
            return await asyncio.to_thread(spill, array, key, self._artifacts)
        except BaseException:
            kept.spilled -= size
            raise

    async def release(self, job_id: str) -> None:
        """Forget a job's latents, which its caller has dropped: nobody waits any more until they are taken over. What
        cannot be deleted is left to the sweeper."""
        for segment_id in [i for i in self._taking if job_of(i) == job_id]:
            self._taking.pop(segment_id).set()
        kept = self._kept.pop(job_id, None)
        if kept is None:
            return
        released, self._released = self._released, asyncio.Event()
        released.set()
        if kept.keys:
            try:
                await asyncio.to_thread(self._artifacts.delete, kept.keys)
            except ArtifactError as error:
                log.warning("job %s: spilled latents are left: %s", job_id, error)
