"""Pictures and clips to the pixels that autoencoders take, in the very way of diffusers' pipelines where they do it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.video_processor import VideoProcessor
from PIL import Image

from model.fit import Frames, resize_cover, whole
from model.inputs import Inputs
from model.tasks import InvalidRequest, VideoSpec, Violation

GRID_SCALE = 2  # a sheet of nine panels is seen at twice the size of the clip


def stretched(frames: Frames, spec: VideoSpec, spatial: int) -> torch.Tensor:
    """``[n, H, W, 3]`` to the size of the clip, as diffusers' pipelines resize (Lanczos, both sides for themselves).

    Returns:
        ``[3, n, native_height, native_width]`` float32 in -1..1.
    """
    processor = VideoProcessor(vae_scale_factor=spatial)
    images = [Image.fromarray(frame) for frame in frames]
    pixels: torch.Tensor = processor.preprocess(images, height=spec.native_height, width=spec.native_width)
    return pixels.transpose(0, 1)


def covered(frames: Frames, width: int, height: int) -> torch.Tensor:
    """``[n, H, W, 3]`` to a size with shapes kept and the edges cut -> ``[3, n, height, width]`` in -1..1."""
    return from_bytes(resize_cover(frames, width, height))


def from_bytes(frames: Frames) -> torch.Tensor:
    """``[n, H, W, 3]`` uint8 -> ``[3, n, H, W]`` float32 in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1


def first_frames(inputs: Inputs, spec: VideoSpec, temporal: int) -> Frames | None:
    """The frames that a clip starts with: a picture, or the end of the clip that it goes on from.

    Of the latter as many as fill whole latent frames, and at least one latent frame of the new clip is left to make.
    """
    if inputs.before is not None:
        longest = max(1, spec.model_frames - temporal)
        count = min(len(inputs.before.frames), longest)
        return inputs.before.frames[-whole(count, temporal) :]
    return None if inputs.first is None else inputs.first.pixels[None]


def refuse(spec: VideoSpec, kinds: tuple[str, ...]) -> None:
    """Raises InvalidRequest where the kind of the task is none of ``kinds``."""
    if spec.task.kind not in kinds:
        raise InvalidRequest(
            Violation("task", f"{spec.task.kind} is not served by {spec.model}, which serves {', '.join(kinds)}")
        )


def unwanted(field: str, spec: VideoSpec) -> InvalidRequest:
    return InvalidRequest(Violation(f"task.{field}", f"is given, {spec.model} takes none"))


def missing(field: str, spec: VideoSpec) -> InvalidRequest:
    return InvalidRequest(Violation(f"task.{field}", f"is missing, {spec.model} needs it for {spec.task.kind}"))


def shrink_sheet(sheets: torch.Tensor) -> torch.Tensor:
    """``[B, 3, 3H, 3W]`` -> ``[B, 3, GRID_SCALE * H, GRID_SCALE * W]``."""
    size = [side // 3 * GRID_SCALE for side in sheets.shape[2:]]
    return F.interpolate(sheets, size, mode="bilinear", antialias=True)
