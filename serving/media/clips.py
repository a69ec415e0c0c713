"""Clips from outside to RGB frames at a constant rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np

from model.fit import Frames, resize_cover
from model.inputs import Clip
from serving.media.animations import decode_animation, is_animation
from serving.media.colours import Colours, ToRgb, declared_colours
from serving.media.containers import container_name
from serving.media.errors import MediaError
from serving.media.pictures import open_picture, picture_format
from serving.media.streams import (
    MAX_CLIP_BYTES,
    Shape,
    Timed,
    declared_seconds,
    decode,
    open_media,
    shape_of,
    video_stream,
)


@dataclass(frozen=True)
class OpenClip:
    """A clip whose first frame is decoded.

    Attributes:
        container, codec, pixel_format: as `serving.media.info.MediaInfo` names them.
        seconds: how long it is by the file's word; None: it does not say.
        rate: the average of frames a second, by the file's word; None: it does not say.
        frames: all, from the first one on, in the order in which they are shown.
    """

    container: str
    codec: str
    pixel_format: str
    seconds: Fraction | None
    rate: Fraction | None
    metadata: dict[str, str]
    shape: Shape
    frames: Iterator[Timed]
    convert: ToRgb

    def rgb(self, frame: av.VideoFrame) -> Frames:
        """Convert to ``[H, W, 3]`` as displayed."""
        pixels = self.convert(frame)
        if self.shape.transposed:
            pixels = pixels.swapaxes(0, 1)
        if self.shape.mirrored:
            pixels = pixels[:, ::-1]
        if self.shape.upside_down:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels, np.uint8)


@contextmanager
def open_clip(path: Path, max_seconds: float) -> Iterator[OpenClip]:
    """Open a video, or an animated picture.

    Raises:
        MediaError: see `read_clip`; also from `OpenClip.frames`, and from within the context.
    """
    name = picture_format(path)
    if name is None:
        with open_media(path) as file:
            stream = video_stream(file, path)
            context = stream.codec_context
            declared, tag = declared_colours(context), context.codec_tag
            timed = decode(file, stream, path, max_seconds)
            first = next(timed)
            shape = shape_of(first.frame, stream)
            convert = ToRgb(path, declared, tag, shape.width, shape.height)
            convert.check(first.frame)
            yield OpenClip(
                container=container_name(file, path),
                codec=context.codec.canonical_name,
                pixel_format=context.pix_fmt or "",
                seconds=declared_seconds(file, stream),
                rate=stream.average_rate,
                metadata={name.lower(): value for name, value in file.metadata.items()},
                shape=shape,
                frames=chain((first,), timed),
                convert=convert,
            )
    elif is_animation(path):
        with open_picture(path) as image:
            timed = decode_animation(image, path, max_seconds)
            first = next(timed)
            shape = Shape(first.frame.width, first.frame.height)
            yield OpenClip(
                container=name.lower(),
                codec=name.lower(),
                pixel_format=image.mode,
                seconds=None,
                rate=None,
                metadata={},
                shape=shape,
                frames=chain((first,), timed),
                convert=ToRgb(path, Colours(), "", shape.width, shape.height),
            )
    else:
        raise MediaError(f"{path} is a picture ({name}), not a clip")


def read_clip(path: Path, *, fps: float | None = None, max_seconds: float, size: tuple[int, int] | None = None) -> Clip:
    """Decode a clip: upright, square pixels, 8-bit RGB for an SDR display, constant rate.

    Any size, chroma and bit depth is taken; sizes may be odd. High dynamic range and wide gamuts are converted
    (`serving.media.colours`), alpha is dropped, of animated pictures laid over white; sound is left out
    (`serving.media.sound` reads it).

    Args:
        fps: the rate of the result: at each of its ticks, the frame whose presentation time is the nearest (the earlier
            one of two). None: the frames as they are, at their average rate.
        max_seconds: a longer clip is refused.
        size: width and height that the frames are fitted to as they come (`model.fit.resize_cover`), so that a large
            clip is never in memory as a whole.

    Raises:
        MediaError: the file cannot be read, is a picture that does not move, has no video, is cut short or damaged,
            changes its size, has colours that cannot be read, lasts longer than ``max_seconds``, or breaks
            MAX_CLIP_PIXELS, MAX_CLIP_FRAMES or MAX_CLIP_BYTES. What it declares is checked before anything is decoded,
            and again as it is decoded, which ends at the limit.
    """
    rate = None if fps is None else Fraction(fps).limit_denominator(1001)
    if rate is not None and rate <= 0:
        raise MediaError(f"{fps} is no rate to read {path} at")
    with open_clip(path, max_seconds) as clip:
        wide, high = size or clip.shape.displayed
        each = wide * high * 3
        if clip.seconds is not None:
            expected = int(clip.seconds * (rate or clip.rate or 0))
            _check_bytes(path, expected, each, wide, high)
        frames: list[Frames] = []
        last, end = None, Fraction(0)
        pixels = np.empty(0, np.uint8)
        for item in nearest(clip.frames, rate) if rate else clip.frames:
            if item is not last:
                pixels = clip.rgb(item.frame)
                if size is not None:
                    pixels = resize_cover(pixels[None], wide, high)[0]
                last, end = item, item.end
            frames.append(pixels)
            _check_bytes(path, len(frames), each, wide, high)
    result = np.empty((len(frames), high, wide, 3), np.uint8)
    for index in range(len(frames)):
        result[index] = frames[index]
        frames[index] = pixels  # let go of it, or all would be there twice
    return Clip(result, float(rate or len(frames) / end))


def nearest(timed: Iterable[Timed], rate: Fraction) -> Iterator[Timed]:
    """For each tick ``k / rate`` until the end of the last frame, the frame that starts nearest to it; at least one."""
    before: Timed | None = None
    tick = 0
    for item in timed:
        while before is not None and Fraction(tick) / rate <= (before.start + item.start) / 2:
            yield before
            tick += 1
        before = item
    assert before is not None, "decode yields a frame or raises"
    while tick < max(1, round(before.end * rate)):
        yield before
        tick += 1


def _check_bytes(path: Path, count: int, each: int, width: int, height: int) -> None:
    if count * each > MAX_CLIP_BYTES:
        raise MediaError(
            f"{path} takes {count * each} bytes as {count} frames of {width}x{height}, the limit is {MAX_CLIP_BYTES}"
        )
