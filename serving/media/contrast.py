"""Whether there is anything to see in frames."""

from __future__ import annotations

import numpy as np

from model.fit import Frames

SPARSE = 8  # every so many rows and columns are looked at first
ENOUGH = 128  # levels; who has seen that many need not look on


class Contrast:
    """Collects how far apart the values of each colour are over all frames."""

    def __init__(self) -> None:
        self._low = np.full(3, 255, np.uint8)
        self._high = np.zeros(3, np.uint8)

    def add(self, frames: Frames) -> None:
        """``[n, H, W, 3]``. Cheap once there is enough to see."""
        if not frames.size or self.levels >= ENOUGH:
            return
        self._take(frames[:, ::SPARSE, ::SPARSE])
        if self.levels < ENOUGH:
            self._take(frames)

    @property
    def levels(self) -> int:
        """0 to 255, of the colour with most; 0: all pixels of all frames are the same colour. ENOUGH or more: at least
        that."""
        return int((self._high.astype(int) - self._low).max(initial=0).clip(0))

    @property
    def colour(self) -> tuple[int, int, int]:
        """Of a pixel; the only one where `levels` is 0."""
        red, green, blue = self._high.tolist()
        return red, green, blue

    def _take(self, frames: Frames) -> None:
        pixels = frames.reshape(-1, 3)
        self._low = np.minimum(self._low, pixels.min(axis=0))
        self._high = np.maximum(self._high, pixels.max(axis=0))
