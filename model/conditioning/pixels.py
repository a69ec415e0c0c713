"""Pictures and clips to the pixels that autoencoders take."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from model.fit import Frames, resize_to, whole
from model.inputs import Inputs
from model.tasks import Fit, InvalidRequest, VideoSpec, Violation

GRID_SCALE = 2  # a sheet of nine panels is seen at twice the size of the clip


def fitted(frames: Frames, width: int, height: int, fit: Fit) -> torch.Tensor:
    """``[n, H, W, 3]`` uint8 to a size with shapes kept (`model.fit.resize_to`) -> ``[3, n, height, width]`` in -1..1.

    Frames whose ratio is that of the size come out as diffusers' pipelines resize them, which stretch all others.
    """
    return from_bytes(resize_to(frames, width, height, fit))


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
