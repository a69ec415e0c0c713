"""Resize frames, and cut or extend clips."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoetrope.model.request.tasks import Fit

Frames: TypeAlias = NDArray[np.uint8]


def resize_to(frames: Frames, width: int, height: int, fit: Fit) -> Frames:
    """Scale ``[n, H, W, 3]`` to ``[n, height, width, 3]`` without distortion: covering the frame, or inside it."""
    return resize_cover(frames, width, height) if fit == "cover" else resize_contain(frames, width, height)


def resize_cover(frames: Frames, width: int, height: int) -> Frames:
    """Scale ``[n, H, W, 3]`` to ``[n, height, width, 3]`` without distortion (Lanczos), cropping two sides equally.
    Frames of that size are returned unchanged."""
    count, high, wide = frames.shape[:3]
    if (wide, high) == (width, height):
        return frames
    # The part of the source with the target's aspect ratio, in fractional pixels.
    box_width, box_height = min(wide, high * width / height), min(high, wide * height / width)
    left, top = (wide - box_width) / 2, (high - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    result = np.empty((count, height, width, 3), np.uint8)
    for source, target in zip(frames, result, strict=True):
        target[:] = np.asarray(Image.fromarray(source).resize((width, height), Image.Resampling.LANCZOS, box=box))
    return result


def resize_contain(frames: Frames, width: int, height: int) -> Frames:
    """Scale ``[n, H, W, 3]`` to ``[n, height, width, 3]`` without distortion (Lanczos), all of it (except less than a
    pixel) in the middle, with black on two sides. Frames of that size are returned unchanged."""
    count, high, wide = frames.shape[:3]
    if (wide, high) == (width, height):
        return frames
    scale = min(width / wide, height / high)
    inner_width = max(1, min(width, round(wide * scale)))
    inner_height = max(1, min(height, round(high * scale)))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    result = np.zeros((count, height, width, 3), np.uint8)
    inner = resize_cover(frames, inner_width, inner_height)
    result[:, top : top + inner_height, left : left + inner_width] = inner
    return result


def as_long_as(frames: Frames, count: int) -> Frames:
    """Cut frames to ``count``, or repeat the last one."""
    if len(frames) >= count:
        return frames[:count]
    return np.concatenate([frames, np.repeat(frames[-1:], count - len(frames), axis=0)])


def whole(count: int, temporal: int) -> int:
    """Return the largest number of frames, up to ``count`` >= 1, that fills whole latent frames; the first is
    separate."""
    return (count - 1) // temporal * temporal + 1
