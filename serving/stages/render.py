"""Frames to a verified file: cut to length, scaled to the requested size, encoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

from model.tasks import VideoSpec
from serving.media import VideoWriter, resize_cover, verify


def render_video(
    spec: VideoSpec, chunks: Iterable[npt.NDArray[np.uint8]], path: Path, audio: Path | None = None
) -> None:
    """Write ``chunks`` of frames ``[n, H, W, 3]`` as the file that ``spec`` asks for and check it by decoding it.

    Args:
        audio: a file whose sound track goes beside the frames.

    Raises:
        MediaError: the file does not hold what was asked for.
    """
    metadata = {
        "title": "Zoetrope",
        "comment": f"model={spec.model} seed={spec.seed} steps={spec.steps} guidance={spec.guidance:g} "
        f"denoised_at={spec.native_width}x{spec.native_height}",
    }
    left = spec.frames
    with VideoWriter(path, spec.width, spec.height, spec.fps, spec.container, metadata, audio=audio) as writer:
        for chunk in chunks:
            frames = chunk[:left]
            left -= len(frames)
            if len(frames):
                writer.write(resize_cover(frames, spec.width, spec.height))
    verify(
        path,
        container=spec.container,
        width=spec.width,
        height=spec.height,
        frames=spec.frames,
        fps=spec.fps,
        audio=audio is not None,
    )


def save_latents(latents: Sequence[torch.Tensor], path: Path) -> None:
    """The latents ``[C, T, H, W]`` float32 of each segment as safetensors: ``latents``, ``latents.1``, ..."""
    names = ["latents", *(f"latents.{i}" for i in range(1, len(latents)))]
    save_file({name: part.contiguous() for name, part in zip(names, latents, strict=True)}, path)
