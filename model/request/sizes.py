"""Sizes in pixels: those that requests name, and those at which a model denoises. Needs no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TypeAlias

Size: TypeAlias = tuple[int, int]  # width, height

MAX_SIDE = 1_920
MIN_SIDE = 24
# Output sizes for a resolution and a ratio. The ratios of Wan's own service have its sizes; the others have about the
# same area, or the longest side that is allowed.
_LANDSCAPE: dict[str, dict[str, Size]] = {
    "480p": {"16:9": (832, 480), "4:3": (704, 528), "3:2": (768, 512), "21:9": (960, 416)},
    "720p": {"16:9": (1280, 720), "4:3": (1088, 832), "3:2": (1152, 768), "21:9": (1456, 624)},
    "1080p": {"16:9": (1920, 1080), "4:3": (1632, 1248), "3:2": (1728, 1152), "21:9": (1920, 824)},
}
_SQUARE = {"480p": 624, "720p": 960, "1080p": 1440}
RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "9:21")
SIZES: dict[str, dict[str, Size]] = {
    name: {
        **sizes,
        **{":".join(reversed(ratio.split(":"))): (height, width) for ratio, (width, height) in sizes.items()},
        "1:1": (_SQUARE[name], _SQUARE[name]),
    }
    for name, sizes in _LANDSCAPE.items()
}


def size_name(text: str) -> str:
    """Return the canonical spelling of a size: "720P" is "720p", and "1280*720" or "1280X720" is "1280x720"."""
    return text.strip().lower().replace("*", "x")


def parse_size(text: str) -> Size:
    """Read ``WIDTHxHEIGHT``, in any spelling that `size_name` knows.

    Raises:
        ValueError: it has another form, or a side is odd or outside the limits; the message omits the field's name.
    """
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", size_name(text))
    if match is None:
        raise ValueError(f"{shortened(text)} is not one of {', '.join(SIZES)} or WIDTHxHEIGHT")
    width, height = int(match[1]), int(match[2])
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in (width, height)):
        raise ValueError(f"{shortened(text)} must have sides from {MIN_SIDE} to {MAX_SIDE}")
    if width % 2 or height % 2:
        raise ValueError(f"{text} has an odd side, sides must be even")
    return width, height


def size_of(text: str, ratio: str = RATIOS[0]) -> Size:
    """Return the pixels of a named size, or of ``WIDTHxHEIGHT``, in any spelling that `size_name` knows.

    Raises:
        ValueError: see `parse_size`.
    """
    name = size_name(text)
    return SIZES[name][ratio] if name in SIZES else parse_size(text)


def size_like(shown: Size, area: int, unit: int) -> Size:
    """Return the size of about ``area`` pixels with a picture's ratio, sides rounded down to multiples of ``unit``.

    This is the rule of Wan's own image-to-video code. Ratios that would break MAX_SIDE or MIN_SIDE get a smaller area,
    and finally the nearest ratio that does not.
    """
    ratio = shown[0] / shown[1]
    scale = min(1.0, MAX_SIDE / max(math.sqrt(area * ratio), math.sqrt(area / ratio)))
    smallest = math.ceil(MIN_SIDE / unit) * unit
    width, height = (
        max(smallest, int(side * scale + 1e-6) // unit * unit)
        for side in (math.sqrt(area * ratio), math.sqrt(area / ratio))
    )
    return width, height


def nearest_ratio(shown: Size, sizes: Sequence[Size]) -> Size:
    """Return the one of ``sizes`` whose ratio is nearest to that of ``shown``."""
    wanted = math.log(shown[0] / shown[1])
    return min(sizes, key=lambda size: abs(math.log(size[0] / size[1]) - wanted))


def denoised_size(size: Size, unit: int, native: Sequence[Size] = (), trained: Sequence[Size] = ()) -> Size:
    """Return the size at which to denoise a file of ``size``.

    Args:
        unit: pixels of one token; sides are multiples of it.
        native: the only sizes at which the model denoises: ``size`` itself or the one of the nearest ratio is taken.
        trained: sizes taken for nearby ones that are not multiples of ``unit``; others are rounded up.
    """
    if native:
        return size if size in native else nearest_ratio(size, native)
    if not (size[0] % unit or size[1] % unit):
        return size
    for width, height in trained:
        if abs(width - size[0]) < unit and abs(height - size[1]) < unit:
            return width, height
    return math.ceil(size[0] / unit) * unit, math.ceil(size[1] / unit) * unit


def shortened(text: str) -> str:
    """Quote a text for an error message."""
    quoted = repr(text)
    return quoted if len(quoted) <= 80 else quoted[:77] + "..."
