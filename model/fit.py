"""Frames of one size or length to another."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.tasks import Fit

Frames: TypeAlias = NDArray[np.uint8]


def resize_to(frames: Frames, width: int, height: int, fit: Fit) -> Frames:
    """Scale ``[n, H, W, 3]`` to ``[n, height, width, 3]``, keeping shapes: covering the frame, or inside it."""
    return resize_cover(frames, width, height) if fit == "cover" else resize_contain(frames, width, height)


def resize_cover(frames: Frames, width: int, height: int) -> Frames:
    """Scale ``[n, H, W, 3]`` to ``[n, height, width, 3]``, keeping shapes: Lanczos, the middle kept and what is over on
    two sides cut. Frames of that size already are returned as they are."""
    count, high, wide = frames.shape[:3]
    if (wide, high) == (width, height):
        return frames
    # The part of the source that has the target's aspect ratio, in fractions of pixels.
    box_width, box_height = min(wide, high * width / height), min(high, wide * height / width)
    left, top = (wide - box_width) / 2, (high - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    result = np.empty((count, height, width, 3), np.uint8)
    for source, target in zip(frames, result, strict=True):
        target[:] = np.asarray(Image.fromarray(source).resize((width, height), Image.Resampling.LANCZOS, box=box))
    return result


def resize_contain(frames: Frames, width: int, height: int) -> Frames:
    """Scale ``[n, H, W, 3]`` to ``[n, height, width, 3]``, keeping shapes: Lanczos, all of it (but for less than a
    pixel) in the middle, black on two sides. Frames of that size already are returned as they are."""
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
    """Cut to ``count`` frames, or its last one repeated."""
    if len(frames) >= count:
        return frames[:count]
    return np.concatenate([frames, np.repeat(frames[-1:], count - len(frames), axis=0)])


def whole(count: int, temporal: int) -> int:
    """The most frames, of ``count`` at least 1, that fill whole latent frames: the first stands alone."""
    return (count - 1) // temporal * temporal + 1
