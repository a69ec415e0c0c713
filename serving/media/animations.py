"""Animated pictures as clips: GIF, WebP, PNG and AVIF of several frames."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
from PIL import ImageFile

from serving.media.errors import MediaError
from serving.media.formats import ANIMATED
from serving.media.pictures import first_frame, frame_count, open_picture, picture_format, pixels
from serving.media.streams import MAX_CLIP_FRAMES, Timed, check_count, check_seconds, check_size

# Browsers show a frame that asks for 10 ms or less for 100 ms: files say 0 where their makers did not care.
SHORTEST_MS = 10
DEFAULT_MS = 100
GIF_TRAILER = b";"
MAX_ANIMATION_PIXELS = 4_000_000_000  # of all frames: Pillow would take longer for more than a file is given


def is_animation(path: Path) -> bool:
    """Tell whether a file is a picture of several frames, which is a clip where a clip is wanted.

    Raises:
        MediaError: it is a picture and its head is damaged, or it is too large.
    """
    if picture_format(path) not in ANIMATED:
        return False
    with open_picture(path) as image:
        return count_frames(image, path, 2) > 1


def count_frames(image: ImageFile.ImageFile, path: Path, at_most: int = MAX_CLIP_FRAMES + 1) -> int:
    """Count the frames of a picture by what its container says, and no further than ``at_most``."""
    return _gif_frames(path, at_most) if image.format == "GIF" else min(frame_count(image), at_most)


def _gif_frames(path: Path, at_most: int) -> int:
    """Go through the blocks, which Pillow does as well but for a hundred times as long."""
    count = 0
    with path.open("rb") as file:
        head = file.read(13)
        _skip_colours(file, head[10] if len(head) == 13 else 0)
        while count < at_most and (kind := file.read(1)) not in (b"", GIF_TRAILER):
            if kind == b"!":
                file.seek(1, io.SEEK_CUR)
            elif kind == b",":
                count += 1
                descriptor = file.read(9)
                _skip_colours(file, descriptor[8] if len(descriptor) == 9 else 0)
                file.seek(1, io.SEEK_CUR)
            else:
                continue
            while (length := file.read(1)) not in (b"", b"\0"):
                file.seek(length[0], io.SEEK_CUR)
    return count


def _skip_colours(file: BinaryIO, flags: int) -> None:
    """Go past a table of colours, if there is one."""
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, io.SEEK_CUR)


def decode_animation(image: ImageFile.ImageFile, path: Path, max_seconds: float) -> Iterator[Timed]:
    """Yield all frames, in RGB; alpha is laid over white.

    Raises:
        MediaError: see `serving.media.read_clip`.
    """
    check_size(path, image.width, image.height)
    if image.format == "GIF" and not _ends_with(path, GIF_TRAILER):
        raise MediaError(f"{path} is cut short or damaged: it has no end")
    count = count_frames(image, path)
    check_count(path, count)
    if image.width * image.height * count > MAX_ANIMATION_PIXELS:
        raise MediaError(
            f"{path} has {count} frames of {image.width}x{image.height}, all together more than {MAX_ANIMATION_PIXELS}"
            " pixels, the limit"
        )
    end = Fraction(0)
    first = first_frame(image)
    for index in range(frame_count(image)):
        image.seek(first + index)
        frame = av.VideoFrame.from_ndarray(pixels(image, path), format="rgb24")
        milliseconds = Fraction(image.info.get("duration") or 0).limit_denominator(1_000)
        start = end
        end += (milliseconds if milliseconds > SHORTEST_MS else DEFAULT_MS) / Fraction(1_000)
        check_seconds(path, end, max_seconds)
        yield Timed(frame, start, end)


def _ends_with(path: Path, trailer: bytes) -> bool:
    return path.read_bytes().rstrip(b"\0").endswith(trailer)
