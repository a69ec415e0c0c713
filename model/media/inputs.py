"""The decoded pictures and clips of a task. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoetrope.model.media.resize import Frames, resize_to
from zoetrope.model.request.tasks import Fit

GRID = 3  # panels per row of the grid, and rows


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture: ``pixels`` uint8 RGB ``[H, W, 3]``, as displayed."""

    pixels: Frames

    def __post_init__(self) -> None:
        _check("a picture", self.pixels, 3)


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip: ``frames`` uint8 RGB ``[F, H, W, 3]``, as displayed; ``fps`` constant frames per second."""

    frames: Frames
    fps: float

    def __post_init__(self) -> None:
        _check("a clip", self.frames, 4)
        if not self.fps > 0:
            raise ValueError(f"fps is {self.fps}, must be above 0")


@dataclass(frozen=True, eq=False)
class Inputs:
    """All media of a task; absent ones are None or empty.

    Attributes:
        before: frames that the clip continues; its first frames are the last of these.
        goes_on: another segment follows, to which the clip's last frame belongs.
    """

    first: Picture | None = None
    last: Picture | None = None
    panels: tuple[Picture, ...] = ()  # nine, row by row, or one composite sheet of them
    references: tuple[Picture | Clip, ...] = ()
    video: Clip | None = None
    before: Clip | None = None
    goes_on: bool = False


def compose_sheet(panels: Sequence[Picture], width: int, height: int, fit: Fit = "cover") -> Picture:
    """Compose the 3 x 3 sheet of ``3 * width x 3 * height`` pixels.

    Nine pictures are each fitted into a panel of ``width x height`` (`model.media.resize.resize_to`) and laid out row
    by row; a single one is already a sheet and is fitted as a whole.

    Raises:
        ValueError: there are neither nine pictures nor one.
    """
    if len(panels) == 1:
        return Picture(resize_to(panels[0].pixels[None], GRID * width, GRID * height, fit)[0])
    if len(panels) != GRID * GRID:
        raise ValueError(f"{len(panels)} panels: a sheet takes {GRID * GRID} pictures or one composite of them")
    fitted = np.stack([resize_to(panel.pixels[None], width, height, fit)[0] for panel in panels])
    rows = fitted.reshape(GRID, GRID, height, width, 3).swapaxes(1, 2)
    return Picture(np.ascontiguousarray(rows.reshape(GRID * height, GRID * width, 3)))


def _check(what: str, pixels: Frames, axes: int) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != axes or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise ValueError(f"{what} is {pixels.dtype} {list(pixels.shape)}, expected uint8 RGB with {axes} axes")
