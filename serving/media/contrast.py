"""Measure whether frames show anything at all."""

from __future__ import annotations

import numpy as np

from zoetrope.model.media.resize import Frames

STRIDE = 8  # rows and columns sampled first
ENOUGH = 128  # levels; once reached, further frames are skipped


class Contrast:
    """Tracks the range of each colour channel over all frames."""

    def __init__(self) -> None:
        self._low = np.full(3, 255, np.uint8)
        self._high = np.zeros(3, np.uint8)

    def add(self, frames: Frames) -> None:
        """Add frames ``[n, H, W, 3]``. Cheap once `levels` is at least ENOUGH."""
        if not frames.size or self.levels >= ENOUGH:
            return
        self._update(frames[:, ::STRIDE, ::STRIDE])
        if self.levels < ENOUGH:
            self._update(frames)

    @property
    def levels(self) -> int:
        """Return the largest range of any channel, 0 to 255; 0 if all pixels have the same colour. Values from ENOUGH
        on are lower bounds."""
        return int((self._high.astype(int) - self._low).max(initial=0).clip(0))

    @property
    def colour(self) -> tuple[int, int, int]:
        """Return the maximum of each channel: the colour of all pixels if `levels` is 0."""
        red, green, blue = self._high.tolist()
        return red, green, blue

    def _update(self, frames: Frames) -> None:
        pixels = frames.reshape(-1, 3)
        self._low = np.minimum(self._low, pixels.min(axis=0))
        self._high = np.maximum(self._high, pixels.max(axis=0))
