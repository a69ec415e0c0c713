"""Frames to a verified file: cut to length, scaled to the requested size, encoded, with what made them in its tags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save

from model.tasks import VideoSpec
from serving.media import (
    MediaError,
    MediaInfo,
    PictureContainer,
    VideoWriter,
    resize_cover,
    verify,
    write_picture,
)
from serving.media.contrast import Contrast
from serving.media.tags import tagged


def render_video(
    spec: VideoSpec,
    chunks: Iterable[npt.NDArray[np.uint8]],
    path: Path,
    audio: Path | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
) -> MediaInfo:
    """Write ``chunks`` of frames ``[n, H, W, 3]`` as the file that ``spec`` asks for, a video or a picture of one
    frame, and check it by decoding it.

    What counts as blank: frames that are all exactly one colour, every pixel of every frame. That is what a
    computation gone wrong leaves behind (NaN becomes 0), and no model paints it, not even when asked for black. Dark
    or plain clips with the least noise pass.

    Args:
        audio: a file whose sound track goes beside the frames.
        metadata: tags beside those that come from ``spec``, such as timings; lower-case names. See
            `serving.media.tags.read_metadata`.

    Returns:
        What the finished file holds.

    Raises:
        MediaError: the frames are blank, or the file does not hold what was asked for; there is no file then.
    """
    tags = _tags(spec, metadata or {})
    if spec.container != "mp4" and spec.container != "mkv":
        return _render_picture(spec, spec.container, chunks, path, tags)
    left = spec.frames
    contrast = Contrast()
    with VideoWriter(path, spec.width, spec.height, spec.fps, spec.container, tags, audio=audio) as writer:
        for chunk in chunks:
            frames = chunk[:left]
            left -= len(frames)
            if len(frames):
                contrast.add(frames)
                writer.write(resize_cover(frames, spec.width, spec.height))
        if left < spec.frames and not contrast.levels:
            raise MediaError(f"every pixel of all {spec.frames - left} frames is {contrast.colour}: the video is blank")
    try:
        return verify(
            path,
            container=spec.container,
            width=spec.width,
            height=spec.height,
            frames=spec.frames,
            fps=spec.fps,
            audio=audio is not None,
            contrast=contrast.levels,
        )
    except MediaError:
        path.unlink(missing_ok=True)
        raise


def _render_picture(
    spec: VideoSpec,
    container: PictureContainer,
    chunks: Iterable[npt.NDArray[np.uint8]],
    path: Path,
    tags: Mapping[str, str],
) -> MediaInfo:
    frame = next((chunk[:1] for chunk in chunks if len(chunk)), None)
    if frame is None:
        raise MediaError(f"no frames were written to {path}")
    contrast = Contrast()
    contrast.add(frame)
    if not contrast.levels:
        raise MediaError(f"every pixel is {contrast.colour}: the picture is blank")
    fitted = resize_cover(frame, spec.width, spec.height)[0]
    return write_picture(path, fitted, spec.width, spec.height, container, tags)


def _tags(spec: VideoSpec, metadata: Mapping[str, str]) -> dict[str, str]:
    """What the file tells of how it was made."""
    shift = {} if spec.flow_shift is None else {"flow_shift": f"{spec.flow_shift:g}"}
    return {
        "title": "Zoetrope",
        "comment": f"model={spec.model} seed={spec.seed} steps={spec.steps} guidance={spec.guidance:g} "
        f"denoised_at={spec.native_width}x{spec.native_height}",
        **tagged(
            {
                "version": zoetrope_version(),
                "task": spec.task.kind,
                "model": spec.model,
                "seed": str(spec.seed),
                "steps": str(spec.steps),
                "guidance": f"{spec.guidance:g}",
                **shift,
                "denoised_at": f"{spec.native_width}x{spec.native_height}",
                **metadata,
            }
        ),
    }


def check_finite(latents: Sequence[torch.Tensor]) -> None:
    """
    Raises:
        MediaError: a segment's latents hold infinities or NaN, which would come out as blank or broken frames.
    """
    for index, part in enumerate(latents):
        broken = part.numel() - int(torch.isfinite(part).sum())
        if broken:
            raise MediaError(f"{broken} of {part.numel()} values in the latents of segment {index} are not finite")


def save_latents(latents: Sequence[torch.Tensor], path: Path) -> None:
    """The latents ``[C, T, H, W]`` float32 of each segment as safetensors: ``latents``, ``latents.1``, ..."""
    names = ["latents", *(f"latents.{i}" for i in range(1, len(latents)))]
    # Written by ourselves: what safetensors raises for a full disk does not say so.
    path.write_bytes(save({name: part.contiguous() for name, part in zip(names, latents, strict=True)}))


@cache
def zoetrope_version() -> str:
    try:
        return version("zoetrope")
    except PackageNotFoundError:
        return "unknown"
