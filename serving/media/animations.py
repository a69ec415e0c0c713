"""Animated pictures as clips: GIF, WebP, PNG and AVIF of several frames."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from PIL import ImageFile

from serving.media.errors import MediaError
from serving.media.formats import ANIMATED
from serving.media.pictures import first_frame, frame_count, open_picture, picture_format, pixels
from serving.media.streams import Timed, check_count, check_seconds, check_size

# Browsers show a frame that asks for 10 ms or less for 100 ms: files say 0 where their makers did not care.
SHORTEST_MS = 10
DEFAULT_MS = 100
GIF_TRAILER = b";"


def is_animation(path: Path) -> bool:
    """Tell whether a file is a picture of several frames, which is a clip where a clip is wanted.

    Raises:
        MediaError: it is a picture and its head is damaged, or it is too large.
    """
    if picture_format(path) not in ANIMATED:
        return False
    with open_picture(path) as image:
        return frame_count(image) > 1


def decode_animation(image: ImageFile.ImageFile, path: Path, max_seconds: float) -> Iterator[Timed]:
    """Yield all frames, in RGB; alpha is laid over white.

    Raises:
        MediaError: see `serving.media.read_clip`.
    """
    check_size(path, image.width, image.height)
    if image.format == "GIF" and not _ends_with(path, GIF_TRAILER):
        raise MediaError(f"{path} is cut short or damaged: it has no end")
    end = Fraction(0)
    first = first_frame(image)
    for index in range(frame_count(image)):
        check_count(path, index + 1)
        image.seek(first + index)
        frame = av.VideoFrame.from_ndarray(pixels(image, path), format="rgb24")
        milliseconds = Fraction(image.info.get("duration") or 0).limit_denominator(1_000)
        start = end
        end += (milliseconds if milliseconds > SHORTEST_MS else DEFAULT_MS) / Fraction(1_000)
        check_seconds(path, end, max_seconds)
        yield Timed(frame, start, end)


def _ends_with(path: Path, trailer: bytes) -> bool:
    return path.read_bytes().rstrip(b"\0").endswith(trailer)
