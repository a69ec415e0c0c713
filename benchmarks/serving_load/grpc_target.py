"""A Zoetrope service, by our own client."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.serving_load.inputs import InputFiles
from zoetrope.benchmarks.serving_load.target import (
    CHECK_SECONDS,
    PROMPT,
    FollowedJob,
    JobEnding,
    Served,
    Sight,
    TargetRefused,
    describe_job,
    key_of,
)
from zoetrope.benchmarks.simulate.trace import TraceJob
from zoetrope.serving.client import AsyncVideoClient, ClientError, MediaFile, OperationStatus, Tls

NO_GUIDANCE = 1.0  # one branch a step


class GrpcTarget:
    """A service at HOST:PORT.

    Every tenant has a client of its own. Calls outlive a restart that takes less than ``patience`` seconds.
    """

    def __init__(
        self,
        address: str,
        model: str,
        keys: Mapping[str, str],
        folder: Path,
        *,
        secure: bool = False,
        patience: float = 30.0,
        previews: bool = True,
    ) -> None:
        self._address, self._model, self._keys, self._folder = address, model, keys, folder
        self._tls = Tls() if secure else None
        self._patience, self._previews = patience, previews
        self._clients: dict[str, AsyncVideoClient] = {}
        self._media: dict[tuple[str, Path], MediaFile] = {}
        self._files: InputFiles | None = None

    async def open(self) -> Served:
        try:
            async with AsyncVideoClient(
                self._address, CHECK_SECONDS, api_key=key_of(self._keys, self._some_tenant()) or None, tls=self._tls
            ) as client:
                models = await asyncio.wait_for(client.models(), CHECK_SECONDS)
                overview = await client.engines()
        except TimeoutError:
            raise BenchmarkError(f"target: {self._address} does not answer within {CHECK_SECONDS:g} s") from None
        except ClientError as error:
            raise BenchmarkError(f"target: {error}") from None
        named = [m for m in models if self._model in (m.name, *m.aliases)] if self._model else models[:1]
        if not named:
            served = ", ".join(model.name for model in models) or "none"
            raise BenchmarkError(f"model: {self._model!r} is not served at {self._address}, which serves {served}")
        self._model = named[0].name
        self._files = InputFiles(self._folder, named[0].fps)
        gpus = sum(engine.ranks for engine in overview.engines if engine.model == self._model)
        return Served(self._model, named[0].fps, gpus or None)

    async def prepare(self, jobs: Collection[TraceJob]) -> None:
        assert self._files is not None, "open() comes first"
        for job in jobs:
            try:
                for path in _paths(self._files.of(job).values()):
                    if (job.tenant, path) not in self._media:
                        self._media[job.tenant, path] = await self._client(job.tenant).upload(path)
                await self._client(job.tenant).validate(**self._fields(job, 0))
            except ClientError as error:
                raise BenchmarkError(f"{describe_job(job)}: {error}") from None

    async def submit(self, job: TraceJob, seed: int, deadline: float | None) -> str:
        try:
            return await self._client(job.tenant).create(**self._fields(job, seed), deadline=deadline)
        except ClientError as error:
            raise TargetRefused(error.code, str(error)) from None

    async def follow(self, tenant: str, name: str, job: FollowedJob) -> JobEnding:
        try:
            async with aclosing(self._client(tenant).watch(name, previews=self._previews)) as states:
                async for status in states:
                    if status.state != "queued":
                        job.on_start()
                    if status.preview is not None:
                        job.on_preview()
                    if status.done:
                        return _ending(status)
        except ClientError as error:
            raise TargetRefused(error.code, str(error)) from None
        raise TargetRefused("UNKNOWN", f"{name}: the stream of its states ended before it did")

    async def cancel(self, tenant: str, name: str) -> None:
        try:
            await self._client(tenant).cancel(name)
        except ClientError as error:
            raise TargetRefused(error.code, str(error)) from None

    async def sights(self) -> list[Sight] | None:
        tenants = list(self._clients) or [self._some_tenant()]
        if len({key_of(self._keys, tenant) for tenant in tenants}) == 1:
            tenants = tenants[:1]  # who all see the same
        try:
            seen = await asyncio.gather(*(self._client(tenant).engines() for tenant in tenants))
        except ClientError:
            return []  # it is away for a moment
        return [
            Sight(engine.name, segment.operation, segment.advances)
            for overview in seen
            for engine in overview.engines
            for segment in engine.segments
        ]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()

    def _some_tenant(self) -> str:
        return next((tenant for tenant in self._keys if tenant != "*"), "")

    def _client(self, tenant: str) -> AsyncVideoClient:
        if tenant not in self._clients:
            key = key_of(self._keys, tenant) or None
            self._clients[tenant] = AsyncVideoClient(self._address, self._patience, api_key=key, tls=self._tls)
        return self._clients[tenant]

    def _fields(self, job: TraceJob, seed: int) -> Any:
        assert self._files is not None
        task: dict[str, Any] = {"kind": job.task, "prompt": PROMPT}
        for name, found in self._files.of(job).items():
            uploaded = [self._media[job.tenant, path] for path in _paths([found])]
            task[name] = uploaded if isinstance(found, list) else uploaded[0]
        fields: dict[str, Any] = {"task": task, "model": self._model, "steps": job.steps, "seed": seed}
        if job.task != "edit_video":  # whose clip says the rest
            fields |= {"size": f"{job.width}x{job.height}", "frames": job.frames}
        if job.branches == 1:
            fields["guidance"] = NO_GUIDANCE
        if job.priority:
            fields["priority"] = job.priority
        return {**fields, "quality": job.quality, "loras": job.adapters or None}


def _paths(found: Iterable[Path | list[Path]]) -> list[Path]:
    return [path for item in found for path in (item if isinstance(item, list) else [item])]


def _ending(status: OperationStatus) -> JobEnding:
    began = status.start_time
    return JobEnding(
        state="succeeded" if status.state == "succeeded" else "cancelled" if status.state == "cancelled" else "failed",
        error="" if status.error is None else status.error.code,
        queued=None if began is None else max(0.0, began - status.create_time),
        video_seconds=0.0 if status.video is None else status.video.frames / max(1, status.video.fps),
        gpu_seconds=status.used_gpu_seconds,
        attempts=status.attempt,
    )
