"""Small animations that preview a clip while it is being generated."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

LONG_SIDE = 320  # pixels
QUALITY = 60


def animate(frames: npt.NDArray[np.uint8], seconds: float) -> tuple[bytes, int, int]:
    """Encode frames as an animated WebP.

    Args:
        frames: uint8 ``[T, h, w, 3]``.
        seconds: how long each frame is shown.

    Returns:
        The file, its width and its height: the frames' size times an integer, up to LONG_SIDE for smaller frames.
    """
    _, height, width, _ = frames.shape
    scale = max(1, LONG_SIDE // max(height, width))
    size = (width * scale, height * scale)
    first, *others = [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in frames]
    file = io.BytesIO()
    first.save(
        file,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=max(20, round(seconds * 1_000)),
        loop=0,
        quality=QUALITY,
    )
    return file.getvalue(), *size
