"""Latents to a stored file."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import ray

from model.inputs import Clip
from model.tasks import InvalidRequest, ModelCard, VideoSpec, Violation
from serving.api.formats import MIME_TYPES, file_name
from serving.artifacts import ArtifactError, open_artifacts
from serving.jobs.job import Preview, Result
from serving.media import MediaError
from serving.media.preview import animate
from serving.media.sandbox import Sandbox
from serving.moderation import Moderation
from serving.settings import Settings
from serving.stages.failures import OutputRefused, Told, apart
from serving.stages.rendered import Rendered
from serving.stages.stored import Stored, files
from serving.task_media import SOUND

if TYPE_CHECKING:
    import torch


class Decoder:
    """A Serve deployment around the autoencoder and the artifact store. Imports what it computes with in its own
    process: who deploys it does without torch."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        from model.checkpoints import configure_torch, load_autoencoder
        from model.preview import LatentView

        self._autoencoder = load_autoencoder(card, configure_torch(card))
        self._view = LatentView.fit(self._autoencoder) if settings.preview_steps else None
        self._artifacts = open_artifacts(settings.artifacts_url)
        self._moderation = Moderation(settings)
        self._scratch = settings.scratch
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._sandbox = Sandbox(scratch=self._scratch, unsafe=settings.unsafe_media)

    async def render(
        self,
        spec: VideoSpec,
        latents: list[ray.ObjectRef],  # type: ignore[type-arg]
        prefix: str,
        media: dict[str, Stored],
        timings: dict[str, float],
        earlier: tuple[str, ...] = (),
    ) -> Rendered:
        """Decode, encode, verify, have checked and store under ``prefix``, which names the job and its lease epoch. A
        video that the check refuses is not stored.

        Args:
            timings: seconds by stage so far.
            earlier: prefixes under which calls for the same job may have stored something.

        Raises:
            StageError.
        """
        await apart(spec, self._artifacts.healthy)  # before all the work
        with Told(spec), tempfile.TemporaryDirectory(dir=self._scratch) as directory:
            folder = Path(directory)
            spent = await apart(spec, self._render, spec, latents, folder, media, timings)
            name = file_name(spec.container)
            job_id = prefix.split("/")[1]
            verdict = await self._moderation.check_output(job_id, folder / name, MIME_TYPES[spec.container])
            if verdict is not None and verdict["outcome"] == "refused":
                raise OutputRefused(verdict["note"])
            result = await apart(spec, self._store, spec, folder, prefix, spent)
        await asyncio.to_thread(self._forget, [f"{old}/{name}" for old in earlier for name in _files(spec)])
        return Rendered(result, verdict)

    async def preview(
        self,
        spec: VideoSpec,
        latents: list[ray.ObjectRef],  # type: ignore[type-arg]
        prefix: str,
        step: int,
    ) -> Preview:
        """Store a small moving picture of a segment in the making. Raises StageError."""
        return await apart(spec, self._preview, spec, latents[0], prefix, step)

    async def alive(self) -> None:
        """Answer, as a process that is there does."""

    def _preview(self, spec: VideoSpec, reference: ray.ObjectRef, prefix: str, step: int) -> Preview:  # type: ignore[type-arg]
        assert self._view is not None, "nobody asks for previews of this service"
        frames = self._view.frames(ray.get(reference))
        data, width, height = animate(frames, spec.temporal / spec.fps)
        file = self._artifacts.put_bytes(f"{prefix}/preview-{step}.webp", data, "image/webp")
        return Preview(file.key, file.mime_type, width, height, file.size_bytes, step)

    async def tail(self, spec: VideoSpec, latents: list[ray.ObjectRef], frames: int) -> list[ray.ObjectRef]:  # type: ignore[type-arg]
        """A reference to the last frames of a segment (`model.inputs.Clip`), for the next one to go on from.

        Raises:
            StageError.
        """
        return [ray.put(await apart(spec, self._tail, spec, latents[0], frames))]

    def _tail(self, spec: VideoSpec, reference: ray.ObjectRef, frames: int) -> Clip:  # type: ignore[type-arg]
        from model.pipeline import tail

        return tail(self._autoencoder, spec, ray.get(reference), frames)

    def _render(
        self,
        spec: VideoSpec,
        references: list[ray.ObjectRef],  # type: ignore[type-arg]
        folder: Path,
        media: Mapping[str, Stored],
        timings: Mapping[str, float],
    ) -> dict[str, float]:
        """Write the files; returns the seconds by stage."""
        from model.pipeline import decode_spans
        from serving.stages.render import check_finite, render_video, save_latents

        latents: list[torch.Tensor] = ray.get(references)
        check_finite(latents)
        started = time.monotonic()
        decoding = Stopwatch(decode_spans(self._autoencoder, spec, latents))
        with ExitStack() as stack:
            audio = None
            if spec.audio is not None:
                sound = {spec.audio: media[spec.audio]}
                paths = stack.enter_context(files(sound, self._artifacts, self._scratch))
                audio = folder / "sound.wav"
                try:
                    self._sandbox.blocking.write_sound(paths[spec.audio], audio, spec.frames / spec.fps)
                except MediaError as error:
                    raise InvalidRequest(Violation(SOUND, str(error))) from error
            tags = {f"{stage}_seconds": f"{seconds:.3f}" for stage, seconds in timings.items()}
            render_video(spec, decoding, folder / file_name(spec.container), audio, metadata=tags)
        if spec.keep_latents:
            save_latents(latents, folder / "latents.safetensors")
        encoding = time.monotonic() - started - decoding.seconds
        return {**timings, "decoding": decoding.seconds, "encoding": encoding}

    def _store(self, spec: VideoSpec, folder: Path, prefix: str, timings: dict[str, float]) -> Result:
        video, *more = [
            self._artifacts.put_file(f"{prefix}/{name}", folder / name, mime_type)
            for name, mime_type in _files(spec).items()
        ]
        return Result(video, more[0] if more else None, spec.frames, spec.width, spec.height, spec.fps, timings)

    def _forget(self, keys: list[str]) -> None:
        """Delete what may be there, or not: all strays go with the job at the latest."""
        with suppress(ArtifactError):
            self._artifacts.delete(keys)


def _files(spec: VideoSpec) -> dict[str, str]:
    """Names and types of what is stored of a job, the video first."""
    video = {file_name(spec.container): MIME_TYPES[spec.container]}
    return {**video, "latents.safetensors": "application/octet-stream"} if spec.keep_latents else video


class Stopwatch:
    """An iterator of frames that counts the seconds spent in it."""

    def __init__(self, frames: Iterator[npt.NDArray[np.uint8]]) -> None:
        self._frames = frames
        self.seconds = 0.0

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        while True:
            started = time.monotonic()
            chunk = next(self._frames, None)
            self.seconds += time.monotonic() - started
            if chunk is None:
                return
            yield chunk
