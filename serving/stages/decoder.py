"""Latents to a stored file."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import ray
import torch
from safetensors.torch import save_file

from model.checkpoints import configure_torch, load_autoencoder
from model.pipeline import decode_frames
from model.tasks import ModelCard, VideoSpec
from serving.artifacts import ArtifactStore
from serving.jobs.job import Result
from serving.stages.render import render_video

MIME_TYPES = {"mp4": "video/mp4", "mkv": "video/x-matroska"}


class Decoder:
    """A Serve deployment around the autoencoder and the artifact store."""

    def __init__(self, card: ModelCard, artifacts: Path) -> None:
        self._autoencoder = load_autoencoder(card, configure_torch())
        self._artifacts = ArtifactStore(artifacts)

    async def render(self, spec: VideoSpec, latents: list[ray.ObjectRef], prefix: str) -> Result:  # type: ignore[type-arg]
        """Decode, encode, verify and store under ``prefix``, which names the job and its lease epoch."""
        return await asyncio.to_thread(self._render, spec, ray.get(latents[0]), prefix)

    def _render(self, spec: VideoSpec, latents: torch.Tensor, prefix: str) -> Result:
        with tempfile.TemporaryDirectory(prefix="zoetrope-render-") as directory:
            name = f"video.{spec.container}"
            path = Path(directory) / name
            render_video(spec, decode_frames(self._autoencoder, latents), path)
            video = self._artifacts.put_file(f"{prefix}/{name}", path, MIME_TYPES[spec.container])
            kept = None
            if spec.keep_latents:
                file = Path(directory) / "latents.safetensors"
                save_latents(latents, file)
                kept = self._artifacts.put_file(f"{prefix}/{file.name}", file, "application/octet-stream")
        return Result(video, kept, spec.frames, spec.width, spec.height, spec.fps)


def save_latents(latents: torch.Tensor, path: Path) -> None:
    """``latents`` [C, T, H, W] float32 as the one tensor of a safetensors file."""
    save_file({"latents": latents.contiguous()}, path)
