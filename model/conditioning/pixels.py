"""Convert pictures and clips to the pixels that autoencoders take."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from zoetrope.model.media.inputs import Inputs
from zoetrope.model.media.resize import Frames, resize_to, whole
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import Fit, InvalidRequest, Violation

GRID_SCALE = 2  # the model sees a sheet of nine panels at twice the clip's size


def fitted(frames: Frames, width: int, height: int, fit: Fit) -> torch.Tensor:
    """Resize ``[n, H, W, 3]`` uint8 without distortion (`model.media.resize.resize_to`) to ``[3, n, height, width]``
    in -1..1.

    Frames of the target's aspect ratio equal those of diffusers' pipelines, which stretch all others.
    """
    return from_bytes(resize_to(frames, width, height, fit))


def from_bytes(frames: Frames) -> torch.Tensor:
    """Convert ``[n, H, W, 3]`` uint8 to ``[3, n, H, W]`` float32 in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1


def first_frames(inputs: Inputs, spec: VideoSpec, temporal: int) -> Frames | None:
    """Return the frames that a clip starts with: a picture, or the end of the clip that it continues.

    Of the latter, as many as fill whole latent frames and leave at least one latent frame to generate.
    """
    if inputs.before is not None:
        longest = max(1, spec.model_frames - temporal)
        count = min(len(inputs.before.frames), longest)
        return inputs.before.frames[-whole(count, temporal) :]
    return None if inputs.first is None else inputs.first.pixels[None]


def refuse(spec: VideoSpec, kinds: tuple[str, ...]) -> None:
    """Raise InvalidRequest if the task's kind is not in ``kinds``."""
    if spec.task.kind not in kinds:
        raise InvalidRequest(
            Violation("task", f"{spec.task.kind} is not served by {spec.model}, which serves {', '.join(kinds)}")
        )


def unwanted(field: str, spec: VideoSpec) -> InvalidRequest:
    return InvalidRequest(Violation(f"task.{field}", f"is given, but {spec.model} takes none"))


def missing(field: str, spec: VideoSpec) -> InvalidRequest:
    return InvalidRequest(Violation(f"task.{field}", f"is missing: {spec.model} needs it for {spec.task.kind}"))


def shrink_sheet(sheets: torch.Tensor) -> torch.Tensor:
    """Shrink ``[B, 3, 3H, 3W]`` to ``[B, 3, GRID_SCALE * H, GRID_SCALE * W]``."""
    size = [side // 3 * GRID_SCALE for side in sheets.shape[2:]]
    return F.interpolate(sheets, size, mode="bilinear", antialias=True)
