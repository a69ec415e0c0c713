"""Small moving pictures, for a look at a clip in the making."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

LONG_SIDE = 320  # pixels
QUALITY = 60


def animate(frames: npt.NDArray[np.uint8], seconds: float) -> tuple[bytes, int, int]:
    """An animated WebP of frames ``[T, h, w, 3]`` that shows each for so long.

    Returns:
        The file, and its width and height: a multiple of the frames', LONG_SIDE at most where they are smaller.
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
