"""Render frames to a verified file: cut to length, scaled to the requested size, encoded and tagged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save

from zoetrope import __version__
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.steps import computed_steps
from zoetrope.serving.media import (
    MediaError,
    PictureContainer,
    ProbedMedia,
    VideoWriter,
    resize_cover,
    verify,
    write_picture,
)
from zoetrope.serving.media.contrast import Contrast
from zoetrope.serving.media.tags import tagged


def render_video(
    spec: VideoSpec,
    chunks: Iterable[npt.NDArray[np.uint8]],
    path: Path,
    audio: Path | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
) -> ProbedMedia:
    """Write frames as the file that ``spec`` asks for, a video or a picture, and verify it by decoding it.

    Frames are blank if every pixel of every frame has exactly the same colour. A failed computation leaves that behind
    (NaN becomes 0); no model paints it, not even when asked for black. Dark or plain clips pass with the least noise.

    Args:
        chunks: uint8 frames ``[n, H, W, 3]``.
        audio: a file whose sound track is added.
        metadata: additional tags, such as timings, with lower-case names. See `serving.media.tags.read_metadata`.

    Returns:
        What the finished file contains.

    Raises:
        MediaError: the frames are blank, or the file is not what was asked for; no file is left.
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
) -> ProbedMedia:
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
    """Return the tags that record how the file was made."""
    shift = {} if spec.flow_shift is None else {"flow_shift": f"{spec.flow_shift:g}"}
    return {
        "title": "Zoetrope",
        "comment": f"model={spec.model} seed={spec.seed} steps={spec.steps} guidance={spec.guidance:g} "
        f"denoised_at={spec.native_width}x{spec.native_height}",
        **tagged(
            {
                "version": __version__,
                "task": spec.task.kind,
                "model": spec.model,
                "seed": str(spec.seed),
                "steps": str(spec.steps),
                "guidance": f"{spec.guidance:g}",
                **shift,
                **_saved(spec),
                "denoised_at": f"{spec.native_width}x{spec.native_height}",
                **metadata,
            }
        ),
    }


def _saved(spec: VideoSpec) -> dict[str, str]:
    """Return the tags of a clip of which not all was computed."""
    found = {}
    if spec.quality != "exact":
        found["quality"] = f"{spec.quality}, {computed_steps(spec)} of {spec.steps} steps computed"
    if (spec.guidance_start, spec.guidance_end) != (0.0, 1.0):
        found["guidance_interval"] = f"{spec.guidance_start:g} to {spec.guidance_end:g} of the steps"
    return found


def check_finite(latents: Sequence[torch.Tensor]) -> None:
    """Check that latents have no infinities or NaN, which would become blank or broken frames.

    Raises:
        MediaError: they have; the message names the segment and the count.
    """
    for index, part in enumerate(latents):
        broken = part.numel() - int(torch.isfinite(part).sum())
        if broken:
            raise MediaError(f"{broken} of {part.numel()} values in the latents of segment {index} are not finite")


def save_latents(latents: Sequence[torch.Tensor], path: Path) -> None:
    """Write the float32 latents ``[C, T, H, W]`` of each segment as safetensors: ``latents``, ``latents.1``, ..."""
    names = ["latents", *(f"latents.{i}" for i in range(1, len(latents)))]
    # Not by save_file, whose error for a full disk does not say so.
    path.write_bytes(save({name: part.contiguous() for name, part in zip(names, latents, strict=True)}))
