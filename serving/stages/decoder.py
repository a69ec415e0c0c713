"""The decoder: turns latents into a stored file."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import ray

from zoetrope.cluster.telemetry.metrics import STAGE_SECONDS
from zoetrope.cluster.telemetry.process import begin
from zoetrope.cluster.telemetry.traces import flush_traces
from zoetrope.model.media.inputs import Clip
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import InvalidRequest, ModelCard, Violation
from zoetrope.serving.api.formats import MIME_TYPES, file_name
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.job import Preview, Result
from zoetrope.serving.media import MediaError
from zoetrope.serving.media.preview import animate
from zoetrope.serving.media.sandbox.sandbox import Sandbox
from zoetrope.serving.media.task_inputs import SOUND
from zoetrope.serving.outbound.hooks import Moderation
from zoetrope.serving.stages.failures import OutputRefused, in_thread, stage_errors, staged
from zoetrope.serving.stages.latents import Latents, gather
from zoetrope.serving.stages.media_files import StoredMedia, files
from zoetrope.serving.stages.model_parts import ModelParts
from zoetrope.serving.stages.rendered import Rendered
from zoetrope.serving.storage.store import ArtifactError, open_artifacts

if TYPE_CHECKING:
    import torch

    from zoetrope.model.codecs.autoencoder import Autoencoder
    from zoetrope.model.codecs.preview import LatentView


@dataclass(frozen=True)
class _Parts:
    """What videos of one model are made with. ``view``: None if there are no previews."""

    autoencoder: Autoencoder
    view: LatentView | None


class DecoderReplica:
    """Serve deployment of autoencoders and the artifact store. Loads the models in its own process, so that the
    process that deploys it needs no torch."""

    def __init__(self, models: ServedModels, settings: Settings) -> None:
        begin("decoder")
        self._settings = settings
        self._alone = len(models) == 1
        self._parts = ModelParts(models, self._load, settings.resident_models)
        self._artifacts = open_artifacts(settings.artifacts_url)
        self._moderation = Moderation(settings)
        self._scratch = settings.scratch
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._sandbox = Sandbox(scratch=self._scratch, unsafe=settings.unsafe_media)

    def __del__(self) -> None:
        """Serve calls this before it stops the replica."""
        flush_traces()

    async def render(
        self,
        spec: VideoSpec,
        latents: list[Latents],
        prefix: str,
        media: dict[str, StoredMedia],
        timings: dict[str, float],
        earlier: tuple[str, ...] = (),
        trace: str = "",
    ) -> Rendered:
        """Decode, encode, verify, check and store a video. One that the output check refuses is not stored.

        Args:
            prefix: key prefix of the results; names the job and its lease epoch.
            timings: seconds by stage so far.
            earlier: prefixes of earlier calls for the same job, whose files are deleted.
            trace: the traceparent of the job's work.

        Raises:
            StageError: as `serving.stages.failures.classify` makes of any failure.
        """
        with staged("decoding", spec, trace):
            rendered = await self._rendered(spec, latents, prefix, media, timings)
        for stage in ("decoding", "encoding"):
            STAGE_SECONDS.labels(spec.model, stage).observe(rendered.result.timings[stage])
        await asyncio.to_thread(self._forget, [f"{old}/{name}" for old in earlier for name in _files(spec)])
        return rendered

    async def _rendered(
        self,
        spec: VideoSpec,
        latents: list[Latents],
        prefix: str,
        media: dict[str, StoredMedia],
        timings: dict[str, float],
    ) -> Rendered:
        await in_thread(spec, self._artifacts.healthy)  # before spending time on decoding
        with stage_errors(spec), tempfile.TemporaryDirectory(dir=self._scratch) as directory:
            folder = Path(directory)
            spent = await in_thread(spec, self._render, spec, latents, folder, media, timings)
            name = file_name(spec.container)
            job_id = prefix.split("/")[1]
            verdict = await self._moderation.check_output(job_id, folder / name, MIME_TYPES[spec.container])
            if verdict is not None and verdict["outcome"] == "refused":
                raise OutputRefused(verdict["note"])
            result = await in_thread(spec, self._store, spec, folder, prefix, spent)
        return Rendered(result, verdict)

    async def preview(
        self,
        spec: VideoSpec,
        latents: list[Latents],
        prefix: str,
        step: int,
    ) -> Preview:
        """Store a small animation of a running segment. Raises StageError."""
        return await in_thread(spec, self._preview, spec, latents[0], prefix, step)

    async def alive(self) -> None:
        """Answer, to show that the process runs."""

    def _load(self, card: ModelCard) -> _Parts:
        from zoetrope.model.checkpoints.load import configure_torch, load_autoencoder
        from zoetrope.model.codecs.preview import LatentView
        from zoetrope.serving.stages.device import encoders_stay

        device = configure_torch(card)
        stays = self._alone and encoders_stay(card, self._settings, device)
        autoencoder = load_autoencoder(card, device, stays=stays)
        return _Parts(autoencoder, LatentView.fit(autoencoder) if self._settings.preview_steps else None)

    def _preview(self, spec: VideoSpec, latents: Latents, prefix: str, step: int) -> Preview:
        with self._parts.of(spec.model) as parts:
            assert parts.view is not None, "previews are off"
            frames = parts.view.frames(self._gather([latents])[0])
        data, width, height = animate(frames, spec.temporal / spec.fps)
        file = self._artifacts.put_bytes(f"{prefix}/preview-{step}.webp", data, "image/webp")
        return Preview(file.key, file.mime_type, width, height, file.size_bytes, step)

    async def tail(self, spec: VideoSpec, latents: list[Latents], frames: int) -> list[ray.ObjectRef]:  # type: ignore[type-arg]
        """Decode the last frames of a segment, which the next one continues.

        Returns:
            One reference to a `model.media.inputs.Clip`.

        Raises:
            StageError: as for `render`.
        """
        return [ray.put(await in_thread(spec, self._tail, spec, latents[0], frames))]

    def _tail(self, spec: VideoSpec, latents: Latents, frames: int) -> Clip:
        from zoetrope.model.pipeline import tail

        with self._parts.of(spec.model) as parts:
            return tail(parts.autoencoder, spec, self._gather([latents])[0], frames)

    def _render(
        self,
        spec: VideoSpec,
        found: list[Latents],
        folder: Path,
        media: Mapping[str, StoredMedia],
        timings: Mapping[str, float],
    ) -> dict[str, float]:
        """Write the files to ``folder``; returns the seconds by stage."""
        from zoetrope.model.pipeline import decode_spans
        from zoetrope.serving.stages.render import check_finite, render_video, save_latents

        latents = self._gather(found)
        check_finite(latents)
        started = time.monotonic()
        with ExitStack() as stack:
            parts = stack.enter_context(self._parts.of(spec.model))
            decoding = Stopwatch(decode_spans(parts.autoencoder, spec, latents))
            audio = None
            if spec.audio is not None:
                sound = {spec.audio: media[spec.audio]}
                paths = stack.enter_context(files(sound, self._artifacts, self._scratch))
                audio = folder / "sound.wav"
                try:
                    self._sandbox.write_sound(paths[spec.audio], audio, spec.frames / spec.fps)
                except MediaError as error:
                    raise InvalidRequest(Violation(SOUND, str(error))) from error
            tags = {f"{stage}_seconds": f"{seconds:.3f}" for stage, seconds in timings.items()}
            render_video(spec, decoding, folder / file_name(spec.container), audio, metadata=tags)
        if spec.keep_latents:
            save_latents(latents, folder / "latents.safetensors")
        encoding = time.monotonic() - started - decoding.seconds
        return {**timings, "decoding": decoding.seconds, "encoding": encoding}

    def _gather(self, latents: list[Latents]) -> list[torch.Tensor]:
        import torch

        return [torch.from_numpy(array) for array in gather(latents, self._artifacts)]

    def _store(self, spec: VideoSpec, folder: Path, prefix: str, timings: dict[str, float]) -> Result:
        video, *more = [
            self._artifacts.put_file(f"{prefix}/{name}", folder / name, mime_type)
            for name, mime_type in _files(spec).items()
        ]
        return Result(video, more[0] if more else None, spec.frames, spec.width, spec.height, spec.fps, timings)

    def _forget(self, keys: list[str]) -> None:
        """Delete keys that may exist. Failures do not matter: leftovers are deleted with the job."""
        with suppress(ArtifactError):
            self._artifacts.delete(keys)


def _files(spec: VideoSpec) -> dict[str, str]:
    """Return names and media types of the files stored for a job, the video first."""
    video = {file_name(spec.container): MIME_TYPES[spec.container]}
    return {**video, "latents.safetensors": "application/octet-stream"} if spec.keep_latents else video


class Stopwatch:
    """An iterator over frames that measures the seconds spent producing them."""

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
