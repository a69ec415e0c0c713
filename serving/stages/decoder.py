"""Latents to a stored file."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import ray
import torch

from model.checkpoints import configure_torch, load_autoencoder
from model.inputs import Clip
from model.pipeline import decode_spans, tail
from model.tasks import ModelCard, VideoSpec
from serving.artifacts import ArtifactStore
from serving.jobs.job import Result
from serving.settings import Settings
from serving.stages.render import render_video, save_latents

MIME_TYPES = {"mp4": "video/mp4", "mkv": "video/x-matroska"}


class Decoder:
    """A Serve deployment around the autoencoder and the artifact store."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        self._autoencoder = load_autoencoder(card, configure_torch())
        self._artifacts = ArtifactStore(settings.artifacts)
        self._scratch = settings.scratch
        self._scratch.mkdir(exist_ok=True)

    async def render(self, spec: VideoSpec, latents: list[ray.ObjectRef], prefix: str) -> Result:  # type: ignore[type-arg]
        """Decode, encode, verify and store under ``prefix``, which names the job and its lease epoch."""
        return await asyncio.to_thread(self._render, spec, latents, prefix)

    async def tail(self, spec: VideoSpec, latents: list[ray.ObjectRef], frames: int) -> list[ray.ObjectRef]:  # type: ignore[type-arg]
        """A reference to the last frames of a segment (`model.inputs.Clip`), for the next one to go on from."""
        return [ray.put(await asyncio.to_thread(self._tail, spec, latents[0], frames))]

    def _tail(self, spec: VideoSpec, reference: ray.ObjectRef, frames: int) -> Clip:  # type: ignore[type-arg]
        return tail(self._autoencoder, spec, ray.get(reference), frames)

    def _render(self, spec: VideoSpec, references: list[ray.ObjectRef], prefix: str) -> Result:  # type: ignore[type-arg]
        latents: list[torch.Tensor] = ray.get(references)
        with tempfile.TemporaryDirectory(dir=self._scratch) as directory:
            name = f"video.{spec.container}"
            path = Path(directory) / name
            render_video(spec, decode_spans(self._autoencoder, spec, latents), path)
            video = self._artifacts.put_file(f"{prefix}/{name}", path, MIME_TYPES[spec.container])
            kept = None
            if spec.keep_latents:
                file = Path(directory) / "latents.safetensors"
                save_latents(latents, file)
                kept = self._artifacts.put_file(f"{prefix}/{file.name}", file, "application/octet-stream")
        return Result(video, kept, spec.frames, spec.width, spec.height, spec.fps)
